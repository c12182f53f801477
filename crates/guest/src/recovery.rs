//! What ended supervisors left behind: accounts closed, links and filters removed.
//!
//! ```text
//!                        its supervisor lives ─▶ nothing to do
//!   an open account ─▶   QEMU runs            ─▶ to be adopted
//!                        its start was cut off ─▶ QEMU is ended, the start is taken back
//!                        QEMU is gone          ─▶ closed, with the time span in which it ended
//! ```
//!
//! Done twice it changes nothing. A guest that runs is never harmed: only a QEMU that never ran its guest is ended.

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
    Account, AccountError, AuditMode, Live, OpenDevice, Posting, ledger_if_any, own_guests,
};
use crate::driver::end_process;
use crate::handover::{self, Counts};
use crate::host::{Host, LeftOverError};
use crate::marked::MarkedError;
use crate::process::{QemuProcess, process_id};
use crate::run_dir::{Claim, Dirs, RunDirError};
use crate::spec::NicSpec;

/// What is to be recovered, and how.
#[derive(Debug, Clone)]
pub struct RecoverOptions {
    /// One guest's name; all of the host's when `None`.
    pub name: Option<String>,
    /// How much the kernel's audit is asked for.
    pub audit: AuditMode,
    /// Where things lie.
    pub dirs: Dirs,
    /// The nft program, where it is not the system's.
    pub nft: Option<PathBuf>,
}

/// One open account, and what became of it.
#[derive(Debug)]
pub struct Recovered {
    /// Whose.
    pub guest: GuestId,
    /// What was found and done; an error leaves the account open.
    pub state: Result<RecoveredState, RecoverError>,
}

/// What was found, and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveredState {
    /// Its supervisor lives: there is nothing to do.
    Supervised,
    /// QEMU runs without a supervisor, which can adopt it.
    Orphaned {
        /// QEMU's.
        pid: u32,
    },
    /// It has ended, and what may be left of its links and filters is in another network namespace: its account stays
    /// open until it is recovered from there.
    Elsewhere {
        /// The inode of that namespace.
        netns: u64,
    },
    /// The account is closed.
    Closed {
        /// How many devices were closed with it.
        devices: usize,
        /// Its start had not been finished.
        unstarted: bool,
    },
}

