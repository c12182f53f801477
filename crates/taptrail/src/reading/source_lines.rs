//! Reads lines again, to show them as proof.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use taptrail_ledger::Ledger;
use taptrail_source::FileIdentity;
use taptrail_trail::Proof;

use super::is_ledger;

/// Lines of an explanation that are read again; nobody reads more.
pub(crate) const MAX_EXPLAINED_LINES: usize = 10_000;

/// Lines by source and line number.
#[derive(Debug, Default)]
pub(crate) struct SourceLines(HashMap<Arc<str>, BTreeMap<u64, Option<Vec<u8>>>>);

impl SourceLines {
    /// The line of a proof as it is in its source, if it could be read again.
    pub(crate) fn get(&self, proof: &Proof) -> Option<String> {
        let line = self.0.get(&proof.source)?.get(&proof.line)?.as_deref()?;
        let line = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
        // A log that was rotated meanwhile has another line at this place.
        let other = |serial| line.contains("audit(") && !line.contains(&format!(":{serial})"));
        (!proof.serial.is_some_and(other)).then_some(line)
    }
}

/// Reads the lines of the first proofs again, each source once; `most` lines at most. Lines that
/// can't be read are shown by their place only.
pub(crate) fn fetch_lines<'a>(
    proofs: impl Iterator<Item = &'a Proof>,
    identities: &HashMap<Arc<str>, FileIdentity>,
    most: usize,
) -> SourceLines {
    let mut raw = SourceLines::default();
    // `-` stands for standard input, even if there is a file of that name.
    let mut different = 0;
    for proof in proofs.filter(|proof| &*proof.source != "-") {
        if different == most {
            break;
        }
        let lines = raw.0.entry(Arc::clone(&proof.source)).or_default();
        different += usize::from(lines.insert(proof.line, None).is_none());
    }
    for (source, wanted) in &mut raw.0 {
        let path = Path::new(&**source);
        if is_ledger(path) {
            from_ledger(path, wanted);
        } else {
            // Errors are ignored: see above.
            let _ = taptrail_source::read_lines(path, identities.get(source).copied(), wanted);
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_line_that_is_another_by_now_is_not_shown() {
        let line = b"type=VIRT_CONTROL msg=audit(1.000:7): pid=1 msg='x'\r".to_vec();
        let raw = SourceLines(HashMap::from([("a.log".into(), BTreeMap::from([(3, Some(line))]))]));
        let at = |serial| Proof {
            serial,
            time: Timestamp::UNIX_EPOCH,
            source: "a.log".into(),
            line: 3,
            copies: Vec::new(),
            unauthenticated: false,
        };
        assert!(raw.get(&at(Some(7))).is_some_and(|line| line.ends_with("msg='x'")));
        assert!(raw.get(&at(None)).is_some());
        assert_eq!(raw.get(&at(Some(8))), None);
    }

    #[test]
    fn a_file_named_like_standard_input_is_not_read() {
        let proof = Proof {
            serial: None,
            time: Timestamp::UNIX_EPOCH,
            source: "-".into(),
            line: 1,
            copies: Vec::new(),
            unauthenticated: false,
        };
        assert!(fetch_lines([&proof].into_iter(), &HashMap::new(), 10).0.is_empty());
    }
}
