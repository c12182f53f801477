//! What the kernel itself says of tun, macvtap and vhost-net files: each open, each hand-over, each
//! last close, with its nanosecond and its process.
//!
//! [`Kernel::load`] puts a small BPF program (`program/witness.bpf.c`) into the running kernel, where
//! it may; nothing is left of it when the [`Kernel`] is dropped or its process ends, however that
//! ends. It changes nothing, opens no device, and sees no frame. A file is known by an id of its own
//! from its open to its last close: copies made by dup(2), fork(2) or SCM_RIGHTS, references in
//! flight and files that are registered with io_uring are the same file, and its last close comes
//! when the kernel drops the last of them.
//!
//! This crate knows nothing of guests. docs/bpf.md has what it shows, needs and costs.

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

pub use self::closes::{FileState, Heard, LastCloses, OpenedFile, Rest};
pub use self::event::{Actor, Event, File, FileId, Held, What};
use self::event::{EVENT_SIZE, HELD_SIZE};
pub use self::load::LoadError;
pub use self::lost::Lost;

/// How many events one call of [`Kernel::poll`] gives at most.
pub const MAX_EVENTS_PER_POLL: usize = 4096;

/// How many descriptors one call of [`Kernel::descriptors`] gives at most.
pub const MAX_DESCRIPTORS: usize = 1 << 20;

/// The program, as it runs in the kernel.
pub struct Kernel {
    programs: Ebpf,
    events: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    open: HashMap<MapData, u64, u8>,
    /// Events of a shape that is not known: another program's than this crate was built with.
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
    /// What happened before is not told. Files that are open already get their ids when
    /// [`Self::descriptors`] finds them.
    ///
    /// # Errors
    /// What the kernel lacks or refuses, and the way out.
    pub fn load() -> Result<Self, LoadError> {
        load::load()
    }

    /// What happened since the last call, in the kernel's order: at most [`MAX_EVENTS_PER_POLL`], so
    /// call again while it gives any. Waits for nothing: [`AsFd`] has what poll(2) waits for.
    pub fn poll(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let now = event::Clock::now();
        while events.len() < MAX_EVENTS_PER_POLL {
            let Some(bytes) = self.events.next() else { break };
            match <&[u8; EVENT_SIZE]>::try_from(&*bytes).ok().and_then(|bytes| Event::parse(bytes, now)) {
                Some(event) => events.push(event),
                None => self.unreadable += 1,
            }
        }
        events
    }

    /// What was not told or may be told wrongly, since [`Self::load`]. As long as it is
    /// [`Lost::is_none`], no event is missing.
    ///
    /// # Errors
    /// Those of reading the program's counts from the kernel.
    pub fn lost(&self) -> io::Result<Lost> {
        Lost::read(&self.lost, &self.programs, self.unreadable)
    }

    /// Whether a file is open, or its driver has not let go of it yet: also where its events were lost
    /// ([`Lost::events`]), or are not read yet.
    ///
    /// # Errors
    /// Those of reading the program's map.
    pub fn is_open(&self, file: FileId) -> io::Result<bool> {
        match self.open.get(&file.number(), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Each descriptor of such a file in each process of the host, threads with a table of their own
    /// included, as it is now. Files that were opened before [`Self::load`] get their ids by it.
    ///
    /// A file that is held in another way alone, in flight or by io_uring, is not among them.
    ///
    /// # Errors
    /// Those of the kernel's iterator; [`io::ErrorKind::InvalidData`] for more than
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
