//! Guests that run without an open account: their ledger was removed, or another state directory
//! has it.
//!
//! ```text
//!   links with our mark, and who holds them ─┐
//!   processes that look like our QEMUs ──────┼─▶ by uuid, less those with an open account here
//!   supervisors, by what they have open ─────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use taptrail_kernel::link::Links;
use taptrail_kernel::proc::ProcessId;
use taptrail_ledger::LedgerError;
use taptrail_record::{GuestId, IfName, MacAddr};
use uuid::Uuid;

use crate::account::live_guests;
use crate::driver::kill_process;
use crate::marked::{MarkedError, MarkedLink};
use crate::process::{QemuProcess, SupervisorProcess};
use crate::run_dir::Dirs;

/// A guest that runs, and has no open account in this state directory.
#[derive(Debug, Clone)]
pub struct Unrecorded {
    /// The guest, by the marks of its links or by its QEMU's command line.
    pub uuid: Uuid,
    /// Its name on QEMU's command line, if such a process is found.
    pub name: Option<String>,
    /// The processes whose command lines are its QEMU's, the oldest first.
    pub processes: Vec<ProcessId>,
    /// The processes that hold its links, whatever they are.
    pub holders: Vec<ProcessId>,
    /// The links that were made for its interfaces and are held.
    pub links: Vec<(IfName, MacAddr)>,
    /// The pid of its supervisor, if one runs.
    pub supervisor: Option<u32>,
    /// The state directory in which that supervisor has its account open.
    pub recorded_in: Option<PathBuf>,
}

