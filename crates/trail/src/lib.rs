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
//! A watcher beside libvirt sees which descriptors QEMU really holds, and when they go:
//!
//! ```text
//!   Granted ── seen ──▶ bound to its true device, definitive ── detach, op=stop ──▶ over, and waits
//!                                        │                                             │        │
//!                                        └─ gone ─▶ waits for its cause           gone │        │ seen
//!                                                                                      ▼        ▼
//!                                                                            released, definitive   held after all
//! ```
//!
//! The manager's word and the watcher's come in any order, moments apart. Who was seen is told to be
//! over when both are there; when a watcher's never comes, at the end of the trail, *inferred*.
//!
//! What the diagram can't show:
//!
//! - A detach that the attach of the same MAC follows with no open between ended nothing: QEMU kept
//!   the very same descriptors.
//! - Of two interfaces of one guest with one MAC, a detach ends one, and nothing tells which. Both stay
//!   held, *ambiguous*, until as many are gone as there were; `released` is the time by which that is
//!   certain.
//! - A uuid that two daemons speak of is two guests while it migrates between them, and one whose
//!   daemon started anew otherwise: a hot-plug or a stop by the new one means the running guest, a
//!   boot a new one. What the new one only opens waits for that.
//! - A guest whose start is older than the trail appears by what it gives up: `opened` and `granted`
//!   are none, and the device is unknown.
//! - Of two interfaces with one MAC that were seen, the descriptor that went tells which was unplugged.
//! - What QEMU was seen to hold and no record admits is held, of an interface where that is known, and
//!   a finding.
//! - What the kernel saw opened ([`Content::KernelOpen`]) gives libvirt's macvtaps their nodes and
//!   counts its queues; what no record admits is a finding. Where a daemon opens for two guests at
//!   once and nothing tells whose is which, it tells neither.
//! - A lost end is concluded: the guest boots again, its host does, or its QEMU's process id is
//!   another's.
//!
//! All is bounded, by far more than a real guest has: tries of one MAC, interfaces of one guest, opens
//! of the kernel and ends that wait. What is beyond is told as it stands.
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
//!     trail.feed(&Entry { host, time, serial: None, writer: None, source, line, content, copies: Vec::new(), unauthenticated: false });
//! }
//! let report = trail.finish();
//! assert_eq!(report.holdings[0].state, State::Held);
//! assert_eq!(report.holdings[0].pid, Some(4711));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod model;
mod output;
#[cfg(test)]
mod properties;
mod state;
mod time;
mod trail;

pub use model::entry::{Content, Entry, Gap, GapReason, StepsInProgress};
pub use model::finding::{Finding, FindingKind};
pub use model::holding::{Certainty, Doubt, EndedBy, Holding, PossiblyHeld, State};
pub use model::proof::{LineRef, Proof};
pub use model::report::{Coverage, HostSpan, Input, InputFile, QueriedTime, Report, Span, Unreadable};
pub use state::serials::{MAX_FIRST_SERIAL, shows_boot};
pub use trail::Trail;
