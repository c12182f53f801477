use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

/// Where a record that shows something can be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The kernel's serial number of the event, where the source kept it.
    pub serial: Option<u32>,
    /// When the event happened.
    #[serde(with = "crate::time::exact")]
    pub time: Timestamp,
    /// The file, journal or ledger that has it.
    pub source: Arc<str>,
    /// The line or row in it, from 1.
    pub line: u64,
    /// Where else the same event was read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<LineRef>,
}

/// Another line that tells the same event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct LineRef {
    /// The file, journal or ledger that has it.
    pub source: Arc<str>,
    /// The line or row in it, from 1.
    pub line: u64,
}

impl Proof {
    /// How many a holding or finding keeps. A tap of 256 queues has 513 records: the first show how
    /// it began, the last how it ended.
    pub const KEPT: usize = 16;

    /// Where it belongs among others of its host: many share one tick of the kernel's clock, and of those
    /// the serial numbers tell.
    pub fn order(&self) -> (Timestamp, Option<u32>, u64) {
        (self.time, self.serial, self.line)
    }

    /// Whether this source has it, too.
    pub(crate) fn is_in(&self, source: &str) -> bool {
        *self.source == *source || self.copies.iter().any(|copy| *copy.source == *source)
    }

    pub(crate) fn add(self, to: &mut Vec<Self>) {
        if to.last() == Some(&self) {
            return;
        }
        if to.len() == Self::KEPT {
            to.pop();
        }
        to.push(self);
    }
}
