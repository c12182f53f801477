//! The addresses of an interface that its filter learns: libvirt's `CTRL_IP_LEARNING`.
//!
//! ```text
//!   supervisor                                          taptrail learn-addresses
//!   ──────────                                          ────────────────────────
//!   packet socket, bound and filtered ──── stdin ─────▶ frames ─▶ FrameReader
//!   Learning ◀── a Sighting, within limits ── stdout ──────────────────┘
//!      └─▶ driver: one transaction of nftables, a record, the file of addresses
//! ```
//!
//! Frames of guests and networks are parsed in a process of its own, for each interface, that can do
//! nothing but receive and send. The supervisor takes messages of a fixed length from it, and limits
//! how many it takes, how many addresses there are, and what an address can be.
//! `driver/learning.rs` acts on them.

mod frame;
mod learnt;
mod process;
mod report;

#[cfg(test)]
mod tests;

pub use frame::{FrameReader, Method, Sighting};
pub use learnt::LearnError;
pub(crate) use learnt::{KeptAddresses, Learning, LearntAddress, LearntFile, MAX_ADDRESSES, Received};
pub use process::learn_addresses;
