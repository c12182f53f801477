//! The public data types: what a trail reads, and what it reports.

pub(crate) mod bridge_tap;
pub(crate) mod entry;
pub(crate) mod finding;
pub(crate) mod holding;
pub(crate) mod host;
pub(crate) mod proof;
pub(crate) mod report;
pub(crate) mod run;
mod stored;
#[cfg(test)]
mod words;
