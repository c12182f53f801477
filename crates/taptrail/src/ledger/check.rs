//! `taptrail ledger check` and `checkpoint`.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use taptrail_guest::{Dirs, chain};
use taptrail_ledger::{
    ChainCheckpoint, ChainFault, ChainReport, CheckpointVerdict, InvalidCheckpoint, Ledger, NamedRecord,
};
use taptrail_record::visible;

use crate::CommandResult;
use crate::cli::{CheckLedger, LedgerCheckpoint};
use crate::output::{Failure, print, print_json};

/// The longest file with checkpoints that is read: some 5000 lines.
const MAX_CHECKPOINT_FILE_BYTES: u64 = 1 << 20;

/// Prints the end of the chain, or appends it to a file.
pub(super) fn checkpoint(dirs: &Dirs, arguments: &LedgerCheckpoint) -> CommandResult {
    let ledger = Ledger::open_to_read(&dirs.state).map_err(Failure::input)?;
    let taken = ledger.chain_checkpoint().map_err(Failure::input)?.ok_or_else(|| {
        let path = Ledger::file(&dirs.state);
        Failure::input(anyhow!(
            "Ledger {} has no chain: an older taptrail made it, and the next command that writes to it adds one",
            path.display()
        ))
    })?;
    let taken = taken.with_host(&rustix::system::uname().nodename().to_string_lossy());
    match &arguments.out {
        Some(path) => {
            append(path, &taken)
                .with_context(|| format!("Checkpoint can't be written to {}", path.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        None if arguments.output.is_json() => {
            let line = taken.to_string();
            print_json(&JsonTaken { checkpoint: taken, line })
        }
        None => print(&format!("{taken}\n")),
    }
}

fn append(path: &Path, checkpoint: &ChainCheckpoint) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(format!("{checkpoint}\n").as_bytes())?;
    file.sync_all()
}

pub(super) fn check(dirs: &Dirs, arguments: &CheckLedger) -> CommandResult {
    let checkpoints = checkpoints(arguments)?;
    let (path, ledger) = match &arguments.file {
        Some(path) => (path.clone(), Ledger::open_file_to_read(path.clone())),
        None => (Ledger::file(&dirs.state), Ledger::open_to_read(&dirs.state)),
    };
    let ledger = ledger.map_err(Failure::input)?;
    let mut faults = ledger.faults().map_err(Failure::input)?;
    let report = match ledger.check_chain(&checkpoints) {
        Ok(report) => report,
        // Damaged pages: what is listed already.
        Err(error) if !faults.is_empty() => {
            faults.push(format!("the chain could not be checked: {}", chain(&error)));
            None
        }
        Err(error) => return Err(Failure::input(error)),
    };
    let checked = Checked { faults: &faults, checkpoints: &checkpoints, report: report.as_ref() };
    if arguments.output.is_json() {
        print_json(&Json::of(&checked))?;
    } else {
        print(&checked.text(&path))?;
    }
    Ok(checked.exit_code())
}

/// The checkpoints of the command line and of its file.
fn checkpoints(arguments: &CheckLedger) -> Result<Vec<ChainCheckpoint>, Failure> {
    let mut all = Vec::new();
    for line in &arguments.checkpoint {
        let parsed = line.parse().map_err(|error: InvalidCheckpoint| {
            Failure::input(anyhow!("--checkpoint can't be used: {error}"))
        });
        all.push(parsed?);
    }
    let Some(path) = &arguments.checkpoint_file else { return Ok(all) };
    let text = read(path)
        .with_context(|| format!("Checkpoints {} can't be read", path.display()))
        .map_err(Failure::input)?;
    let given = all.len();
    for (line, number) in text.lines().zip(1_u64..) {
        // Other lines of a mailbox or a log are none of ours.
        if ChainCheckpoint::is_in(line) {
            let parsed = line.parse().map_err(|error: InvalidCheckpoint| {
                Failure::input(anyhow!("{}:{number} has no valid checkpoint: {error}", path.display()))
            });
            all.push(parsed?);
        }
    }
    if all.len() == given {
        return Err(Failure::input(anyhow!("{} has no checkpoint", path.display())));
    }
    Ok(all)
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = MAX_CHECKPOINT_FILE_BYTES + 1;
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > MAX_CHECKPOINT_FILE_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB: give the lines with checkpoints alone"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a check found.
struct Checked<'a> {
    faults: &'a [String],
    checkpoints: &'a [ChainCheckpoint],
    /// None if the ledger has no chain, or it could not be read.
    report: Option<&'a ChainReport>,
}

impl Checked<'_> {
    fn verdicts(&self) -> impl Iterator<Item = (&ChainCheckpoint, CheckpointVerdict)> {
        let verdicts = self.report.map_or(&[][..], |report| &report.checkpoints);
        self.checkpoints.iter().zip(verdicts.iter().copied())
    }

    fn is_altered(&self) -> bool {
        !self.faults.is_empty()
            || self.report.is_some_and(|report| report.fault_count > 0)
            || self
                .verdicts()
                .any(|(_, verdict)| !matches!(verdict, CheckpointVerdict::Holds | CheckpointVerdict::Pruned))
    }

    /// Whether something was to be compared and could not be.
    fn is_unknown(&self) -> bool {
        match self.report {
            None => !self.checkpoints.is_empty(),
            Some(report) => {
                report.outside_count > 0
                    || self.verdicts().any(|(_, verdict)| verdict == CheckpointVerdict::Pruned)
            }
        }
    }

    fn exit_code(&self) -> ExitCode {
        match () {
            () if self.is_altered() => ExitCode::FAILURE,
            () if self.is_unknown() => ExitCode::from(Failure::INPUT),
            () => ExitCode::SUCCESS,
        }
    }

    fn text(&self, path: &Path) -> String {
        let mut text = String::new();
        if !self.is_altered() {
            let _ = writeln!(text, "{} is sound", path.display());
        }
        for fault in self.faults {
            let _ = writeln!(text, "{}", visible(fault));
        }
        let Some(report) = self.report else {
            if self.faults.is_empty() {
                text.push_str(
                    "It has no chain: an older taptrail made it, and the next command that writes to it adds one\n",
                );
            }
            return text;
        };
        for fault in &report.faults {
            let _ = writeln!(text, "{fault}");
        }
        if report.fault_count > report.faults.len() as u64 {
            let _ = writeln!(text, "… and {} more", report.fault_count - report.faults.len() as u64);
        }
        summarize(report, &mut text);
        let mut held = None;
        for (checkpoint, verdict) in self.verdicts() {
            let _ = writeln!(text, "{}", sentence(checkpoint, verdict, report));
            if verdict == CheckpointVerdict::Holds {
                held = held.max(Some(checkpoint.row));
            }
        }
        let shows = "whoever can write the file could have written the chain again";
        match held {
            Some(row) if row >= report.last_row => {}
            Some(row) => {
                let _ = writeln!(text, "Rows after {row} are in no checkpoint: {shows} from there on");
            }
            None => {
                let _ = writeln!(
                    text,
                    "No checkpoint shows that these are the rows that taptrail wrote: {shows}"
                );
            }
        }
        text
    }
}

/// What the chain says about itself.
fn summarize(report: &ChainReport, text: &mut String) {
    let _ = writeln!(
        text,
        "Chain {}, to row {}: {} {} as the chain has them",
        visible(&report.ledger),
        report.last_row,
        report.unchanged,
        if report.unchanged == 1 { "record is" } else { "records are" }
    );
    if let (Some(older), Some(begun)) = (report.older, report.begun) {
        let _ = writeln!(
            text,
            "It was begun {begun:.3}, with {older} records of an older taptrail: of these, changes before that do not show"
        );
    }
    let at = |time: Option<Timestamp>| time.map_or_else(String::new, |time| format!(", last {time:.3}"));
    if report.deleted > 0 {
        let _ = writeln!(
            text,
            "Taptrail deleted {} records between others{}",
            report.deleted,
            at(report.deleted_at)
        );
    }
    if let Some(pruned) = report.pruned {
        let _ = writeln!(text, "Rows 1 to {} were pruned with their records{}", pruned.rows, at(pruned.at));
    }
    if report.outside_count > 0 {
        let _ = writeln!(
            text,
            "{} records are outside of the chain: an older taptrail that still ran wrote them, or somebody inserted them",
            report.outside_count
        );
        for record in &report.outside {
            let _ = writeln!(text, "  {record}");
        }
    }
}

/// What the ledger says about a checkpoint.
fn sentence(checkpoint: &ChainCheckpoint, verdict: CheckpointVerdict, report: &ChainReport) -> String {
    let ChainCheckpoint { row, time, .. } = checkpoint;
    let says = match verdict {
        CheckpointVerdict::Holds => {
            // A fault at or before the row; one without rows may be anywhere.
            let before = |fault: &ChainFault| fault.rows().is_none_or(|(from, _)| from <= *row);
            let all_listed = report.fault_count == report.faults.len() as u64;
            if all_listed && !report.faults.iter().any(before) {
                "the chain has that row, and the records up to it are those of then".to_owned()
            } else {
                "the chain has that row, and records up to it were changed, as listed".to_owned()
            }
        }
        CheckpointVerdict::Differs => {
            "the chain has another row there: rows up to it were written again, or the ledger was restored from an older copy and written to since".to_owned()
        }
        CheckpointVerdict::RolledBack => format!(
            "the chain ends before it, at row {}: rows were removed from its end, or it was restored from an older copy",
            report.last_row
        ),
        CheckpointVerdict::Removed => "the chain does not have that row".to_owned(),
        CheckpointVerdict::AnotherLedger => {
            format!("it is of ledger {}: this one took its place, or is not the one that was meant", checkpoint.ledger)
        }
        CheckpointVerdict::Pruned => {
            "the row was pruned, so that nothing can be compared: give a later checkpoint".to_owned()
        }
    };
    format!("Checkpoint of {time:.3}, row {row}: {says}")
}

fn time<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to.collect_str(&format_args!("{time:.3}")),
        None => to.serialize_none(),
    }
}

