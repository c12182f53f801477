//! Cleans up after ended supervisors: closes accounts, removes links and filters.
//!
//! ```text
//!                        its supervisor lives ─▶ nothing to do
//!   an open account ─▶   QEMU runs            ─▶ to be adopted
//!                        its start was cut off ─▶ QEMU is ended, the start is taken back
//!                        QEMU is gone          ─▶ closed, with the time span in which it ended
//! ```
//!
//! A second run changes nothing. A guest that runs is never harmed: only a QEMU that never ran its
//! guest is killed.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use taptrail_kernel::link::LinkError;
use taptrail_kernel::proc::{ProcessId, boot_id, network_namespace, network_namespace_exists, processes};
use taptrail_ledger::{Guest, Ledger, LedgerError, Step, StepKey};
use taptrail_record::{CloseDoubt, DeviceKind, Event, GuestId, MacAddr, Outcome, Reason};
use tracing::warn;

use crate::account::{
    Account, AccountError, AuditMode, LedgerBatch, Live, OpenDevice, ledger_if_any, own_guests, process_id,
};
use crate::driver::kill_process;
use crate::handover::{self, OpenFileCounts};
use crate::host::{Host, LeftOverError};
use crate::host_side::{ovs_port, remove_ovs_port};
use crate::marked::MarkedError;
use crate::process::QemuProcess;
use crate::run_dir::{Dirs, RunDirError, RunDirLock};
use crate::spec::NicSpec;

/// The arguments of [`recover`].
#[derive(Debug, Clone)]
pub struct RecoverOptions {
    /// Name of the guest to recover; `None` for all of this host.
    pub name: Option<String>,
    /// Whether records go to the kernel's audit.
    pub audit: AuditMode,
    /// The state and the run directory.
    pub dirs: Dirs,
    /// Path of the nft program; `None` for the system's.
    pub nft: Option<PathBuf>,
}

/// The result for one open account.
#[derive(Debug)]
pub struct Recovered {
    /// The guest whose account is open.
    pub guest: GuestId,
    /// What was found and done; after an error the account stays open.
    pub state: Result<RecoveredState, RecoverError>,
}

/// What recovery found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveredState {
    /// Its supervisor runs: there is nothing to do.
    Supervised,
    /// QEMU runs without a supervisor, which can adopt it.
    Orphaned {
        /// The pid of the QEMU that runs.
        pid: u32,
    },
    /// It has ended, and its links and filters may be left over in another network namespace: the
    /// account stays open until it is recovered from there.
    Elsewhere {
        /// The inode of that namespace.
        netns: u64,
    },
    /// The account is closed.
    Closed {
        /// How many devices were closed with it.
        devices: usize,
        /// Its start had been interrupted.
        unstarted: bool,
    },
}

