//! Reality held against the trail: what processes hold, seen in `/proc`, beside what records say.
//!
//! - [`scan`]: who on this host holds which device of a guest's network, as the kernel shows it.
//! - [`verify`](mod@verify): that beside what a trail tells, device by device.
//! - [`watch`]: the guests of another manager, libvirt's first, watched as things happen.
//!
//! This room looks at guests, and changes nothing of theirs: it opens no device and signals nobody. Only
//! `watch` writes: what it saw, into the ledger and the kernel's audit. What processes say of themselves
//! (their arguments, a state file) gives them a name, and is proof of nothing; what they hold, the kernel
//! tells.
//!
//! ```no_run
//! use taptrail_witness::scan::{Scanner, Sources};
//!
//! let scan = Scanner::new(Sources::of_host("/var/lib/taptrail")).scan()?;
//! for holder in &scan.holders {
//!     eprintln!("{} holds {} devices", holder.process.pid, holder.devices.len());
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod scan;
pub mod verify;
pub mod watch;
