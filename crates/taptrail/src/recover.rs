//! `taptrail recover`.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use taptrail_guest::{
    Dirs, RecoverOptions, Recovered, RecoveredState, Stray, StrayState, chain, descriptors,
};
use uuid::Uuid;

use crate::Done;
use crate::cli::Recover;
use crate::output::{print, print_json};

pub(crate) fn recover(arguments: &Recover, dirs: Dirs) -> Done {
    let options =
        RecoverOptions { name: None, audit: arguments.audit.into(), dirs, nft: arguments.nft.clone() };
    let all = taptrail_guest::recover(&options)?;
    let strays = taptrail_guest::strays(&options)?;
    if arguments.json {
        print_json(&all.iter().map(Row::of).chain(strays.iter().map(Row::of_stray)).collect::<Vec<_>>())?;
    } else {
        print(&text(&all, &strays))?;
    }
    let failed = all.iter().any(|one| one.state.is_err())
        || strays.iter().any(|stray| stray.state != StrayState::Deleted);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One guest, as it stands in JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// None of a stray link, of whose guest only the uuid is known.
    guest: Option<&'a str>,
    uuid: Uuid,
    /// `supervised`, `orphaned`, `closed`, `start-taken-back` or `failed`; of a link whose guest has no account
    /// `stray-held`, `stray-attached` or `stray-deleted`.
    state: &'static str,
    /// QEMU's, of an orphaned guest; the holder's, of a stray link.
    pid: Option<u32>,
    /// The stray link.
    link: Option<&'a str>,
    /// How many devices were closed.
    devices: Option<usize>,
    /// Why it failed.
    error: Option<String>,
}

impl<'a> Row<'a> {
    fn of(one: &'a Recovered) -> Self {
        let (state, pid, devices, error) = match &one.state {
            Ok(RecoveredState::Supervised) => ("supervised", None, None, None),
            Ok(RecoveredState::Orphaned { pid }) => ("orphaned", Some(*pid), None, None),
            Ok(RecoveredState::Closed { devices, unstarted: false }) => {
                ("closed", None, Some(*devices), None)
            }
            Ok(RecoveredState::Closed { devices, unstarted: true }) => {
                ("start-taken-back", None, Some(*devices), None)
            }
            Err(error) => ("failed", None, None, Some(chain(error))),
        };
        Self { guest: Some(&one.guest.name), uuid: one.guest.uuid, state, pid, link: None, devices, error }
    }

    fn of_stray(stray: &'a Stray) -> Self {
        let (state, pid) = match stray.state {
            StrayState::Held { pid } => ("stray-held", Some(pid)),
            StrayState::Attached => ("stray-attached", None),
            StrayState::Deleted => ("stray-deleted", None),
        };
        let link = Some(stray.link.as_str());
        Self { guest: None, uuid: stray.uuid, state, pid, link, devices: None, error: None }
    }
}

/// A line for each guest of which there is something to say.
fn text(all: &[Recovered], strays: &[Stray]) -> String {
    let mut text = String::new();
    for one in all {
        let name = one.guest.name.escape_debug();
        // Writing to a String can't fail.
        let _ = match &one.state {
            Ok(RecoveredState::Supervised) => Ok(()),
            Ok(RecoveredState::Orphaned { pid }) => writeln!(
                text,
                "{name} runs without a supervisor, as pid {pid}: `taptrail adopt {name}` gives it one"
            ),
            Ok(RecoveredState::Closed { devices, unstarted: false }) => {
                writeln!(
                    text,
                    "{name} has ended: its account is closed, and {} with it",
                    descriptors(*devices)
                )
            }
            Ok(RecoveredState::Closed { devices, unstarted: true }) => {
                writeln!(text, "{name} never ran: its start is taken back, and {}", descriptors(*devices))
            }
            Err(error) => writeln!(text, "{name} could not be settled: {}", chain(error)),
        };
    }
    for Stray { link, uuid, mac, state } in strays {
        let _ = match state {
            StrayState::Held { pid } => writeln!(
                text,
                "Link '{link}' was made for interface {mac} of guest {uuid}, of which no account is open, and process {pid} holds it: end that process, and recover again"
            ),
            StrayState::Attached => writeln!(
                text,
                "Link '{link}' was made for interface {mac} of guest {uuid}, of which no account is open, and is held by nobody who can be seen: `ip link delete {link}` takes it away"
            ),
            StrayState::Deleted => {
                writeln!(text, "Link '{link}' of guest {uuid}, which is gone, was left over: it is deleted")
            }
        };
    }
    if text.is_empty() {
        text.push_str("Nothing was left behind\n");
    }
    text
}
