//! Records in, holdings and findings out.
//!
//! From a trail of audit records this crate derives which guest held which raw network device at
//! what time, which devices were opened and never given to QEMU, and where the trail is wrong. It
//! is a pure state machine: no I/O, no clock, no threads, and memory bounded by the guests that
//! run.
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
//! A close record comes before the record that gives its reason: a closed device waits for that
//! record, and ends by `close` if none comes. libvirt writes no close: the end of what it opened is
//! *inferred* from the detach or stop.
//!
//! A watcher beside libvirt sees which descriptors QEMU holds, and when QEMU closes them:
//!
//! ```text
//!   Granted ── seen ──▶ bound to its true device, definitive ── detach, op=stop ──▶ ended, and waits
//!                                        │                                            │          │
//!                                        └─ gone ─▶ waits for its cause          gone │     seen │
//!                                                                                     ▼          ▼
//!                                                              released, definitive    held after all
//! ```
//!
//! The manager's record and the watcher's come in any order, moments apart. A holding whose
//! descriptor was seen is reported as ended once both have come; if the watcher's never comes, at
//! the end of the trail, as *inferred*.
//!
//! Not in the diagram:
//!
//! - A detach followed by an attach of the same MAC with no open in between ended nothing: QEMU
//!   kept the same descriptors (a change of bridge).
//! - If a guest has two interfaces with one MAC, a detach ends one of them, and no record shows
//!   which. Both stay held, *ambiguous*, until as many detaches have come as there were interfaces;
//!   `released` is the time by which the end is certain.
//! - If two such interfaces were seen by a watcher, the closed descriptor shows which was
//!   unplugged.
//! - If two daemons write records of one uuid, the guest is migrating between them, and is tracked
//!   as two guests, or its daemon restarted. A hot-plug or a stop by the new daemon means the
//!   running guest, a boot means a new one. What the new daemon has only opened waits for one of
//!   these records.
//! - A guest that started before the trail begins appears when it gives up a device: `opened` and
//!   `granted` are none, and the device is unknown.
//! - A device that QEMU was seen to hold without a record is held, by the interface where that is
//!   known, and a finding.
//! - The kernel's open events ([`Content::KernelOpen`]) give libvirt's macvtaps their nodes, and
//!   count the queues. An event without a record is a finding. If a daemon opens for two guests at
//!   once and nothing shows which event belongs to which, the events are used for neither.
//! - If the record of an end is lost, the end is concluded when the guest boots again, when its
//!   host does, or when another guest's QEMU has its process id.
//!
//! Everything is bounded, at far more than a real guest has: attempts for one MAC, interfaces of
//! one guest, pending opens of the kernel, pending ends. Beyond the limit the oldest is emitted as
//! it is.
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
//!     trail.feed(&Entry { host, time, serial: None, writer: None, credentials: None, source, line, content, text: None, copies: Vec::new(), unauthenticated: false });
//! }
//! let report = trail.finish();
//! assert_eq!(report.holdings[0].state, State::Held);
//! assert_eq!(report.holdings[0].pid, Some(4711));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

// The README's examples, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod model;
mod output;
#[cfg(test)]
mod properties;
mod state;
mod time;
mod trail;

pub use model::bridge_tap::{BridgeTap, BridgeTapEnd};
pub use model::entry::{Content, Credentials, Entry, Gap, GapReason, StepsInProgress};
pub use model::finding::{Finding, FindingKind, Incident, Severity};
pub use model::holding::{Certainty, Doubt, EndedBy, Holding, PossiblyHeld, State};
pub use model::host::is_same_host;
pub use model::proof::{LineRef, Proof};
pub use model::report::{
    Coverage, HostSpan, Input, InputFile, QueriedTime, Report, Span, StoredHash, Unreadable,
};
pub use model::run::{ActorRole, Crash, GuestRun, RecordedActor, RunState};
pub use state::serials::{MAX_FIRST_SERIAL, shows_boot};
pub use trail::Trail;
