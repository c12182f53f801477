//! The state of open files, by the kernel's events, and what is known of it if events were lost.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use jiff::Timestamp;
use taptrail_kernel::proc::ProcessId;
use tracing::warn;

use crate::{File, FileId, Held, Kernel, KernelEventKind, Lost};

/// The largest number of polls in one turn: as many as the kernel's buffer of events needs.
const MAX_POLLS_PER_TURN: usize = 4;

/// The events of last closes, and the time up to which all were read.
#[derive(Debug)]
pub struct LastCloses {
    kernel: Kernel,
    /// The counts of lost events up to now.
    lost: Lost,
    /// The time up to which all events were read.
    read_until: Timestamp,
    warned: bool,
}

/// Files that were opened or closed since the last poll.
#[derive(Debug, Default)]
pub struct FileChanges {
    /// Files that were opened, in order.
    pub opened: Vec<OpenedFile>,
    /// Files with a last close, and its time.
    pub closed: HashMap<FileId, Timestamp>,
    /// The state of all other files.
    pub rest: RemainingFiles,
}

/// A file that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedFile {
    /// The file.
    pub file: File,
    /// The process that opened it.
    pub by: Option<ProcessId>,
}

/// The state of files without a close event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RemainingFiles {
    /// They are open.
    #[default]
    Open,
    /// Unknown until queried, because events were lost. All events up to this time were read.
    Query(Timestamp),
    /// Unknown.
    Lost,
}

/// The state of the file behind a descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FileState {
    /// Unknown: there is no BPF program, or the file has no id yet.
    #[default]
    Unknown,
    /// It is open.
    Open {
        /// The file.
        file: FileId,
        /// The time at which the descriptor was known to be this file.
        since: Timestamp,
    },
    /// It had its last close at this time.
    Closed(Timestamp),
    /// It had its last close, whose event was lost; it was known to be open at this time.
    ClosedUnseen(Timestamp),
    /// It was open, and later events were lost.
    Lost,
}

impl FileState {
    /// Whether the file is open.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// Whether the file had its last close.
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Closed(_) | Self::ClosedUnseen(_))
    }

    /// Updates the state by the changes, or by `query` ([`LastCloses::query`]) if events were lost.
    /// Returns whether the state has changed.
    pub fn update(
        &mut self,
        changes: &FileChanges,
        query: &dyn Fn(FileId, Timestamp) -> Option<Self>,
    ) -> bool {
        let Self::Open { file, since } = *self else { return false };
        let state = match (changes.closed.get(&file), changes.rest) {
            // If the clock was set back, the close still can't be before the time at which it was
            // open.
            (Some(at), _) => Some(Self::Closed((*at).max(since))),
            (None, RemainingFiles::Open) => None,
            (None, RemainingFiles::Query(heard)) => query(file, heard.max(since)),
            (None, RemainingFiles::Lost) => Some(Self::Lost),
        };
        if let Some(state) = state {
            *self = state;
        }
        state.is_some()
    }
}

impl From<Kernel> for LastCloses {
    fn from(kernel: Kernel) -> Self {
        let lost = kernel.lost().unwrap_or_default();
        Self { kernel, lost, read_until: Timestamp::now(), warned: false }
    }
}

impl LastCloses {
    /// Loads the BPF program; if that fails, logs a warning with the reason.
    pub fn load_or_warn() -> Option<Self> {
        Kernel::load()
            .inspect_err(|error| {
                warn!("--bpf does nothing, and descriptors are looked at as without it: {error}");
            })
            .ok()
            .map(Self::from)
    }

    /// The changes since the last call.
    pub fn poll(&mut self) -> FileChanges {
        let now = Timestamp::now();
        let mut changes = FileChanges::default();
        let mut is_all = false;
        for _ in 0..MAX_POLLS_PER_TURN {
            let events = self.kernel.poll();
            is_all = events.is_empty();
            if is_all {
                break;
            }
            for event in events {
                match (event.what, Timestamp::try_from(event.time)) {
                    (KernelEventKind::Closed { file, .. }, Ok(at)) => {
                        changes.closed.extend(file.id.map(|id| (id, at)));
                    }
                    (KernelEventKind::Opened(file), _) => {
                        changes.opened.push(OpenedFile { file, by: event.by.process })
                    }
                    _ => {}
                }
            }
        }
        let Ok(lost) = self.kernel.lost() else {
            changes.rest = RemainingFiles::Lost;
            return changes;
        };
        let before = std::mem::replace(&mut self.lost, lost);
        if is_all && lost == before {
            self.read_until = now;
            return changes;
        }
        // If anything but events was lost, the kernel's answer to a query may be wrong, too.
        let is_known = lost == Lost { events: lost.events, ..before };
        changes.rest = if is_known { RemainingFiles::Query(self.read_until) } else { RemainingFiles::Lost };
        if lost != before && !std::mem::replace(&mut self.warned, true) {
            let lost = lost.total();
            warn!("The BPF program sent events faster than they were read: {lost} events are lost");
        }
        changes
    }

    /// Queries the kernel for a file's state; none if it is open. `open_at` is the last time at
    /// which it was known to be open.
    pub fn query(&self, file: FileId, open_at: Timestamp) -> Option<FileState> {
        match self.kernel.is_open(file) {
            Ok(true) => None,
            Ok(false) => Some(FileState::ClosedUnseen(open_at)),
            Err(_) => Some(FileState::Lost),
        }
    }

    /// As [`Kernel::descriptors`].
    ///
    /// # Errors
    ///
    /// As [`Kernel::descriptors`].
    pub fn descriptors(&mut self) -> io::Result<Vec<Held>> {
        self.kernel.descriptors()
    }

    /// The total number of lost events.
    pub fn lost(&self) -> u64 {
        self.lost.total()
    }
}

impl AsFd for LastCloses {
    /// Readable when there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }
}
