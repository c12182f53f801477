use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::Record;

use crate::Proof;

/// One record with its place in the world: what a [`Trail`](crate::Trail) is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The host it speaks of. Guests of different hosts never meet.
    pub host: Arc<str>,
    /// When the event happened.
    pub time: Timestamp,
    /// The kernel's serial number of the event, where the source kept it.
    pub serial: Option<u32>,
    /// Where it was read: a file's path, a journal, a ledger.
    pub source: Arc<str>,
    /// Which line or row of the source it is, from 1.
    pub line: u64,
    /// What it says.
    pub record: Record,
}

impl Entry {
    pub(crate) fn proof(&self) -> Proof {
        Proof { serial: self.serial, time: self.time, source: Arc::clone(&self.source), line: self.line }
    }
}
