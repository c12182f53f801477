//! Guests whose supervisors don't answer: finds them in the ledger and `/proc`, and ends them
//! without their supervisors.
//!
//! A supervisor that is stopped, or hangs, keeps its guest's name, monitor and account; nothing can
//! take them from it. Without it one can list the guest, delete a link that was made for it, and
//! kill its QEMU. The account is closed by the supervisor, if it continues, or by recovery, once it
//! has ended.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use taptrail_kernel::link::LinkError;
use taptrail_kernel::proc::{ProcessId, boot_id, network_namespace};
use taptrail_ledger::{Guest, Ledger, LedgerError, Step};
use taptrail_record::{GuestId, MacAddr};

use crate::account::{ledger_if_any, own_guests, process_id};
use crate::driver::{ReleaseKind, kill_process};
use crate::host::Host;
use crate::host_link::mark;
use crate::run_dir::{self, Dirs};

/// A guest with an open account whose supervisor runs, whether it answers or not.
#[derive(Debug, Clone)]
pub struct Supervised {
    /// The guest whose account is open.
    pub guest: GuestId,
    /// The pid of its QEMU, if that runs.
    pub pid: Option<u32>,
    /// When its account was opened.
    pub begun: Timestamp,
    /// How many interfaces it has on record.
    pub nics: usize,
    /// The supervisor's pid.
    pub supervisor: u32,
    /// The run directory in which it has the guest's lock, if that is another one than ours; `None`
    /// also if it can't be determined.
    pub elsewhere: Option<PathBuf>,
}

