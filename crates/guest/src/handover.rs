//! What QEMU holds, and what it has given up: shown by the kernel, never taken from QEMU.
//!
//! While we hold a descriptor too, kcmp(2) proves that QEMU's is the same open file.
//!
//! Afterwards two things are looked at. `/proc` shows the descriptors of QEMU, in the tables of all its
//! threads: what is there is held. What is not there need not be given up: a copy may have another
//! number, be in flight on a socket, be registered with io_uring, or be another process's. So a release
//! is definitive only by the kernel's own account of the device:
//!
//! | device | shown by |
//! |---|---|
//! | tap of ours | its link, which is gone with the last open file |
//! | tap of others | its queues, none of which is attached |
//! | macvtap of ours | its link, which we delete: a copy that is left has nothing behind it |
//! | macvtap of others, vhost-net | the driver's count of open files, all of which are seen in processes |
//!
//! Where the kernel keeps no account the release has a doubt ([`CloseDoubt`]). So it does where a link can't be
//! found, and where a tap's link was deleted with the open file still there: that can be attached to another tap.
//!
//! Where the kernel tells last closes (`open_files.rs`), they come before all of that: what is open is held, whatever is
//! seen, and what is closed is given up, at the time of its last close. A tap that somebody else has attached to is
//! held.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::device::Admitted;
use taptrail_kernel::proc::{HeldDevice, HiddenFiles, Holders, ProcessId, driver_open_files, same_file};
use taptrail_record::{CloseDoubt, DeviceKind, MacAddr};
use tracing::warn;

use crate::account::OpenDevice;
use crate::host::{Host, Lasting};
use crate::host_link::{HostLink, TapState};
use crate::open_files::LastClose;

/// QEMU closes a netdev's descriptors before it answers `netdev_del`, and the kernel closes what a
/// process held before its parent hears of its end; but an io_uring is taken down by a thread of the
/// kernel's, and a program that is being started holds copies until its exec.
pub(crate) const RELEASE_GRACE: Duration = Duration::from_millis(500);

/// How often open files are counted, when others open or close devices meanwhile.
const COUNT_ATTEMPTS: u32 = 5;

/// What the kernel shows of a device that should have been given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Nobody holds it; since this time, where the kernel told it.
    GivenUp(Option<Timestamp>),
    /// No descriptor of it is seen in QEMU, which is no proof, and why.
    Doubted(CloseDoubt),
    /// It is held; under this number, where it is seen in QEMU.
    Held(Option<RawFd>),
}

impl Shown {
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Held(_))
    }
}

/// Parts devices into those that are held, with their numbers in QEMU, and those that are over, with the doubt that
/// their close is to have.
pub(crate) fn part(devices: Vec<OpenDevice>, shown: Vec<Shown>) -> (Vec<OpenDevice>, Vec<OpenDevice>) {
    let (mut held, mut over) = (Vec::new(), Vec::new());
    for (mut device, shown) in devices.into_iter().zip(shown) {
        match shown {
            Shown::Held(fd) => {
                device.qemu_fd = fd.or(device.qemu_fd);
                held.push(device);
            }
            Shown::GivenUp(at) => {
                device.closed_at = at;
                over.push(device);
            }
            Shown::Doubted(doubt) => {
                device.doubt = Some(doubt);
                over.push(device);
            }
        }
    }
    (held, over)
}

/// The numbers under which `qemu` holds each of `ours`; `None` where it does not.
pub(crate) fn find(qemu: &ProcessId, ours: &[Admitted]) -> io::Result<Vec<Option<RawFd>>> {
    let held = devices_of(qemu)?;
    let own = std::process::id();
    ours.iter()
        .map(|device| {
            let facts = device.facts();
            for (thread, candidate) in held.iter().filter(|(_, held)| Some(held.rdev) == facts.rdev) {
                if same_file(own, device.as_fd().as_raw_fd(), *thread, candidate.fd)? {
                    return Ok(Some(candidate.fd));
                }
            }
            Ok(None)
        })
        .collect()
}

/// The raw network devices that QEMU holds and that are none of `known`.
pub(crate) fn strangers(qemu: &ProcessId, known: &[OpenDevice]) -> io::Result<Vec<HeldDevice>> {
    let held = devices_of(qemu)?.into_iter().map(|(_, held)| held);
    Ok(held.filter(|held| !known.iter().any(|device| is(held, device))).collect())
}

