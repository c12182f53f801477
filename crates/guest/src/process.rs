//! Supervisors and QEMUs of taptrail, found among the host's processes.
//!
//! A supervisor is known by what it has open: the lock of its guest and a ledger. A QEMU is named by its command line,
//! which it can change: that names a process, and excuses none.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use taptrail_kernel::proc::{
    ProcessId, Status, command_line, network_namespace, network_namespace_of, processes,
};
use taptrail_ledger::{Guest, Ledger, Process};
use taptrail_record::GuestId;
use uuid::Uuid;

use crate::account::live_guests;
use crate::run_dir::{Dirs, LOCK_FILE, check_name};

/// The most bytes of a command line that are read.
const MAX_COMMAND_LINE: u64 = 256 * 1024;

/// What the kernel puts behind the path of an open file that was removed.
const DELETED: &str = " (deleted)";

/// A process as the ledger has it.
pub(crate) fn process_id(on_record: Process) -> ProcessId {
    ProcessId { pid: on_record.pid, start_time: on_record.start }
}

/// A process that was started as a guest's QEMU, by its command line; its children look like it.
#[derive(Debug, Clone)]
pub(crate) struct QemuProcess {
    pub(crate) id: ProcessId,
    pub(crate) guest: GuestId,
}

impl QemuProcess {
    /// A process with this number, if it looks like one.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let arguments = command_line(pid, MAX_COMMAND_LINE).ok()?;
        let monitor = format!("socket,id={},", crate::qemu::MONITOR);
        if !values(&arguments, "-chardev").any(|value| value.starts_with(&monitor)) {
            return None;
        }
        // Ours stand behind the user's own.
        let uuid = values(&arguments, "-uuid").last()?.parse().ok()?;
        let name = values(&arguments, "-name").last()?.strip_prefix("guest=")?.replace(",,", ",");
        let id = ProcessId::of(pid).ok()?;
        Some(Self { id, guest: GuestId { name: name.into(), uuid } })
    }

    /// Those in our network namespace, the eldest first.
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

/// A process that has a guest's lock open, and so supervises it.
#[derive(Debug, Clone)]
pub(crate) struct SupervisorProcess {
    pub(crate) pid: u32,
    /// The guest's name.
    pub(crate) guest: String,
    /// The run directory, which need not be there any more.
    pub(crate) run: PathBuf,
    /// The state directory, likewise.
    pub(crate) state: Option<PathBuf>,
    /// The guests whose open accounts there are its own.
    pub(crate) accounts: Vec<Uuid>,
}

impl SupervisorProcess {
    /// Those that run as root or as our own user: others may open files of any name.
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        let own = std::process::id();
        let us = rustix::process::geteuid().as_raw();
        let trusted = |pid: &u32| Status::of(*pid).is_ok_and(|status| status.uid == 0 || status.uid == us);
        let others = processes()?.into_iter().filter(|pid| *pid != own);
        let mut ledgers = BTreeMap::new();
        Ok(others.filter(trusted).filter_map(|pid| Self::of(pid, &mut ledgers)).collect())
    }

    /// `ledgers` has the guests of the state directories that were read: most supervisors share one.
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

/// The guests whose open accounts in a ledger have this process as their supervisor.
fn accounts(pid: u32, state: &Path, ledgers: &mut BTreeMap<PathBuf, Vec<Guest>>) -> Vec<Uuid> {
    let Ok(id) = ProcessId::of(pid) else { return Vec::new() };
    let guests = ledgers.entry(state.to_owned()).or_insert_with(|| {
        let dirs = Dirs { state: state.to_owned(), run: PathBuf::new() };
        live_guests(&dirs).unwrap_or_default()
    });
    let own = guests.iter().filter(|guest| process_id(guest.supervisor) == id);
    own.map(|guest| guest.id.uuid).collect()
}

/// The run directory and the guest's name in the path of a lock's file, removed or not.
fn lock(file: &Path) -> Option<(PathBuf, String)> {
    if file.file_name()? != LOCK_FILE {
        return None;
    }
    let guest = file.parent()?.file_name()?.to_str()?;
    check_name(guest).ok()?;
    Some((file.parent()?.parent()?.to_owned(), guest.to_owned()))
}

/// The paths of the files that a process has open, also of those that were removed.
fn open_files(pid: u32) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        // Sockets and the like have no path.
        let Ok(path) = fs::read_link(entry.path()) else { continue };
        if path.is_absolute() {
            files.push(match path.to_str().and_then(|path| path.strip_suffix(DELETED)) {
                Some(path) => PathBuf::from(path),
                None => path,
            });
        }
    }
    Ok(files)
}