/// A checkpoint, as JSON.
#[derive(Debug, Serialize)]
struct JsonTaken {
    #[serde(flatten)]
    checkpoint: ChainCheckpoint,
    line: String,
}

/// The result of `ledger check`, as JSON.
#[derive(Debug, Serialize)]
struct Json<'a> {
    verdict: &'static str,
    faults: &'a [String],
    chain: Option<JsonChain<'a>>,
    checkpoints: Vec<JsonCheckpoint<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonChain<'a> {
    ledger: &'a str,
    #[serde(serialize_with = "time")]
    begun: Option<Timestamp>,
    older: Option<u64>,
    last_row: u64,
    unchanged: u64,
    deleted: u64,
    #[serde(serialize_with = "time")]
    deleted_at: Option<Timestamp>,
    pruned: u64,
    #[serde(serialize_with = "time")]
    pruned_at: Option<Timestamp>,
    fault_count: u64,
    faults: Vec<JsonFault<'a>>,
    outside_count: u64,
    outside: Vec<JsonRecord<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonFault<'a> {
    kind: &'static str,
    text: String,
    record: Option<JsonRecord<'a>>,
    from_row: Option<u64>,
    to_row: Option<u64>,
}

#[derive(Debug, Serialize)]
struct JsonRecord<'a> {
    id: i64,
    #[serde(serialize_with = "time")]
    time: Option<Timestamp>,
    guest: Option<&'a str>,
}

