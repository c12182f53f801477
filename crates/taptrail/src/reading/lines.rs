//! Lines read again, to be shown as proof.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader};
use std::sync::Arc;

use taptrail_guest::Dirs;
use taptrail_ledger::Ledger;
use taptrail_trail::Proof;

use super::plain;

/// The most lines read again: more are not read by anybody.
const MOST: usize = 10_000;

/// Lines by their place.
#[derive(Debug, Default)]
pub(crate) struct Raw(HashMap<Arc<str>, BTreeMap<u64, Option<String>>>);

impl Raw {
    /// A proof's line as it stands in its source, if it could be read again.
    pub(crate) fn get(&self, proof: &Proof) -> Option<String> {
        self.0.get(&proof.source)?.get(&proof.line)?.clone()
    }
}

/// Reads the lines of proofs again, each source once.
pub(crate) fn lines<'a>(proofs: impl Iterator<Item = &'a Proof>, dirs: &Dirs) -> Raw {
    let mut raw = Raw::default();
    for proof in proofs.take(MOST) {
        raw.0.entry(Arc::clone(&proof.source)).or_default().insert(proof.line, None);
    }
    let ledger = Ledger::file(&dirs.state).display().to_string();
    for (source, wanted) in &mut raw.0 {
        // What can't be read again is shown by its place alone.
        if **source == *ledger {
            from_ledger(dirs, wanted);
        } else {
            let _ = from_file(source, wanted);
        }
    }
    raw
}

fn from_ledger(dirs: &Dirs, wanted: &mut BTreeMap<u64, Option<String>>) {
    let Ok(ledger) = Ledger::open_to_read(&dirs.state) else { return };
    // As above.
    let _ = ledger.records(|stored| {
        let Ok(stored) = stored else { return };
        if let Some(line) = u64::try_from(stored.id).ok().and_then(|row| wanted.get_mut(&row)) {
            *line = Some(stored.text);
        }
    });
}

fn from_file(source: &str, wanted: &mut BTreeMap<u64, Option<String>>) -> io::Result<()> {
    let file = File::open(source)?;
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    let mut input = BufReader::with_capacity(64 * 1024, file);
    let mut line = Vec::new();
    let mut number = 0;
    for (&row, raw) in wanted {
        while number < row {
            if !plain::next(&mut input, &mut line, &mut 0)? {
                return Ok(());
            }
            number += 1;
        }
        *raw = Some(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
    }
    Ok(())
}
