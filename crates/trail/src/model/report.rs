use std::sync::Arc;

use jiff::Timestamp;
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Input {
    /// Bytes, as stored.
    pub bytes: u64,
    /// Lines or rows.
    pub lines: u64,
    /// Records of guests and their network devices.
    pub records: u64,
    /// Lines that should have been records and could not be believed.
    pub unreadable: u64,
    /// Lines that look like records and are in no shape that is read.
    pub unread: u64,
    /// Records that were read before, in a copy of their log.
    pub duplicates: u64,
    /// Each file, journal and ledger, in the order in which they were given.
    pub files: Vec<InputFile>,
    /// Which times of which host all inputs together cover, by host.
    pub coverage: Vec<Coverage>,
    /// What had to be taken for granted to read it, and what is not known, a sentence each: as on standard error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The time that was asked for, and whether it is covered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<QueriedTime>,
}

/// A time that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueriedTime {
    /// Its first moment.
    #[serde(with = "crate::time::maybe")]
    pub from: Option<Timestamp>,
    /// The first moment after it.
    #[serde(with = "crate::time::maybe")]
    pub until: Option<Timestamp>,
    /// The hosts of which the inputs do not cover all of it: what was held there then is not known.
    pub unknown_on: Vec<Arc<str>>,
    /// Where no holding is told of a time that is covered: the hosts of which it is not known either, because
    /// guests may have run since before their records begin, or since a gap.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_start_on: Vec<Arc<str>>,
}

/// One input, as far as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InputFile {
    /// Its path; `-` for standard input.
    pub path: Arc<str>,
    /// The hosts that it tells of.
    pub hosts: Vec<HostSpan>,
    /// Its lines or rows.
    pub lines: u64,
    /// Lines that should have been records and could not be believed.
    pub unreadable: u64,
    /// Lines that look like records and are in no shape that is read.
    pub unread: u64,
    /// Lines that were believed though they only say who wrote them: of a log's text any local user can write that.
    #[serde(skip_serializing_if = "is_none")]
    pub unauthenticated: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_none(lines: &u64) -> bool {
    *lines == 0
}

/// What one input has of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostSpan {
    /// The host.
    pub host: Arc<str>,
    /// The time of its first line.
    #[serde(with = "crate::time::exact")]
    pub from: Timestamp,
    /// The time of its last line.
    #[serde(with = "crate::time::exact")]
    pub until: Timestamp,
    /// Records of guests and their network devices.
    pub records: u64,
}

/// Which times of a host are covered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// The host.
    pub host: Arc<str>,
    /// Stretches of time that the inputs tell of, the earliest first.
    pub spans: Vec<Span>,
    /// Stretches within them of which records may be missing, the earliest first;
    /// [`MAX_GAPS`](Self::MAX_GAPS) at most.
    pub gaps: Vec<Span>,
    /// Times at which nothing was held that is not told, the earliest first: boots of the host, and where a watcher
    /// or, without any log, a ledger begins; the last [`MAX_STARTS`](Self::MAX_STARTS) at most. A guest that started
    /// before the first may have been running all along.
    #[serde(serialize_with = "crate::time::each")]
    pub starts: Vec<Timestamp>,
}

impl Coverage {
    /// How many gaps are kept.
    pub const MAX_GAPS: usize = 1000;

    /// How many starts are kept.
    pub const MAX_STARTS: usize = 1000;

    /// Whether all that was held at some time from `from` to before `until` is told: without a gap since one of
    /// the [`starts`](Self::starts).
    pub fn knows_all(&self, from: Timestamp, until: Timestamp) -> bool {
        let before = self.starts.partition_point(|start| *start <= from);
        before.checked_sub(1).is_some_and(|last| self.has(self.starts[last], last_of(from, until)))
    }

    /// Whether all times from `from` to before `until` are covered, without a gap; of one moment where both are
    /// the same.
    pub fn covers(&self, from: Timestamp, until: Timestamp) -> bool {
        self.has(from, last_of(from, until))
    }

    /// Whether all times from the first to the last are covered, without a gap.
    fn has(&self, first: Timestamp, last: Timestamp) -> bool {
        let within = |span: &Span| span.from <= first && last <= span.until;
        let touches = |gap: &Span| gap.from <= last && first < gap.until.max(gap.from);
        self.spans.iter().any(within) && !self.gaps.iter().any(touches)
    }
}

/// The last moment from `from` to before `until`; `from` where both are the same.
fn last_of(from: Timestamp, until: Timestamp) -> Timestamp {
    if until > from { until - jiff::SignedDuration::from_nanos(1) } else { from }
}

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// Its first moment.
    #[serde(with = "crate::time::exact")]
    pub from: Timestamp,
    /// Its last moment.
    #[serde(with = "crate::time::exact")]
    pub until: Timestamp,
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
