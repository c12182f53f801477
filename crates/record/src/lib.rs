//! Audit records of guests' network devices, and their text.
//!
//! - Values: [`MacAddr`], [`Rdev`], [`Device`], [`GuestId`]; a whole record: [`Record`].
//! - The grammar of a record's text: [`Record::text`], [`Line::parse`], [`parse_text`].
//! - Other forms of that text: [`parse_interpreted`], [`parse_claim`], [`encode_fields`].
//! - Records of a guest's other resources: [`ResourceChange`].
//! - A tap that `taptrail-bridge-helper` opened or refused, and its close: [`BridgeOpen`],
//!   [`BridgeClose`].
//! - Records that claim nothing of a device: [`Notice`]; damaged records: [`Fragment`]; records of
//!   programs that have no guests: [`foreign`].
//! - The kernel's own records: of an open(2), [`KernelOpen`]; of a fatal signal, [`Abend`]; of an
//!   access that a security module refused, [`Denial`].
//! - What shows that the kernel logged a record: [`LogProof`].
//!
//! This crate does no I/O, holds no state and has no `unsafe`.
//!
//! ```
//! use taptrail_record::{Event, Line, Outcome};
//!
//! let line = concat!(
//!     "type=VIRT_RESOURCE msg=audit(1795460022.944:2588): pid=26265 uid=0 auid=4294967295 ",
//!     "ses=4294967295 msg='virt=kvm resrc=net reason=start vm=\"it's\" ",
//!     "uuid=f3607ac8-f517-4952-b61c-b19b40f99661 old-net=\"?\" new-net=\"52:54:00:00:06:01\" ",
//!     "exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'\x1dUID=\"root\"",
//! );
//! let line = Line::parse(line.as_bytes())?;
//! assert_eq!((line.stamp.serial, line.pid), (2588, Some(26265)));
//! let record = line.record()?.ok_or("a record of an interface")?;
//! assert_eq!(record.guest.name, "it's");
//! assert_eq!(record.outcome, Outcome::Success);
//! assert!(matches!(record.event, Event::Start { vm_pid: None, .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

// The README's examples, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod abend;
mod address_change;
mod bridge_close;
mod bridge_fields;
mod bridge_open;
mod claim;
mod claimed_guest;
mod close_doubt;
mod denial;
mod device;
mod encode;
mod error;
mod field_reader;
mod fields;
mod foreign;
mod fragment;
mod guest;
mod ifname;
mod interpreted;
mod kernel_open;
mod line;
mod log_proof;
mod mac;
mod notice;
mod number;
mod old_tail;
mod pairs;
mod path_record;
mod rdev;
mod read;
mod reason;
mod record;
mod record_type;
mod resource;
mod scan;
mod stored;
mod syscall;
mod visible;
mod words;
mod write;

pub use abend::Abend;
pub use address_change::{AddressChange, FilterAddress};
pub use bridge_close::BridgeClose;
pub use bridge_open::BridgeOpen;
pub use claim::parse_claim;
pub use claimed_guest::ClaimedGuest;
pub use close_doubt::CloseDoubt;
pub use denial::Denial;
pub use device::{Device, DeviceKind, SOCKET_PREFIX, socket_path};
pub use error::ParseError;
pub use fields::encode_fields;
pub use foreign::foreign;
pub use fragment::Fragment;
pub use guest::GuestId;
pub use ifname::{IfName, IfNameError};
pub use interpreted::parse_interpreted;
pub use kernel_open::KernelOpen;
pub use line::{Line, Stamp};
pub use log_proof::LogProof;
pub use mac::{MacAddr, MacAddrError};
pub use notice::Notice;
pub use path_record::PathRecord;
pub use rdev::{Rdev, RdevError};
pub use read::parse_text;
pub use reason::{Reason, ReasonError};
pub use record::{Descriptor, Event, Outcome, Record, Requester, UpdatePhase};
pub use record_type::{RecordType, RecordTypeError};
pub use resource::{ResourceChange, parse_resource};
pub use syscall::Syscall;
pub use visible::{is_visible, visible};
pub use write::{MAX_TEXT_BYTES, TooLong};
