//! Notices that a log has grown or was rotated.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FsWord;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// Poll interval where inotify does not report all changes.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// File systems on which other hosts write without this kernel's knowledge (statfs(2),
/// linux/magic.h): NFS, SMB, CIFS, SMB2, 9P, FUSE, Ceph, AFS.
const REMOTE_FILE_SYSTEMS: [FsWord; 8] =
    [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x0102_1997, 0x6573_5546, 0x00C3_6400, 0x5346_414F];

/// inotify(7) watches on a log's directory, for names, and on the files that are read, for writes.
#[derive(Debug)]
pub(super) struct ChangeNotifier {
    dir: PathBuf,
    inotify: Option<OwnedFd>,
    dir_watch: Option<i32>,
    file_watches: Vec<i32>,
    /// Whether inotify does not report all writes and renames.
    misses_changes: bool,
}

impl ChangeNotifier {
    pub(super) fn new(log: &Path) -> Self {
        let dir = match log.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        let remote = rustix::fs::statfs(&dir).is_ok_and(|about| REMOTE_FILE_SYSTEMS.contains(&about.f_type));
        // The link's target is rotated in another directory, and the link may change.
        let misses_changes = remote || log.is_symlink();
        let mut notifier = Self { dir, inotify, dir_watch: None, file_watches: Vec::new(), misses_changes };
        notifier.watch_dir();
        notifier
    }

    /// Watches these files, and no others.
    pub(super) fn watch<'a>(&mut self, files: impl Iterator<Item = &'a File>) {
        let Some(inotify) = &self.inotify else { return };
        let before = std::mem::take(&mut self.file_watches);
        let mut complete = true;
        for file in files {
            // By its descriptor: another file may have its name by now.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            match inotify::add_watch(inotify, path.as_str(), WatchFlags::MODIFY) {
                Ok(watch) => self.file_watches.push(watch),
                Err(_) => complete = false,
            }
        }
        for watch in before {
            if !self.file_watches.contains(&watch) {
                // The kernel has already removed the watch of a deleted file.
                let _ = inotify::remove_watch(inotify, watch);
            }
        }
        if !complete {
            self.inotify = None;
        }
    }

    fn watch_dir(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let names = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        self.dir_watch = inotify::add_watch(inotify, &self.dir, names | itself).ok();
    }

    /// The descriptor that is readable when something may have changed.
    pub(super) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|inotify| inotify.as_fd())
    }

    /// The poll interval, if the descriptor does not show all changes.
    pub(super) fn poll_interval(&self) -> Option<Duration> {
        (self.inotify.is_none() || self.dir_watch.is_none() || self.misses_changes).then_some(POLL_INTERVAL)
    }

    /// Reads all inotify events; the poll that follows checks the files itself. Returns whether
    /// names have changed.
    pub(super) fn drain(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        let gone = inotify::ReadFlags::DELETE_SELF | inotify::ReadFlags::MOVE_SELF;
        let mut moved = self.dir_watch.is_none();
        let mut renamed = false;
        loop {
            match events.next() {
                Ok(event) if self.dir_watch == Some(event.wd()) => {
                    moved |= event.events().intersects(gone);
                    renamed = true;
                }
                Ok(event) => renamed |= event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if moved {
            // Another directory has its name now, or will have.
            if let Some(watch) = self.dir_watch {
                let _ = inotify::remove_watch(inotify, watch);
            }
            self.watch_dir();
        }
        renamed
    }
}
