//! Where records come from: bytes in, [`Entry`](taptrail_trail::Entry)s out, in one order.
//!
//! This room knows in which shapes logs lie around (see the table in `shape`), how to find the few lines
//! of a log that tell something at the speed of the disk, and how several logs of the same events are
//! one trail. It decides nothing about what entries mean, and remembers no more than the moments in
//! which inputs overlap.
//!
//! ```text
//!   Input ─▶ open ─▶ feed ─▶ scan ─▶ shape ─▶ stream ─▶ track ─▶ reading ─▶ take(&Entry)
//!            what    pieces  which   what a   batches   times,   the one    one at a
//!            it is   of      lines?  line     in order  places   order; no  time
//!                    lines           tells                       duplicates
//!                    └───── on every core ────┘
//! ```
//!
//! What can't be believed stops nothing: it is counted, the first lines are located, and the answer
//! goes on. An input that can't be read is named in the [`Outcome`], beside what the others told.
//!
//! ```
//! use std::ops::ControlFlow;
//! use taptrail_source::{Input, Options, read};
//!
//! let log = "type=VIRT_CONTROL msg=audit(1795460022.944:2592): pid=26265 uid=0 auid=4294967295 ses=4294967295 \
//!            msg='virt=kvm op=start reason=booted vm=\"web1\" uuid=f3607ac8-f517-4952-b61c-b19b40f99661 \
//!            vm-pid=27323 exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'\n";
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("audit.log");
//! std::fs::write(&path, log)?;
//! let mut serials = Vec::new();
//! let outcome = read(vec![Input::File(path)], Options::default(), &mut |entry| {
//!     serials.push(entry.serial);
//!     ControlFlow::Continue(())
//! });
//! assert_eq!(serials, [Some(2592)]);
//! assert!(outcome.failed.is_empty() && outcome.input.unreadable == 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod coverage;
mod covered;
mod duplicates;
mod error;
mod feed;
pub mod follow;
mod found;
#[doc(hidden)]
pub mod fuzzing;
mod hosts;
mod identity;
mod input;
mod kept;
mod kernel;
mod lines;
mod losses;
mod merge;
mod numbers;
mod open;
mod order;
mod outcome;
mod reading;
mod repeats;
mod runs;
mod scan;
mod sequence;
mod shape;
mod snapshot;
mod stream;
mod track;
mod window;

pub use error::SourceError;
pub use hosts::Hosts;
pub use input::{Input, Rows, expand, host_log, host_log_names, host_logs, names};
pub use kept::FileIdentity;
pub use open::read_again;
pub use outcome::{About, Note, Outcome};
pub use reading::{Options, Take, read};
pub use snapshot::KeptFile;
