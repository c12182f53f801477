//! `taptrail recover`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use taptrail_guest::{
    ClientError, Dirs, RecoverOptions, Recovered, RecoveredState, Stray, StrayState, chain, descriptors,
    statuses,
};
use taptrail_record::visible;
use uuid::Uuid;

use crate::Done;
use crate::cli::Recover;
use crate::output::{print, print_json};
use crate::unresponsive::way_out;

pub(crate) fn recover(arguments: &Recover, dirs: Dirs) -> Done {
    let options =
        RecoverOptions { name: None, audit: arguments.audit.into(), dirs, nft: arguments.nft.clone() };
    let all = taptrail_guest::recover(&options)?;
    let silent = silent(&all, &options.dirs)?;
    let strays = taptrail_guest::strays(&options)?;
    if arguments.output.is_json() {
        let rows = all.iter().map(|one| Row::of(one, &silent));
        print_json(&rows.chain(strays.iter().map(Row::of_stray)).collect::<Vec<_>>())?;
    } else {
        print(&text(&all, &silent, &strays))?;
    }
    let failed = all.iter().any(|one| one.state.is_err())
        || strays.iter().any(|stray| stray.state != StrayState::Deleted);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The names of the supervised guests whose supervisors do not answer, and why it is said so.
fn silent(all: &[Recovered], dirs: &Dirs) -> Result<BTreeMap<String, ClientError>, ClientError> {
    let supervised = all.iter().filter(|one| matches!(one.state, Ok(RecoveredState::Supervised)));
    let names: Vec<String> = supervised.map(|one| one.guest.name.to_string()).collect();
    let answers = names.iter().cloned().zip(statuses(&dirs.run, &names)?);
    let silent = answers.filter_map(|(name, answer)| Some((name, answer.err()?)));
    Ok(silent.filter(|(_, error)| error.is_unresponsive()).collect())
}

/// One guest, as it stands in JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// None of a stray link, of whose guest only the uuid is known.
    guest: Option<&'a str>,
    uuid: Uuid,
    /// `supervised`, `unresponsive`, `orphaned`, `closed`, `start-taken-back` or `failed`; of a link whose guest
    /// has no account `stray-held`, `stray-attached` or `stray-deleted`.
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
    fn of(one: &'a Recovered, silent: &BTreeMap<String, ClientError>) -> Self {
        let (state, pid, devices, error) = match &one.state {
            Ok(RecoveredState::Supervised) if silent.contains_key(one.guest.name.as_str()) => {
                ("unresponsive", None, None, None)
            }
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
fn text(all: &[Recovered], silent: &BTreeMap<String, ClientError>, strays: &[Stray]) -> String {
    let mut text = String::new();
    for one in all {
        let name = visible(&one.guest.name);
        // Writing to a String can't fail.
        let _ = match &one.state {
            Ok(RecoveredState::Supervised) => match silent.get(one.guest.name.as_str()) {
                Some(error) => writeln!(text, "{}{}", chain(error), way_out(error, &one.guest.name)),
                None => Ok(()),
            },
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
