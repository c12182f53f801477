//! The questions of a fleet as SQL, for engines that read the lake's objects themselves.
//!
//! Each question is one text (`questions/*.sql`), in which an [`Engine`] fills in what differs
//! between dialects: where the objects are, literals, lists. Only the current generation's objects
//! are named in it, one by one: an engine that lists a folder would read superseded objects, too.
//!
//! [`answer`] gives the same answers without an engine.

mod engine;
mod native;
mod parameters;
mod question;
mod render;

pub use engine::Engine;
pub use native::answer;
pub use parameters::{DeviceIs, Moment, Parameters};
pub use question::{Column, ColumnType, Question};
pub use render::{Objects, SqlError, Statement, render};

/// A value of an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// None.
    Null,
    /// A text.
    Text(String),
    /// A number.
    Int(i64),
    /// Microseconds since 1970, UTC.
    Time(crate::Micros),
}

/// The rows of an answer, with a value for each of the question's [columns](Question::columns).
pub type Answer = Vec<Vec<Value>>;
