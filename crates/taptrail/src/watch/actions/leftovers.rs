//! Kills the processes that programs leave behind in sessions of their own, which are not in the
//! program's process group.
//!
//! The kernel makes orphans our children ([`adopt`]). As several programs run at a time, an orphan
//! is assigned by its start time: it belongs to a program that ran then, and is killed when all of
//! these have ended. Processes that another service starts on request (systemd-run, at) are left
//! alone.

use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use taptrail_kernel::proc::{ProcessId, children};
use tracing::warn;

/// How long to wait for the end of killed processes.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two checks for killed processes.
const INTERVAL: Duration = Duration::from_millis(5);

/// The running programs. Global, as children belong to the whole process.
static RUNNING: Mutex<Vec<ProcessId>> = Mutex::new(Vec::new());

/// From now on orphaned descendants become our own children (`PR_SET_CHILD_SUBREAPER` of prctl(2)).
///
/// # Errors
/// When there are already children: a program that executed us may have left some, and we must not
/// kill them.
pub(super) fn adopt() -> io::Result<()> {
    let own = std::process::id();
    if !children(own)?.is_empty() {
        return Err(io::Error::other("there are children of an earlier program of this process"));
    }
    Ok(rustix::process::set_child_subreaper(Pid::from_raw(own.cast_signed()))?)
}

/// Starts a program.
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    // Locked, so that the new child is not taken for a leftover.
    let mut running = running();
    let mut child = command.spawn()?;
    match ProcessId::of(child.id()) {
        Ok(process) => running.push(process),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    }
    Ok(child)
}

/// Kills what a program that has ended has left behind.
pub(super) fn end(program: u32) {
    running().retain(|process| process.pid != program);
    let deadline = Instant::now() + TIMEOUT;
    // Killed processes may leave children of their own to us.
    while kill_all() > 0 {
        if Instant::now() > deadline {
            warn!("Processes that a program for a finding has left behind do not end");
            return;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Kills all leftovers, and reaps those that have ended. Returns how many there were.
fn kill_all() -> usize {
    let running = running();
    let oldest = running.iter().map(|process| process.start_time).min();
    let mut count = 0;
    for pid in children(std::process::id()).unwrap_or_default() {
        if running.iter().any(|process| process.pid == pid) {
            continue;
        }
        // Our child, which nobody else reaps: its pid can't be reused.
        let Ok(process) = ProcessId::of(pid) else { continue };
        if oldest.is_some_and(|oldest| process.start_time >= oldest) {
            continue;
        }
        if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
        count += 1;
    }
    count
}

fn running() -> MutexGuard<'static, Vec<ProcessId>> {
    // A poisoned lock leaves a valid list.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
