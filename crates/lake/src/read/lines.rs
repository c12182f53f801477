//! The lines of records, to show them as proof.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use taptrail_trail::Proof;

use super::LakeReader;
use crate::tables::columns::{line_number, micros};
use crate::{Conditions, Day, LakeError, Micros, RecordRow, Table, Test, Text};

/// Moments of a day that are looked for one by one; of more, all from the first to the last.
const MAX_MOMENTS: usize = 64;

/// Lines by where they were read. Two hosts may have a file of one name.
#[derive(Debug, Default)]
pub struct Lines(HashMap<Location, Option<Arc<[u8]>>>);

/// Where and when a line was read.
type Location = (Text, i64, Micros, Option<i64>);

fn location(proof: &Proof) -> Location {
    (Text::from(&*proof.source), line_number(proof.line), micros(proof.time), proof.serial.map(i64::from))
}

impl Lines {
    /// The line of a proof, as it was read. None if the lake does not have it, or has several that
    /// it may be.
    pub fn get(&self, proof: &Proof) -> Option<&[u8]> {
        self.0.get(&location(proof))?.as_deref()
    }
}

impl LakeReader {
    /// Reads the lines of some proofs of these hosts.
    ///
    /// # Errors
    ///
    /// An object can't be read.
    pub fn lines<'a>(
        &self,
        hosts: &BTreeSet<&str>,
        proofs: impl Iterator<Item = &'a Proof>,
    ) -> Result<Lines, LakeError> {
        let mut wanted: BTreeMap<Day, BTreeSet<Location>> = BTreeMap::new();
        for proof in proofs {
            wanted.entry(Day::of(proof.time)).or_default().insert(location(proof));
        }
        let of_hosts: Vec<Test> = hosts.iter().map(|host| Test::Is("host", (*host).to_owned())).collect();
        let mut lines = Lines::default();
        for (day, wanted) in wanted {
            let moments: BTreeSet<Micros> = wanted.iter().map(|(_, _, time, _)| *time).collect();
            let times = match (moments.first(), moments.last()) {
                (Some(first), Some(last)) if moments.len() > MAX_MOMENTS => {
                    vec![Test::Within("time", *first, *last)]
                }
                _ => moments.iter().map(|time| Test::Within("time", *time, *time)).collect(),
            };
            let conditions = Conditions(vec![of_hosts.clone(), times]);
            // Of any part: a line is what it is in whichever reading.
            for (_, object) in self.objects.get(&(Table::Records, day)).into_iter().flatten() {
                for row in self.open_object::<RecordRow>(object, &conditions)? {
                    lines.add(row?, &wanted);
                }
            }
        }
        Ok(lines)
    }
}

impl Lines {
    fn add(&mut self, row: RecordRow, wanted: &BTreeSet<Location>) {
        let RecordRow { source, line, time, serial, text, .. } = row;
        let location = (source, line, time, serial);
        let Some(text) = text.filter(|_| wanted.contains(&location)) else { return };
        let text: Arc<[u8]> = text.0.into();
        self.0
            .entry(location)
            // Whose line it is, of two hosts, is not known.
            .and_modify(|known| *known = known.take().filter(|known| *known == text))
            .or_insert(Some(text));
    }
}
