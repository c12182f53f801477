use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{BridgeTap, Finding, Holding};

/// All holdings and findings of a trail, in the form of its JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The holdings, newest last.
    pub holdings: Vec<Holding>,
    /// The errors, gaps and suspicious entries, newest last.
    pub findings: Vec<Finding>,
    /// Taps that a bridge helper passed to users' QEMUs, newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bridge_taps: Vec<BridgeTap>,
    /// What was read. The trail counts `records`; its reader fills in the rest.
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
    /// Lines that should have been records and could not be parsed or trusted.
    pub unreadable: u64,
    /// Lines that look like records and are in no shape that is read.
    pub unread: u64,
    /// Records that were read before, from a copy of their log.
    pub duplicates: u64,
    /// Each file, journal and ledger, in the order in which they were given.
    pub files: Vec<InputFile>,
    /// The times that all inputs together cover, by host.
    pub coverage: Vec<Coverage>,
    /// The assumptions that were made to read the input, and what is not known, a sentence each: as
    /// on standard error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The queried time range, and whether it is covered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<QueriedTime>,
}

/// The time range of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueriedTime {
    /// Its first moment.
    #[serde(with = "crate::time::maybe")]
    pub from: Option<Timestamp>,
    /// The first moment after it.
    #[serde(with = "crate::time::maybe")]
    pub until: Option<Timestamp>,
    /// The hosts for which the inputs do not cover all of it: what was held there then is not
    /// known.
    pub unknown_on: Vec<Arc<str>>,
    /// The hosts whose time is covered without a holding, and of which it is still not known
    /// whether a device was held: guests may have run since before their records begin, or since a
    /// gap.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_start_on: Vec<Arc<str>>,
}

/// One input, as far as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InputFile {
    /// Its path; `-` for standard input.
    pub path: Arc<str>,
    /// The hosts that it has lines of.
    pub hosts: Vec<HostSpan>,
    /// Its lines or rows.
    pub lines: u64,
    /// Lines that should have been records and could not be parsed or trusted.
    pub unreadable: u64,
    /// Lines that look like records and are in no shape that is read.
    pub unread: u64,
    /// Lines that were accepted though only their own text names their writer, which any local user
    /// can write.
    #[serde(skip_serializing_if = "is_none")]
    pub unauthenticated: u64,
    /// The hash of its bytes as they are stored, if hashes were asked for. In JSON its fields are
    /// beside the others.
    #[serde(flatten)]
    pub hash: Option<StoredHash>,
}

/// The hash of an input's bytes as they are stored, compressed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredHash {
    /// SHA-256 of all its bytes, which did not change while they were read.
    Sha256 {
        /// The hash in hexadecimal, lower case.
        sha256: String,
        /// The number of bytes.
        size: u64,
    },
    /// Why there is no hash, in a few words.
    None(String),
}

impl Serialize for StoredHash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            sha256: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            size: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            no_sha256: Option<&'a str>,
        }
        let fields = match self {
            Self::Sha256 { sha256, size } => {
                Fields { sha256: Some(sha256), size: Some(*size), no_sha256: None }
            }
            Self::None(why) => Fields { sha256: None, size: None, no_sha256: Some(why) },
        };
        fields.serialize(to)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_none(lines: &u64) -> bool {
    *lines == 0
}

/// The lines of one host in one input.
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

/// The times of a host that the inputs cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// The host.
    pub host: Arc<str>,
    /// The time ranges that the inputs cover, the earliest first.
    pub spans: Vec<Span>,
    /// The time ranges within them of which records may be missing, the earliest first;
    /// [`MAX_GAPS`](Self::MAX_GAPS) at most.
    pub gaps: Vec<Span>,
    /// Times at which no device was held without a record, the earliest first: boots of the host,
    /// and where a watcher or, without any log, a ledger begins; the last
    /// [`MAX_STARTS`](Self::MAX_STARTS) at most. A guest that started before the first may have
    /// been running all along.
    #[serde(serialize_with = "crate::time::each")]
    pub starts: Vec<Timestamp>,
}

impl Coverage {
    /// How many gaps are kept.
    pub const MAX_GAPS: usize = 1000;

    /// How many starts are kept.
    pub const MAX_STARTS: usize = 1000;

    /// Whether every device held at some time from `from` to before `until` has a holding: there is
    /// no gap since one of the [`starts`](Self::starts).
    pub fn knows_all(&self, from: Timestamp, until: Timestamp) -> bool {
        let before = self.starts.partition_point(|start| *start <= from);
        before.checked_sub(1).is_some_and(|last| self.covers_all(self.starts[last], last_of(from, until)))
    }

    /// Whether all times from `from` to before `until` are covered, without a gap. If both are the
    /// same, that one moment.
    pub fn covers(&self, from: Timestamp, until: Timestamp) -> bool {
        self.covers_all(from, last_of(from, until))
    }

    /// Whether all times from `first` to `last` are covered, without a gap.
    fn covers_all(&self, first: Timestamp, last: Timestamp) -> bool {
        let within = |span: &Span| span.from <= first && last <= span.until;
        let touches = |gap: &Span| gap.from <= last && first < gap.until.max(gap.from);
        self.spans.iter().any(within) && !self.gaps.iter().any(touches)
    }
}

/// The last moment from `from` to before `until`; `from` if both are the same.
fn last_of(from: Timestamp, until: Timestamp) -> Timestamp {
    if until > from { until - jiff::SignedDuration::from_nanos(1) } else { from }
}

/// A time range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// Its first moment.
    #[serde(with = "crate::time::exact")]
    pub from: Timestamp,
    /// Its last moment.
    #[serde(with = "crate::time::exact")]
    pub until: Timestamp,
}

/// A line or row that should have been a record and could not be parsed or trusted: one of those
/// that [`Input::unreadable`] counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file, journal or ledger that has it.
    pub source: Arc<str>,
    /// The line or row in it, from 1.
    pub line: u64,
    /// Why, in a sentence.
    pub reason: String,
}