/// The ledger or /proc can't be read, or an action failed.
#[derive(Debug, thiserror::Error)]
pub enum UnresponsiveError {
    /// The ledger can't be used.
    #[error("The ledger's records can't be read")]
    Ledger(#[from] LedgerError),
    /// /proc can't be read.
    #[error("Processes can't be listed")]
    Look(#[source] io::Error),
    /// A link can't be found or deleted.
    #[error("The interface's link can't be deleted")]
    Link(#[from] LinkError),
    /// QEMU does not end, or may not be killed.
    #[error("QEMU (pid {pid}) can't be ended")]
    Kill {
        /// The pid of the QEMU that could not be killed.
        pid: u32,
        /// The system's error, which says why.
        source: io::Error,
    },
}

/// A QEMU that was killed without its supervisor.
#[derive(Debug, Clone, Copy)]
pub struct KilledQemu {
    /// The pid of the killed QEMU.
    pub pid: u32,
    /// The pid of its supervisor, if that runs.
    pub supervisor: Option<u32>,
}

/// A link that was deleted without the guest's supervisor. QEMU still has its descriptors, with
/// nothing behind them.
#[derive(Debug)]
pub struct CutLink {
    /// The name that the link had.
    pub ifname: String,
    /// The supervisor's pid, if that runs.
    pub supervisor: Option<u32>,
    /// Whether the ledger has the intent to revoke: then the supervisor that adopts the guest
    /// completes the revocation.
    pub recorded: Result<(), LedgerError>,
}

/// Lists the guests of this host that have an open account and a running supervisor. Changes
/// nothing.
///
/// # Errors
/// When the ledger or /proc can't be read.
pub fn supervised(dirs: &Dirs) -> Result<Vec<Supervised>, UnresponsiveError> {
    let mut all = Vec::new();
    let Some(ledger) = ledger_if_any(dirs)? else { return Ok(all) };
    for guest in live(&ledger)? {
        let supervisor = process_id(guest.supervisor);
        if !supervisor.is_alive() {
            continue;
        }
        let nics = ledger.live_interfaces(guest.key)?.len();
        let elsewhere = run_dir_of(supervisor.pid, &guest.id.name).filter(|run| !is_same(run, &dirs.run));
        let pid = guest.qemu.map(process_id).filter(ProcessId::is_alive).map(|qemu| qemu.pid);
        let supervisor = supervisor.pid;
        all.push(Supervised { guest: guest.id, pid, begun: guest.begun, nics, supervisor, elsewhere });
    }
    Ok(all)
}

/// Kills the QEMU of a guest by SIGKILL, without its supervisor: the process in the ledger,
/// identified by pid and start time. `None` where none runs.
///
/// # Errors
/// See [`UnresponsiveError`].
pub fn kill_qemu(dirs: &Dirs, name: &str) -> Result<Option<KilledQemu>, UnresponsiveError> {
    let Some((_, guest)) = live_guest(dirs, name)? else { return Ok(None) };
    let Some(qemu) = guest.qemu.map(process_id).filter(ProcessId::is_alive) else { return Ok(None) };
    kill_process(qemu).map_err(|source| UnresponsiveError::Kill { pid: qemu.pid, source })?;
    let supervisor = process_id(guest.supervisor);
    Ok(Some(KilledQemu { pid: qemu.pid, supervisor: supervisor.is_alive().then_some(supervisor.pid) }))
}

/// Deletes the link that was made for an interface, found by its mark, without the guest's
/// supervisor. Writes the intent to revoke to the ledger first. `None` where there is no such link.
///
/// # Errors
/// When the ledger or the links can't be read, or the link can't be deleted.
pub fn cut_link(dirs: &Dirs, name: &str, mac: MacAddr) -> Result<Option<CutLink>, UnresponsiveError> {
    let Some((ledger, guest)) = live_guest(dirs, name)? else { return Ok(None) };
    let here = network_namespace().map_err(UnresponsiveError::Look)?;
    let elsewhere = ledger.netns_and_paused(guest.key)?.0.is_some_and(|netns| netns != here);
    if elsewhere || !ledger.live_interfaces(guest.key)?.iter().any(|row| row.mac == mac) {
        return Ok(None);
    }
    let mark = mark(&guest.id, mac);
    let mut host = Host::open(&dirs.run, None)?;
    let Some(link) = host.marked(mark)? else { return Ok(None) };
    let under_way = ledger.live_steps(guest.key)?.iter().any(|step| {
        step.mac == Some(mac) && step.step == Step::Release && ReleaseKind::of(step) == ReleaseKind::Revoke
    });
    drop(ledger);
    let recorded = if under_way { Ok(()) } else { intend_to_revoke(dirs, &guest, mac) };
    host.delete_link(&link)?;
    let supervisor = process_id(guest.supervisor);
    let supervisor = supervisor.is_alive().then_some(supervisor.pid);
    Ok(Some(CutLink { ifname: link.name().to_string(), supervisor, recorded }))
}

fn intend_to_revoke(dirs: &Dirs, guest: &Guest, mac: MacAddr) -> Result<(), LedgerError> {
    let mut ledger = Ledger::open(&dirs.state)?;
    let tx = ledger.begin()?;
    tx.intend(guest.key, Step::Release, Some(mac), ReleaseKind::Revoke.as_str())?;
    tx.commit()
}

/// The host interface behind a guest's interface, by the ledger.
///
/// # Errors
/// When the ledger or /proc can't be read.
pub fn host_interface(dirs: &Dirs, name: &str, mac: MacAddr) -> Result<Option<String>, UnresponsiveError> {
    let Some((ledger, guest)) = live_guest(dirs, name)? else { return Ok(None) };
    let interfaces = ledger.live_interfaces(guest.key)?;
    Ok(interfaces.into_iter().rfind(|row| row.mac == mac).and_then(|row| row.ifname))
}

/// taptrail's guests of this boot whose accounts are open.
fn live(ledger: &Ledger) -> Result<Vec<Guest>, UnresponsiveError> {
    let boot = boot_id().map_err(UnresponsiveError::Look)?.to_string();
    let mut guests = own_guests(ledger)?;
    guests.retain(|guest| guest.boot_id == boot);
    Ok(guests)
}

/// The live guest of this name, and the ledger.
fn live_guest(dirs: &Dirs, name: &str) -> Result<Option<(Ledger, Guest)>, UnresponsiveError> {
    let Some(ledger) = ledger_if_any(dirs)? else { return Ok(None) };
    let guest = live(&ledger)?.into_iter().rfind(|guest| guest.id.name == name);
    Ok(guest.map(|guest| (ledger, guest)))
}

/// The run directory in which this process has the guest's lock file open.
fn run_dir_of(supervisor: u32, guest: &str) -> Option<PathBuf> {
    let lock = Path::new(guest).join(run_dir::LOCK_FILE);
    let files = std::fs::read_dir(format!("/proc/{supervisor}/fd")).ok()?.flatten();
    let paths = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let claim = paths.into_iter().find(|path| path.is_absolute() && path.ends_with(&lock))?;
    claim.parent()?.parent().map(Path::to_owned)
}

fn is_same(a: &Path, b: &Path) -> bool {
    let identity = |path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}