impl<'a> From<&'a NamedRecord> for JsonRecord<'a> {
    fn from(record: &'a NamedRecord) -> Self {
        Self { id: record.record, time: record.time, guest: record.guest.as_deref() }
    }
}

#[derive(Debug, Serialize)]
struct JsonCheckpoint<'a> {
    verdict: &'static str,
    text: String,
    checkpoint: &'a ChainCheckpoint,
}

impl<'a> Json<'a> {
    fn of(checked: &Checked<'a>) -> Self {
        let verdict = match () {
            () if checked.is_altered() => "altered",
            () if checked.is_unknown() => "unknown",
            () => "sound",
        };
        let chain = checked.report.map(|report| JsonChain {
            ledger: &report.ledger,
            begun: report.begun,
            older: report.older,
            last_row: report.last_row,
            unchanged: report.unchanged,
            deleted: report.deleted,
            deleted_at: report.deleted_at,
            pruned: report.pruned.map_or(0, |pruned| pruned.rows),
            pruned_at: report.pruned.and_then(|pruned| pruned.at),
            fault_count: report.fault_count,
            faults: report.faults.iter().map(JsonFault::of).collect(),
            outside_count: report.outside_count,
            outside: report.outside.iter().map(JsonRecord::from).collect(),
        });
        let checkpoints = checked.report.map_or_else(Vec::new, |report| {
            let verdicts = checked.checkpoints.iter().zip(&report.checkpoints);
            let one = |(checkpoint, verdict): (&'a ChainCheckpoint, &CheckpointVerdict)| JsonCheckpoint {
                verdict: verdict.as_str(),
                text: sentence(checkpoint, *verdict, report),
                checkpoint,
            };
            verdicts.map(one).collect()
        });
        Self { verdict, faults: checked.faults, chain, checkpoints }
    }
}

