//! What programs leave behind when they end: processes in sessions of their own, which no process group reaches.
//!
//! The kernel makes those whose parents have ended our children ([`adopt`]). As programs run side by side, what each has
//! left is told by its start: it is of a program that ran then, and when all of those have ended, it is ended, too. What
//! asks another service to start something (systemd-run, at) has not started it, and it is left alone.

use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use taptrail_kernel::proc::{ProcessId, children};
use tracing::warn;

/// How long what was left behind is waited for when it has been killed.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How soon is looked again at what has not ended yet.
const INTERVAL: Duration = Duration::from_millis(5);

/// The programs that run. Being children is a matter of the whole process, and so is this.
static RUNNING: Mutex<Vec<ProcessId>> = Mutex::new(Vec::new());

/// From now on what our children leave behind becomes our own child (`PR_SET_CHILD_SUBREAPER` of prctl(2)).
///
/// # Errors
/// When there are children already: whoever started us by exec may have left some, and they are not ours to end.
pub(super) fn adopt() -> io::Result<()> {
    let own = std::process::id();
    if !children(own)?.is_empty() {
        return Err(io::Error::other("there are children of an earlier program of this process"));
    }
    Ok(rustix::process::set_child_subreaper(Pid::from_raw(own.cast_signed()))?)
}

/// Starts a program.
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    // Nobody takes it for left behind meanwhile.
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

/// A program has ended: ends what it has left behind.
pub(super) fn end(program: u32) {
    running().retain(|process| process.pid != program);
    let deadline = Instant::now() + TIMEOUT;
    // What is ended may leave children of its own to us.
    while kill_all() > 0 {
        if Instant::now() > deadline {
            warn!("What a program for a finding has left behind does not end");
            return;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Kills all that is left behind, and sees off what has ended. Returns how many there were.
fn kill_all() -> usize {
    let running = running();
    let oldest = running.iter().map(|process| process.start_time).min();
    let mut count = 0;
    for pid in children(std::process::id()).unwrap_or_default() {
        if running.iter().any(|process| process.pid == pid) {
            continue;
        }
        // A child of ours, which nobody else sees off: the pid is its own until then.
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
    // One that panicked leaves a list that holds still.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
