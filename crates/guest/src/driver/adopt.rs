//! A guest whose supervisor ended before it: taken up where that one left it.
//!
//! ```text
//!   the ledger: what was on record ─┐
//!   /proc: what QEMU holds ─────────┼─▶ each interface: held, cut off, released unseen, revoked ─▶ Running
//!   QEMU's monitor: which NICs ─────┘
//! ```
//!
//! Nothing is taken on trust: a device counts as held when it is seen under its number, an attach that was cut off is
//! taken back, a release that was cut off is finished, and what went while nobody looked is closed with the time span
//! in which it must have gone. What the guest has and works stays as it is.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::link::LinkError;
use taptrail_kernel::proc::{PidFd, ProcessId, Status, boot_id, network_namespace};
use taptrail_kernel::process::sandbox_after_start;
use taptrail_ledger::{Guest, InterfaceKey, LedgerError, LiveInterface, LiveStep, Step, StepKey};
use taptrail_qmp::{Monitor, QmpError};
use taptrail_record::{Event, MacAddr, Outcome};
use tracing::{info, warn};

use super::attach::descriptor_name;
use super::qemu::Qemu;
use super::start::netdev_id;
use super::{ANSWER, Driver, PlugState, Plugged, Port, REVOKE, said};
use crate::account::{Account, AccountError, AuditMode, Live, OpenDevice, Posting, live_guests};
use crate::handover::{self, Counts, Release};
use crate::host::{Host, Lasting};
use crate::interface::Interface;
use crate::process::process_id;
use crate::qemu::Ports;
use crate::request::Inbox;
use crate::run_dir::Dirs;
use crate::spec::{NicSpec, SpecError};

/// Which guest is taken up, and how.
#[derive(Debug, Clone)]
pub struct AdoptOptions {
    /// Its name.
    pub name: String,
    /// How much the kernel's audit is asked for.
    pub audit: AuditMode,
    /// Where things lie.
    pub dirs: Dirs,
    /// The nft program, where it is not the system's.
    pub nft: Option<PathBuf>,
    /// Users who may call the API, besides root and our own.
    pub allow: Vec<u32>,
    /// Revoke an interface whose filter is not in force any more and can't be set again.
    pub revoke_unfiltered: bool,
    /// Have the kernel tell last closes by BPF, where it may be asked.
    pub bpf: bool,
}

