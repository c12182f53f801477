use std::sync::Arc;

use serde::Serialize;

use crate::{Finding, Holding};

/// What a trail tells, in the shape of its JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Who held which device when, newest last.
    pub holdings: Vec<Holding>,
    /// Where the trail is wrong, incomplete or worth a look, newest last.
    pub findings: Vec<Finding>,
    /// What was read. The trail itself counts `records`; its reader knows the rest.
    pub input: Input,
}

/// How much was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Input {
    /// Files, journals and ledgers.
    pub files: u64,
    /// Bytes, as stored.
    pub bytes: u64,
    /// Lines or rows.
    pub lines: u64,
    /// Records of guests and their network devices.
    pub records: u64,
    /// Lines that should have been records and could not be believed.
    pub unreadable: u64,
    /// Records that were read before, in a copy of their log.
    pub duplicates: u64,
}

/// A line or row that should have been a record and can't be believed: one of those that
/// [`Input::unreadable`] counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file, journal or ledger that has it.
    pub source: Arc<str>,
    /// The line or row in it, from 1.
    pub line: u64,
    /// Why, in a sentence.
    pub reason: String,
}
