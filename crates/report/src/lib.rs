//! What people and programs see: tables, JSON, CSV and explanations.
//!
//! This room turns what others know into text, and knows nothing itself: no files, no sockets, no
//! terminal. Names come from outside and may hold anything, so nothing for people shows a control
//! character as it is.
//!
//! - [`Sink`]: what a [`Filter`] asks for of a trail, as a table, JSON, JSON lines or CSV.
//! - [`Explainer`]: the same in sentences, each with the lines that prove it.
//! - [`trail_table`], [`findings_table`]: holdings and the findings below them; findings alone.
//! - [`guest_table`], [`nic_table`]: the guests of this host, the interfaces of one.
//! - [`verify_table`], [`blind`]: what processes hold beside what a trail tells, and what could not be seen.
//! - [`json`]: any of them for programs.
//! - [`shown`], [`whole`]: a name or text from outside as a terminal may get it.
//! - [`warnings`], [`Stats`]: what could not be read, and what reading took.

#![forbid(unsafe_code)]

mod claims;
mod csv;
mod explain;
mod filter;
mod findings;
mod fold;
mod guests;
mod holdings;
mod json;
mod nics;
#[cfg(test)]
mod sample;
mod sink;
mod span;
mod stats;
mod style;
mod table;
mod text;
mod trail;
mod verify;
mod warnings;

pub use explain::{Explainer, Explanation, Lines};
pub use filter::{DeviceFilter, DeviceFilterError, Filter, GuestFilter, Subject};
pub use findings::is_grave;
pub use guests::{GuestRow, guest_table};
pub use json::{json, json_line};
pub use nics::{DeviceRow, NicRow, nic_table};
pub use sink::{Count, Format, Sink, Take, Told};
pub use span::Span;
pub use stats::Stats;
pub use style::Style;
pub use text::{shown, whole};
pub use trail::{findings_table, trail_table};
pub use verify::{
    GuestSeen, HeldRow, ManagerRow, ProcessRow, TrailRead, UnseenReport, UnseenRow, Verified, VerifiedRow,
    left_out, unseen_lines, verify_table,
};
pub use warnings::warnings;