/// A guest can't be taken up; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The ledger can't be read.
    #[error("The guest's records can't be read")]
    Ledger(#[from] LedgerError),
    /// No guest of this name has an open account.
    #[error("No guest '{0}' is on record as running: `taptrail list` shows those that are")]
    Unknown(String),
    /// It ended, or never ran.
    #[error("QEMU of guest '{0}' has ended: `taptrail recover` closes its account")]
    Ended(String),
    /// Its start was cut off.
    #[error("The start of guest '{0}' was interrupted: `taptrail recover` takes it back")]
    Unfinished(String),
    /// What has taken QEMU over would attach what it likes.
    #[error("User {0} can't be allowed to call: QEMU runs as this user, and would call too")]
    Caller(u32),
    /// Its links can't be reached from here.
    #[error("Guest '{name}' has its links in another network namespace ({netns}): adopt it from there")]
    Elsewhere {
        /// The guest.
        name: String,
        /// The inode of its namespace.
        netns: u64,
    },
    /// The account can't be kept.
    #[error("The guest's account can't be written")]
    Account(#[from] AccountError),
    /// The host's links can't be asked for.
    #[error("The host's network links can't be reached")]
    Links(#[from] LinkError),
    /// Its monitor can't be used.
    #[error("QEMU's monitor can't be used")]
    Monitor(#[from] QmpError),
    /// What QEMU is and holds can't be seen.
    #[error("QEMU's descriptors can't be read")]
    Look(#[source] io::Error),
    /// Rights can't be given up.
    #[error("Privileges can't be dropped")]
    Restrain(#[source] io::Error),
    /// An interface on record is not one.
    #[error("The record of interface {mac} is invalid")]
    Spec {
        /// The interface.
        mac: MacAddr,
        /// What is wrong with it.
        source: SpecError,
    },
    /// The link behind an interface is on record under no link's name.
    #[error("Interface {mac} is on record with link '{name}', which is no name of a link")]
    IfName {
        /// The interface.
        mac: MacAddr,
        /// The name, cut at 64 characters.
        name: String,
    },
}

/// The guest on record that runs without a supervisor, if it does.
pub(crate) fn orphan(dirs: &Dirs, name: &str) -> Result<Option<(Guest, ProcessId)>, AdoptError> {
    let boot = boot_id().map_err(AdoptError::Look)?.to_string();
    let mut guests = live_guests(dirs)?.into_iter();
    // The name may have been given again and again.
    let last = guests.rfind(|guest| guest.id.name == name && guest.boot_id == boot);
    let running = |guest: Guest| {
        let qemu = guest.qemu.map(process_id)?;
        qemu.is_alive().then_some((guest, qemu))
    };
    Ok(last.and_then(running))
}

/// Refuses to let QEMU's own user call.
pub(crate) fn check_callers(options: &AdoptOptions, qemu: ProcessId) -> Result<(), AdoptError> {
    let uid = Status::of(qemu.pid).map_err(AdoptError::Look)?.uid;
    if uid != 0 && options.allow.contains(&uid) { Err(AdoptError::Caller(uid)) } else { Ok(()) }
}

pub(super) fn adopt(options: &AdoptOptions, monitor: &Path, inbox: &Inbox) -> Result<Driver, AdoptError> {
    let name = || options.name.clone();
    let Some((guest, id)) = orphan(&options.dirs, &options.name)? else {
        return Err(AdoptError::Unknown(name()));
    };
    let pidfd = PidFd::open(id).map_err(|_| AdoptError::Ended(name()))?;
    let mut account = Account::take_up(&options.dirs.state, options.audit, &guest)?;
    account.tell_to(inbox.events());
    let mut live = account.live()?;
    if live.steps.iter().any(|step| step.step == Step::Start) {
        return Err(AdoptError::Unfinished(name()));
    }
    let here = network_namespace().map_err(AdoptError::Look)?;
    if let Some(netns) = live.netns.filter(|netns| *netns != here) {
        return Err(AdoptError::Elsewhere { name: name(), netns });
    }
    let mut host = Host::open(options.nft.clone())?;
    if options.bpf {
        host.ask_for_last_closes();
    }
    let mut monitor = Monitor::connect(monitor, Instant::now() + ANSWER)?;
    let status = monitor.query_status(ANSWER)?;
    let nics = monitor.device_ids(ANSWER)?;
    host.find_files(id, &mut live.granted);
    sandbox_after_start(host.needs_bpf()).map_err(AdoptError::Restrain)?;
    account.adopt()?;
    inbox.publish(|snapshot| {
        snapshot.state = "running";
        snapshot.pid = Some(id.pid);
        snapshot.since = Some(guest.begun);
    });
    let driver = Driver {
        account,
        host,
        qemu: Qemu::adopted(id, pidfd, monitor),
        inbox: inbox.clone(),
        interfaces: Vec::new(),
        ports: ports(&nics),
        pending: None,
        paused: !status.running,
        forced: false,
        stop: None,
        stopped_by: None,
        shutdown: None,
        looked_at: Instant::now(),
        looked: Timestamp::now(),
        unheard_since: Some(Timestamp::now()),
        revoke_unfiltered: options.revoke_unfiltered,
    };
    let unstarted = status.status == "prelaunch" && !live.paused;
    let mut driver = driver.take_up(live, &nics)?;
    if unstarted {
        // Its devices were granted, and then nobody was there to let it run.
        driver.qemu.monitor.cont(ANSWER)?;
        driver.paused = false;
    }
    driver.publish();
    info!(
        "'{}' is taken up: {} held by QEMU (pid {})",
        options.name,
        crate::descriptors(driver.devices().count()),
        id.pid
    );
    Ok(driver)
}

/// The ports among these devices that taptrail made, all free for now.
fn ports(devices: &[String]) -> Vec<Port> {
    let all = Ports::new(Ports::LIMIT).names.into_iter();
    let there = all.filter(|name| devices.contains(name));
    there.map(|name| Port { name, taken: false }).collect()
}

/// One interface on record, and what was done for it when its supervisor ended.
struct Record {
    row: LiveInterface,
    spec: NicSpec,
    granted: Vec<OpenDevice>,
    /// Devices that were on their way to QEMU.
    opened: Vec<OpenDevice>,
    steps: Vec<LiveStep>,
    /// The NIC is there in QEMU.
    nic: bool,
    /// Its MAC has come back, and with it a link that is the later one's.
    superseded: bool,
}

impl Record {
    fn keys(&self) -> Vec<StepKey> {
        self.steps.iter().map(|step| step.key).collect()
    }

    fn release(&self) -> Option<&LiveStep> {
        self.steps.iter().find(|step| step.step == Step::Release)
    }
}

/// A release that was cut off.
struct Unfinished {
    key: InterfaceKey,
    forced: bool,
}

impl Driver {
    /// Goes through what is on record, interface by interface.
    fn take_up(mut self, mut live: Live, nics: &[String]) -> Result<Self, AdoptError> {
        let known = live.granted.clone();
        let rows = std::mem::take(&mut live.interfaces);
        let mut unfinished = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let spec: NicSpec =
                row.spec.parse().map_err(|source| AdoptError::Spec { mac: row.mac, source })?;
            // A revoked interface's MAC may have come back: then all is the later one's.
            let later = rows[number + 1..].iter().any(|other| other.mac == row.mac);
            let mac = (!later).then_some(row.mac);
            let of = |devices: &mut Vec<OpenDevice>| {
                devices.extract_if(.., |device| Some(device.mac) == mac).collect::<Vec<_>>()
            };
            let record = Record {
                spec,
                granted: of(&mut live.granted),
                opened: of(&mut live.opened),
                steps: live.steps.extract_if(.., |step| step.mac.is_some() && step.mac == mac).collect(),
                nic: nics.contains(&row.nic) && self.is_ours(&row.nic)?,
                row: row.clone(),
                superseded: later,
            };
            let cut_off = record.steps.iter().any(|step| matches!(step.step, Step::Open | Step::HandOver));
            if cut_off || !record.opened.is_empty() {
                self.take_back_cut_off(record, &known, &live)?;
            } else {
                unfinished.extend(self.take_over(record, &known, &live)?);
            }
        }
        // A device that QEMU shows may be another interface's: all of them are known by now.
        for Unfinished { key, forced } in unfinished {
            if let Some(index) = self.interfaces.iter().position(|plugged| plugged.interface.key == key) {
                self.finish(index, forced);
            }
        }
        // What is left was asked of the guest as a whole, and of nobody any more.
        let rest: Vec<_> = live.steps.iter().map(|step| step.key).collect();
        if !rest.is_empty() {
            said(self.account.post(Posting::default().done(&rest, "cut off")));
        }
        // A tap is gone with its last descriptor, and its filter is known by its number alone.
        if let Err(error) = self.host.sweep_filters() {
            warn!("{}", crate::chain(&error));
        }
        Ok(self)
    }

    /// Is the device of this id a NIC on the backend that we would have given it, and none of the user's own?
    fn is_ours(&mut self, id: &str) -> Result<bool, AdoptError> {
        match self.qemu.monitor.netdev_id(id, ANSWER) {
            Ok(backend) => Ok(backend == netdev_id(id)),
            Err(QmpError::Refused { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes back an attach that was cut off, wherever it was.
    fn take_back_cut_off(
        &mut self,
        record: Record,
        known: &[OpenDevice],
        live: &Live,
    ) -> Result<(), AdoptError> {
        let Record { ref row, ref spec, nic, .. } = record;
        let (mac, id) = (row.mac, &row.nic);
        // Each may be refused, because that step was not reached: what counts is the look below.
        let monitor = &mut self.qemu.monitor;
        if nic {
            let _ = monitor.device_del(id, ANSWER);
        }
        let _ = monitor.netdev_del(&netdev_id(id), ANSWER);
        for number in 0..2 * usize::from(spec.queues.get()) {
            let _ = monitor.closefd(&descriptor_name(id, number), ANSWER);
        }
        let guest = self.account.guest().clone();
        let seen = self.look_again(known, &record.opened)?.iter().any(Option::is_some);
        let mut lasting = self.host.left_over(&guest, spec, mac, row.ifname.as_deref(), seen)?;
        let release = Release {
            qemu: Some(&self.qemu.id),
            devices: &record.opened,
            link: lasting.link.as_ref(),
            link_shows: lasting.link.is_some() || spec.makes_link(),
            cut: false,
            asked: true,
            others: known,
            grace: Duration::ZERO,
        };
        let shown = release.look(&mut self.host, &mut Counts::default());
        let (kept, gone) = handover::part(record.opened.clone(), shown);
        // Of a link that is ours, a kept descriptor passes no frame; one of others keeps its filter.
        if kept.is_empty() || spec.makes_link() {
            self.host.undo(mac, &mut lasting);
        }
        let pid = self.qemu.id.pid;
        let event = Event::Attach { mac, vm_pid: Some(pid), fds: u32::try_from(kept.len()).ok() };
        let mut posting = Posting::default().says(self.account.record(event, Outcome::Failed, None));
        for device in &kept {
            let says = self.account.record(device.keep(pid), Outcome::Success, None);
            posting = posting.grants(says, [device]);
        }
        let over = (kept.is_empty() && !nic).then_some(row.key);
        let posting = posting.closes_unseen(&self.account, &gone, live.last_observed);
        self.account.post(posting.over(over).done(&record.keys(), "cut off"))?;
        warn!("{mac}: its attach was cut off and is taken back");
        if !kept.is_empty() || nic {
            let state = if kept.is_empty() { PlugState::Revoked } else { PlugState::Kept };
            self.plug(&record, kept, state)?;
        }
        Ok(())
    }

    /// Where QEMU holds `devices` whose numbers were never seen, after a moment's patience.
    fn look_again(
        &self,
        known: &[OpenDevice],
        devices: &[OpenDevice],
    ) -> Result<Vec<Option<i32>>, AdoptError> {
        let end = Instant::now() + handover::RELEASE_GRACE;
        loop {
            let held = handover::among_strangers(&self.qemu.id, known, devices).map_err(AdoptError::Look)?;
            if held.iter().all(Option::is_none) || Instant::now() >= end {
                return Ok(held);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes over an interface that was granted; tells of a release that is to be finished.
    fn take_over(
        &mut self,
        record: Record,
        known: &[OpenDevice],
        live: &Live,
    ) -> Result<Option<Unfinished>, AdoptError> {
        let mac = record.row.mac;
        let guest = self.account.guest().clone();
        let ifname = record.row.ifname.as_deref();
        let mut lasting = match record.superseded {
            true => Lasting::default(),
            false => self.host.left_over(&guest, &record.spec, mac, ifname, true)?,
        };
        let others: Vec<_> = known.iter().filter(|device| device.mac != mac).cloned().collect();
        let release = Release {
            qemu: Some(&self.qemu.id),
            devices: &record.granted,
            link: lasting.link.as_ref(),
            link_shows: lasting.link.is_some() || record.spec.makes_link(),
            cut: false,
            asked: false,
            others: &others,
            grace: Duration::ZERO,
        };
        let shown = release.look(&mut self.host, &mut Counts::default());
        let (kept, gone) = handover::part(record.granted.clone(), shown);
        let over = (kept.is_empty() && !record.nic).then_some(record.row.key);
        let mut posting =
            Posting::default().closes_unseen(&self.account, &gone, live.last_observed).over(over);
        if !gone.is_empty() {
            warn!("{mac}: {} released while nobody looked", crate::descriptors(gone.len()));
        }
        if kept.is_empty() {
            self.host.undo(mac, &mut lasting);
            if let Some(step) = record.release().filter(|_| !gone.is_empty()) {
                let forced = step.detail == REVOKE;
                let fds = u32::try_from(gone.len()).ok();
                let event = Event::Detach { mac, vm_pid: Some(self.qemu.id.pid), fds, forced };
                posting = posting.says(self.account.record(event, Outcome::Success, None));
            }
            self.account.post(posting.done(&record.keys(), "success"))?;
            if record.nic {
                self.plug(&record, kept, PlugState::Revoked)?;
            }
            return Ok(None);
        }
        self.account.post(posting)?;
        let release = record.release();
        let step = release.map(|step| step.key);
        let state = if step.is_some() { PlugState::Unplugging { step } } else { PlugState::Held };
        self.plug(&record, kept, state)?;
        let index = self.interfaces.len() - 1;
        if !record.nic || release.is_some_and(|step| step.detail != "unplug") {
            // The guest has let go of the NIC, or was not to be asked: what is left is QEMU's to give up.
            let forced = release.is_some_and(|step| step.detail == REVOKE);
            let lasting = &mut self.interfaces[index].interface.lasting;
            // The link is the first to go when the devices are taken from a QEMU that holds them.
            lasting.cut |= forced && lasting.link.is_none();
            return Ok(Some(Unfinished { key: record.row.key, forced }));
        }
        if step.is_some() {
            // Whoever asked the guest does not wait any more; if it lets go, the release follows then.
            self.unplug_is_over(index, "cut off");
        }
        Ok(None)
    }

    fn finish(&mut self, index: usize, forced: bool) {
        let mac = self.interfaces[index].interface.mac;
        match self.release(index, forced, None) {
            Ok(_) => warn!("{mac}: its release was cut off and is finished"),
            Err(error) => warn!("{mac}: {error}"),
        }
    }

    fn plug(
        &mut self,
        record: &Record,
        devices: Vec<OpenDevice>,
        state: PlugState,
    ) -> Result<(), AdoptError> {
        let Record { row, spec, nic, .. } = record;
        let name = row.ifname.as_deref().unwrap_or("none");
        let lasting = if devices.is_empty() {
            Default::default()
        } else {
            let guest = self.account.guest().clone();
            self.host.left_over(&guest, spec, row.mac, Some(name), true)?
        };
        let port = match self.qemu.monitor.parent_device_id(&row.nic, ANSWER) {
            Ok(port) => port,
            // It is not there, or has just gone, and DEVICE_DELETED says so soon.
            Err(QmpError::Refused { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(index) = self.port_named(port.as_deref()) {
            self.ports[index].taken = true;
        }
        let interface = Interface {
            key: row.key,
            spec: spec.clone(),
            mac: row.mac,
            id: row.nic.clone(),
            ifname: name
                .parse()
                .map_err(|_| AdoptError::IfName { mac: row.mac, name: name.chars().take(64).collect() })?,
            port,
            devices,
            lasting,
        };
        self.interfaces.push(Plugged { state, nic: *nic, ..Plugged::new(interface) });
        Ok(())
    }

    fn devices(&self) -> impl Iterator<Item = &OpenDevice> {
        self.interfaces.iter().flat_map(|plugged| &plugged.interface.devices)
    }
}
