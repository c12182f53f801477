//! `taptrail list`: the guests of this host.

use std::collections::BTreeSet;

use anyhow::Context;
use taptrail_guest::{
    ClientError, Dirs, Supervised, Unrecorded, Unsupervised, guests, statuses, supervised, unrecorded,
    unsupervised,
};
use taptrail_report::{GuestRow, guest_table};
use tracing::warn;

use crate::CommandResult;
use crate::cli::List;
use crate::output::{print, print_json, style};
use crate::unresponsive::{hint_for, unreachable_hint, unrecorded_hint, unrecorded_name};

pub(crate) fn list(arguments: &List, dirs: &Dirs) -> CommandResult {
    let mut names =
        guests(&dirs.run).with_context(|| format!("Run directory {} can't be read", dirs.run.display()))?;
    let known = match supervised(dirs) {
        Ok(known) => known,
        // Nothing was seen: that is not "no guests".
        Err(error) if names.is_empty() => return Err(error.into()),
        Err(error) => {
            warn!("{}", taptrail_guest::chain(&error));
            Vec::new()
        }
    };
    names.extend(known.iter().filter(|one| one.elsewhere.is_none()).map(|one| one.guest.name.to_string()));
    names.sort();
    names.dedup();
    let mut rows = Vec::with_capacity(names.len());
    let mut unresponsive = Vec::new();
    for (name, status) in names.iter().zip(statuses(&dirs.run, &names)?) {
        match status {
            Ok(status) => rows.push(GuestRow {
                name: status.name,
                uuid: status.uuid.parse()?,
                state: status.state,
                pid: status.pid.map(u32::try_from).transpose()?,
                since: status.since.map(|since| since.parse()).transpose()?,
                nics: u32::try_from(status.nics)?,
                supervisor: None,
                run_dir: None,
            }),
            // Its directory is left over, or it has just ended.
            Err(ClientError::NotRunning { .. }) => {}
            Err(error) => unresponsive.push((name, error)),
        }
    }
    let answered: Vec<_> = rows.iter().map(|row| row.uuid).collect();
    let missing: Vec<_> =
        known.into_iter().map(|one| one.guest.uuid).filter(|uuid| !answered.contains(uuid)).collect();
    if !missing.is_empty() {
        // A supervisor that has just ended does not answer either.
        let still = supervised(dirs)?.into_iter().filter(|one| missing.contains(&one.guest.uuid));
        rows.extend(still.map(|one| unanswered(one, dirs)));
    }
    for (name, error) in unresponsive {
        // A guest in the ledger was already reported.
        if !rows.iter().any(|row| row.name == *name && row.supervisor.is_some()) {
            warn!("{}{}", taptrail_guest::chain(&error), hint_for(&error, name));
        }
    }
    match unsupervised(dirs) {
        // A guest that was just adopted, or has just lost its supervisor, is already listed.
        Ok(lost) => {
            let listed: Vec<_> = rows.iter().map(|row| row.uuid).collect();
            rows.extend(lost.into_iter().filter(|one| !listed.contains(&one.guest.uuid)).map(row));
        }
        Err(error) => warn!("{}", taptrail_guest::chain(&error)),
    }
    match unrecorded(dirs) {
        Ok(found) => {
            let listed: Vec<_> = rows.iter().map(|row| row.uuid).collect();
            // Guests of another state directory are not listed here.
            let ours = |one: &Unrecorded| !listed.contains(&one.uuid) && one.recorded_in.is_none();
            rows.extend(found.into_iter().filter(ours).map(unrecorded_row));
        }
        Err(error) => warn!("{}", taptrail_guest::chain(&error)),
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    if arguments.output.is_json() {
        return print_json(&rows);
    }
    if rows.is_empty() {
        return print(
            "No guests of `taptrail run` or a watcher; `taptrail verify` shows other managers' guests\n",
        );
    }
    print(&guest_table(&rows, &style(false)))
}

/// A guest whose supervisor runs and does not answer, or answers in another run directory.
fn unanswered(one: Supervised, dirs: &Dirs) -> GuestRow {
    let Supervised { guest, pid, begun, nics, supervisor, elsewhere } = one;
    let name = guest.name.escape_debug();
    match &elsewhere {
        Some(run) => warn!(
            "'{name}' is supervised in another run directory (by pid {supervisor}): --run-dir={} reaches it",
            run.display()
        ),
        None if pid.is_some() => warn!(
            "Supervisor of '{name}' (pid {supervisor}) does not answer{}",
            unreachable_hint(&guest.name, supervisor, dirs)
        ),
        None => warn!(
            "Supervisor of '{name}' (pid {supervisor}) does not answer, and no QEMU of its runs: `kill -KILL {supervisor}` ends \
             it, and `taptrail recover` closes the account"
        ),
    }
    GuestRow {
        name: guest.name.into(),
        uuid: guest.uuid,
        state: if elsewhere.is_some() { "elsewhere" } else { "unresponsive" }.to_owned(),
        pid,
        since: Some(begun),
        nics: u32::try_from(nics).unwrap_or(u32::MAX),
        supervisor: Some(supervisor),
        run_dir: elsewhere.map(|run| run.display().to_string()),
    }
}

/// A guest that runs without an open account.
fn unrecorded_row(one: Unrecorded) -> GuestRow {
    let name = unrecorded_name(&one);
    warn!("'{}' {}", name.escape_debug(), unrecorded_hint(&one));
    let macs: BTreeSet<_> = one.links.iter().map(|(_, mac)| mac).collect();
    GuestRow {
        name,
        uuid: one.uuid,
        state: "unrecorded".to_owned(),
        pid: one.pid(),
        since: one.began(),
        nics: u32::try_from(macs.len()).unwrap_or(u32::MAX),
        supervisor: one.supervisor,
        run_dir: None,
    }
}

/// A guest whose supervisor has ended while its account is open, or a watched guest.
fn row(lost: Unsupervised) -> GuestRow {
    let state = match lost.pid {
        Some(_) if lost.watched => "watched",
        Some(_) => "orphaned",
        None => "unsettled",
    };
    GuestRow {
        name: lost.guest.name.into(),
        uuid: lost.guest.uuid,
        state: state.to_owned(),
        pid: lost.pid,
        since: Some(lost.begun),
        nics: u32::try_from(lost.nics).unwrap_or(u32::MAX),
        supervisor: None,
        run_dir: None,
    }
}
