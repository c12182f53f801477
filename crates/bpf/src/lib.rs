//! Kernel events of tun, macvtap and vhost-net files: each open, each passing of a descriptor, each
//! last close, with its time in nanoseconds and its process.
//!
//! [`Kernel::load`] loads a small BPF program (`program/witness.bpf.c`) into the running kernel, if
//! that is permitted. The kernel removes it when the [`Kernel`] is dropped or its process ends. It
//! changes nothing, opens no device, and sees no frame. A file has an id from its open to its last
//! close: copies made by dup(2), fork(2) or SCM_RIGHTS, references in flight and registrations with
//! io_uring are the same file, and the last close is when the kernel drops the last reference.
//!
//! This crate knows nothing of guests. See docs/bpf.md for what it shows, needs and costs.

#![forbid(unsafe_code)]

mod closes;
mod event;
mod load;
mod lost;

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use aya::programs::Iter;

pub use self::closes::{FileChanges, FileState, LastCloses, OpenedFile, RemainingFiles};
pub use self::event::{Actor, File, FileId, Held, KernelEvent, KernelEventKind};
use self::event::{EVENT_SIZE, HELD_SIZE};
pub use self::load::LoadError;
pub use self::lost::Lost;

/// The largest number of events that [`Kernel::poll`] returns at once.
pub const MAX_EVENTS_PER_POLL: usize = 4096;

/// The largest number of descriptors that [`Kernel::descriptors`] returns.
pub const MAX_DESCRIPTORS: usize = 1 << 20;

/// The BPF program that runs in the kernel.
pub struct Kernel {
    programs: Ebpf,
    events: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    open: HashMap<MapData, u64, u8>,
    /// The number of events that can't be parsed, because another version of the program wrote
    /// them.
    unreadable: u64,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("unreadable", &self.unreadable).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads the program into the running kernel, and attaches it.
    ///
    /// There are no events of earlier opens. Files that are open already get their ids when
    /// [`Self::descriptors`] finds them.
    ///
    /// # Errors
    ///
    /// The kernel lacks a feature, or refuses the program; the error says the way out.
    pub fn load() -> Result<Self, LoadError> {
        load::load()
    }

    /// The events since the last call, in the kernel's order: at most [`MAX_EVENTS_PER_POLL`], so
    /// call it again while it returns any. Never blocks; poll(2) can wait for [`AsFd`].
    pub fn poll(&mut self) -> Vec<KernelEvent> {
        let mut events = Vec::new();
        let now = event::Clock::now();
        while events.len() < MAX_EVENTS_PER_POLL {
            let Some(bytes) = self.events.next() else { break };
            match <&[u8; EVENT_SIZE]>::try_from(&*bytes).ok().and_then(|bytes| KernelEvent::parse(bytes, now))
            {
                Some(event) => events.push(event),
                None => self.unreadable += 1,
            }
        }
        events
    }

    /// Counts of events that are missing or may be wrong since [`Self::load`]. While they are
    /// [`Lost::is_none`], no event is missing.
    ///
    /// # Errors
    ///
    /// The program's counters can't be read from the kernel.
    pub fn lost(&self) -> io::Result<Lost> {
        Lost::read(&self.lost, &self.programs, self.unreadable)
    }

    /// Whether a file is open, or its driver has not released it yet. Also valid if its events were
    /// lost ([`Lost::events`]), or are not read yet.
    ///
    /// # Errors
    ///
    /// The program's map can't be read.
    pub fn is_open(&self, file: FileId) -> io::Result<bool> {
        match self.open.get(&file.number(), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// The current descriptors of such files in all processes of the host, including threads with
    /// their own descriptor table. This assigns ids to files that were opened before
    /// [`Self::load`].
    ///
    /// A file that is only in flight, or only registered with io_uring, is not among them.
    ///
    /// # Errors
    ///
    /// The kernel's iterator fails; [`io::ErrorKind::InvalidData`] for more than
    /// [`MAX_DESCRIPTORS`].
    pub fn descriptors(&mut self) -> io::Result<Vec<Held>> {
        let program = self.programs.program_mut(load::DESCRIPTORS).map(<&mut Iter>::try_from);
        let Some(Ok(program)) = program else { return Err(io::ErrorKind::NotFound.into()) };
        let file = program
            .attach()
            .and_then(|link| program.take_link(link))
            .map_err(io::Error::other)?
            .into_file()
            .map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        let limit = MAX_DESCRIPTORS * HELD_SIZE;
        file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        let (held, rest) = bytes.as_chunks::<HELD_SIZE>();
        if bytes.len() > limit || !rest.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel's list of descriptors is too long, or cut",
            ));
        }
        held.iter().map(|bytes| Held::parse(bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())).collect()
    }
}

impl AsFd for Kernel {
    /// Readable when there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