/// Which of `unseen`, whose numbers in QEMU were never seen, QEMU holds beside what is `known`, and under which number.
///
/// Of two queues of one device the first found is the first: they are alike.
pub(crate) fn among_strangers(
    qemu: &ProcessId,
    known: &[OpenDevice],
    unseen: &[OpenDevice],
) -> io::Result<Vec<Option<RawFd>>> {
    let mut strangers = strangers(qemu, known)?;
    let mut find = |device: &OpenDevice| {
        let at = strangers.iter().position(|held| is(held, device))?;
        Some(strangers.remove(at).fd)
    };
    Ok(unseen.iter().map(&mut find).collect())
}

pub(crate) fn is(held: &HeldDevice, device: &OpenDevice) -> bool {
    if Some(held.rdev) != device.device.rdev {
        return false;
    }
    match device.qemu_fd {
        // The link behind it may be renamed or deleted: it is still the open device that it was.
        Some(fd) => fd == held.fd,
        // Its number was never seen: any descriptor that fits may be it.
        None => match &held.ifname {
            Some(name) => Some(name.as_str()) == device.device.dev.as_deref(),
            None => true,
        },
    }
}

/// The devices in all of a process's descriptor tables, each with the thread whose table it is. A process that is gone
/// holds nothing.
pub(crate) fn devices_of(process: &ProcessId) -> io::Result<Vec<(u32, HeldDevice)>> {
    match Holders::in_process(process.pid) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => Ok(other?.found.into_iter().map(|(_, thread, held)| (thread, held)).collect()),
    }
}

/// A look at what one interface should have given up.
pub(crate) struct Release<'a> {
    /// QEMU; none when it has ended.
    pub(crate) qemu: Option<&'a ProcessId>,
    /// The interface's devices.
    pub(crate) devices: &'a [OpenDevice],
    /// The link behind them.
    pub(crate) link: Option<&'a HostLink>,
    /// Whether that link's being gone shows the release: it does, unless the link is one of others that was not found.
    pub(crate) link_shows: bool,
    /// The link was deleted while its devices were held.
    pub(crate) cut: bool,
    /// QEMU was told to close them just now, with the link there, or has ended.
    pub(crate) asked: bool,
    /// The devices of the guest's other interfaces.
    pub(crate) others: &'a [OpenDevice],
    /// How long to wait for what is held to be given up.
    pub(crate) grace: Duration,
}

