//! Last closes, followed: what becomes of open files by what the kernel tells, and what is known where
//! something of it got lost.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use jiff::Timestamp;
use taptrail_kernel::proc::ProcessId;
use tracing::warn;

use crate::{File, FileId, Held, Kernel, Lost, What};

/// How often the kernel is asked for more at once: the events of one call after the other that it can hold.
const MAX_POLLS: usize = 4;

/// The kernel, and up to when it was heard.
#[derive(Debug)]
pub struct LastCloses {
    kernel: Kernel,
    /// What was lost up to now.
    lost: Lost,
    /// When all was last heard that it told.
    heard: Timestamp,
    complained: bool,
}

/// What was heard of the kernel.
#[derive(Debug, Default)]
pub struct Heard {
    /// Which files were opened, in their order.
    pub opened: Vec<OpenedFile>,
    /// Which files were closed for good, and when.
    pub closed: HashMap<FileId, Timestamp>,
    /// What is known of all others.
    pub rest: Rest,
}

/// A file that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedFile {
    /// The file.
    pub file: File,
    /// Who opened it.
    pub by: Option<ProcessId>,
}

/// What is known of files that are not told to be closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rest {
    /// They are open.
    #[default]
    Open,
    /// They have to be asked for: events were lost. All were heard up to this time.
    Ask(Timestamp),
    /// Nothing.
    Lost,
}

/// What the kernel says of the file behind a descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FileState {
    /// Nothing: it is not asked, or not yet.
    #[default]
    Unknown,
    /// It is open; it was known to be this file at the time given.
    Open {
        /// The file.
        file: FileId,
        /// The time.
        since: Timestamp,
    },
    /// Nobody has it any more, since this time.
    Closed(Timestamp),
    /// Nobody has it any more: that was lost, and it was known to be open up to this time.
    ClosedUnheard(Timestamp),
    /// It was open, and what came then was lost.
    Lost,
}

impl FileState {
    /// Whether somebody has the file.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// Whether nobody has it any more.
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Closed(_) | Self::ClosedUnheard(_))
    }

    /// Takes what the kernel told, with `ask` for what it did not ([`LastCloses::ask`]). Whether that makes it another
    /// state.
    pub fn hear(&mut self, told: &Heard, ask: &dyn Fn(FileId, Timestamp) -> Option<Self>) -> bool {
        let Self::Open { file, since } = *self else { return false };
        let state = match (told.closed.get(&file), told.rest) {
            // Clocks are set: it was open when it was seen.
            (Some(at), _) => Some(Self::Closed((*at).max(since))),
            (None, Rest::Open) => None,
            (None, Rest::Ask(heard)) => ask(file, heard.max(since)),
            (None, Rest::Lost) => Some(Self::Lost),
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
        Self { kernel, lost, heard: Timestamp::now(), complained: false }
    }
}

impl LastCloses {
    /// Has the kernel tell, where it may be asked. Where not, that is said, and why.
    pub fn load_or_warn() -> Option<Self> {
        Kernel::load()
            .inspect_err(|error| {
                warn!("--bpf does nothing, and descriptors are looked at as without it: {error}");
            })
            .ok()
            .map(Self::from)
    }

    /// What the kernel told since the last call.
    pub fn take(&mut self) -> Heard {
        let now = Timestamp::now();
        let mut told = Heard::default();
        let mut is_all = false;
        for _ in 0..MAX_POLLS {
            let events = self.kernel.poll();
            is_all = events.is_empty();
            if is_all {
                break;
            }
            for event in events {
                match (event.what, Timestamp::try_from(event.time)) {
                    (What::Closed { file, .. }, Ok(at)) => {
                        told.closed.extend(file.id.map(|id| (id, at)));
                    }
                    (What::Opened(file), _) => told.opened.push(OpenedFile { file, by: event.by.process }),
                    _ => {}
                }
            }
        }
        let Ok(lost) = self.kernel.lost() else {
            told.rest = Rest::Lost;
            return told;
        };
        let before = std::mem::replace(&mut self.lost, lost);
        if is_all && lost == before {
            self.heard = now;
            return told;
        }
        // What is lost of other kinds leaves doubts of what the kernel can be asked for.
        let is_known = lost == Lost { events: lost.events, ..before };
        told.rest = if is_known { Rest::Ask(self.heard) } else { Rest::Lost };
        if lost != before && !std::mem::replace(&mut self.complained, true) {
            let lost = lost.total();
            warn!("The BPF program sent events faster than they were read: {lost} events are lost");
        }
        told
    }

    /// What the kernel says of a file when it is asked; all was heard up to the time given. None where the file is open.
    pub fn ask(&self, file: FileId, heard: Timestamp) -> Option<FileState> {
        match self.kernel.is_open(file) {
            Ok(true) => None,
            Ok(false) => Some(FileState::ClosedUnheard(heard)),
            Err(_) => Some(FileState::Lost),
        }
    }

    /// As [`Kernel::descriptors`].
    ///
    /// # Errors
    /// As there.
    pub fn descriptors(&mut self) -> io::Result<Vec<Held>> {
        self.kernel.descriptors()
    }

    /// How much of what the kernel told was lost.
    pub fn lost(&self) -> u64 {
        self.lost.total()
    }
}

impl AsFd for LastCloses {
    /// Readable when the kernel has told something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }
}
