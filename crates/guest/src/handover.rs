//! Finds what QEMU has released: by the kernel's evidence; QEMU is not trusted.
//!
//! There are two sources. `/proc` shows the descriptors of QEMU, in the tables of all its threads
//! (`qemu_devices.rs`): what is there is held. What is not there need not be released: a copy may
//! have another number, be in flight on a socket, be registered with io_uring, or be another
//! process's. So a release is definitive only by the kernel's own account of the device:
//!
//! | device | shown by |
//! |---|---|
//! | tap of ours | its link, which is gone with the last open file |
//! | tap of others | its queues, none of which is attached |
//! | macvtap of ours | its link, which we delete: a copy that is left has nothing behind it |
//! | macvtap of others, vhost-net, vDPA | the driver's count of open files, all of which are seen in processes |
//! | vhost-user socket | QEMU's connection, which the kernel knows as long as anything refers to it |
//!
//! Where the kernel keeps no account, the release gets a doubt ([`CloseDoubt`]). So it does where a
//! link can't be found, and where a tap's link was deleted while the file was open: that file can
//! be attached to another tap.
//!
//! With `--bpf` the kernel reports last closes (`open_files.rs`), and these override both sources:
//! a device is held while its file is open, whatever `/proc` shows, and released at the time of its
//! last close. A tap to which somebody else has attached is held.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::proc::{HeldDevice, HiddenFiles, Holders, ProcessId, driver_open_files};
use taptrail_kernel::unix_sockets::{self, SocketFile, UnixSockets, may_be_unix};
use taptrail_ledger::InterfaceKey;
use taptrail_record::{CloseDoubt, DeviceKind, MacAddr, socket_path};
use tracing::warn;

use crate::account::OpenDevice;
use crate::host::{Host, HostResources};
use crate::host_link::{HostLink, TapState};
use crate::open_files::LastClose;
use crate::qemu_devices::{connections_of, devices_of, matches};

/// How long to wait until released devices are closed. QEMU closes a netdev's descriptors before it
/// answers `netdev_del`, and the kernel closes those of a process before its parent can reap it.
/// But a kernel thread tears down an io_uring, and a forked child holds copies until its exec.
pub(crate) const RELEASE_GRACE: Duration = Duration::from_millis(500);

/// Attempts to count open files while other processes open and close devices.
const COUNT_ATTEMPTS: u32 = 5;

/// The evidence for a device that should have been released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// No process holds it; since this time, where the kernel reported the last close.
    Released(Option<Timestamp>),
    /// QEMU shows no descriptor of it, which is no proof, for this reason.
    Doubtful(CloseDoubt),
    /// It is held; under this descriptor number, where QEMU shows one.
    Held(Option<RawFd>),
}

impl Evidence {
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Held(_))
    }
}

/// An interface's devices by what a check found.
#[derive(Debug, Default)]
pub(crate) struct CheckedDevices {
    /// Those that are held, with their descriptor numbers in QEMU.
    pub(crate) kept: Vec<OpenDevice>,
    /// Those that are released, with the doubt of their close records.
    pub(crate) closed: Vec<OpenDevice>,
}

impl CheckedDevices {
    pub(crate) fn new(devices: Vec<OpenDevice>, evidence: Vec<Evidence>) -> Self {
        let mut checked = Self::default();
        for (mut device, evidence) in devices.into_iter().zip(evidence) {
            match evidence {
                Evidence::Held(fd) => {
                    device.qemu_fd = fd.or(device.qemu_fd);
                    checked.kept.push(device);
                }
                Evidence::Released(at) => {
                    device.closed_at = at;
                    checked.closed.push(device);
                }
                Evidence::Doubtful(doubt) => {
                    device.doubt = Some(doubt);
                    checked.closed.push(device);
                }
            }
        }
        checked
    }

    /// Whether nothing is kept.
    pub(crate) fn all_closed(&self) -> bool {
        self.kept.is_empty()
    }

