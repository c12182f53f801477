//! Reads logs: bytes in, [`Entry`](taptrail_trail::Entry)s out, in one order.
//!
//! This crate knows the shapes of logs (see the table in `shape`), finds the few relevant lines of
//! a log at the speed of the disk, and merges several logs of the same events. It does not
//! interpret entries, and keeps only the events of the time in which inputs overlap.
//!
//! ```text
//!   Input ─▶ open ─▶ feed ─▶ scan ─▶ shape ─▶ stream ─▶ track ─▶ reading ─▶ sink(&Entry)
//!            format? pieces  relevant parse   batches   times,   one        one at a
//!                    of      lines    one      in order  sort     order; no  time
//!                    lines            line                       duplicates
//!                    └───── on every core ────┘
//! ```
//!
//! An unreadable line does not stop the reading: it is counted, and the places of the first ones
//! are kept. An input that can't be read is named in the [`ReadOutcome`]; the others are read.
//!
//! ```
//! use std::ops::ControlFlow;
//! use taptrail_source::{Input, ReadOptions, read};
//!
//! let log = "type=VIRT_CONTROL msg=audit(1795460022.944:2592): pid=26265 uid=0 auid=4294967295 ses=4294967295 \
//!            msg='virt=kvm op=start reason=booted vm=\"web1\" uuid=f3607ac8-f517-4952-b61c-b19b40f99661 \
//!            vm-pid=27323 exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'\n";
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("audit.log");
//! std::fs::write(&path, log)?;
//! let mut serials = Vec::new();
//! let outcome = read(vec![Input::File(path)], ReadOptions::default(), &mut |entry| {
//!     serials.push(entry.serial);
//!     ControlFlow::Continue(())
//! });
//! assert_eq!(serials, [Some(2592)]);
//! assert!(outcome.failed.is_empty() && outcome.input.unreadable == 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

// The README's examples, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod audit_spans;
mod collector;
mod coverage_builder;
mod deferred;
mod duplicates;
mod error;
mod expand;
mod feed;
pub mod follow;
#[doc(hidden)]
pub mod fuzzing;
mod hosts;
mod identity;
mod input;
mod kernel;
mod lines;
mod log_paths;
mod losses;
mod merge;
mod open;
mod order;
mod ordered_entry;
mod outcome;
mod parsed_line;
mod passed_over;
mod reading;
mod repeats;
mod runs;
mod scan;
mod sequence;
mod serial_numbers;
mod serial_ranges;
mod shape;
mod snapshot;
mod stream;
mod track;
mod window;

pub use deferred::FileIdentity;
pub use error::SourceError;
pub use expand::{expand, host_logs};
pub use hosts::Hosts;
pub use input::{Input, Rows, SnapshotFile};
pub use log_paths::{host_log, host_log_paths, log_paths};
pub use open::read_lines;
pub use ordered_entry::EntrySink;
pub use outcome::{Note, NoteKind, ReadOutcome};
pub use passed_over::passed_over;
pub use reading::{Progress, ReadOptions, read};
pub use serial_ranges::SerialRange;