impl Release<'_> {
    /// Looks what is shown of each device, in their order.
    ///
    /// Deletes the link of a macvtap of ours that no descriptor of is seen: that is what takes it from
    /// whoever holds a hidden one.
    pub(crate) fn look(&self, host: &mut Host, counts: &mut Counts) -> Vec<Shown> {
        let end = Instant::now() + self.grace;
        let (told, seen, tap) = loop {
            let (told, seen, tap) = (self.told(host), self.seen(host), self.tap(host));
            let holds = |(index, told): (usize, &Option<LastClose>)| match told {
                Some(told) => *told == LastClose::Awaited,
                None => seen.as_ref().is_none_or(|seen| seen.get(index).is_some_and(Option::is_some)),
            };
            let held = told.iter().enumerate().any(holds);
            let attached = matches!(tap, Some(TapState::Attached(_)));
            if (!held && !attached) || Instant::now() >= end {
                break (told, seen, tap);
            }
            thread::sleep(Duration::from_millis(1));
        };
        let fd = |index: usize| seen.as_ref().and_then(|seen| seen.get(index).copied().flatten());
        // Of several queues those that the kernel counts may all be known: the others are given up.
        let is_known = |index: usize| match told[index] {
            Some(told) => told == LastClose::Awaited,
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
            .map(|(index, device)| match (told[index], fd(index), device.device.kind) {
                (Some(LastClose::Awaited), fd, _) => Some(Shown::Held(fd)),
                (Some(LastClose::Seen(at)), _, DeviceKind::Tun) => match tap {
                    Some(TapState::Attached(queues)) if !accounted(queues) => Some(Shown::Held(None)),
                    Some(_) => Some(Shown::GivenUp(at)),
                    // Whether somebody attached another file to it is not known.
                    None => Some(Shown::Doubted(CloseDoubt::Uncounted)),
                },
                (Some(LastClose::Seen(at)), ..) => Some(Shown::GivenUp(at)),
                (None, Some(fd), _) => Some(Shown::Held(Some(fd))),
                (None, None, DeviceKind::Tun) => match tap {
                    // An open file outlives the link, and the kernel keeps no account of it.
                    Some(TapState::Gone) if self.cut => None,
                    Some(TapState::Gone) => Some(self.without_link(device)),
                    Some(TapState::Idle) => Some(Shown::GivenUp(None)),
                    Some(TapState::Unknown) => Some(Shown::Doubted(CloseDoubt::LinkUnknown)),
                    Some(TapState::Attached(queues)) if accounted(queues) => Some(Shown::GivenUp(None)),
                    Some(TapState::Attached(_)) => Some(Shown::Held(None)),
                    None if seen.is_none() => Some(Shown::Held(None)),
                    None => Some(Shown::Doubted(hidden_or(self.qemu, CloseDoubt::Uncounted))),
                },
                (None, None, _) if seen.is_none() => Some(Shown::Held(None)),
                (None, None, DeviceKind::Macvtap) if self.link_is_gone() => Some(Shown::GivenUp(None)),
                (None, None, _) => None,
            })
            .collect();
        if let Some(link) = self.link.filter(|link| link.is_own_macvtap())
            && !shown.iter().flatten().any(|shown| shown.is_held())
        {
            let shows = match host.delete_link(link) {
                Ok(true) => Shown::GivenUp(None),
                Ok(false) => Shown::Doubted(CloseDoubt::LinkUnknown),
                Err(error) => {
                    warn!("link '{}' can't be deleted: {}", link.name(), crate::chain(&error));
                    Shown::Doubted(CloseDoubt::Attached)
                }
            };
            for (shown, device) in shown.iter_mut().zip(self.devices) {
                if device.device.kind == DeviceKind::Macvtap {
                    shown.get_or_insert(shows);
                }
            }
        }
        let mut counted = |device: &OpenDevice| match counts.doubt(device, self.qemu) {
            None => Shown::GivenUp(None),
            Some(doubt) => Shown::Doubted(doubt),
        };
        shown
            .into_iter()
            .zip(self.devices)
            .map(|(shown, device)| shown.unwrap_or_else(|| counted(device)))
            .collect()
    }

    /// What the kernel tells of each device's last close; none where that shows nothing.
    fn told(&self, host: &mut Host) -> Vec<Option<LastClose>> {
        host.hear();
        // Without its link nothing is behind a descriptor; and one of ours is deleted once QEMU has ended.
        let is_dead = |device: &OpenDevice| match device.device.kind {
            // An open file of a tap's outlives the link, and can be attached to another.
            DeviceKind::Tun => self.link_is_gone() && !self.cut,
            DeviceKind::Macvtap => {
                let is_deleted = self.qemu.is_none() && self.link.is_some_and(HostLink::is_own_macvtap);
                self.link_is_gone() || is_deleted
            }
            _ => false,
        };
        let told = |device: &OpenDevice| match host.last_close(device) {
            Some(LastClose::Awaited) if is_dead(device) => None,
            told => told,
        };
        self.devices.iter().map(told).collect()
    }

    /// A tap whose link is not there, and nobody saw it deleted from under an open file.
    fn without_link(&self, device: &OpenDevice) -> Shown {
        let doubt = match self.qemu {
            // It went with the last open file.
            _ if self.asked => None,
            // Others may have deleted it while QEMU hid that.
            Some(qemu) => hidden(qemu).then_some(CloseDoubt::Hidden),
            None => held_elsewhere(device, None).then_some(CloseDoubt::HeldElsewhere),
        };
        doubt.map_or(Shown::GivenUp(None), Shown::Doubted)
    }

    /// What the kernel says of the tap; none where that shows nothing.
    fn tap(&self, host: &mut Host) -> Option<TapState> {
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

    /// The number of each device in QEMU, where a descriptor of it is seen; none when QEMU can't be looked into.
    ///
    /// A descriptor need not have the number that it had: it is known by its interface, a vhost-net's by being none of
    /// the others'.
    fn seen(&self, host: &mut Host) -> Option<Vec<Option<RawFd>>> {
        let Some(qemu) = self.qemu else { return Some(vec![None; self.devices.len()]) };
        let mut held = match devices_of(qemu) {
            Ok(held) => held,
            Err(error) => {
                warn!("what QEMU holds can't be seen: {error}");
                return None;
            }
        };
        for other in self.others {
            if let Some(at) = held.iter().position(|(_, held)| is(held, other)) {
                held.remove(at);
            }
        }
        // It may have been renamed since; and one that was moved, too, has a name that nobody here knows.
        let name = self.link.and_then(|link| host.name_of(link));
        let is_another = |ifname: &str| {
            let ours =
                name.as_deref().or(self.devices.first().and_then(|device| device.device.dev.as_deref()));
            ours != Some(ifname)
                && self.others.iter().any(|other| other.device.dev.as_deref() == Some(ifname))
        };
        let matches = |held: &HeldDevice, device: &OpenDevice| {
            Some(held.rdev) == device.device.rdev
                && !held.ifname.as_ref().is_some_and(|ifname| is_another(ifname.as_str()))
        };
        let mut seen = vec![None; self.devices.len()];
        // First those that are where they were.
        for exact in [true, false] {
            for (seen, device) in seen.iter_mut().zip(self.devices).filter(|(seen, _)| seen.is_none()) {
                let fits = |(_, held): &(u32, HeldDevice)| {
                    matches(held, device) && (!exact || device.qemu_fd == Some(held.fd))
                };
                if let Some(at) = held.iter().position(fits) {
                    *seen = Some(held.remove(at).1.fd);
                }
            }
        }
        Some(seen)
    }
}

/// The doubt that QEMU hides something, where it may; else the one given.
fn hidden_or(qemu: Option<&ProcessId>, doubt: CloseDoubt) -> CloseDoubt {
    if qemu.is_some_and(hidden) { CloseDoubt::Hidden } else { doubt }
}

/// Whether QEMU keeps open files where they can't be looked at.
fn hidden(qemu: &ProcessId) -> bool {
    HiddenFiles::of(qemu.pid).is_ok_and(HiddenFiles::any)
}

/// Drivers' counts of their open files held against what is seen in processes, each at most once for one look.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    known: Vec<(DeviceKind, Option<CloseDoubt>)>,
}

