//! Handles guests whose supervisors do not answer, and guests that run without an open account:
//! messages and actions.

use std::process::ExitCode;

use anyhow::anyhow;
use taptrail_guest::{
    ClientError, CutLink, Dirs, RunDirError, SuperviseError, Unrecorded, UnresponsiveError, chain, cut_link,
    host_interface, kill_qemu, kill_unrecorded, statuses, supervised, unrecorded, unsupervised,
};
use taptrail_record::MacAddr;
use tracing::warn;

use crate::CommandResult;
use crate::output::Failure;

/// How to regain a guest whose supervisor does not answer.
pub(crate) fn hint(name: &str, supervisor: Option<u32>) -> String {
    let pid = supervisor.map_or("its pid".to_owned(), |pid| pid.to_string());
    let name = name.escape_debug();
    format!(
        ". The guest survives the end of its supervisor: `kill -KILL {pid}` and then `taptrail adopt {name}` give it \
         another; `taptrail stop {name} --force` ends the guest itself"
    )
}

/// The same for a supervisor that can't be reached. Without its run directory no other supervisor
/// can reach QEMU's monitor either.
pub(crate) fn unreachable_hint(name: &str, supervisor: u32, dirs: &Dirs) -> String {
    if dirs.run.join(name).join("monitor").exists() {
        return hint(name, Some(supervisor));
    }
    let name = name.escape_debug();
    format!(
        ", as its run directory was removed. `kill -TERM {supervisor}` has it shut the guest down; \
         `taptrail stop {name} --force` ends QEMU at once"
    )
}

/// What can be done with a guest that runs without an open account.
pub(crate) fn unrecorded_hint(one: &Unrecorded) -> String {
    let stop = match (&one.name, one.pid()) {
        (Some(name), _) => format!("`taptrail stop {} --force` ends it", name.escape_debug()),
        (None, Some(pid)) => format!("`kill -KILL {pid}` ends it"),
        (None, None) => "nobody who can be seen holds them".to_owned(),
    };
    let links: Vec<_> = one.links.iter().map(|(name, _)| format!("'{name}'")).collect();
    let holds = match links.len() {
        0 => String::new(),
        1 => format!(" and holds link {}", links.concat()),
        _ => format!(" and holds links {}", links.join(", ")),
    };
    match one.supervisor {
        Some(supervisor) => format!(
            "is not on record here{holds}: its ledger was removed. Its supervisor (pid {supervisor}) takes the account \
             into the next ledger there, with the next change; {stop}"
        ),
        None => format!(
            "is not on record here{holds}, and has no supervisor: `taptrail adopt` takes it up with the --state-dir that \
             has it; {stop}, and `taptrail recover` deletes what is left of its links"
        ),
    }
}

/// The name of such a guest, or its uuid.
pub(crate) fn unrecorded_name(one: &Unrecorded) -> String {
    one.name.clone().unwrap_or_else(|| one.uuid.to_string())
}

/// [`hint`] for an error of an unresponsive supervisor, else nothing.
pub(crate) fn hint_for(error: &ClientError, name: &str) -> String {
    match error {
        ClientError::Unresponsive { supervisor, .. } | ClientError::TimedOut { supervisor, .. } => {
            hint(name, *supervisor)
        }
        _ => String::new(),
    }
}

/// A client's failure, with what the ledger and /proc show of the guest.
pub(crate) fn client_failure(error: ClientError, name: &str, dirs: &Dirs) -> Failure {
    if error.is_not_running()
        && let Some(whereabouts) = whereabouts(name, dirs)
    {
        return anyhow!(whereabouts).into();
    }
    if error.is_unresponsive() {
        return Failure::timed_out(anyhow!("{}{}", chain(&error), hint_for(&error, name)));
    }
    if error.is_time_out() { Failure::timed_out(error) } else { error.into() }
}

/// Where a guest of taptrail runs that nobody serves here, if it does.
pub(crate) fn whereabouts(name: &str, dirs: &Dirs) -> Option<String> {
    let shown = name.escape_debug();
    if let Some(one) = supervised(dirs).ok()?.into_iter().rfind(|one| one.guest.name == name) {
        let pid = one.supervisor;
        return Some(match one.elsewhere {
            Some(run) => format!(
                "Guest '{shown}' is supervised in another run directory (by pid {pid}): --run-dir={} reaches it",
                run.display()
            ),
            None => {
                let hint = unreachable_hint(name, pid, dirs);
                format!("Supervisor of guest '{shown}' (pid {pid}) can't be reached{hint}")
            }
        });
    }
    let lost = unsupervised(dirs).ok()?.into_iter().rfind(|one| one.guest.name == name && !one.watched);
    if let Some(pid) = lost.and_then(|lost| lost.pid) {
        return Some(format!(
            "Guest '{shown}' runs on without a supervisor, as pid {pid}: `taptrail adopt {shown}` gives it one"
        ));
    }
    let mut unrecorded = unrecorded(dirs).ok()?.into_iter();
    let one = unrecorded.find(|one| one.name.as_deref() == Some(name) && one.recorded_in.is_none())?;
    Some(format!("Guest '{shown}'{} {}", pid(one.pid()), unrecorded_hint(&one)))
}

