//! The data of a page: columns of numbers, and tables of the names and texts that they stand for.
//!
//! Every text is safe to show: what can't be seen in it is escaped. Times are milliseconds since
//! the picture's first; null is unknown.

use compact_str::CompactString;
use serde::Serialize;
use taptrail_trail::{Certainty, Doubt, EndedBy, FindingKind, Severity, State};

use super::picture::Counts;
use super::zone::Zone;

pub(super) type Time = Option<i64>;

#[derive(Debug, Default, Serialize)]
pub(super) struct Data {
    pub(super) evidence: EvidenceData,
    pub(super) zone: Option<Zone>,
    /// The first time, in milliseconds since 1970; all others are counted from it.
    pub(super) base: i64,
    pub(super) until: i64,
    pub(super) counts: Counts,
    pub(super) hosts: Vec<CompactString>,
    /// Name and uuid.
    pub(super) guests: Vec<(CompactString, String)>,
    pub(super) macs: Vec<String>,
    /// Kind, path, interface, number.
    pub(super) devices: Vec<(&'static str, CompactString, Option<CompactString>, Option<String>)>,
    pub(super) files: Vec<CompactString>,
    pub(super) words: Words,
    /// Host, guest, MAC, lane.
    pub(super) rows: Vec<(u32, Option<u32>, Option<u32>, usize)>,
    pub(super) sessions: Sessions,
    pub(super) holdings: Holdings,
    /// Session, from, until, doubt.
    pub(super) weak: Vec<(usize, Time, Time, usize)>,
    pub(super) findings: Findings,
    /// Sentences with blanks.
    pub(super) told: Vec<String>,
    pub(super) lines: Lines,
    pub(super) coverage: Vec<CoverageData>,
}

/// The words of each enum, by the numbers in the columns.
#[derive(Debug, Serialize)]
pub(super) struct Words {
    pub(super) states: [&'static str; 6],
    pub(super) certainties: [&'static str; 5],
    pub(super) ends: [&'static str; 7],
    pub(super) doubts: [&'static str; 12],
    /// Word, meaning, whether it is grave.
    pub(super) kinds: Vec<(&'static str, &'static str, bool)>,
}

pub(super) const STATES: [State; 6] =
    [State::OpenFailed, State::Opening, State::NeverGranted, State::Unknown, State::Held, State::Released];

pub(super) const CERTAINTIES: [Certainty; 5] = [
    Certainty::Definitive,
    Certainty::Inferred,
    Certainty::Ambiguous,
    Certainty::Doubtful,
    Certainty::Incomplete,
];

pub(super) const ENDS: [EndedBy; 7] = [
    EndedBy::Detach,
    EndedBy::Stop,
    EndedBy::Close,
    EndedBy::Revoke,
    EndedBy::Restart,
    EndedBy::Reboot,
    EndedBy::PidReused,
];

pub(super) const DOUBTS: [Doubt; 12] = [
    Doubt::BeforeGrant,
    Doubt::Failed,
    Doubt::NothingFollowed,
    Doubt::NoGrantsRecorded,
    Doubt::TrailEnds,
    Doubt::RecordsLost,
    Doubt::EndUnseen,
    Doubt::BeforeTrail,
    Doubt::Ambiguous,
    Doubt::Contradicted,
    Doubt::CloseDoubted,
    Doubt::DeviceUnknown,
];

impl Default for Words {
    fn default() -> Self {
        let kinds = FindingKind::ALL
            .iter()
            .map(|kind| (kind.as_str(), kind.summary(), kind.severity() == Severity::Grave));
        Self {
            states: STATES.map(State::as_str),
            certainties: CERTAINTIES.map(Certainty::as_str),
            ends: ENDS.map(EndedBy::as_str),
            doubts: DOUBTS.map(Doubt::as_str),
            kinds: kinds.collect(),
        }
    }
}

/// The place of a value in its table; the tables have all values.
pub(super) fn place<T: PartialEq>(table: &[T], value: &T) -> usize {
    table.iter().position(|one| one == value).unwrap_or_default()
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Sessions {
    pub(super) row: Vec<usize>,
    pub(super) guest: Vec<u32>,
    pub(super) begin: Vec<i64>,
    pub(super) opened: Vec<Time>,
    pub(super) granted: Vec<Time>,
    pub(super) released: Vec<Time>,
    pub(super) certain_from: Vec<Time>,
    /// Null, too, where it is held to the end.
    pub(super) certain_until: Vec<Time>,
    pub(super) state: Vec<usize>,
    pub(super) certainty: Vec<usize>,
    pub(super) ended_by: Vec<Option<usize>>,
    /// 1 where a record is not authenticated.
    pub(super) unauthenticated: Vec<u8>,
    /// How many of the holdings are its own; they follow each other.
    pub(super) holdings: Vec<usize>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Holdings {
    pub(super) device: Vec<u32>,
    pub(super) state: Vec<usize>,
    /// For a failed open, when it failed.
    pub(super) failed: Vec<Time>,
    /// The text, and the values of its blanks; times are counted from the base, process ids are as
    /// they are.
    pub(super) told: Vec<(usize, Vec<i64>)>,
    pub(super) lines: Vec<Vec<u32>>,
    /// 1 where there may be more records than are kept.
    pub(super) more: Vec<u8>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    pub(super) row: Vec<usize>,
    pub(super) session: Vec<Option<usize>>,
    pub(super) kind: Vec<usize>,
    pub(super) guest: Vec<Option<u32>>,
    pub(super) mac: Vec<Option<u32>>,
    pub(super) time: Vec<i64>,
    pub(super) text: Vec<CompactString>,
    pub(super) lines: Vec<Vec<u32>>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Lines {
    pub(super) file: Vec<u32>,
    pub(super) line: Vec<u64>,
    pub(super) serial: Vec<Option<u32>>,
    pub(super) unauthenticated: Vec<u8>,
    pub(super) raw: Vec<Option<CompactString>>,
}

#[derive(Debug, Serialize)]
pub(super) struct CoverageData {
    pub(super) host: u32,
    pub(super) spans: Vec<(i64, i64)>,
    pub(super) gaps: Vec<(i64, i64)>,
    pub(super) starts: Vec<i64>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct EvidenceData {
    pub(super) program: CompactString,
    pub(super) command: CompactString,
    pub(super) generated: i64,
    pub(super) files: Vec<FileData>,
    pub(super) bytes: u64,
    pub(super) lines: u64,
    pub(super) records: u64,
    pub(super) unreadable: u64,
    pub(super) unread: u64,
    pub(super) duplicates: u64,
    pub(super) warnings: Vec<CompactString>,
    pub(super) left_out: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct FileData {
    pub(super) path: CompactString,
    pub(super) lines: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
    pub(super) changed: bool,
    /// Why there is no hash.
    pub(super) why: Option<CompactString>,
    /// Host, first and last time, records.
    pub(super) hosts: Vec<(u32, i64, i64, u64)>,
    pub(super) unreadable: u64,
    pub(super) unread: u64,
    pub(super) unauthenticated: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_place_of_its_own() {
        assert_eq!(place(&STATES, &State::Released), 5);
        assert_eq!(place(&DOUBTS, &Doubt::CloseDoubted), 10);
        assert_eq!(place(&ENDS, &EndedBy::PidReused), 6);
        assert_eq!(place(&CERTAINTIES, &Certainty::Incomplete), 4);
    }
}
