//! The open files behind a guest's devices, as the kernel tells of them where it is asked (docs/bpf.md).
//!
//! A file that we opened ourselves is known from its open on: the kernel tells each open in its order, and of these
//! those by this process are the ones on record. So its last close shows that nobody has the device any more, whoever
//! had it meanwhile. A macvtap's node can be opened again by who holds a descriptor of it (`/proc/self/fd`), which makes
//! one more queue: once somebody did, the last close of ours shows nothing of that one. Nor does the last close of a file
//! that QEMU already had when the kernel was first asked: it may have put another in its place before.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use jiff::Timestamp;
use taptrail_bpf::{FileId, FileState, Heard, Held, LastCloses, Rest};
use taptrail_kernel::proc::{HeldDevice, ProcessId};
use taptrail_record::{DeviceKind, Rdev};

use crate::account::OpenDevice;
use crate::handover;

/// What the kernel says of the file behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastClose {
    /// It has not come: somebody has the file.
    Awaited,
    /// It has come; at this time, where that was heard.
    Seen(Option<Timestamp>),
}

/// One file.
#[derive(Debug)]
struct Followed {
    kind: DeviceKind,
    rdev: Option<Rdev>,
    state: FileState,
    /// Its last close shows that nobody has the device.
    is_alone: bool,
}

/// The open files of a guest.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    closes: LastCloses,
    own: ProcessId,
    followed: HashMap<FileId, Followed>,
    /// Last closes that [`Self::take_news`] has not told yet.
    has_news: bool,
}

impl OpenFiles {
    /// Has the kernel tell, where it may be asked. Where not, that is said, and why.
    pub(crate) fn ask() -> Option<Self> {
        let own = ProcessId::of(std::process::id())
            .inspect_err(|error| {
                tracing::warn!("--bpf does nothing: this process can't be identified: {error}")
            })
            .ok()?;
        let closes = LastCloses::load_or_warn()?;
        Some(Self { closes, own, followed: HashMap::new(), has_news: false })
    }

    /// Readable when the kernel has told something.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.closes.as_fd()
    }

    /// Takes what the kernel tells.
    pub(crate) fn hear(&mut self) {
        let heard = self.closes.take();
        self.apply(&heard);
    }

    /// Whether a file that is followed was closed for good since the last call.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    fn apply(&mut self, heard: &Heard) {
        let Self { closes, own, followed, has_news } = self;
        for file in followed.values_mut() {
            *has_news |= file.hear(heard, *own, &|id, time| closes.ask(id, time));
        }
    }

    /// Follows the files of these devices, which are all that this process has opened since the kernel was heard last,
    /// in their order. Those that the kernel told otherwise of are left as they are.
    pub(crate) fn follow(&mut self, devices: &mut [OpenDevice]) {
        // What was closed before is accounted for by now.
        self.followed.retain(|_, file| !file.state.is_closed());
        let heard = self.closes.take();
        let ours: Vec<_> = heard.opened.iter().filter(|opened| opened.by == Some(self.own)).collect();
        let is = |(opened, device): (&&taptrail_bpf::OpenedFile, &OpenDevice)| {
            (opened.file.kind, Some(opened.file.rdev)) == (device.device.kind, device.device.rdev)
        };
        if ours.len() == devices.len() && ours.iter().zip(devices.iter()).all(is) {
            let since = Timestamp::now();
            for (opened, device) in ours.iter().zip(devices) {
                let Some(file) = opened.file.id else { continue };
                device.file = Some(file);
                self.followed.insert(file, Followed::new(device, FileState::Open { file, since }, true));
            }
        }
        self.apply(&heard);
    }

    /// Finds the files of devices that `qemu` holds already: that they are open is known from then on.
    ///
    /// # Errors
    /// When the kernel can't list the descriptors, or QEMU can't be looked into.
    pub(crate) fn find(&mut self, qemu: ProcessId, devices: &mut [OpenDevice]) -> io::Result<()> {
        // What was the same before and after is the same between.
        let before = self.closes.descriptors()?;
        let shown = handover::devices_of(&qemu)?;
        let after = self.closes.descriptors()?;
        let since = Timestamp::now();
        for device in devices {
            let Some((thread, held)) = shown.iter().find(|(_, held)| handover::is(held, device)) else {
                continue;
            };
            let is = |of: &&Held| of.process == qemu && is_descriptor(of, *thread, held);
            let Some(found) = after.iter().find(is).filter(|found| before.contains(found)) else { continue };
            let Some(file) = found.file.id else { continue };
            device.file = Some(file);
            self.followed.insert(file, Followed::new(device, FileState::Open { file, since }, false));
        }
        Ok(())
    }

    /// What the kernel has told of a device's file; none where it shows nothing.
    pub(crate) fn last_close(&self, device: &OpenDevice) -> Option<LastClose> {
        self.followed.get(&device.file?)?.last_close()
    }
}

fn is_descriptor(of: &Held, thread: u32, held: &HeldDevice) -> bool {
    of.thread == thread
        && i64::from(of.fd) == i64::from(held.fd)
        && held.kind == of.file.kind
        && of.file.rdev == held.rdev
}

impl Followed {
    fn new(device: &OpenDevice, state: FileState, is_alone: bool) -> Self {
        Self { kind: device.device.kind, rdev: device.device.rdev, state, is_alone }
    }

    /// Whether it was closed by what was heard.
    fn hear(
        &mut self,
        heard: &Heard,
        own: ProcessId,
        ask: &dyn Fn(FileId, Timestamp) -> Option<FileState>,
    ) -> bool {
        let is_closed = self.state.hear(heard, ask) && self.state.is_closed();
        if self.kind == DeviceKind::Macvtap {
            let again = |opened: &taptrail_bpf::OpenedFile| {
                opened.by != Some(own) && Some(opened.file.rdev) == self.rdev
            };
            // Where something was lost, an open may be.
            self.is_alone &= heard.rest == Rest::Open && !heard.opened.iter().any(again);
        }
        is_closed
    }

    fn last_close(&self) -> Option<LastClose> {
        match self.state {
            FileState::Open { .. } => Some(LastClose::Awaited),
            FileState::Closed(at) if self.is_alone => Some(LastClose::Seen(Some(at))),
            FileState::ClosedUnheard(_) if self.is_alone => Some(LastClose::Seen(None)),
            _ => None,
        }
    }
}
