//! `taptrail lake`: looks after the archived trails of many hosts.

mod client;
mod sql;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use taptrail_lake::{
    CheckProgress, Checked, Checks, Day, FleetFinding, FleetLimits, Hole, LakeError, Pruned, Retention,
    SigningKey, Snapshot, Store, VerifyingKey,
};
use taptrail_report::escape_text;

use crate::CommandResult;
use crate::cli::{CheckLake, Compact, FleetFindings, LakeCommand, PruneLake, Signing};
use crate::output::{Failure, print, print_json, stdout};
use crate::queries::{is_broken_pipe, moment, unwritten};
use crate::reading::Progress;

/// The exit code when something is found that should not be.
const FOUND: u8 = 1;

/// The systemd credential that is the signing key, if no other key is given.
const CREDENTIAL: &str = "lake.key";

pub(crate) fn lake(command: &LakeCommand) -> CommandResult {
    match command {
        LakeCommand::Compact(arguments) => compact(arguments),
        LakeCommand::Findings(arguments) => findings(arguments),
        LakeCommand::Prune(arguments) => prune(arguments),
        LakeCommand::Check(arguments) => check(arguments),
        LakeCommand::Sql(arguments) => sql::sql(arguments),
    }
    // Exit code 1 would mean that something is found.
    .map_err(|failure| if failure.code() == FOUND { failure.with_code(Failure::INPUT) } else { failure })
}

/// The lake at a URL, which must be there.
fn open(url: &str) -> Result<Arc<Store>, Failure> {
    Store::open_to_read(url).map(Arc::new).map_err(Failure::input)
}

fn signing_key(signing: &Signing) -> Result<Option<SigningKey>, Failure> {
    let credential = || {
        let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
        path.exists().then_some(path)
    };
    let path = signing.sign_key.clone().or_else(credential);
    path.map(|path| SigningKey::read(&path)).transpose().map_err(Failure::input)
}

fn compact(arguments: &Compact) -> CommandResult {
    let store = open(&arguments.url)?;
    let key = signing_key(&arguments.signing)?;
    // An empty place is no lake: its URL may be mistyped.
    Snapshot::existing(&store).map_err(Failure::input)?;
    let compacted = taptrail_lake::compact(&store, key.as_ref()).map_err(Failure::input)?;
    if arguments.output.is_json() {
        return print_json(&compacted);
    }
    let Some(done) = compacted else {
        return print("Nothing to compact: all batches are in the last generation\n");
    };
    let mut text = format!(
        "{} compacted: {} written, {} as before\n",
        counted(done.batches, "batch", "batches"),
        counted(done.objects_written, "object", "objects"),
        done.objects_kept
    );
    if done.derived_hosts > 0 {
        let hosts = counted(done.derived_hosts, "host", "hosts");
        let _ = writeln!(text, "{hosts} derived from several readings");
    }
    for Hole { host, time } in &done.holes {
        let _ = writeln!(
            text,
            "Host {}: no reading covers the time from {:.3} to {:.3}",
            escape_text(host),
            time.from,
            time.until
        );
    }
    if key.is_none() {
        text.push_str("Not signed: there is no key (--sign-key)\n");
    }
    let _ = writeln!(text, "Root {}", done.root);
    print(&text)
}

/// A number of things.
fn counted<T: PartialEq<T> + From<u8> + std::fmt::Display>(number: T, one: &str, several: &str) -> String {
    let noun = if number == T::from(1) { one } else { several };
    format!("{number} {noun}")
}

fn day(option: &str, time: Option<&str>) -> Result<Option<Day>, Failure> {
    time.map(|time| moment(option, time).map(Day::of)).transpose()
}

