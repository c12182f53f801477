//! A client of QEMU's monitor (QMP) that does not trust QEMU.
//!
//! QEMU runs a guest's code and may be taken over by it, or simply hang. So this crate bounds all
//! input from QEMU: the length of a line, the number and size of queued events, the time of each
//! operation. A peer that breaks the protocol poisons its [`Monitor`] for good.
//!
//! This crate is also the only way to pass a descriptor to a running QEMU. [`Monitor::getfd`] takes
//! only an [`Admitted`](taptrail_kernel::device::Admitted) device, so a device without an audit
//! record can't be passed.
//!
//! It never starts QEMU, never decides which commands to send, and never assumes that a command
//! which timed out was not executed.
//!
//! ```no_run
//! use std::time::{Duration, Instant};
//! use taptrail_qmp::Monitor;
//!
//! # fn main() -> Result<(), taptrail_qmp::QmpError> {
//! let mut monitor = Monitor::connect("/run/taptrail/web1/monitor", Instant::now() + Duration::from_secs(5))?;
//! println!("QEMU {}", monitor.version());
//! if !monitor.query_status(Duration::from_secs(1))?.running {
//!     monitor.cont(Duration::from_secs(1))?;
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod commands;
mod descriptors;
mod error;
mod event;
mod message;
mod monitor;
mod version;
mod wait;
mod wire;

pub use commands::{NetdevTap, NetdevVdpa, NetdevVhostUser, RunStatus};
pub use error::{ErrorClass, QmpError};
pub use event::{Event, MAX_QUEUED_BYTES, MAX_QUEUED_EVENTS};
pub use monitor::Monitor;
pub use version::Version;
pub use wait::Waited;
pub use wire::MAX_LINE_BYTES;
