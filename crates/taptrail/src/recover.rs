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

use crate::CommandResult;
use crate::cli::Recover;
use crate::output::{print, print_json};
use crate::unresponsive::hint_for;

pub(crate) fn recover(arguments: &Recover, dirs: Dirs) -> CommandResult {
    let options =
        RecoverOptions { name: None, audit: arguments.audit.into(), dirs, nft: arguments.nft.clone() };
    let all = taptrail_guest::recover(&options)?;
    let unresponsive = unresponsive(&all, &options.dirs)?;
    let strays = taptrail_guest::strays(&options)?;
    if arguments.output.is_json() {
        let rows = all.iter().map(|one| Row::of(one, &unresponsive));
        print_json(&rows.chain(strays.iter().map(Row::of_stray)).collect::<Vec<_>>())?;
    } else {
        print(&text(&all, &unresponsive, &strays))?;
    }
    let open = |one: &Recovered| matches!(one.state, Err(_) | Ok(RecoveredState::Elsewhere { .. }));
    let held = |stray: &Stray| matches!(stray.state, StrayState::Held { .. } | StrayState::Attached);
    let failed = all.iter().any(open) || strays.iter().any(held);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The names of the supervised guests whose supervisors do not answer, with the error.
fn unresponsive(all: &[Recovered], dirs: &Dirs) -> Result<BTreeMap<String, ClientError>, ClientError> {
    let supervised = all.iter().filter(|one| matches!(one.state, Ok(RecoveredState::Supervised)));
    let names: Vec<String> = supervised.map(|one| one.guest.name.to_string()).collect();
    let answers = names.iter().cloned().zip(statuses(&dirs.run, &names)?);
    let unresponsive = answers.filter_map(|(name, answer)| Some((name, answer.err()?)));
    Ok(unresponsive.filter(|(_, error)| error.is_unresponsive()).collect())
}

/// One guest, as JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// `None` for a stray link of whose guest only the uuid is known.
    guest: Option<&'a str>,
    uuid: Uuid,
    /// `supervised`, `unresponsive`, `orphaned`, `elsewhere`, `closed`, `start-taken-back` or
    /// `failed`; of a link whose guest has no account `stray-elsewhere`, `stray-held`,
    /// `stray-attached` or `stray-deleted`.
    state: &'static str,
    /// QEMU's pid, of an orphaned guest; of a stray link the holder's, or the pid of the supervisor
    /// that has its guest in another state directory.
    pid: Option<u32>,
    /// The inode of the network namespace from which a guest has to be recovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<u64>,
    /// The state directory that has the account of a stray link's guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_dir: Option<String>,
    /// The stray link.
    link: Option<&'a str>,
    /// The number of devices that were closed.
    devices: Option<usize>,
    /// Why it failed.
    error: Option<String>,
}

impl<'a> Row<'a> {
    fn of(one: &'a Recovered, unresponsive: &BTreeMap<String, ClientError>) -> Self {
        let (state, pid, devices, error) = match &one.state {
            Ok(RecoveredState::Supervised) if unresponsive.contains_key(one.guest.name.as_str()) => {
                ("unresponsive", None, None, None)
            }
            Ok(RecoveredState::Supervised) => ("supervised", None, None, None),
            Ok(RecoveredState::Orphaned { pid }) => ("orphaned", Some(*pid), None, None),
            Ok(RecoveredState::Elsewhere { .. }) => ("elsewhere", None, None, None),
            Ok(RecoveredState::Closed { devices, unstarted: false }) => {
                ("closed", None, Some(*devices), None)
            }
            Ok(RecoveredState::Closed { devices, unstarted: true }) => {
                ("start-taken-back", None, Some(*devices), None)
            }
            Err(error) => ("failed", None, None, Some(chain(error))),
        };
        let netns = match one.state {
            Ok(RecoveredState::Elsewhere { netns }) => Some(netns),
            _ => None,
        };
        let (guest, uuid) = (Some(one.guest.name.as_str()), one.guest.uuid);
        Self { guest, uuid, state, pid, netns, state_dir: None, link: None, devices, error }
    }

    fn of_stray(stray: &'a Stray) -> Self {
        let (state, pid, guest, state_dir) = match &stray.state {
            StrayState::Elsewhere { supervisor, state } => {
                ("stray-elsewhere", Some(*supervisor), None, Some(state.display().to_string()))
            }
            StrayState::Held { pid, guest } => ("stray-held", Some(*pid), guest.as_deref(), None),
            StrayState::Attached => ("stray-attached", None, None, None),
            StrayState::Deleted => ("stray-deleted", None, None, None),
        };
        let link = Some(stray.link.as_str());
        Self { guest, uuid: stray.uuid, state, pid, netns: None, state_dir, link, devices: None, error: None }
    }
}

