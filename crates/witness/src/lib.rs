//! Compares the devices that processes hold, as `/proc` shows them, with what records say.
//!
//! - [`scan`]: which process of this host holds which device of a guest's network, as the kernel
//!   shows it.
//! - [`verify`](mod@verify): compares a scan with a trail once, device by device.
//! - [`watch`]: follows the guests of another manager (first of all libvirt's) continuously.
//!
//! This crate looks at guests and changes nothing of theirs: it opens no device and sends no
//! signal. Only `watch` writes: its observations, into the ledger and the kernel's audit log. What
//! a process says of itself (its arguments, a state file) gives it a guest's name and proves
//! nothing; only the kernel shows what it holds.
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

pub mod bridge_taps;
#[doc(hidden)]
pub mod fuzzing;
pub mod scan;
pub mod verify;
pub mod watch;