    /// Removes the interface's link and filter if nothing is kept. With `by_force` also if QEMU keeps
    /// devices and the link is ours: without its link a kept descriptor passes no frame. An existing
    /// link stays while it is held, and so does its filter.
    pub(crate) fn undo(&self, mac: MacAddr, resources: &mut HostResources, host: &mut Host, by_force: bool) {
        let takes_link = by_force && resources.link.as_ref().is_some_and(HostLink::is_ours);
        if self.all_closed() || takes_link {
            host.undo(mac, resources);
            resources.cut |= !self.all_closed() && resources.link.is_none();
        }
    }

    /// The interface's key if the interface has ended. A NIC that is still plugged, without its
    /// devices, keeps it alive in the ledger.
    pub(crate) fn ended(&self, interface: InterfaceKey, nic_is_plugged: bool) -> Option<InterfaceKey> {
        (self.all_closed() && !nic_is_plugged).then_some(interface)
    }
}

/// The check whether one interface's devices are released.
pub(crate) struct ReleaseCheck<'a> {
    /// QEMU; `None` when it has ended.
    pub(crate) qemu: Option<&'a ProcessId>,
    /// The interface's devices.
    pub(crate) devices: &'a [OpenDevice],
    /// The link behind them.
    pub(crate) link: Option<&'a HostLink>,
    /// Whether the link's absence proves the release of its devices. It does not where `link` is
    /// `None` because an existing link, which was not made by us, was not found.
    pub(crate) link_shows: bool,
    /// The link was deleted while QEMU held its devices.
    pub(crate) cut: bool,
    /// QEMU was just asked to close them while the link existed, or it has ended.
    pub(crate) asked: bool,
    /// The devices of the guest's other interfaces.
    pub(crate) others: &'a [OpenDevice],
    /// Sockets that QEMU had before: none of them is its connection to a vhost-user backend.
    pub(crate) earlier_sockets: &'a [u64],
    /// How long to wait until held devices are released.
    pub(crate) grace: Duration,
}