/// A host's guests, or one of them, can't be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The ledger can't be used.
    #[error("The ledger's records can't be read")]
    Ledger(#[from] LedgerError),
    /// Its run directory can't be locked.
    #[error(transparent)]
    Claim(#[from] RunDirError),
    /// The account can't be closed.
    #[error("The guest's account can't be closed")]
    Account(#[from] AccountError),
    /// The host's links can't be listed.
    #[error("The host's network links can't be reached")]
    Links(#[from] LinkError),
    /// Marked links can't be examined.
    #[error(transparent)]
    Marked(#[from] MarkedError),
    /// The leftovers can't be removed.
    #[error(transparent)]
    LeftOver(#[from] LeftOverError),
    /// /proc can't be read.
    #[error("Processes can't be listed")]
    Look(#[source] io::Error),
    /// A QEMU whose start was interrupted can't be killed.
    #[error("QEMU (pid {pid}), whose start was interrupted, can't be killed")]
    Kill {
        /// The pid of that QEMU.
        pid: u32,
        /// The system's error, which says why.
        source: io::Error,
    },
}

/// A guest with an open account and no supervisor: its supervisor has ended, or another manager
/// runs the guest and a watcher keeps the account.
#[derive(Debug, Clone)]
pub struct Unsupervised {
    /// The guest whose account is open.
    pub guest: GuestId,
    /// The pid of its QEMU, if that runs.
    pub pid: Option<u32>,
    /// When its account was opened.
    pub begun: Timestamp,
    /// Interfaces that may have devices or links.
    pub nics: usize,
    /// Whether it runs under another manager, and `taptrail watch` keeps its account.
    pub watched: bool,
}

/// Lists the guests of this host whose supervisors have ended while their accounts are open, and
/// the watched ones. Changes nothing.
///
/// # Errors
/// When the ledger or /proc can't be read.
pub fn unsupervised(dirs: &Dirs) -> Result<Vec<Unsupervised>, RecoverError> {
    let boot = boot_id().map_err(RecoverError::Look)?.to_string();
    let Some(ledger) = ledger_if_any(dirs)? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for guest in ledger.live_guests()? {
        let here = guest.boot_id == boot;
        let watched = guest.watched;
        if here && !watched && process_id(guest.supervisor).is_alive() {
            continue;
        }
        let qemu = match here {
            false => None,
            true if watched => guest.qemu.map(process_id).filter(ProcessId::is_alive),
            true => find(&guest).map_err(RecoverError::Look)?,
        };
        if watched && qemu.is_none() {
            // Its watcher will record its end.
            continue;
        }
        let nics = match watched {
            false => ledger.live_interfaces(guest.key)?.len(),
            true => {
                ledger.live_devices(guest.key)?.iter().map(|device| device.mac).collect::<BTreeSet<_>>().len()
            }
        };
        let pid = qemu.map(|qemu| qemu.pid);
        all.push(Unsupervised { guest: guest.id, pid, begun: guest.begun, nics, watched });
    }
    Ok(all)
}

/// Recovers all open accounts of this host, or those of one guest's name.
///
/// # Errors
/// When nothing can be done at all; a failure for one guest is in its result.
pub fn recover(options: &RecoverOptions) -> Result<Vec<Recovered>, RecoverError> {
    let ledger = Ledger::open_existing(&options.dirs.state)?;
    let boot = boot_id().map_err(RecoverError::Look)?.to_string();
    let netns = network_namespace().map_err(RecoverError::Look)?;
    let mut host = Host::open(&options.dirs.run, options.nft.clone())?;
    let mut all = Vec::new();
    if let Some(ledger) = &ledger {
        for guest in own_guests(ledger)? {
            if options.name.as_ref().is_some_and(|name| guest.id.name != name.as_str()) {
                continue;
            }
            let mut recovery = Recovery { options, ledger, boot: &boot, netns, host: &mut host };
            if let Some(state) = recovery.settle(&guest).transpose() {
                all.push(Recovered { guest: guest.id, state });
            }
        }
    }
    // A tap is gone with its last descriptor; its filter is found by the interface index in its
    // name alone.
    host.sweep_filters()?;
    Ok(all)
}

/// The state of this host that accounts are compared with.
struct Recovery<'a> {
    options: &'a RecoverOptions,
    ledger: &'a Ledger,
    boot: &'a str,
    netns: u64,
    host: &'a mut Host,
}

impl Recovery<'_> {
    /// Recovers one account; `None` if its supervisor has closed it meanwhile.
    fn settle(&mut self, guest: &Guest) -> Result<Option<RecoveredState>, RecoverError> {
        let here = guest.boot_id == self.boot;
        if here && process_id(guest.supervisor).is_alive() {
            return Ok(Some(RecoveredState::Supervised));
        }
        let mut run_dir = match RunDirLock::acquire_for_recovery(&self.options.dirs.run, &guest.id.name) {
            Ok(run_dir) => run_dir,
            // Another process has just adopted the guest, or started it again.
            Err(RunDirError::Taken { .. }) => return Ok(Some(RecoveredState::Supervised)),
            Err(error) => return Err(error.into()),
        };
        // The log is the only trace of why its supervisor ended.
        run_dir.keep_for_adoption(true);
        // The account may have been closed or adopted before we had the lock.
        let now = own_guests(self.ledger)?.into_iter().find(|now| now.key == guest.key);
        let Some(guest) = &now else { return Ok(None) };
        if here && process_id(guest.supervisor).is_alive() {
            return Ok(Some(RecoveredState::Supervised));
        }
        let mut account = Account::take_up(&self.options.dirs.state, self.options.audit, guest)?;
        let live = account.live()?;
        let unstarted = live.steps.iter().any(|step| step.step == Step::Start);
        let elsewhere = if here { self.elsewhere(&live).map_err(RecoverError::Look)? } else { None };
        let mut seen = false;
        if here && let Some(qemu) = find(guest).map_err(RecoverError::Look)? {
            if !unstarted {
                return Ok(Some(RecoveredState::Orphaned { pid: qemu.pid }));
            }
            if let Some(netns) = elsewhere {
                return Ok(Some(RecoveredState::Elsewhere { netns }));
            }
            // It never ran its guest: QEMU was started paused and not continued.
            kill_process(qemu).map_err(|source| RecoverError::Kill { pid: qemu.pid, source })?;
            seen = true;
        }
        if let Some(netns) = elsewhere {
            return Ok(Some(RecoveredState::Elsewhere { netns }));
        }
        run_dir.keep_for_adoption(false);
        run_dir.keep_log();
        let over = if here {
            self.undo(guest, &live)?
        } else {
            self.remove_ovs_ports(guest, &live)?;
            live.devices().cloned().collect()
        };
        let devices = over.len();
        let pid = guest.qemu.map(|qemu| qemu.pid);
        let (batch, reason) = ending(&account, &live, &over, pid, unstarted, seen);
        account.end(batch.complete_steps(&keys(&live), "cut off").end_guest(&reason))?;
        Ok(Some(RecoveredState::Closed { devices, unstarted }))
    }

    /// The network namespace of a guest's links, if that is another one that exists. Links are gone
    /// with their namespace.
    fn elsewhere(&self, live: &Live) -> io::Result<Option<u64>> {
        match live.netns.filter(|netns| *netns != self.netns) {
            Some(netns) if !live.interfaces.is_empty() && network_namespace_exists(netns)? => Ok(Some(netns)),
            _ => Ok(None),
        }
    }

    /// Removes the links and filters of a guest's interfaces. Returns its devices, all to be
    /// closed, some perhaps with a doubt.
    fn undo(&mut self, guest: &Guest, live: &Live) -> Result<Vec<OpenDevice>, RecoverError> {
        let mut devices: Vec<_> = live.devices().cloned().collect();
        if live.netns.is_some_and(|netns| netns != self.netns) {
            warn!(
                "'{}': its links and filters were in another network namespace ({}), which is gone",
                guest.id.name,
                live.netns.unwrap_or_default()
            );
            for device in devices.iter_mut().filter(|device| device.device.kind != DeviceKind::VhostNet) {
                device.doubt = Some(CloseDoubt::Unseen);
            }
            self.remove_ovs_ports(guest, live)?;
            return Ok(devices);
        }
        let (mut over, mut counts) = (Vec::new(), OpenFileCounts::default());
        for row in &live.interfaces {
            let Ok(spec) = row.spec.parse::<NicSpec>() else {
                warn!("{}: its SPEC on record can't be read: {}", row.mac, row.spec);
                continue;
            };
            let mut resources = self.host.find_left_over(&guest.id, row, &spec, false)?;
            let link_shows = resources.link.is_some() || spec.makes_link();
            let held = devices.extract_if(.., |device| device.mac == row.mac).collect();
            over.extend(handover::end_interface(
                row.mac,
                held,
                &mut resources,
                link_shows,
                self.host,
                &mut counts,
            ));
        }
        over.append(&mut devices);
        Ok(over)
    }

    /// Removes the ports of Open vSwitch of a guest whose links went with the host's boot or with
    /// their network namespace: its database keeps them.
    fn remove_ovs_ports(&mut self, guest: &Guest, live: &Live) -> Result<(), RecoverError> {
        for row in &live.interfaces {
            let Ok(spec) = row.spec.parse::<NicSpec>() else { continue };
            let Some(mark) = ovs_port(&guest.id, &spec, row.mac) else { continue };
            // The guest may run again, under another name.
            if self.host.marked(mark.clone())?.is_none() {
                remove_ovs_port(row.mac, &mark);
            }
        }
        Ok(())
    }
}

/// The batch that closes an account whose guest's end nobody saw, and the reason of the end.
fn ending(
    account: &Account,
    live: &Live,
    over: &[OpenDevice],
    pid: Option<u32>,
    unstarted: bool,
    seen: bool,
) -> (LedgerBatch, Reason) {
    let failed = |event| account.record(event, Outcome::Failed, None);
    let macs: BTreeSet<MacAddr> = if unstarted {
        live.interfaces.iter().map(|row| row.mac).collect()
    } else {
        let attaching = |step: &&taptrail_ledger::LiveStep| matches!(step.step, Step::Open | Step::HandOver);
        let steps = live.steps.iter().filter(attaching).filter_map(|step| step.mac);
        steps.chain(live.opened.iter().map(|device| device.mac)).collect()
    };
    let mut batch = LedgerBatch::default();
    for mac in macs {
        let handing = |step: &taptrail_ledger::LiveStep| step.step == Step::HandOver && step.mac == Some(mac);
        let fds = live.steps.iter().any(handing).then_some(0);
        batch = batch.record(failed(if unstarted {
            Event::Start { mac, vm_pid: pid, fds }
        } else {
            Event::Attach { mac, vm_pid: pid, fds }
        }));
    }
    batch = if seen {
        batch.close_devices(account, over)
    } else {
        batch.close_devices_unseen(account, over, live.last_observed)
    };
    if unstarted {
        let batch = batch.record(failed(Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid }));
        return (batch, Reason::FAILED);
    }
    let event = Event::GuestStop { reason: Reason::UNKNOWN, vm_pid: pid };
    let mut stop = account.record(event, Outcome::Success, None);
    stop.last_seen = u64::try_from(live.last_observed.as_millisecond()).ok();
    (batch.record(stop), Reason::UNKNOWN)
}

fn keys(live: &Live) -> Vec<StepKey> {
    live.steps.iter().map(|step| step.key).collect()
}

/// The guest's QEMU, if it runs: the one on record, or one that was started but not yet on record
/// when its supervisor ended. The latter is found by its command line.
fn find(guest: &Guest) -> io::Result<Option<ProcessId>> {
    if let Some(qemu) = guest.qemu.map(process_id) {
        return Ok(qemu.is_alive().then_some(qemu));
    }
    let qemus = processes()?.into_iter().filter_map(QemuProcess::of);
    let ours =
        |qemu: &QemuProcess| qemu.guest.uuid == guest.id.uuid && qemu.id.start_time >= guest.supervisor.start;
    Ok(qemus.into_iter().find(ours).map(|qemu| qemu.id))
}