/// A line for each guest that is not in order, and for each stray link.
fn text(all: &[Recovered], unresponsive: &BTreeMap<String, ClientError>, strays: &[Stray]) -> String {
    let mut text = String::new();
    for one in all {
        let name = visible(&one.guest.name);
        // Writing to a String can't fail.
        let _ = match &one.state {
            Ok(RecoveredState::Supervised) => match unresponsive.get(one.guest.name.as_str()) {
                Some(error) => writeln!(text, "{}{}", chain(error), hint_for(error, &one.guest.name)),
                None => Ok(()),
            },
            Ok(RecoveredState::Orphaned { pid }) => writeln!(
                text,
                "{name} runs without a supervisor, as pid {pid}: `taptrail adopt {name}` gives it one"
            ),
            Ok(RecoveredState::Elsewhere { netns }) => writeln!(
                text,
                "{name} has ended, and its links are in another network namespace (net:[{netns}]): recover it from there \
                 (`ip netns exec` or `nsenter --net`)"
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
    for Stray { link, namespace, uuid, mac, state } in strays {
        let place = namespace
            .map(|number| format!(" in the network namespace of number {number}"))
            .unwrap_or_default();
        let made = format!("Link '{link}'{place} was made for interface {mac} of guest {uuid}");
        let _ = match state {
            StrayState::Elsewhere { supervisor, state } => writeln!(
                text,
                "{made}, which another state directory has on record, and pid {supervisor} supervises: --state-dir={} \
                 reaches it",
                visible(&state.display().to_string())
            ),
            StrayState::Held { pid, guest: Some(name) } => writeln!(
                text,
                "{made} ('{name}'), which runs as process {pid} and is not on record here: `taptrail adopt {name}` takes it \
                 up with the --state-dir that has it; `taptrail stop {name} --force` ends it, and then recover again",
                name = visible(name)
            ),
            StrayState::Held { pid, guest: None } => writeln!(
                text,
                "{made}, of which no account is open, and process {pid} holds it: end that process, and recover again"
            ),
            StrayState::Attached => writeln!(
                text,
                "{made}, of which no account is open, and is held by nobody who can be seen: `ip link delete {link}` there takes \
                 it away"
            ),
            StrayState::Deleted => {
                writeln!(
                    text,
                    "Link '{link}'{place} of guest {uuid}, which is gone, was left over: it is deleted"
                )
            }
        };
    }
    if text.is_empty() {
        text.push_str("Nothing was left behind\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use taptrail_guest::RecoverError;
    use taptrail_record::{GuestId, MacAddr};

    use super::*;
    use crate::contract;

    #[test]
    fn a_row_is_as_its_schema_says() {
        let guest = || GuestId { name: "web1".into(), uuid: Uuid::from_u128(1) };
        let recovered = [
            Ok(RecoveredState::Supervised),
            Ok(RecoveredState::Orphaned { pid: 7 }),
            Ok(RecoveredState::Elsewhere { netns: 4_026_531_840 }),
            Ok(RecoveredState::Closed { devices: 2, unstarted: false }),
            Ok(RecoveredState::Closed { devices: 2, unstarted: true }),
            Err(RecoverError::Look(std::io::ErrorKind::NotFound.into())),
        ]
        .map(|state| Recovered { guest: guest(), state });
        let strays = [
            StrayState::Elsewhere { supervisor: 7, state: "/srv/b".into() },
            StrayState::Held { pid: 7, guest: Some("web1".to_owned()) },
            StrayState::Attached,
            StrayState::Deleted,
        ]
        .map(|state| Stray {
            link: "vnet0".parse().unwrap(),
            namespace: None,
            uuid: Uuid::from_u128(1),
            mac: MacAddr::kvm([0, 0, 1]),
            state,
        });
        let unresponsive = BTreeMap::new();
        let rows = recovered.iter().map(|one| Row::of(one, &unresponsive));
        let rows = serde_json::to_value(rows.chain(strays.iter().map(Row::of_stray)).collect::<Vec<_>>());
        let rows = rows.unwrap();
        contract::assert_valid("recover", &rows);
        for (place, changed) in contract::mutations(&rows) {
            assert!(!contract::faults("recover", &changed).is_empty(), "{place}");
        }
    }
}
