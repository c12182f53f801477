//! The lake: the trails of many hosts as Parquet objects, in a directory or an object store.
//!
//! Two kinds of data lie in a lake. The table `records` is evidence: each entry that a reading fed
//! to its trail, with the text of its line. `held`, `runs`, `findings` and `coverage` are derived
//! from it, for fast answers and for SQL engines, which read the same objects.
//!
//! ```text
//!   inbox/<table>/day=D/<sum>.parquet         a batch: what one `taptrail archive` adds
//!   inbox/batches/<batch>.json                its manifest, written last: the batch counts from here
//!   <table>/day=D/g<generation>-<sum>.parquet compacted: one object for a day
//!   summaries/<table>/g<generation>-<sum>.parquet  what a question about one time needs of all days
//!   months/<table>/month=M/g<generation>-<sum>.parquet  what a question about one MAC needs of a month
//!   generations/<generation>.json             names the current objects, with their SHA-256
//! ```
//!
//! No object is ever overwritten. The names of a batch follow from its content: sending it again
//! changes nothing.

#![forbid(unsafe_code)]

mod batch;
mod check;
mod commit;
mod compact;
mod conditions;
mod day_tables;
mod error;
mod fleet;
#[doc(hidden)]
pub mod fuzzing;
mod lasting;
mod layout;
mod manifest;
mod months;
mod object;
mod parallel;
mod read;
mod remote;
mod retention;
mod sent;
mod sign;
mod slice;
mod snapshot;
mod spool;
pub mod sql;
mod store;
mod summary;
mod tables;

pub use batch::{Archived, BatchFile, BatchHost, BatchInput, BatchWriter};
pub use check::{CheckProgress, Checked, Checks, Problem, ProblemKind, check, check_with_progress};
pub use compact::{Compacted, Hole, compact};
pub use conditions::{Conditions, Test};
pub use error::LakeError;
pub use fleet::{FleetFinding, FleetKind, FleetLimits, fleet_findings};
pub use layout::{BATCHES, BatchId, Day, GENERATIONS, Generation, INBOX, MONTHS, SUMMARIES, Table};
pub use manifest::{BatchManifest, GenerationManifest, ObjectEntry, Root, RootError, VERSION, sha256};
#[doc(hidden)]
pub use months::write as write_months;
pub use object::{Limits, ObjectReader, ObjectWriter, Rows};
pub use read::{LakeReader, Lines, Question, When};
pub use retention::{Pruned, Retention, prune};
pub use sent::SentDays;
pub use sign::{KeyError, SigningKey, VerifyingKey};
pub use slice::{held_rows, run_rows};
pub use snapshot::Snapshot;
pub use spool::{SortedRows, Spool};
pub use store::{Listed, Put, Store};
#[doc(hidden)]
pub use summary::write as write_summary;
pub use tables::columns::{LineRow, Micros, ProofRow, Text};
pub use tables::coverage::{CoverageRow, SpanLogs};
pub use tables::finding::FindingRow;
pub use tables::held::{HeldRow, PossibleRow};
pub use tables::record::{RawText, RecordRow, UnknownRecord};
pub use tables::run::RunRow;
pub use tables::{Place, Row};