impl Counts {
    /// Why nothing shows that a device is given up that is not seen in QEMU; none when the driver's count does.
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

/// Whether another process than QEMU shows a descriptor of this very device; of a tap whose link is not there, one that
/// is no interface's.
fn held_elsewhere(device: &OpenDevice, qemu: Option<&ProcessId>) -> bool {
    let Ok(holders) = Holders::of(device.device.kind).and_then(Holders::of_our_network) else { return false };
    let (qemu, own) = (qemu.map(|qemu| qemu.pid), std::process::id());
    holders.found.iter().any(|(pid, _, held)| {
        ![qemu, Some(own)].contains(&Some(*pid))
            && Some(held.rdev) == device.device.rdev
            && held.ifname.is_none()
    })
}

/// Why the driver's count of its open files does not show that all of them are seen; none when it does.
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
        // A supervisor hands another one over, or a descriptor is on its way from one to another.
        thread::sleep(Duration::from_millis(2));
    }
    Some(CloseDoubt::Uncounted)
}

/// Ends an interface whose QEMU has ended: removes its link and filter, and returns its devices. All of them are over for
/// the account, with a doubt those that somebody else holds, or may hold.
///
/// `link_shows` as in [`Release`].
pub(crate) fn end(
    mac: MacAddr,
    devices: Vec<OpenDevice>,
    lasting: &mut Lasting,
    link_shows: bool,
    host: &mut Host,
    counts: &mut Counts,
) -> Vec<OpenDevice> {
    // Before its link is deleted: a tap of ours must have gone by itself.
    let link = lasting.link.as_ref();
    let release = Release {
        qemu: None,
        devices: &devices,
        link,
        link_shows,
        cut: lasting.cut,
        // A link that an earlier supervisor knew may have gone in any way.
        asked: link.is_some(),
        others: &[],
        grace: RELEASE_GRACE,
    };
    let shown = release.look(host, counts);
    let (held, mut over) = part(devices, shown);
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
            // The kernel tells that it is open, and nobody is seen to hold it.
            _ => CloseDoubt::Uncounted,
        };
        over.extend(held.into_iter().map(|device| OpenDevice { doubt: Some(doubt(&device)), ..device }));
        if link.is_some_and(|link| !link.is_ours()) && lasting.filter.take().is_some() {
            warn!(
                "{mac}: its filter stays, since its tap is held; the next guest that gets it replaces that"
            );
        }
    }
    host.undo(mac, lasting);
    over
}

/// The process that holds the tap behind a link, where one shows it.
fn tap_holder(link: &HostLink, host: &mut Host) -> Option<u32> {
    let name = host.name_of(link)?;
    let holders = Holders::of(DeviceKind::Tun).and_then(Holders::of_our_network).ok()?;
    let is_it = |held: &HeldDevice| held.ifname.as_ref().is_some_and(|ifname| ifname.as_str() == name);
    holders.found.iter().find(|(_, _, held)| is_it(held)).map(|(pid, _, _)| *pid)
}