impl ReleaseCheck<'_> {
    /// Returns the evidence for each device, in their order.
    ///
    /// Deletes the link of a macvtap of ours if no process shows a descriptor of it: this revokes
    /// hidden descriptors.
    pub(crate) fn run(&self, host: &mut Host, counts: &mut OpenFileCounts) -> Vec<Evidence> {
        let end = Instant::now() + self.grace;
        if self.devices.iter().any(|device| device.device.kind == DeviceKind::VhostUser) {
            // An interface has one, and no other device.
            loop {
                let evidence: Vec<_> = self.devices.iter().map(|device| self.connection(device)).collect();
                if !evidence.iter().any(|evidence| evidence.is_held()) || Instant::now() >= end {
                    return evidence;
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        let (closes, seen, tap) = loop {
            let (closes, seen, tap) = (self.last_closes(host), self.visible_fds(host), self.tap_state(host));
            let holds = |(index, close): (usize, &Option<LastClose>)| match close {
                Some(close) => *close == LastClose::Awaited,
                None => seen.as_ref().is_none_or(|seen| seen.get(index).is_some_and(Option::is_some)),
            };
            let held = closes.iter().enumerate().any(holds);
            let attached = matches!(tap, Some(TapState::Attached(_)));
            if (!held && !attached) || Instant::now() >= end {
                break (closes, seen, tap);
            }
            thread::sleep(Duration::from_millis(1));
        };
        let fd = |index: usize| seen.as_ref().and_then(|seen| seen.get(index).copied().flatten());
        // If the kernel counts no more queues than are known to be held, the other queues are
        // released.
        let is_known = |index: usize| match closes[index] {
            Some(close) => close == LastClose::Awaited,
            None => fd(index).is_some(),
        };
        let known_queues = (0..self.devices.len())
            .filter(|index| self.devices[*index].device.kind == DeviceKind::Tun && is_known(*index))
            .count();
        let accounted = |queues: Option<u32>| queues.is_some_and(|queues| queues as usize <= known_queues);
        let mut shown: Vec<_> = self
            .devices
            .iter()
            .enumerate()
            .map(|(index, device)| match (closes[index], fd(index), device.device.kind) {
                (Some(LastClose::Awaited), fd, _) => Some(Evidence::Held(fd)),
                (Some(LastClose::Seen(at)), _, DeviceKind::Tun) => match tap {
                    Some(TapState::Attached(queues)) if !accounted(queues) => Some(Evidence::Held(None)),
                    Some(_) => Some(Evidence::Released(at)),
                    // Another open file may have been attached to it.
                    None => Some(Evidence::Doubtful(CloseDoubt::Uncounted)),
                },
                (Some(LastClose::Seen(at)), ..) => Some(Evidence::Released(at)),
                (None, Some(fd), _) => Some(Evidence::Held(Some(fd))),
                (None, None, DeviceKind::Tun) => match tap {
                    // The open file outlives the link, and the kernel keeps no account of it.
                    Some(TapState::Gone) if self.cut => None,
                    Some(TapState::Gone) => Some(self.without_link(device)),
                    Some(TapState::Idle) => Some(Evidence::Released(None)),
                    Some(TapState::Unknown) => Some(Evidence::Doubtful(CloseDoubt::LinkUnknown)),
                    Some(TapState::Attached(queues)) if accounted(queues) => Some(Evidence::Released(None)),
                    Some(TapState::Attached(_)) => Some(Evidence::Held(None)),
                    None if seen.is_none() => Some(Evidence::Held(None)),
                    None => Some(Evidence::Doubtful(hidden_or(self.qemu, CloseDoubt::Uncounted))),
                },
                (None, None, _) if seen.is_none() => Some(Evidence::Held(None)),
                (None, None, DeviceKind::Macvtap) if self.link_is_gone() => Some(Evidence::Released(None)),
                (None, None, _) => None,
            })
            .collect();
        if let Some(link) = self.link.filter(|link| link.is_own_macvtap())
            && !shown.iter().flatten().any(|shown| shown.is_held())
        {
            let shows = match host.delete_link(link) {
                Ok(true) => Evidence::Released(None),
                Ok(false) => Evidence::Doubtful(CloseDoubt::LinkUnknown),
                Err(error) => {
                    warn!("link '{}' can't be deleted: {}", link.name(), crate::chain(&error));
                    Evidence::Doubtful(CloseDoubt::Attached)
                }
            };
            for (shown, device) in shown.iter_mut().zip(self.devices) {
                if device.device.kind == DeviceKind::Macvtap {
                    shown.get_or_insert(shows);
                }
            }
        }
        let mut counted = |device: &OpenDevice| match counts.doubt(device, self.qemu) {
            None => Evidence::Released(None),
            Some(doubt) => Evidence::Doubtful(doubt),
        };
        shown
            .into_iter()
            .zip(self.devices)
            .map(|(shown, device)| shown.unwrap_or_else(|| counted(device)))
            .collect()
    }

    /// The last close of each device; `None` where the kernel reported nothing, or that proves
    /// nothing.
    fn last_closes(&self, host: &mut Host) -> Vec<Option<LastClose>> {
        host.read_close_events();
        // A descriptor without its link is dead; and a macvtap of ours is deleted once QEMU has
        // ended.
        let is_dead = |device: &OpenDevice| match device.device.kind {
            // An open file of a tap outlives the link, and can be attached to another tap.
            DeviceKind::Tun => self.link_is_gone() && !self.cut,
            DeviceKind::Macvtap => {
                let is_deleted = self.qemu.is_none() && self.link.is_some_and(HostLink::is_own_macvtap);
                self.link_is_gone() || is_deleted
            }
            _ => false,
        };
        let last_close = |device: &OpenDevice| match host.last_close(device) {
            Some(LastClose::Awaited) if is_dead(device) => None,
            close => close,
        };
        self.devices.iter().map(last_close).collect()
    }

    /// The evidence for a vhost-user socket.
    fn connection(&self, device: &OpenDevice) -> Evidence {
        self.look_for_connection(device).unwrap_or_else(|error| {
            warn!("{}: {error}", device.mac);
            match self.qemu {
                Some(_) => Evidence::Held(device.qemu_fd),
                None => Evidence::Doubtful(CloseDoubt::Uncounted),
            }
        })
    }

    fn look_for_connection(&self, device: &OpenDevice) -> io::Result<Evidence> {
        let shown = self.qemu.map(connections_of).transpose()?.unwrap_or_default();
        let fd = |inode: u64| shown.iter().find(|(_, of)| *of == inode).map(|(fd, _)| *fd);
        if let Some(inode) = device.connection {
            let exists = unix_sockets::exists(inode)?;
            return Ok(if exists { Evidence::Held(fd(inode)) } else { Evidence::Released(None) });
        }
        // It was never seen: any connection to the socket may be it, but for those of other interfaces.
        let others: Vec<u64> = self.others.iter().filter_map(|other| other.connection).collect();
        let is_free = |inode: &u64| !others.contains(inode) && !self.earlier_sockets.contains(inode);
        let path = Path::new(socket_path(&device.device.path));
        let files = match &device.socket {
            Some(file) => vec![file.clone()],
            // Another socket may have taken the path.
            None => vec![SocketFile::at(path), SocketFile::named(path)],
        };
        let sockets = UnixSockets::of(shown.iter().map(|(_, inode)| *inode))?;
        let connected = sockets.connected_to_any(&files);
        let free = || shown.iter().filter(|(_, inode)| is_free(inode));
        let mut held = free().filter(|(_, of)| sockets.is_half_open(*of) || connected.contains(of));
        if let Some((fd, _)) = held.next() {
            return Ok(Evidence::Held(Some(*fd)));
        }
        // By its path alone nothing shows that QEMU has not connected to an earlier socket there; and the
        // kernel does not list what QEMU has of another network namespace.
        let may_be = |(fd, inode): &(RawFd, u64)| {
            files.iter().any(|file| sockets.may_be_connected_to(*inode, file))
                || !sockets.has(*inode) && self.qemu.is_some_and(|qemu| may_be_unix(qemu.pid, *fd))
        };
        let is_nobodys = || {
            let all = UnixSockets::all_connected_to(&files)?;
            Ok::<_, io::Error>(all.is_some_and(|all| !all.iter().any(is_free)))
        };
        Ok(if free().any(may_be) || !is_nobodys()? {
            Evidence::Doubtful(hidden_or(self.qemu, CloseDoubt::Uncounted))
        } else if self.qemu.is_some_and(hidden) {
            Evidence::Doubtful(CloseDoubt::Hidden)
        } else {
            Evidence::Released(None)
        })
    }

    /// The evidence for a tap whose link is gone, and was not seen to be deleted under an open
    /// file.
    fn without_link(&self, device: &OpenDevice) -> Evidence {
        let doubt = match self.qemu {
            // The link went with the last open file.
            _ if self.asked => None,
            // Somebody may have deleted the link while QEMU hid an open file.
            Some(qemu) => hidden(qemu).then_some(CloseDoubt::Hidden),
            None => held_elsewhere(device, None).then_some(CloseDoubt::HeldElsewhere),
        };
        doubt.map_or(Evidence::Released(None), Evidence::Doubtful)
    }

    /// The state of the tap's link; `None` where it proves nothing.
    fn tap_state(&self, host: &mut Host) -> Option<TapState> {
        if self.link_is_gone() {
            return Some(TapState::Gone);
        }
        let link = self.link.filter(|link| self.link_shows && link.is_tap())?;
        match host.tap_state(link) {
            Ok(state) => Some(state),
            Err(error) => {
                warn!("whether '{}' is attached can't be seen: {}", link.name(), crate::chain(&error));
                None
            }
        }
    }

    fn link_is_gone(&self) -> bool {
        self.link_shows && self.link.is_none()
    }

    /// The descriptor number of each device in QEMU, where QEMU shows one; `None` when QEMU's
    /// descriptors can't be read.
    ///
    /// A descriptor may have moved to another number. It is recognized by its host interface, a
    /// vhost-net's by being none of the other interfaces'.
    fn visible_fds(&self, host: &mut Host) -> Option<Vec<Option<RawFd>>> {
        let Some(qemu) = self.qemu else { return Some(vec![None; self.devices.len()]) };
        let mut held = match devices_of(qemu) {
            Ok(held) => held,
            Err(error) => {
                warn!("what QEMU holds can't be seen: {error}");
                return None;
            }
        };
        for other in self.others {
            if let Some(at) = held.iter().position(|(_, held)| matches(held, other)) {
                held.remove(at);
            }
        }
        // The link may have been renamed since, or moved to another network namespace and renamed
        // there.
        let name = self.link.and_then(|link| host.name_of(link));
        let is_another = |ifname: &str| {
            let ours =
                name.as_deref().or(self.devices.first().and_then(|device| device.device.dev.as_deref()));
            ours != Some(ifname)
                && self.others.iter().any(|other| other.device.dev.as_deref() == Some(ifname))
        };
        let may_be = |held: &HeldDevice, device: &OpenDevice| {
            Some(held.rdev) == device.device.rdev
                && !held.ifname.as_ref().is_some_and(|ifname| is_another(ifname.as_str()))
        };
        let mut seen = vec![None; self.devices.len()];
        // First those that have kept their numbers.
        for exact in [true, false] {
            for (seen, device) in seen.iter_mut().zip(self.devices).filter(|(seen, _)| seen.is_none()) {
                let fits = |(_, held): &(u32, HeldDevice)| {
                    may_be(held, device) && (!exact || device.qemu_fd == Some(held.fd))
                };
                if let Some(at) = held.iter().position(fits) {
                    *seen = Some(held.remove(at).1.fd);
                }
            }
        }
        Some(seen)
    }
}

/// [`CloseDoubt::Hidden`] if QEMU may hide open files; else `doubt`.
fn hidden_or(qemu: Option<&ProcessId>, doubt: CloseDoubt) -> CloseDoubt {
    if qemu.is_some_and(hidden) { CloseDoubt::Hidden } else { doubt }
}

/// Whether QEMU keeps open files where they can't be inspected.
fn hidden(qemu: &ProcessId) -> bool {
    HiddenFiles::of(qemu.pid).is_ok_and(HiddenFiles::any)
}

/// Compares each driver's count of open files with the descriptors of all processes; at most once
/// for each driver.
#[derive(Debug, Default)]
pub(crate) struct OpenFileCounts {
    known: Vec<(DeviceKind, Option<CloseDoubt>)>,
}

impl OpenFileCounts {
    /// Why it is not proven that a device is released that QEMU does not show; `None` when the
    /// driver's count proves it.
    fn doubt(&mut self, device: &OpenDevice, qemu: Option<&ProcessId>) -> Option<CloseDoubt> {
        let kind = device.device.kind;
        if kind != DeviceKind::VhostNet && held_elsewhere(device, qemu) {
            return Some(CloseDoubt::HeldElsewhere);
        }
        if let Some((_, doubt)) = self.known.iter().find(|(known, _)| *known == kind) {
            return *doubt;
        }
        let doubt = uncounted(kind).map(|doubt| match doubt {
            CloseDoubt::Uncounted => hidden_or(qemu, doubt),
            doubt => doubt,
        });
        self.known.push((kind, doubt));
        doubt
    }
}

/// Whether another process than QEMU has a descriptor of this device that is attached to no
/// interface.
fn held_elsewhere(device: &OpenDevice, qemu: Option<&ProcessId>) -> bool {
    let Ok(holders) = Holders::of(device.device.kind).and_then(Holders::of_our_network) else { return false };
    let (qemu, own) = (qemu.map(|qemu| qemu.pid), std::process::id());
    holders.found.iter().any(|(pid, _, held)| {
        ![qemu, Some(own)].contains(&Some(*pid))
            && Some(held.rdev) == device.device.rdev
            && held.ifname.is_none()
    })
}

/// Why it is not proven that all open files of the driver are seen in processes; `None` when its
/// count proves it.
fn uncounted(kind: DeviceKind) -> Option<CloseDoubt> {
    for _ in 0..COUNT_ATTEMPTS {
        let Some(before) = driver_open_files(kind) else { return Some(CloseDoubt::Uncounted) };
        if before == 0 {
            return None;
        }
        let Ok(holders) = Holders::of(kind) else { return Some(CloseDoubt::Unseen) };
        let Ok(seen) = holders.open_files() else { return Some(CloseDoubt::Unseen) };
        if driver_open_files(kind) == Some(before) {
            if u32::try_from(seen) == Ok(before) {
                return None;
            }
            if holders.unseen > 0 {
                return Some(CloseDoubt::Unseen);
            }
        }
        // Another supervisor passes a device to its QEMU, or a descriptor is in flight between
        // processes.
        thread::sleep(Duration::from_millis(2));
    }
    Some(CloseDoubt::Uncounted)
}

/// Ends an interface whose QEMU has ended: removes its link and filter, and returns its devices,
/// all to be closed in the account. Devices that another process holds, or may hold, get a doubt.
///
/// `link_shows` as in [`ReleaseCheck`].
pub(crate) fn end_interface(
    mac: MacAddr,
    devices: Vec<OpenDevice>,
    resources: &mut HostResources,
    link_shows: bool,
    host: &mut Host,
    counts: &mut OpenFileCounts,
) -> Vec<OpenDevice> {
    // Checked before the link is deleted: a tap of ours must be gone with QEMU.
    let link = resources.link.as_ref();
    let release = ReleaseCheck {
        qemu: None,
        devices: &devices,
        link,
        link_shows,
        cut: resources.cut,
        // A link of an earlier supervisor may have been removed in any way.
        asked: link.is_some(),
        others: &[],
        earlier_sockets: &[],
        grace: RELEASE_GRACE,
    };
    let shown = release.run(host, counts);
    let CheckedDevices { kept: held, closed: mut over } = CheckedDevices::new(devices, shown);
    if !held.is_empty() {
        let holder = link.and_then(|link| tap_holder(link, host));
        match holder {
            Some(pid) => warn!("{mac}: QEMU has ended, and process {pid} holds its devices"),
            None => {
                warn!(
                    "{mac}: QEMU has ended, and its devices are open still: nobody who can be seen holds them"
                )
            }
        }
        let doubt = |device: &OpenDevice| match device.device.kind {
            DeviceKind::Tun if holder.is_some() => CloseDoubt::HeldElsewhere,
            DeviceKind::Tun => CloseDoubt::Attached,
            DeviceKind::Macvtap if held_elsewhere(device, None) => CloseDoubt::HeldElsewhere,
            // The kernel says that it is open, and no process shows it.
            _ => CloseDoubt::Uncounted,
        };
        over.extend(held.into_iter().map(|device| OpenDevice { doubt: Some(doubt(&device)), ..device }));
        if link.is_some_and(|link| !link.is_ours()) && resources.filter.take().is_some() {
            warn!(
                "{mac}: its filter stays, since its tap is held; the next guest that gets it replaces that"
            );
        }
    }
    host.undo(mac, resources);
    over
}

/// A process that has a descriptor of the tap behind a link, if one is found.
fn tap_holder(link: &HostLink, host: &mut Host) -> Option<u32> {
    let name = host.name_of(link)?;
    let holders = Holders::of(DeviceKind::Tun).and_then(Holders::of_our_network).ok()?;
    let is_it = |held: &HeldDevice| held.ifname.as_ref().is_some_and(|ifname| ifname.as_str() == name);
    holders.found.iter().find(|(_, _, held)| is_it(held)).map(|(pid, _, _)| *pid)
}
