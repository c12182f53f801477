//! Finds taptrail's supervisors and QEMUs among the host's processes.
//!
//! A supervisor is recognized by its open files: the lock of its guest and a ledger. A QEMU is
//! recognized by its command line. As QEMU can change that, it serves to name a process, not to
//! trust it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use taptrail_kernel::proc::{
    ProcessId, ProcessStatus, command_line, deleted_path, network_namespace, network_namespace_of, processes,
};
use taptrail_ledger::{Guest, Ledger};
use taptrail_record::GuestId;
use uuid::Uuid;

use crate::account::{live_guests, process_id};
use crate::run_dir::{Dirs, LOCK_FILE, check_name};

/// Bytes of a command line that are read.
const MAX_COMMAND_LINE: u64 = 256 * 1024;

/// A process whose command line is a guest's QEMU. Its forked children have the same.
#[derive(Debug, Clone)]
pub(crate) struct QemuProcess {
    pub(crate) id: ProcessId,
    pub(crate) guest: GuestId,
}

impl QemuProcess {
    /// The process with this pid, if its command line is a guest's QEMU.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let arguments = command_line(pid, MAX_COMMAND_LINE).ok()?;
        let monitor = format!("socket,id={},", crate::qemu::MONITOR);
        if !values(&arguments, "-chardev").any(|value| value.starts_with(&monitor)) {
            return None;
        }
        // taptrail's arguments stand after the user's.
        let uuid = values(&arguments, "-uuid").last()?.parse().ok()?;
        let name = values(&arguments, "-name").last()?.strip_prefix("guest=")?.replace(",,", ",");
        let id = ProcessId::of(pid).ok()?;
        Some(Self { id, guest: GuestId { name: name.into(), uuid } })
    }

    /// All in our network namespace, the oldest first.
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        let here = network_namespace()?;
        let ours = |pid: &u32| network_namespace_of(*pid).is_ok_and(|theirs| theirs == here);
        let mut all: Vec<_> = processes()?.into_iter().filter_map(Self::of).collect();
        all.retain(|qemu| ours(&qemu.id.pid));
        all.sort_by_key(|qemu| (qemu.id.start_time, qemu.id.pid));
        Ok(all)
    }
}

fn values<'a>(arguments: &'a [OsString], option: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = arguments.windows(2).filter(move |pair| pair[0] == option);
    pairs.filter_map(|pair| pair[1].to_str())
}

/// A process that has a guest's lock file open, and so supervises it.
#[derive(Debug, Clone)]
pub(crate) struct SupervisorProcess {
    pub(crate) pid: u32,
    /// The guest's name.
    pub(crate) guest: String,
    /// The run directory, which may have been removed.
    pub(crate) run: PathBuf,
    /// The state directory, which may have been removed too.
    pub(crate) state: Option<PathBuf>,
    /// The guests whose open accounts in that state directory are this supervisor's.
    pub(crate) accounts: Vec<Uuid>,
}

impl SupervisorProcess {
    /// All that run as root or as our own user: processes of other users could fake one with files
    /// of such names.
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        let own = std::process::id();
        let us = rustix::process::geteuid().as_raw();
        let trusted =
            |pid: &u32| ProcessStatus::of(*pid).is_ok_and(|status| status.uid == 0 || status.uid == us);
        let others = processes()?.into_iter().filter(|pid| *pid != own);
        let mut ledgers = BTreeMap::new();
        Ok(others.filter(trusted).filter_map(|pid| Self::of(pid, &mut ledgers)).collect())
    }

    /// `ledgers` caches the guests of each state directory: most supervisors share one.
    fn of(pid: u32, ledgers: &mut BTreeMap<PathBuf, Vec<Guest>>) -> Option<Self> {
        let files = open_files(pid).ok()?;
        let (run, guest) = files.iter().find_map(|file| lock(file))?;
        let ledger = Ledger::file(Path::new(""));
        let state = files.iter().find(|file| file.file_name() == ledger.file_name());
        let state = state.and_then(|file| file.parent()).map(Path::to_owned);
        let accounts = state.as_deref().map(|state| accounts(pid, state, ledgers)).unwrap_or_default();
        Some(Self { pid, guest, run, state, accounts })
    }
}

/// The guests whose open accounts in a ledger name this process as their supervisor.
fn accounts(pid: u32, state: &Path, ledgers: &mut BTreeMap<PathBuf, Vec<Guest>>) -> Vec<Uuid> {
    let Ok(id) = ProcessId::of(pid) else { return Vec::new() };
    let guests = ledgers.entry(state.to_owned()).or_insert_with(|| {
        let dirs = Dirs { state: state.to_owned(), run: PathBuf::new() };
        live_guests(&dirs).unwrap_or_default()
    });
    let own = guests.iter().filter(|guest| process_id(guest.supervisor) == id);
    own.map(|guest| guest.id.uuid).collect()
}

/// The run directory and the guest's name in the path of a lock file, removed or not.
fn lock(file: &Path) -> Option<(PathBuf, String)> {
    if file.file_name()? != LOCK_FILE {
        return None;
    }
    let guest = file.parent()?.file_name()?.to_str()?;
    check_name(guest).ok()?;
    Some((file.parent()?.parent()?.to_owned(), guest.to_owned()))
}

/// The paths of a process's open files, including removed ones.
fn open_files(pid: u32) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        // Sockets, pipes and the like have no path.
        let Ok(path) = fs::read_link(entry.path()) else { continue };
        if path.is_absolute() {
            files.push(deleted_path(&path).map(Path::to_owned).unwrap_or(path));
        }
    }
    Ok(files)
}
