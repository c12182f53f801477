//! Lines read again, to be shown as proof.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use taptrail_ledger::Ledger;
use taptrail_trail::Proof;

use super::is_ledger;

/// The most lines read again: more are not read by anybody.
const MOST: usize = 10_000;

/// Lines by their place.
#[derive(Debug, Default)]
pub(crate) struct Raw(HashMap<Arc<str>, BTreeMap<u64, Option<Vec<u8>>>>);

impl Raw {
    /// A proof's line as it stands in its source, if it could be read again.
    pub(crate) fn get(&self, proof: &Proof) -> Option<String> {
        let line = self.0.get(&proof.source)?.get(&proof.line)?.as_deref()?;
        Some(String::from_utf8_lossy(line).trim_end_matches('\r').to_owned())
    }
}

/// Reads the lines of proofs again, each source once. What can't be is shown by its place alone.
pub(crate) fn again<'a>(proofs: impl Iterator<Item = &'a Proof>) -> Raw {
    let mut raw = Raw::default();
    for proof in proofs.take(MOST) {
        raw.0.entry(Arc::clone(&proof.source)).or_default().insert(proof.line, None);
    }
    for (source, wanted) in &mut raw.0 {
        let path = Path::new(&**source);
        if is_ledger(path) {
            from_ledger(path, wanted);
        } else {
            // As above.
            let _ = taptrail_source::read_again(path, wanted);
        }
    }
    raw
}

fn from_ledger(path: &Path, wanted: &mut BTreeMap<u64, Option<Vec<u8>>>) {
    let Ok(ledger) = Ledger::open_file_to_read(path.to_owned()) else { return };
    for stored in ledger.into_records().flatten() {
        if let Some(line) = u64::try_from(stored.id).ok().and_then(|row| wanted.get_mut(&row)) {
            *line = Some(stored.text.into_bytes());
        }
    }
}