impl<'a> JsonFault<'a> {
    fn of(fault: &'a ChainFault) -> Self {
        let (from, to) = fault.rows().unzip();
        let record = fault.record().map(JsonRecord::from);
        Self { kind: fault.kind(), text: fault.to_string(), record, from_row: from, to_row: to }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use taptrail_ledger::PrunedRows;

    use super::*;
    use crate::contract;

    fn record() -> NamedRecord {
        NamedRecord { record: 7, row: Some(9), time: Some(Timestamp::UNIX_EPOCH), guest: Some("web1".into()) }
    }

    fn taken() -> ChainCheckpoint {
        let line = format!(
            "taptrail-checkpoint v=1 ledger=0b9a3f5e-8f3c-4f0e-9d5a-2f1f0c9f7a11 row=8 sha256={} time=2026-01-31T12:00:00.000Z host=h1",
            "0a".repeat(32)
        );
        line.parse().unwrap()
    }

    fn report(faults: Vec<ChainFault>, checkpoints: Vec<CheckpointVerdict>) -> ChainReport {
        ChainReport {
            ledger: taken().ledger.to_string(),
            begun: Some(Timestamp::UNIX_EPOCH),
            older: Some(3),
            last_row: 12,
            unchanged: 9,
            deleted: 1,
            deleted_at: Some(Timestamp::UNIX_EPOCH),
            pruned: Some(PrunedRows { rows: 2, at: Some(Timestamp::UNIX_EPOCH) }),
            fault_count: faults.len() as u64,
            faults,
            outside: Vec::new(),
            outside_count: 0,
            checkpoints,
        }
    }

    #[test]
    fn a_check_is_as_its_schema_says() {
        let taken = [taken()];
        let mut report = report(
            vec![ChainFault::Altered(record()), ChainFault::Missing { from: 3, to: 5 }, ChainFault::NoStart],
            vec![CheckpointVerdict::Holds],
        );
        report.outside.push(NamedRecord { row: None, ..record() });
        report.outside_count = 1;
        let faults = ["a fault".to_owned()];
        let checked = Checked { faults: &faults, checkpoints: &taken, report: Some(&report) };
        let json = serde_json::to_value(Json::of(&checked)).unwrap();
        contract::assert_valid("ledger-check", &json);
        for (place, changed) in contract::mutations(&json) {
            assert!(!contract::faults("ledger-check", &changed).is_empty(), "{place}");
        }
        let line = taken[0].to_string();
        let json = serde_json::to_value(JsonTaken { checkpoint: taken[0].clone(), line }).unwrap();
        contract::assert_valid("ledger-checkpoint", &json);
        for (place, changed) in contract::mutations(&json) {
            assert!(!contract::faults("ledger-checkpoint", &changed).is_empty(), "{place}");
        }
    }

    #[test]
    fn a_checkpoint_that_holds_is_not_said_to_cover_rows_that_were_altered() {
        let taken = [taken()];
        let holds = vec![CheckpointVerdict::Holds];
        let text = |report: &ChainReport| {
            Checked { faults: &[], checkpoints: &taken, report: Some(report) }.text(Path::new("/l"))
        };
        let whole = text(&report(Vec::new(), holds.clone()));
        assert!(
            whole.contains("/l is sound") && whole.contains("the records up to it are those of then"),
            "{whole}"
        );
        assert!(whole.contains("Rows after 8 are in no checkpoint"), "{whole}");
        for row in [Some(3), None] {
            let altered =
                text(&report(vec![ChainFault::Altered(NamedRecord { row, ..record() })], holds.clone()));
            assert!(altered.contains("records up to it were changed, as listed"), "{altered}");
            assert!(!altered.contains("is sound"), "{altered}");
        }
        let later = text(&report(vec![ChainFault::Altered(record())], holds));
        assert!(later.contains("the records up to it are those of then"), "{later}");
    }

    #[test]
    fn what_could_not_be_compared_is_unknown_and_never_sound() {
        let taken = [taken()];
        let code = |report: Option<&ChainReport>, checkpoints: &[ChainCheckpoint]| {
            Json::of(&Checked { faults: &[], checkpoints, report }).verdict
        };
        assert_eq!(code(None, &[]), "sound");
        assert_eq!(code(None, &taken), "unknown");
        let mut outside = report(Vec::new(), Vec::new());
        assert_eq!(code(Some(&outside), &[]), "sound");
        outside.outside_count = 1;
        assert_eq!(code(Some(&outside), &[]), "unknown");
        for (verdict, says) in [
            (CheckpointVerdict::Holds, "sound"),
            (CheckpointVerdict::Pruned, "unknown"),
            (CheckpointVerdict::Differs, "altered"),
            (CheckpointVerdict::RolledBack, "altered"),
            (CheckpointVerdict::Removed, "altered"),
            (CheckpointVerdict::AnotherLedger, "altered"),
        ] {
            assert_eq!(code(Some(&report(Vec::new(), vec![verdict])), &taken), says, "{verdict:?}");
        }
    }
}
