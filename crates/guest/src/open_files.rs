//! The open files behind a guest's devices, as the kernel reports them by BPF, with `--bpf`
//! (docs/bpf.md).
//!
//! A file that we opened ourselves is known from its open on: the kernel reports opens in their
//! order, and those by this process are the ones on record. So its last close proves that nobody
//! has the device any more, whoever had it meanwhile. There are two exceptions. A process that
//! holds a descriptor of a macvtap can open its node again (`/proc/self/fd`), which adds a queue:
//! after that, the last close of our file proves nothing about the new one. And a file that QEMU
//! already had when the BPF program was loaded may have been replaced by another before.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use jiff::Timestamp;
use taptrail_bpf::{File, FileChanges, FileId, FileState, Held, LastCloses, OpenedFile, RemainingFiles};
use taptrail_kernel::proc::{HeldDevice, ProcessId};
use taptrail_record::{Device, DeviceKind, Rdev};

use crate::account::OpenDevice;
use crate::qemu_devices::{devices_of, matches};

/// The state of the file behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastClose {
    /// The file is open: some process has it.
    Awaited,
    /// The file is closed; at this time, if the event was received.
    Seen(Option<Timestamp>),
}

/// A file whose last close is awaited.
#[derive(Debug)]
struct FollowedFile {
    kind: DeviceKind,
    rdev: Option<Rdev>,
    state: FileState,
    /// Whether its last close proves that nobody has the device.
    is_alone: bool,
}

/// The open files of one guest.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    closes: LastCloses,
    own: ProcessId,
    followed: HashMap<FileId, FollowedFile>,
    /// A followed file was closed since the last call of [`Self::take_closed`].
    has_closed: bool,
}

impl OpenFiles {
    /// Loads the BPF program; logs why if that is not possible.
    pub(crate) fn load() -> Option<Self> {
        let own = ProcessId::of(std::process::id())
            .inspect_err(|error| {
                tracing::warn!("--bpf does nothing: this process can't be identified: {error}")
            })
            .ok()?;
        let closes = LastCloses::load_or_warn()?;
        Some(Self { closes, own, followed: HashMap::new(), has_closed: false })
    }

    /// Readable when there are events.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.closes.as_fd()
    }

    /// Reads and applies the events.
    pub(crate) fn read_close_events(&mut self) {
        let heard = self.closes.poll();
        self.apply(&heard);
    }

    /// Whether a followed file had its last close since the last call.
    pub(crate) fn take_closed(&mut self) -> bool {
        std::mem::take(&mut self.has_closed)
    }

    fn apply(&mut self, heard: &FileChanges) {
        let Self { closes, own, followed, has_closed } = self;
        for file in followed.values_mut() {
            *has_closed |= file.apply(heard, *own, &|id, time| closes.query(id, time));
        }
    }

    /// Follows the files of these devices, which must be all that this process has opened since the
    /// events were last read, in their order. If the events don't match them, they are not
    /// followed.
    pub(crate) fn follow(&mut self, devices: &mut [OpenDevice]) {
        // Files that were closed before are accounted for by now.
        self.followed.retain(|_, file| !file.state.is_closed());
        let heard = self.closes.poll();
        let since = Timestamp::now();
        let files = own_files(&heard, self.own, devices.iter().map(|device| &device.device));
        for (device, file) in devices.iter_mut().zip(files) {
            device.file = Some(file);
            self.followed
                .insert(file, FollowedFile::new(&device.device, FileState::Open { file, since }, true));
        }
        self.apply(&heard);
    }

    /// Finds and follows the files of devices that `qemu` holds already.
    ///
    /// # Errors
    /// When the kernel or /proc can't list the descriptors.
    pub(crate) fn find(&mut self, qemu: ProcessId, devices: &mut [OpenDevice]) -> io::Result<()> {
        // A descriptor that is the same before and after is the same in between.
        let before = self.closes.descriptors()?;
        let shown = devices_of(&qemu)?;
        let after = self.closes.descriptors()?;
        let since = Timestamp::now();
        for device in devices {
            let Some((thread, held)) = shown.iter().find(|(_, held)| matches(held, device)) else {
                continue;
            };
            let is = |of: &&Held| of.process == qemu && is_descriptor(of, *thread, held);
            let Some(found) = after.iter().find(is).filter(|found| before.contains(found)) else { continue };
            let Some(file) = found.file.id else { continue };
            device.file = Some(file);
            self.followed
                .insert(file, FollowedFile::new(&device.device, FileState::Open { file, since }, false));
        }
        Ok(())
    }

    /// The state of a device's file; `None` where it proves nothing.
    pub(crate) fn last_close(&self, device: &OpenDevice) -> Option<LastClose> {
        self.followed.get(&device.file?)?.last_close()
    }
}

/// The files behind devices that this process has opened, if the reported opens are exactly those.
fn own_files<'a>(
    heard: &FileChanges,
    own: ProcessId,
    devices: impl ExactSizeIterator<Item = &'a Device>,
) -> Vec<FileId> {
    let ours: Vec<File> =
        heard.opened.iter().filter(|opened| opened.by == Some(own)).map(|opened| opened.file).collect();
    let is = |(file, device): (&File, &Device)| (file.kind, Some(file.rdev)) == (device.kind, device.rdev);
    if ours.len() != devices.len() || !ours.iter().zip(devices).all(is) {
        return Vec::new();
    }
    let files: Option<Vec<_>> = ours.iter().map(|file| file.id).collect();
    files.unwrap_or_default()
}

