//! Where records come from.
#![forbid(unsafe_code)]

mod duplicates;
mod error;
mod feed;
mod found;
#[doc(hidden)]
pub mod fuzzing;
mod input;
mod kernel;
mod open;
mod reading;
mod scan;
mod shape;
mod stream;
mod track;

pub use error::SourceError;
pub use input::{Input, Rows, expand, host_log, host_logs};
pub use open::read_again;
pub use reading::{About, Note, Options, Outcome, Take, Unreadable, read};
