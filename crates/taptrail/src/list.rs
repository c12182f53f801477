//! `taptrail list`: the guests of this host.

use anyhow::Context;
use taptrail_guest::{Client, ClientError, Dirs, Unsupervised, guests, unsupervised};
use taptrail_report::{GuestRow, guest_table};
use tracing::warn;

use crate::Done;
use crate::cli::List;
use crate::output::{print, print_json, style};

pub(crate) fn list(arguments: &List, dirs: &Dirs) -> Done {
    let names =
        guests(&dirs.run).with_context(|| format!("Run directory {} can't be read", dirs.run.display()))?;
    let mut rows = Vec::with_capacity(names.len());
    for name in names {
        match Client::connect(&dirs.run, &name).and_then(|mut client| client.status()) {
            Ok(status) => rows.push(GuestRow {
                name: status.name,
                uuid: status.uuid.parse()?,
                state: status.state,
                pid: status.pid.map(u32::try_from).transpose()?,
                since: status.since.map(|since| since.parse()).transpose()?,
                nics: u32::try_from(status.nics)?,
            }),
            // Its directory is left over, or it has ended just now.
            Err(ClientError::NotRunning { .. }) => {}
            Err(error) => warn!("{}", taptrail_guest::chain(&error)),
        }
    }
    match unsupervised(dirs) {
        // One that has just been taken up has answered above.
        Ok(lost) => {
            let answered: Vec<_> = rows.iter().map(|row| row.uuid).collect();
            rows.extend(lost.into_iter().filter(|guest| !answered.contains(&guest.guest.uuid)).map(row));
        }
        Err(error) => warn!("{}", taptrail_guest::chain(&error)),
    }
    if arguments.json { print_json(&rows) } else { print(&guest_table(&rows, &style(false))) }
}

/// A guest whose supervisor has ended: it runs on, or its account has yet to be closed; or one that is watched.
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
    }
}