fn is_descriptor(of: &Held, thread: u32, held: &HeldDevice) -> bool {
    of.thread == thread
        && i64::from(of.fd) == i64::from(held.fd)
        && held.kind == of.file.kind
        && of.file.rdev == held.rdev
}

impl FollowedFile {
    fn new(device: &Device, state: FileState, is_alone: bool) -> Self {
        Self { kind: device.kind, rdev: device.rdev, state, is_alone }
    }

    /// Applies events; returns whether they closed the file.
    fn apply(
        &mut self,
        heard: &FileChanges,
        own: ProcessId,
        ask: &dyn Fn(FileId, Timestamp) -> Option<FileState>,
    ) -> bool {
        let is_closed = self.state.update(heard, ask) && self.state.is_closed();
        if self.kind == DeviceKind::Macvtap {
            let again = |opened: &OpenedFile| opened.by != Some(own) && Some(opened.file.rdev) == self.rdev;
            // Lost events may have been opens.
            self.is_alone &= heard.rest == RemainingFiles::Open && !heard.opened.iter().any(again);
        }
        is_closed
    }

    fn last_close(&self) -> Option<LastClose> {
        match self.state {
            FileState::Open { .. } => Some(LastClose::Awaited),
            FileState::Closed(at) if self.is_alone => Some(LastClose::Seen(Some(at))),
            FileState::ClosedUnseen(_) if self.is_alone => Some(LastClose::Seen(None)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    const OURS: ProcessId = ProcessId { pid: 40, start_time: 1 };
    const OTHERS: ProcessId = ProcessId { pid: 41, start_time: 1 };
    const TAP9: Rdev = Rdev { major: 246, minor: 9 };

    fn id(number: u64) -> FileId {
        NonZeroU64::new(number).unwrap().into()
    }

    fn opened(number: u64, kind: DeviceKind, rdev: Rdev, by: ProcessId) -> OpenedFile {
        OpenedFile { file: File { id: Some(id(number)), kind, rdev }, by: Some(by) }
    }

    fn device(kind: DeviceKind, rdev: Rdev) -> Device {
        Device { kind, path: "/dev/it".into(), rdev: Some(rdev), dev: None }
    }

    fn followed(kind: DeviceKind, rdev: Rdev) -> FollowedFile {
        let state = FileState::Open { file: id(1), since: Timestamp::UNIX_EPOCH };
        FollowedFile::new(&device(kind, rdev), state, true)
    }

    /// The last close of a file after these events.
    fn last_close(mut file: FollowedFile, heard: &FileChanges) -> Option<LastClose> {
        file.apply(heard, OURS, &|_, _| None);
        let at = Timestamp::from_millisecond(5).unwrap();
        let closed = FileChanges { closed: HashMap::from([(id(1), at)]), ..FileChanges::default() };
        let is_closed = file.apply(&closed, OURS, &|_, _| None);
        assert!(is_closed || heard.rest == RemainingFiles::Lost);
        file.last_close()
    }

    #[test]
    fn files_are_ours_only_if_all_that_we_opened_was_heard() {
        let devices = [device(DeviceKind::Tun, Rdev::TUN), device(DeviceKind::VhostNet, Rdev::VHOST_NET)];
        let tun = |number, by| opened(number, DeviceKind::Tun, Rdev::TUN, by);
        let vhost = |number, by| opened(number, DeviceKind::VhostNet, Rdev::VHOST_NET, by);
        let found = |opened: &[OpenedFile]| {
            own_files(
                &FileChanges { opened: opened.to_vec(), ..FileChanges::default() },
                OURS,
                devices.iter(),
            )
        };
        let all = [tun(6, OTHERS), tun(7, OURS), vhost(8, OTHERS), vhost(9, OURS)];
        assert_eq!(found(&all), [id(7), id(9)]);
        assert_eq!(found(&all[..3]), []);
        assert_eq!(found(&[vhost(7, OURS), tun(9, OURS)]), []);
        assert_eq!(found(&[tun(7, OURS), vhost(8, OURS), vhost(9, OURS)]), []);
    }

    #[test]
    fn the_last_close_of_a_macvtap_shows_nothing_of_what_others_opened_of_it() {
        let again = |rdev, by| FileChanges {
            opened: vec![opened(2, DeviceKind::Macvtap, rdev, by)],
            ..FileChanges::default()
        };
        let closed = |heard: &FileChanges| last_close(followed(DeviceKind::Macvtap, TAP9), heard);
        let seen = Some(LastClose::Seen(Timestamp::from_millisecond(5).ok()));
        assert_eq!(closed(&FileChanges::default()), seen);
        assert_eq!(closed(&again(TAP9, OURS)), seen);
        assert_eq!(closed(&again(Rdev { minor: 8, ..TAP9 }, OTHERS)), seen);
        assert_eq!(closed(&again(TAP9, OTHERS)), None);
        // An open may be among the lost events.
        let lost =
            FileChanges { rest: RemainingFiles::Query(Timestamp::UNIX_EPOCH), ..FileChanges::default() };
        assert_eq!(closed(&lost), None);
        // The kernel counts the queues of a tap, and one vhost-net is independent of another.
        assert_eq!(last_close(followed(DeviceKind::VhostNet, Rdev::VHOST_NET), &lost), seen);
        let lost = FileChanges { rest: RemainingFiles::Lost, ..FileChanges::default() };
        assert_eq!(last_close(followed(DeviceKind::Tun, Rdev::TUN), &lost), None);
    }
}