fn pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Whether its supervisor serves it in another run directory.
fn is_elsewhere(error: &ClientError, name: &str, dirs: &Dirs) -> Result<bool, UnresponsiveError> {
    Ok(error.is_not_running()
        && supervised(dirs)?.iter().any(|one| one.guest.name == name && one.elsewhere.is_some()))
}

/// Kills a guest's QEMU without its supervisor, which does not answer.
pub(crate) fn kill(error: ClientError, name: &str, dirs: &Dirs) -> CommandResult {
    let shown = name.escape_debug();
    if is_elsewhere(&error, name, dirs)? {
        return Err(client_failure(error, name, dirs));
    }
    let Some(killed) = kill_qemu(dirs, name)? else {
        let Some(killed) = kill_unrecorded(dirs, name)? else {
            return Err(client_failure(error, name, dirs));
        };
        let pids: Vec<_> = killed.processes.iter().map(|process| process.pid.to_string()).collect();
        warn!(
            "'{shown}' was not on record here: its QEMU was ended (pid {}). `taptrail recover` deletes what is left of its \
             links",
            pids.join(", ")
        );
        return Ok(ExitCode::SUCCESS);
    };
    let pid = killed.pid;
    match killed.supervisor {
        Some(supervisor) if error.is_not_running() => warn!(
            "Supervisor of '{shown}' (pid {supervisor}) can't be reached: QEMU (pid {pid}) was ended without it, and it \
             closes the account"
        ),
        Some(supervisor) => warn!(
            "Supervisor of '{shown}' (pid {supervisor}) does not answer: QEMU (pid {pid}) was ended without it. The account is \
             open until the supervisor goes on; or `kill -KILL {supervisor}` ends it, and `taptrail recover` closes the account"
        ),
        None => warn!(
            "'{shown}' had no supervisor: QEMU (pid {pid}) was ended without one. `taptrail recover` closes the account"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// Handles a revocation that could not be requested: deletes the link if it was made for the
/// interface. No process can close a descriptor of another: QEMU closes it on a command of its
/// monitor, and only the supervisor has that.
pub(crate) fn revoke_failure(error: ClientError, name: &str, mac: MacAddr, dirs: &Dirs) -> Failure {
    let unreachable = error.is_not_running()
        && supervised(dirs).is_ok_and(|all| all.iter().any(|one| one.guest.name == name))
        && is_elsewhere(&error, name, dirs).is_ok_and(|elsewhere| !elsewhere);
    if !error.is_unresponsive() && !unreachable {
        return client_failure(error, name, dirs);
    }
    let (cut, supervisor) = match cut_link(dirs, name, mac) {
        Ok(Some(CutLink { ifname, supervisor, recorded })) => {
            let record = match recorded {
                Ok(()) => {
                    "the revocation is on record as begun, and who adopts the guest finishes it".to_owned()
                }
                Err(error) => format!("that is not on record: {}", chain(&error)),
            };
            let text = format!(
                "Link '{ifname}' was deleted without it: no frame of {mac} passes any more. QEMU holds the descriptors, \
                 with nothing behind them; {record}"
            );
            (text, supervisor)
        }
        cut => {
            let failed = cut.err().map(|error| format!(" ({})", chain(&error))).unwrap_or_default();
            let down = match host_interface(dirs, name, mac) {
                Ok(Some(ifname)) => format!(
                    ". Its traffic is cut off at once by `ip link set dev {ifname} down`, until that is taken back"
                ),
                _ => String::new(),
            };
            (format!("QEMU holds {mac} still, and only its supervisor can take it{failed}{down}"), None)
        }
    };
    let hint = match supervisor {
        Some(supervisor) if unreachable => unreachable_hint(name, supervisor, dirs),
        _ => hint_for(&error, name),
    };
    Failure::timed_out(anyhow!("{}. {cut}{hint}", chain(&error)))
}

/// The failure to supervise a guest; with a hint if its current supervisor does not answer.
pub(crate) fn claim_failure(error: SuperviseError, name: &str, dirs: &Dirs) -> Failure {
    if let SuperviseError::Claim(RunDirError::Taken { supervisor: Some(pid), .. }) = &error
        && let Ok(answers) = statuses(&dirs.run, &[name.to_owned()])
        && answers.iter().any(|answer| matches!(answer, Err(error) if error.is_unresponsive()))
    {
        let hint = hint(name, Some(*pid));
        return Failure::timed_out(anyhow!("{}, and does not answer{hint}", chain(&error)));
    }
    error.into()
}