/// A host's guests, or one of them, can't be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The ledger can't be used.
    #[error("The ledger's records can't be read")]
    Ledger(#[from] LedgerError),
    /// Its directory can't be claimed.
    #[error(transparent)]
    Claim(#[from] RunDirError),
    /// The account can't be closed.
    #[error("The guest's account can't be closed")]
    Account(#[from] AccountError),
    /// The host's links can't be asked for.
    #[error("The host's network links can't be reached")]
    Links(#[from] LinkError),
    /// The host's links can't be looked at.
    #[error(transparent)]
    Marked(#[from] MarkedError),
    /// What is left over can't be removed.
    #[error(transparent)]
    LeftOver(#[from] LeftOverError),
    /// What processes there are can't be seen.
    #[error("Processes can't be listed")]
    Look(#[source] io::Error),
    /// A QEMU whose start was cut off does not end.
    #[error("QEMU (pid {pid}), whose start was interrupted, can't be killed")]
    Kill {
        /// Its.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

/// A guest with an open account and no supervisor: that has ended, or the guest has another manager and is watched.
#[derive(Debug, Clone)]
pub struct Unsupervised {
    /// Who.
    pub guest: GuestId,
    /// Its QEMU's, if that runs.
    pub pid: Option<u32>,
    /// When it began.
    pub begun: Timestamp,
    /// Of how many interfaces something may be left.
    pub nics: usize,
    /// Whether it never had one: it runs, and `taptrail watch` keeps its account.
    pub watched: bool,
}

/// The guests of the host whose supervisors ended before they did, and those that are watched. Nothing is changed.
///
/// # Errors
/// When what is on record can't be read.
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
            // Its watcher will tell its end.
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

/// Goes through all open accounts of the host, or of one guest's name.
///
/// # Errors
/// When nothing can be done at all; what fails for one guest is told with it.
pub fn recover(options: &RecoverOptions) -> Result<Vec<Recovered>, RecoverError> {
    let ledger = Ledger::open_existing(&options.dirs.state)?;
    let boot = boot_id().map_err(RecoverError::Look)?.to_string();
    let netns = network_namespace().map_err(RecoverError::Look)?;
    let mut host = Host::open(options.nft.clone())?;
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
    // A tap is gone with its last descriptor, and its filter is known by its number alone.
    host.sweep_filters()?;
    Ok(all)
}

/// What the accounts are held against.
struct Recovery<'a> {
    options: &'a RecoverOptions,
    ledger: &'a Ledger,
    boot: &'a str,
    netns: u64,
    host: &'a mut Host,
}

impl Recovery<'_> {
    /// `None`: its supervisor has closed the account meanwhile.
    fn settle(&mut self, guest: &Guest) -> Result<Option<RecoveredState>, RecoverError> {
        let here = guest.boot_id == self.boot;
        if here && process_id(guest.supervisor).is_alive() {
            return Ok(Some(RecoveredState::Supervised));
        }
        let mut claim = match Claim::take_for_recovery(&self.options.dirs.run, &guest.id.name) {
            Ok(claim) => claim,
            // Somebody has just taken it up, or started it anew.
            Err(RunDirError::Taken { .. }) => return Ok(Some(RecoveredState::Supervised)),
            Err(error) => return Err(error.into()),
        };
        // What its supervisor said last is all there is of why it ended.
        claim.leave(true);
        // It may have closed the account, or another one taken it up, before the claim was ours.
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
            // It never ran its guest: it was started paused, and nobody let it run.
            end_process(qemu).map_err(|source| RecoverError::Kill { pid: qemu.pid, source })?;
            seen = true;
        }
        if let Some(netns) = elsewhere {
            return Ok(Some(RecoveredState::Elsewhere { netns }));
        }
        claim.leave(false);
        claim.keep_log();
        let over = if here { self.undo(guest, &live)? } else { live.devices().cloned().collect() };
        let devices = over.len();
        let pid = guest.qemu.map(|qemu| qemu.pid);
        let (posting, reason) = ending(&account, &live, &over, pid, unstarted, seen);
        account.end(posting.done(&keys(&live), "cut off").ends(&reason))?;
        Ok(Some(RecoveredState::Closed { devices, unstarted }))
    }

    /// The network namespace of a guest's links, where that is another one that exists. One that is gone has taken its
    /// links along.
    fn elsewhere(&self, live: &Live) -> io::Result<Option<u64>> {
        match live.netns.filter(|netns| *netns != self.netns) {
            Some(netns) if !live.interfaces.is_empty() && network_namespace_exists(netns)? => Ok(Some(netns)),
            _ => Ok(None),
        }
    }

    /// Removes what is left of a guest's interfaces on the host. Its devices are over then, some perhaps with a doubt.
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
            return Ok(devices);
        }
        let (mut over, mut counts) = (Vec::new(), Counts::default());
        for row in &live.interfaces {
            let Ok(spec) = row.spec.parse::<NicSpec>() else {
                warn!("{}: its SPEC on record can't be read: {}", row.mac, row.spec);
                continue;
            };
            let mut lasting = self.host.left_over(&guest.id, &spec, row.mac, row.ifname.as_deref(), false)?;
            let link_shows = lasting.link.is_some() || spec.makes_link();
            let held = devices.extract_if(.., |device| device.mac == row.mac).collect();
            over.extend(handover::end(row.mac, held, &mut lasting, link_shows, self.host, &mut counts));
        }
        over.append(&mut devices);
        Ok(over)
    }
}

/// The records of an end that nobody saw, and its reason.
fn ending(
    account: &Account,
    live: &Live,
    over: &[OpenDevice],
    pid: Option<u32>,
    unstarted: bool,
    seen: bool,
) -> (Posting, Reason) {
    let failed = |event| account.record(event, Outcome::Failed, None);
    let macs: BTreeSet<MacAddr> = if unstarted {
        live.interfaces.iter().map(|row| row.mac).collect()
    } else {
        let attaching = |step: &&taptrail_ledger::LiveStep| matches!(step.step, Step::Open | Step::HandOver);
        let steps = live.steps.iter().filter(attaching).filter_map(|step| step.mac);
        steps.chain(live.opened.iter().map(|device| device.mac)).collect()
    };
    let mut posting = Posting::default();
    for mac in macs {
        let handing = |step: &taptrail_ledger::LiveStep| step.step == Step::HandOver && step.mac == Some(mac);
        let fds = live.steps.iter().any(handing).then_some(0);
        posting = posting.says(failed(if unstarted {
            Event::Start { mac, vm_pid: pid, fds }
        } else {
            Event::Attach { mac, vm_pid: pid, fds }
        }));
    }
    posting = if seen {
        posting.closes(account, over)
    } else {
        posting.closes_unseen(account, over, live.last_observed)
    };
    if unstarted {
        let posting = posting.says(failed(Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid }));
        return (posting, Reason::FAILED);
    }
    let event = Event::GuestStop { reason: Reason::UNKNOWN, vm_pid: pid };
    let mut stop = account.record(event, Outcome::Success, None);
    stop.last_seen = u64::try_from(live.last_observed.as_millisecond()).ok();
    (posting.says(stop), Reason::UNKNOWN)
}

fn keys(live: &Live) -> Vec<StepKey> {
    live.steps.iter().map(|step| step.key).collect()
}

/// The guest's QEMU, if it runs: the one on record, or one that was started and not yet on record when its supervisor
/// ended, which is known by what its supervisor gave it on its command line.
fn find(guest: &Guest) -> io::Result<Option<ProcessId>> {
    if let Some(qemu) = guest.qemu.map(process_id) {
        return Ok(qemu.is_alive().then_some(qemu));
    }
    let qemus = processes()?.into_iter().filter_map(QemuProcess::of);
    let ours =
        |qemu: &QemuProcess| qemu.guest.uuid == guest.id.uuid && qemu.id.start_time >= guest.supervisor.start;
    Ok(qemus.into_iter().find(ours).map(|qemu| qemu.id))
}
