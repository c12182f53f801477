//! How to learn that a log has grown or was rotated.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FsWord;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// How often to look where nothing tells.
const SLOW: Duration = Duration::from_secs(1);

/// File systems on which others write without our kernel knowing (statfs(2), linux/magic.h): NFS, SMB,
/// CIFS, SMB2, 9P, FUSE, Ceph, AFS.
const REMOTE: [FsWord; 8] =
    [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x0102_1997, 0x6573_5546, 0x00C3_6400, 0x5346_414F];

/// inotify(7) on a log's directory, for its name, and on the files that are read, for their bytes.
#[derive(Debug)]
pub(super) struct Wake {
    dir: PathBuf,
    inotify: Option<OwnedFd>,
    of_dir: Option<i32>,
    of_files: Vec<i32>,
    /// Whether others write, or rename, where nothing tells us.
    unseen: bool,
}

impl Wake {
    pub(super) fn new(log: &Path) -> Self {
        let dir = match log.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        let remote = rustix::fs::statfs(&dir).is_ok_and(|about| REMOTE.contains(&about.f_type));
        // What it leads to is rotated in another directory, and it may lead elsewhere by and by.
        let unseen = remote || log.is_symlink();
        let mut wake = Self { dir, inotify, of_dir: None, of_files: Vec::new(), unseen };
        wake.watch_dir();
        wake
    }

    /// These files are read now, and no others.
    pub(super) fn watch<'a>(&mut self, files: impl Iterator<Item = &'a File>) {
        let Some(inotify) = &self.inotify else { return };
        let before = std::mem::take(&mut self.of_files);
        let mut complete = true;
        for file in files {
            // By its descriptor: its name may be another's by now.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            match inotify::add_watch(inotify, path.as_str(), WatchFlags::MODIFY) {
                Ok(watch) => self.of_files.push(watch),
                Err(_) => complete = false,
            }
        }
        for watch in before {
            if !self.of_files.contains(&watch) {
                // One that went with its file is gone already.
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
        self.of_dir = inotify::add_watch(inotify, &self.dir, names | itself).ok();
    }

    /// What is readable when there may be something new.
    pub(super) fn awaited(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|inotify| inotify.as_fd())
    }

    /// Where that is not enough.
    pub(super) fn look_within(&self) -> Option<Duration> {
        (self.inotify.is_none() || self.of_dir.is_none() || self.unseen).then_some(SLOW)
    }

    /// Takes what was told: a look follows, which sees for itself. Whether it told of names.
    pub(super) fn drain(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut told = inotify::Reader::new(inotify, &mut buffer);
        let gone = inotify::ReadFlags::DELETE_SELF | inotify::ReadFlags::MOVE_SELF;
        let mut moved = self.of_dir.is_none();
        let mut renamed = false;
        loop {
            match told.next() {
                Ok(event) if self.of_dir == Some(event.wd()) => {
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
            if let Some(watch) = self.of_dir {
                let _ = inotify::remove_watch(inotify, watch);
            }
            self.watch_dir();
        }
        renamed
    }
}
