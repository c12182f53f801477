//! Output for people and programs: tables, JSON, CSV and explanations.
//!
//! This crate turns the other crates' values into text. It opens no file, socket or terminal.
//! Names come from outside and may hold anything, so output for people escapes control characters.
//!
//! - [`Sink`]: the part of a trail that a [`Filter`] selects, as a table, JSON, JSON lines, CSV or
//!   ECS documents.
//! - [`Session`]: the devices of one interface in one plug, as people see them.
//! - [`Explainer`]: the answers of `who` and `explain`: a statement about each session, with the
//!   records that prove it.
//! - [`trail_table`], [`findings_table`]: holdings and the findings below them; findings alone.
//!   [`findings_block`]: the findings by kind, without a summary.
//! - [`write_html`], [`write_svg`], [`write_perfetto`]: the same as pictures, of what
//!   [`Selected`] collects.
//! - [`RunSink`], [`run_table`]: the runs of guests, as a table, JSON, JSON lines or CSV.
//! - [`EventSink`]: every record of guests, one by one.
//! - [`guest_table`], [`nic_table`]: the guests of this host, the interfaces of one.
//! - [`verify_table`], [`unseen_lines`]: the devices that processes hold beside the trail's
//!   holdings, and the processes that could not be looked into.
//! - [`live_rows`], [`live_events`]: what is held now, and what happened last.
//! - [`timeline()`]: a trail as a picture of text.
//! - [`Summary`]: a trail in a few lines, and by guest, host, day or device.
//! - [`json`]: any of them for programs; [`Schema`]: the JSON Schema of each.
//! - [`escape_name`], [`escape_text`]: a name or text from outside, safe for a terminal.
//! - [`warnings`], [`Stats`]: the lines that could not be read; amounts and rates of reading.

#![forbid(unsafe_code)]

mod answer;
mod bridge_taps;
mod csv;
mod duration;
mod ecs;
mod events;
mod explain;
mod filter;
mod findings;
mod fold;
mod guests;
mod json;
mod nics;
mod page;
mod runs;
#[cfg(test)]
mod sample;
mod schema;
mod selected;
mod sessions;
mod sink;
mod span;
mod stats;
mod style;
mod subject;
mod summary;
mod table;
mod text;
mod trail;
mod unauthenticated;
mod verify;
mod warnings;
mod who;

pub use answer::{AnswerValue, answer_object, answer_table, write_answer_csv};
pub use events::{EventSink, GuestEvent};
pub use explain::{CitedSources, Explainer, Explanation, LineReader, Records, SourceKind};
pub use filter::{DeviceFilter, DeviceFilterError, Filter, GuestFilter};
pub use findings::findings_block;
pub use fold::fold;
pub use guests::{GuestRow, guest_table};
pub use json::{json, json_line};
pub use nics::{AddressRow, DeviceRow, NicRow, nic_table};
pub use page::{
    Evidence, FileEvidence, Hash, MAX_PAGE_LINES, page_proofs, write_html, write_live_html, write_perfetto,
    write_svg,
};
pub use runs::{RunCount, RunSink, run_table};
pub use schema::Schema;
pub use selected::Selected;
pub use sessions::{
    Column, ColumnError, Columns, LiveEvent, LiveRow, Session, live_events, live_rows, timeline,
};
pub use sink::{Count, Format, Presentation, Sink, TrailConsumer, View};
pub use span::QueryRange;
pub use stats::Stats;
pub use style::Style;
pub use subject::{Subject, SubjectError};
pub use summary::{BridgeTapCounts, GroupBy, Grouped, HostSummary, Summarizer, Summary};
pub use text::{escape_name, escape_text};
pub use trail::{findings_table, trail_table};
pub use verify::{
    HeldDeviceRow, ManagerRow, ProcessGuest, ProcessRow, TrailSummary, UnseenReport, UnseenRow, Verified,
    VerifiedRow, other_hosts_line, unseen_lines, verify_table,
};
pub use warnings::warnings;
