//! What is said, and done, of a guest whose supervisor does not answer.

use std::process::ExitCode;

use anyhow::anyhow;
use taptrail_guest::{
    ClientError, Dirs, RunDirError, SuperviseError, chain, host_interface, kill_qemu, statuses, supervised,
    unsupervised,
};
use taptrail_record::MacAddr;
use tracing::warn;

use crate::Done;
use crate::output::Failure;

/// How a guest is had back from a supervisor that does not answer.
pub(crate) fn hint(name: &str, supervisor: Option<u32>) -> String {
    let pid = supervisor.map_or("its pid".to_owned(), |pid| pid.to_string());
    let name = name.escape_debug();
    format!(
        ". The guest survives the end of its supervisor: `kill -KILL {pid}` and then `taptrail adopt {name}` give it \
         another; `taptrail stop {name} --force` ends the guest itself"
    )
}

/// The same, where the error is of that kind.
pub(crate) fn way_out(error: &ClientError, name: &str) -> String {
    match error {
        ClientError::Unresponsive { supervisor, .. } | ClientError::TimedOut { supervisor, .. } => {
            hint(name, *supervisor)
        }
        _ => String::new(),
    }
}

/// A client's failure, with what is known of the guest otherwise.
pub(crate) fn client_failure(error: ClientError, name: &str, dirs: &Dirs) -> Failure {
    if error.is_not_running()
        && let Some(whereabouts) = whereabouts(name, dirs)
    {
        return anyhow!(whereabouts).into();
    }
    if error.is_unresponsive() {
        return Failure::timed_out(anyhow!("{}{}", chain(&error), way_out(&error, name)));
    }
    if error.is_time_out() { Failure::timed_out(error) } else { error.into() }
}

/// Where a guest is that nobody serves here, if it runs.
fn whereabouts(name: &str, dirs: &Dirs) -> Option<String> {
    let shown = name.escape_debug();
    if let Some(one) = supervised(dirs).ok()?.into_iter().rfind(|one| one.guest.name == name) {
        let pid = one.supervisor;
        return Some(match one.elsewhere {
            Some(run) => format!(
                "Guest '{shown}' is supervised in another run directory (by pid {pid}): --run-dir={} reaches it",
                run.display()
            ),
            None => {
                format!("Supervisor of guest '{shown}' (pid {pid}) can't be reached{}", hint(name, Some(pid)))
            }
        });
    }
    let lost = unsupervised(dirs).ok()?.into_iter().rfind(|one| one.guest.name == name && !one.watched)?;
    let pid = lost.pid?;
    Some(format!(
        "Guest '{shown}' runs on without a supervisor, as pid {pid}: `taptrail adopt {shown}` gives it one"
    ))
}

/// Ends a guest without its supervisor, which can't be asked for it.
pub(crate) fn kill(error: ClientError, name: &str, dirs: &Dirs) -> Done {
    let shown = name.escape_debug();
    if error.is_not_running() && supervised(dirs)?.iter().any(|one| one.guest.name == name) {
        // Its supervisor can be asked, in another run directory.
        return Err(client_failure(error, name, dirs));
    }
    let Some(killed) = kill_qemu(dirs, name)? else { return Err(client_failure(error, name, dirs)) };
    let pid = killed.pid;
    match killed.supervisor {
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

/// A revocation that could not be requested. No process closes another one's descriptor: QEMU closes
/// it when its monitor is told to, and only the supervisor has that.
pub(crate) fn revoke_failure(error: ClientError, name: &str, mac: MacAddr, dirs: &Dirs) -> Failure {
    if !error.is_unresponsive() {
        return client_failure(error, name, dirs);
    }
    let cut = match host_interface(dirs, name, mac) {
        Ok(Some(ifname)) => {
            format!(
                ". Its traffic is cut off at once by `ip link set dev {ifname} down`, until that is taken back"
            )
        }
        _ => String::new(),
    };
    Failure::timed_out(anyhow!(
        "{}. QEMU holds {mac} still, and only its supervisor can take it{cut}{}",
        chain(&error),
        way_out(&error, name)
    ))
}

/// A guest that can't be supervised because it is; by one that does not answer, perhaps.
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
