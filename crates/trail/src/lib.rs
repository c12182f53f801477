//! Records in, holdings and findings out.
//!
//! This room tells from a trail of audit records who held which raw network device when, what was
//! opened and never given to QEMU, and where the trail is wrong. It is a pure state machine: no I/O,
//! no clock, no threads, and memory bounded by what is alive.
//!
//! Each interface of a guest goes through operations, each with its devices:
//!
//! ```text
//!            open              start                op=start
//!   ───────────────▶ Opening ──────────▶ Booted ────────────────▶ Granted
//!                     │   │                │ op=start failed         │
//!     start or attach │   │     attach     ▼                         │ close… detach, op=stop:
//!             failed  │   └───────────────────────────────────────▶  │   definitive
//!                     ▼                 never granted                │ detach, op=stop alone:
//!                  Refused ── close ──▶ never granted                ▼   inferred
//!                     └────── keep ───▶ held                      released
//! ```
//!
//! A close record comes before the record that says why: what is closed waits for its cause, and has
//! `close` for one when none comes. libvirt writes no close: what it opened ends by looking back from
//! the detach or stop, and is *inferred*.
//!
//! ```
//! use taptrail_record::{Device, Event, GuestId, Rdev, Record};
//! use taptrail_trail::{Content, Entry, State, Trail};
//!
//! let guest = GuestId { name: "web1".into(), uuid: "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e".parse()? };
//! let mac = "52:54:00:12:34:56".parse()?;
//! let device = Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into()));
//! let mut trail = Trail::new();
//! for (line, event) in (1..).zip([
//!     Event::Open { mac, device, queue: Some(0) },
//!     Event::Attach { mac, vm_pid: Some(4711), fds: Some(1) },
//! ]) {
//!     let record = Record::success(guest.clone(), event);
//!     let time = "2026-11-23T20:31:05.017Z".parse()?;
//!     let content = Content::Record(record);
//!     let (host, source) = ("h1".into(), "ledger".into());
//!     trail.feed(&Entry { host, time, serial: None, writer: None, source, line, content });
//! }
//! let report = trail.finish();
//! assert_eq!(report.holdings[0].state, State::Held);
//! assert_eq!(report.holdings[0].pid, Some(4711));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod draft;
mod entry;
mod finding;
mod foreign;
mod guest;
mod holding;
mod host;
mod interface;
mod interfaces;
mod kernel_opens;
mod life;
mod lives;
mod macs;
mod operation;
mod out;
mod proof;
#[cfg(test)]
mod properties;
mod queues;
mod report;
mod serials;
mod time;
mod told;
mod trail;

pub use entry::{Content, Entry};
pub use finding::{Finding, FindingKind};
pub use holding::{Certainty, EndedBy, Holding, State};
pub use proof::Proof;
pub use report::{Input, Report};
pub use trail::Trail;
