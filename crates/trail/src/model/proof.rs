use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

/// Where a record that shows a holding or finding can be looked up.
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
    /// Whether no line of the event shows which process wrote it: any local user can write such a
    /// line.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unauthenticated: bool,
}

/// Another line with the same event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LineRef {
    /// The file, journal or ledger that has it.
    pub source: Arc<str>,
    /// The line or row in it, from 1.
    pub line: u64,
}

impl Proof {
    /// How many proofs a holding or finding keeps. A tap with 256 queues has 513 records: the first
    /// show how it began, the last how it ended.
    pub const MAX_PROOFS: usize = 16;

    /// The key that sorts proofs of one host by time. Many events share one tick of the kernel's
    /// clock: their serial numbers have their order.
    pub fn order(&self) -> (Timestamp, Option<u32>, u64) {
        (self.time, self.serial, self.line)
    }

    /// Whether this source has it.
    pub(crate) fn is_in(&self, source: &str) -> bool {
        *self.source == *source || self.copies.iter().any(|copy| *copy.source == *source)
    }

    pub(crate) fn add_to(self, to: &mut Vec<Self>) {
        if to.last() == Some(&self) {
            return;
        }
        if to.len() == Self::MAX_PROOFS {
            // A proof that is not authenticated is kept, however many records there are.
            let last = to.iter().rposition(|proof| !proof.unauthenticated);
            to.remove(last.unwrap_or(Self::MAX_PROOFS - 1));
        }
        to.push(self);
    }

    /// Whether one of some proofs is not authenticated.
    pub fn any_unauthenticated(proofs: &[Self]) -> bool {
        proofs.iter().any(|proof| proof.unauthenticated)
    }

    /// Serializes proofs as fields of the holding or finding that they show.
    pub(crate) fn serialize_all<S: Serializer>(proof: &[Self], to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            proof: &'a [Proof],
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            unauthenticated_source: bool,
        }
        Fields { proof, unauthenticated_source: Self::any_unauthenticated(proof) }.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_authenticated_shows_however_many_records_there_are() {
        let proof = |line: u64, unauthenticated| Proof {
            serial: None,
            time: Timestamp::UNIX_EPOCH,
            source: "syslog".into(),
            line,
            copies: Vec::new(),
            unauthenticated,
        };
        let kept = |forged: &[u64]| {
            let mut proofs = Vec::new();
            (1..=40).for_each(|line| proof(line, forged.contains(&line)).add_to(&mut proofs));
            assert_eq!((proofs.len(), proofs.last().map(|proof| proof.line)), (Proof::MAX_PROOFS, Some(40)));
            Proof::any_unauthenticated(&proofs)
        };
        assert!(!kept(&[]));
        assert!((1..=40).all(|line| kept(&[line])));
        assert!(kept(&(20..40).collect::<Vec<_>>()));
    }
}
