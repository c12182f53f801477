//! QEMU's monitor, spoken by a client that trusts nothing on the other end.
//!
//! QEMU runs a guest's code and may be taken over by it, or simply hang. So this room bounds
//! everything that comes from there: the length of a line, the number and size of queued events,
//! the time of every operation. A peer that breaks the protocol poisons its [`Monitor`], for good.
//!
//! It is also the only way by which a running QEMU gets a descriptor, and [`Monitor::getfd`] takes
//! an [`Admitted`](taptrail_kernel::device::Admitted) device and nothing else: what the audit
//! trail doesn't have can't be handed over.
//!
//! What it never does: start QEMU, decide what to send, or believe that a command which timed out
//! was not carried out.
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
mod wait;
mod wire;

pub use commands::{NetdevTap, RunStatus};
pub use error::{ErrorClass, QmpError};
pub use event::{Event, MAX_QUEUED_BYTES, MAX_QUEUED_EVENTS};
pub use monitor::{Monitor, Version};
pub use wait::Waited;
pub use wire::MAX_LINE;
