//! Reads lines again, to show them as proof.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use taptrail_lake::Lines;
use taptrail_ledger::Ledger;
use taptrail_record::Line;
use taptrail_report::SourceKind;
use taptrail_source::FileIdentity;
use taptrail_trail::Proof;

use super::is_ledger;

/// Lines of an explanation that are read again; nobody reads more.
pub(crate) const MAX_EXPLAINED_LINES: usize = 10_000;

/// Lines by source and line number.
#[derive(Debug, Default)]
pub(crate) struct SourceLines {
    lines: HashMap<Arc<str>, BTreeMap<u64, Option<Vec<u8>>>>,
    /// What the sources are; those that are not named are other logs.
    kinds: HashMap<Arc<str>, SourceKind>,
    /// Those that a lake has.
    lake: Lines,
}

impl SourceLines {
    /// What a source is: an audit log as auditd writes it, not compressed and under this name, a
    /// ledger, or something else.
    pub(crate) fn kind(&self, source: &str) -> SourceKind {
        self.kinds.get(source).copied().unwrap_or(SourceKind::Other)
    }

    /// Lines that a lake has. The files that they were read from are elsewhere.
    pub(crate) fn of_lake(lake: Lines) -> Self {
        Self { lake, ..Self::default() }
    }

    /// The line of a proof as it is in its source, if it could be read again.
    pub(crate) fn get(&self, proof: &Proof) -> Option<String> {
        if let Some(line) = self.lake.get(proof) {
            // The kernel's open is two records of an audit log, and its proof is the last of them.
            let mut records = line.split(|byte| *byte == b'\n');
            let is_record = |line: &[u8]| line.starts_with(b"type=") || line.starts_with(b"node=");
            let last = records.clone().all(is_record).then(|| records.next_back()).flatten();
            let line = last.unwrap_or(line);
            return Some(String::from_utf8_lossy(line).trim_end_matches('\r').to_owned());
        }
        let line = self.lines.get(&proof.source)?.get(&proof.line)?.as_deref()?;
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
    let mut all = SourceLines::default();
    // `-` stands for standard input, even if there is a file of that name.
    let mut different = 0;
    for proof in proofs.filter(|proof| &*proof.source != "-") {
        if different == most {
            break;
        }
        let lines = all.lines.entry(Arc::clone(&proof.source)).or_default();
        different += usize::from(lines.insert(proof.line, None).is_none());
    }
    for (source, wanted) in &mut all.lines {
        let path = Path::new(&**source);
        if is_ledger(path) {
            from_ledger(path, wanted);
            all.kinds.insert(Arc::clone(source), SourceKind::Ledger);
            continue;
        }
        // Errors are ignored: see above.
        let _ = taptrail_source::read_lines(path, identities.get(source).copied(), wanted);
        if begins_as_audit_log(path) && wanted.values().flatten().all(|line| Line::parse(line).is_ok()) {
            all.kinds.insert(Arc::clone(source), SourceKind::AuditLog);
        }
    }
    all
}

/// Whether the first line of a file begins as those of auditd.
fn begins_as_audit_log(path: &Path) -> bool {
    let mut front = [0; b"type=".len()];
    // Not a pipe: its bytes would be lost to its reader.
    let is_file = std::fs::metadata(path).is_ok_and(|about| about.is_file());
    is_file
        && File::open(path).and_then(|mut file| file.read_exact(&mut front)).is_ok()
        && matches!(&front, b"type=" | b"node=")
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
        let lines = HashMap::from([("a.log".into(), BTreeMap::from([(3, Some(line))]))]);
        let raw = SourceLines { lines, ..SourceLines::default() };
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
        assert!(fetch_lines([&proof].into_iter(), &HashMap::new(), 10).lines.is_empty());
    }
}