fn findings(arguments: &FleetFindings) -> CommandResult {
    let days = (day("--start", arguments.start.as_deref())?, day("--end", arguments.end.as_deref())?);
    let store = open(&arguments.url)?;
    let snapshot = Snapshot::existing(&store).map_err(Failure::input)?;
    let limits = FleetLimits { silence: arguments.silence, migration: arguments.migration };
    let mut out = stdout();
    let mut count = 0_u64;
    let mut write = |finding: FleetFinding| {
        let is_asked =
            arguments.kind.is_empty() || arguments.kind.iter().any(|kind| *kind == finding.kind.as_str());
        if !is_asked {
            return Ok(());
        }
        count += 1;
        let line = if arguments.output.is_json() {
            taptrail_report::json_line(&finding).map_err(io::Error::other)?
        } else {
            line(&finding)
        };
        Ok(writeln!(out, "{line}")?)
    };
    let done = taptrail_lake::fleet_findings(&store, &snapshot, days, limits, &mut write);
    match done.and_then(|()| Ok(out.flush()?)) {
        Err(End::Lake(error)) => return Err(Failure::input(error)),
        Err(End::Output(error)) if !is_broken_pipe(&error) => return Err(unwritten(error)),
        _ => {}
    }
    if !snapshot.batches.is_empty() {
        tracing::warn!(
            "{} not compacted, and not read: `taptrail lake compact` takes in what waits",
            counted(snapshot.batches.len(), "batch is", "batches are")
        );
    }
    Ok(if count == 0 { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

/// Why reading a lake ends early.
pub(crate) enum End {
    /// The lake can't be read.
    Lake(LakeError),
    /// The output can't be written.
    Output(io::Error),
}

impl From<LakeError> for End {
    fn from(error: LakeError) -> Self {
        Self::Lake(error)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A finding, on one line.
fn line(finding: &FleetFinding) -> String {
    let until = finding.until.map_or_else(|| "on".to_owned(), |until| format!("{until:.0}"));
    format!(
        "{:7} {:19} {:.0} to {until}  {}",
        finding.severity.as_str(),
        finding.kind.as_str(),
        finding.from,
        escape_text(&finding.text)
    )
}

fn prune(arguments: &PruneLake) -> CommandResult {
    let first_day = day("--before", arguments.before.as_deref())?;
    let store = open(&arguments.url)?;
    let key = signing_key(&arguments.signing)?;
    let retention = Retention { first_day, grace: arguments.grace, key: key.as_ref() };
    let pruned = taptrail_lake::prune(&store, &retention, Timestamp::now()).map_err(Failure::input)?;
    if arguments.output.is_json() {
        return print_json(&pruned);
    }
    let Pruned { root, days, objects_deleted, bytes_deleted } = pruned;
    let mut text = format!(
        "{} removed; {} deleted, {bytes_deleted} bytes\n",
        counted(days, "day", "days"),
        counted(objects_deleted, "object", "objects")
    );
    if let Some(root) = root {
        let _ = writeln!(text, "Root {root}");
    }
    print(&text)
}

fn check(arguments: &CheckLake) -> CommandResult {
    let store = open(&arguments.url)?;
    let key = arguments.key.as_deref().map(VerifyingKey::read).transpose().map_err(Failure::input)?;
    let checks = Checks { key: key.as_ref(), root: arguments.root.as_ref(), quick: arguments.quick };
    let mut shown = Progress::default();
    let mut progress =
        |of: CheckProgress<'_>| shown.update(of.bytes, of.total, |_| escape_text(of.object).into());
    let checked = taptrail_lake::check_with_progress(&store, &checks, &mut progress)
        .with_context(|| format!("The lake {} can't be checked", arguments.url))
        .map_err(Failure::input)?;
    drop(shown);
    if arguments.output.is_json() {
        print_json(&checked)?;
    } else {
        print(&checked_text(&checked))?;
    }
    Ok(if checked.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

fn checked_text(checked: &Checked) -> String {
    let mut text = String::new();
    for problem in &checked.problems {
        let _ = writeln!(
            text,
            "{:14} {}: {}",
            problem.kind.as_str(),
            escape_text(&problem.object),
            escape_text(&problem.text)
        );
    }
    let _ = writeln!(
        text,
        "{}, {} of {} bytes and {} rows; {} not compacted, {} not named",
        counted(checked.generations, "generation", "generations"),
        counted(checked.objects, "object", "objects"),
        checked.bytes,
        checked.rows,
        counted(checked.batches, "batch", "batches"),
        counted(checked.leftovers, "object", "objects"),
    );
    if !checked.content_read {
        text.push_str("The content of objects was not read (--quick)\n");
    }
    if !checked.signatures_verified {
        text.push_str("Signatures were not verified: there is no key (--key)\n");
    }
    match &checked.root {
        Some(root) => {
            let _ = writeln!(text, "Root {root}");
        }
        None => text.push_str("No root: nothing has been compacted\n"),
    }
    text
}
