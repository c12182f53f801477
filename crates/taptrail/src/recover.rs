//! `taptrail recover`.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use taptrail_guest::{Dirs, RecoverOptions, Recovered, RecoveredState, chain, descriptors};
use uuid::Uuid;

use crate::Done;
use crate::cli::Recover;
use crate::output::{print, print_json};

pub(crate) fn recover(arguments: &Recover, dirs: Dirs) -> Done {
    let options =
        RecoverOptions { name: None, audit: arguments.audit.into(), dirs, nft: arguments.nft.clone() };
    let all = taptrail_guest::recover(&options)?;
    if arguments.json {
        print_json(&all.iter().map(Row::of).collect::<Vec<_>>())?;
    } else {
        print(&text(&all))?;
    }
    let failed = all.iter().any(|one| one.state.is_err());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One guest, as it stands in JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    guest: &'a str,
    uuid: Uuid,
    /// `supervised`, `orphaned`, `closed`, `start-taken-back` or `failed`.
    state: &'static str,
    /// QEMU's, of an orphaned guest.
    pid: Option<u32>,
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
        Self { guest: &one.guest.name, uuid: one.guest.uuid, state, pid, devices, error }
    }
}

/// A line for each guest of which there is something to say.
fn text(all: &[Recovered]) -> String {
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
    if text.is_empty() {
        text.push_str("Nothing was left behind\n");
    }
    text
}