/// Unrecorded guests can't be listed or killed.
#[derive(Debug, thiserror::Error)]
pub enum UnrecordedError {
    /// The links or their holders can't be listed.
    #[error(transparent)]
    Links(#[from] MarkedError),
    /// The ledger can't be used.
    #[error("The ledger's records can't be read")]
    Ledger(#[from] LedgerError),
    /// /proc can't be read.
    #[error("Processes can't be listed")]
    Look(#[source] io::Error),
    /// Several guests have the name.
    #[error("Guests of this name run on no record, as pids {}: end the one that you mean by `kill -KILL PID`", list(.0))]
    Several(Vec<u32>),
    /// A process does not end, or may not be killed.
    #[error("Process {pid} can't be ended")]
    Kill {
        /// The pid of that process.
        pid: u32,
        /// The system's error, which says why.
        source: io::Error,
    },
}

fn list(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

impl Unrecorded {
    /// The pid of QEMU, or of another process that holds a link of the guest.
    pub fn pid(&self) -> Option<u32> {
        Some(self.process()?.pid)
    }

    /// When that process started.
    pub fn began(&self) -> Option<Timestamp> {
        Timestamp::try_from(self.process()?.started()).ok()
    }

    fn process(&self) -> Option<&ProcessId> {
        self.processes.first().or(self.holders.first())
    }
}

/// Lists the guests in our network namespace that run without an open account in this state
/// directory. Changes nothing.
///
/// # Errors
/// When links, processes or the ledger can't be read.
pub fn unrecorded(dirs: &Dirs) -> Result<Vec<Unrecorded>, UnrecordedError> {
    find(dirs, |_| true, |_| true)
}

/// Finds guests whose QEMU's command line `is_wanted` accepts, and guests of marked links whose
/// uuid `is_wanted_link` accepts.
fn find(
    dirs: &Dirs,
    is_wanted: impl Fn(&GuestId) -> bool,
    is_wanted_link: impl Fn(Uuid) -> bool,
) -> Result<Vec<Unrecorded>, UnrecordedError> {
    let mut qemus = QemuProcess::all().map_err(UnrecordedError::Look)?;
    let wanted = qemus.iter().filter(|qemu| is_wanted(&qemu.guest));
    let named: BTreeSet<Uuid> = wanted.map(|qemu| qemu.guest.uuid).collect();
    qemus.retain(|qemu| named.contains(&qemu.guest.uuid));
    let marks = |guest, _| named.contains(&guest) || is_wanted_link(guest);
    let mut links = Links::open().map_err(MarkedError::from)?;
    let marked = MarkedLink::here(&mut links, marks)?;
    if qemus.is_empty() && marked.is_empty() {
        return Ok(Vec::new());
    }
    // Read after the links: an account is opened before the guest's first link and QEMU.
    let guests = live_guests(dirs)?;
    let known: BTreeSet<Uuid> = guests.iter().map(|guest| guest.id.uuid).collect();
    let mut found: BTreeMap<Uuid, Unrecorded> = BTreeMap::new();
    let new = |uuid| Unrecorded {
        uuid,
        name: None,
        processes: Vec::new(),
        holders: Vec::new(),
        links: Vec::new(),
        supervisor: None,
        recorded_in: None,
    };
    for QemuProcess { id, guest } in qemus {
        // One that ended, and whose account was closed, meanwhile is not unrecorded.
        if !known.contains(&guest.uuid) && id.is_alive() {
            let one = found.entry(guest.uuid).or_insert_with(|| new(guest.uuid));
            one.processes.push(id);
            one.name.get_or_insert_with(|| guest.name.into());
        }
    }
    let unknown = |link: &MarkedLink| !known.contains(&link.guest) && link.is_held();
    // Scanned again: a guest that ended, and whose account was closed, meanwhile is not unrecorded.
    let marked = if marked.iter().any(unknown) { MarkedLink::here(&mut links, marks)? } else { Vec::new() };
    for MarkedLink { link, guest, mac, holder, .. } in marked.into_iter().filter(unknown) {
        let one = found.entry(guest).or_insert_with(|| new(guest));
        one.holders.extend(holder);
        one.links.push((link.name().clone(), mac));
    }
    let mut found: Vec<_> = found.into_values().collect();
    if found.is_empty() {
        return Ok(found);
    }
    let supervisors = SupervisorProcess::all().map_err(UnrecordedError::Look)?;
    for one in &mut found {
        let supervisor = supervisor_of(one.uuid, one.name.as_deref(), &supervisors, dirs);
        one.supervisor = supervisor.map(|of| of.pid);
        one.recorded_in =
            supervisor.filter(|of| of.accounts.contains(&one.uuid)).and_then(|of| of.state.clone());
    }
    Ok(found)
}

/// The supervisor that has this guest's account open; else the one that has the lock of its name in
/// this run directory, and no open account.
fn supervisor_of<'a>(
    guest: Uuid,
    name: Option<&str>,
    supervisors: &'a [SupervisorProcess],
    dirs: &Dirs,
) -> Option<&'a SupervisorProcess> {
    let run = absolute(&dirs.run);
    let has_lost_it =
        |of: &&SupervisorProcess| of.accounts.is_empty() && Some(of.guest.as_str()) == name && of.run == run;
    let on_record = supervisors.iter().find(|of| of.accounts.contains(&guest));
    on_record.or_else(|| supervisors.iter().find(has_lost_it))
}

/// The path as /proc shows it, whether the file exists or not.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// A guest that runs without an open account and prevents the start of `guest`: its supervisor has
/// the same name, or it has the same uuid.
pub(crate) fn conflicting_guest(dirs: &Dirs, guest: &GuestId) -> Result<Option<Unrecorded>, UnrecordedError> {
    // This runs at each start: guests with another name and uuid must cost nothing.
    let is_wanted = |of: &GuestId| of.name == guest.name || of.uuid == guest.uuid;
    let mut found = find(dirs, is_wanted, |uuid| uuid == guest.uuid)?.into_iter();
    Ok(found.find(|one| {
        let same_name = one.name.as_deref() == Some(&guest.name) && one.recorded_in.is_none();
        // Any process can have such a command line: that alone does not count.
        (same_name && one.supervisor.is_some())
            || (one.uuid == guest.uuid && (one.supervisor.is_some() || !one.links.is_empty()))
    }))
}

/// Kills the QEMU of a guest that runs without an open account. `None` where no such guest has the
/// name.
///
/// # Errors
/// See [`UnrecordedError`].
pub fn kill_unrecorded(dirs: &Dirs, name: &str) -> Result<Option<Unrecorded>, UnrecordedError> {
    let mut found = find(dirs, |guest| guest.name == name, |_| false)?;
    found.retain(|one| one.name.as_deref() == Some(name) && one.recorded_in.is_none());
    if found.len() > 1 {
        return Err(UnrecordedError::Several(found.iter().filter_map(Unrecorded::pid).collect()));
    }
    let Some(one) = found.pop() else { return Ok(None) };
    for process in &one.processes {
        kill_process(*process).map_err(|source| UnrecordedError::Kill { pid: process.pid, source })?;
    }
    Ok(Some(one))
}
