use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;

use crate::{Entry, Finding, FindingKind, Incident, Proof};

/// The programs of one host that write `VIRT_CONTROL` records and are no guest managers.
#[derive(Debug, Default)]
pub(crate) struct ForeignPrograms {
    programs: BTreeMap<CompactString, ProgramRecords>,
    others: Option<ProgramRecords>,
}

#[derive(Debug, Default)]
struct ProgramRecords {
    records: u64,
    proof: Vec<Proof>,
}

/// How many programs are counted apart.
const MAX_PROGRAMS: usize = 64;
/// How many records of each program are shown.
const MAX_PROOFS: usize = 3;

impl ForeignPrograms {
    pub(crate) fn count(&mut self, entry: &Entry, exe: &CompactString) {
        let room = self.programs.len() < MAX_PROGRAMS;
        let count = match self.programs.get_mut(exe) {
            Some(count) => count,
            None if room => self.programs.entry(exe.clone()).or_default(),
            None => self.others.get_or_insert_default(),
        };
        count.records += 1;
        if count.proof.len() < MAX_PROOFS {
            count.proof.push(entry.proof());
        }
    }

    /// One finding for each program.
    pub(crate) fn findings(self, host: &Arc<str>) -> impl Iterator<Item = Finding> {
        let programs = self.programs.into_iter().map(|(exe, count)| match &*exe {
            "" | "?" => ("A program that is not named".to_owned(), count),
            exe => (exe.to_owned(), count),
        });
        let others = self.others.map(|count| ("Others".to_owned(), count));
        programs.chain(others).filter_map(|(who, ProgramRecords { records, proof })| {
            let what = if records == 1 { "record that names" } else { "records that name" };
            Some(Finding {
                kind: FindingKind::ForeignControl,
                host: Arc::clone(host),
                guest: None,
                mac: None,
                device: None,
                time: proof.first()?.time,
                text: format!("{who} wrote {records} VIRT_CONTROL {what} no guest"),
                proof,
                incident: Incident::default(),
            })
        })
    }
}
