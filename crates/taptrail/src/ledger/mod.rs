//! `taptrail ledger`: checks, exports and prunes the ledger, and takes checkpoints of it.

mod check;

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde::Serialize;
use taptrail_guest::{Dirs, chain};
use taptrail_ledger::{Ledger, Pruned, StoredRecord};
use taptrail_record::RecordType;

use crate::CommandResult;
use crate::cli::{LedgerCommand, Prune};
use crate::output::{Failure, print, print_json, stdout};
use crate::queries::moment;

pub(crate) fn ledger(command: &LedgerCommand, dirs: &Dirs) -> CommandResult {
    match command {
        LedgerCommand::Check(arguments) => check::check(dirs, arguments),
        LedgerCommand::Checkpoint(arguments) => check::checkpoint(dirs, arguments),
        LedgerCommand::Export => export(dirs),
        LedgerCommand::Prune(arguments) => prune(dirs, arguments),
    }
}

/// Writes all records as lines of an audit log.
fn export(dirs: &Dirs) -> CommandResult {
    let ledger = Ledger::open_to_read(&dirs.state).map_err(Failure::input)?;
    // Only supervisors write to the file: its owner is the uid of all records.
    let uid = std::fs::metadata(Ledger::file(&dirs.state)).context("The ledger's owner is not known")?.uid();
    let mut out = stdout();
    let mut unreadable = 0_u64;
    for stored in ledger.into_records() {
        let written = match stored {
            Ok(stored) => line(&mut out, uid, &stored),
            Err(error) => {
                unreadable += 1;
                tracing::warn!("{}", chain(&error));
                continue;
            }
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(error) => {
                return Err(anyhow::Error::new(error).context("Standard output can't be written").into());
            }
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("Standard output can't be written").into())
        }
        _ => Ok(if unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// An unknown login user or session (`AUDIT_UID_UNSET`, linux/audit.h): the ledger has neither.
const UNSET: u32 = u32::MAX;

/// One record, as auditd writes it. The row's id stands for the serial number of a record that was
/// not read back from the kernel.
fn line(out: &mut impl Write, uid: u32, stored: &StoredRecord) -> io::Result<()> {
    let millis = stored.time.as_millisecond();
    let serial = stored.serial.map_or(stored.id, i64::from);
    writeln!(
        out,
        "type={} msg=audit({}.{:03}:{serial}): pid={} uid={uid} auid={UNSET} ses={UNSET} msg='{}'",
        RecordType(stored.kind),
        millis.div_euclid(1000),
        millis.rem_euclid(1000),
        stored.writer.unwrap_or(0),
        stored.text
    )
}

fn prune(dirs: &Dirs, arguments: &Prune) -> CommandResult {
    let before = match (&arguments.before, &arguments.keep) {
        (_, Some(span)) => moment("--keep", &format!("{span} ago")).map_err(|_| {
            Failure::input(anyhow!(
                "--keep can't be used: '{span}' is no time span, such as '400 days' or '2 years'"
            ))
        })?,
        (Some(time), None) => moment("--before", time)?,
        // clap requires one of them.
        (None, None) => return Err(Failure::input(anyhow!("--before or --keep is needed"))),
    };
    if arguments.check {
        refuse_altered(&Ledger::open_to_read(&dirs.state)?)?;
    }
    let (pruned, verb) = if arguments.dry_run {
        (Ledger::open_to_read(&dirs.state)?.prunable(before)?, "would be deleted")
    } else {
        let mut ledger = Ledger::open(&dirs.state)?;
        (ledger.prune(before).context("Not all of the ended guests were deleted")?, "deleted")
    };
    if arguments.output.is_json() {
        return print_json(&Forgotten { guests: pruned.guests, records: pruned.records });
    }
    let s = |count: u64| if count == 1 { "" } else { "s" };
    let Pruned { guests, records } = pruned;
    print(&format!("{guests} guest{} and {records} record{} {verb}\n", s(guests), s(records)))
}

/// Refuses a ledger that is damaged or altered: pruning would delete what shows it. Records outside
/// of the chain stay with their guests, and are no reason.
fn refuse_altered(ledger: &Ledger) -> Result<(), Failure> {
    let fault = match &ledger.faults()?[..] {
        [fault, ..] => Some(fault.clone()),
        [] => {
            let faults = ledger.check_chain(&[])?.map(|report| report.faults).unwrap_or_default();
            faults.first().map(ToString::to_string)
        }
    };
    match fault {
        None => Ok(()),
        Some(fault) => Err(anyhow!(
            "The ledger is damaged or altered, and nothing was deleted: {fault}; `taptrail ledger check` has all of it"
        )
        .into()),
    }
}

/// What was pruned, as JSON.
#[derive(Debug, Serialize)]
struct Forgotten {
    guests: u64,
    records: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[test]
    fn what_was_pruned_is_as_its_schema_says() {
        let forgotten = serde_json::to_value(Forgotten { guests: 2, records: 31 }).unwrap();
        contract::assert_valid("ledger-prune", &forgotten);
        for (place, changed) in contract::mutations(&forgotten) {
            assert!(!contract::faults("ledger-prune", &changed).is_empty(), "{place}");
        }
    }
}
