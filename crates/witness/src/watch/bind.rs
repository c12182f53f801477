//! Which interface a descriptor serves.
//!
//! The kernel tells what a descriptor is of, and the manager's records what was opened for which interface.
//! Between the two stand, strongest first: the interface's name in the record of a macvtap; the address of the
//! interface on the host, which a manager makes from the guest's own; its name in libvirt's state of the guest; what
//! QEMU was started with; that there is only one that it can be; and of a vhost-net, which says nothing of itself, its
//! neighbours. None of these makes a device accounted for:
//! they only say to whom it is.

use std::collections::HashMap;

use taptrail_record::{Device, DeviceKind, MacAddr};

/// A device that QEMU holds, with all its descriptors that belong to no interface yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loose {
    pub(super) device: Device,
    /// The address of the interface behind it.
    pub(super) address: Option<MacAddr>,
    /// The guest's address in libvirt's state of the interface with this name.
    pub(super) named: Option<MacAddr>,
    /// The descriptors' numbers in QEMU, lowest first.
    pub(super) fds: Vec<u32>,
}

/// An interface, as its manager's records tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanting {
    pub(super) mac: MacAddr,
    /// What was opened for it and not seen yet.
    pub(super) opened: Vec<Device>,
    /// What was seen of it before, with the descriptors' numbers.
    pub(super) seen: Vec<(Device, Vec<u32>)>,
    /// Whether QEMU is told to have it.
    pub(super) granted: bool,
    /// Whether it may be told to be given up: then others come first.
    pub(super) leaving: bool,
    /// What QEMU was started with for it, if it was: the descriptors' numbers.
    pub(super) started_with: Vec<u32>,
}

impl Loose {
    /// Whether the address of the interface behind it shows that it was made for another interface of a guest: of taps
    /// nobody but a guest's manager gives one that begins with FE.
    fn is_of_another_than(&self, mac: MacAddr) -> bool {
        self.address.is_some_and(|address| match self.device.kind {
            DeviceKind::Macvtap => address != mac,
            _ => address.0[0] == 0xFE && address.0[1..] != mac.0[1..],
        })
    }
}

impl Wanting {
    fn was_started_with(&self, loose: &Loose) -> bool {
        loose.fds.iter().any(|fd| self.started_with.contains(fd))
    }
}

/// For each device: the interface it is of, by its place, and its guest's address, as far as that can be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) wanting: Option<usize>,
    pub(super) mac: Option<MacAddr>,
}

/// What a QEMU was started with, by interface: of a guest whose start no record tells.
pub(super) type Before = HashMap<MacAddr, Vec<u32>>;

/// Says of each loose device whose it is. Those of vhost-net kind may be several interfaces' and are given by the
/// descriptor: `loose` has one for each.
pub(super) fn bind(wanting: &[Wanting], loose: &[Loose], before: &Before) -> Vec<Bound> {
    let bound = vec![Bound::default(); loose.len()];
    let mut binding = Binding { wanting, before, taken: vec![Vec::new(); wanting.len()], bound };
    let is_backend = |at: &usize| loose[*at].device.kind != DeviceKind::VhostNet;
    let (backends, accelerators): (Vec<usize>, Vec<usize>) = (0..loose.len()).partition(is_backend);
    for &at in &backends {
        binding.backend(at, &loose[at]);
    }
    binding.the_only_one(&backends, loose);
    for &at in &accelerators {
        binding.accelerator(at, &loose[at]);
    }
    binding.the_only_one(&accelerators, loose);
    binding.beside_their_backends(&accelerators, loose);
    binding.bound
}

struct Binding<'a> {
    wanting: &'a [Wanting],
    before: &'a Before,
    /// For each interface the loose devices that are its.
    taken: Vec<Vec<usize>>,
    bound: Vec<Bound>,
}

impl Binding<'_> {
    fn give(&mut self, loose: usize, wanting: usize) {
        self.bound[loose] = Bound { wanting: Some(wanting), mac: Some(self.wanting[wanting].mac) };
        self.taken[wanting].push(loose);
    }

    /// Whether an interface waits for a device of this kind.
    fn wants(&self, at: usize, device: &Device) -> bool {
        self.wanting[at].opened.iter().any(|opened| is_of(opened, device))
    }

    fn backend(&mut self, at: usize, loose: &Loose) {
        let all = || 0..self.wanting.len();
        // Another queue of what it has.
        let more = all().find(|one| self.wanting[*one].seen.iter().any(|(seen, _)| *seen == loose.device));
        let by_name = || {
            let named =
                |one: &usize| self.wanting[*one].opened.iter().any(|opened| names(opened, &loose.device));
            all().find(named)
        };
        let started = || self.wanting.iter().find(|one| one.was_started_with(loose)).map(|one| one.mac);
        let mac = self.by_address(loose).or(loose.named).or_else(started).or_else(|| self.had_before(loose));
        let by_mac = |mac: MacAddr| {
            let wants = |one: &usize| {
                self.wanting[*one].mac == mac
                    && self.taken[*one].is_empty()
                    && self.wants(*one, &loose.device)
            };
            all().filter(wants).min_by_key(|one| (self.wanting[*one].leaving, !self.wanting[*one].granted))
        };
        match more.or_else(by_name).or_else(|| by_mac(mac?)) {
            Some(one) => self.give(at, one),
            None => self.bound[at].mac = mac,
        }
    }

    /// The guest's address, as that of the interface on the host tells it: a macvtap has the guest's own, a tap the
    /// same with FE in front.
    fn by_address(&self, loose: &Loose) -> Option<MacAddr> {
        let address = loose.address?;
        let made = |mac: &MacAddr| address == *mac || (address.0[0] == 0xFE && address.0[1..] == mac.0[1..]);
        match loose.device.kind {
            DeviceKind::Macvtap => Some(address),
            _ => self.wanting.iter().map(|one| one.mac).find(made),
        }
    }

    /// A vhost-net says nothing of itself; of what QEMU was started with, its command line may.
    fn accelerator(&mut self, at: usize, loose: &Loose) {
        let started =
            |one: &usize| self.wanting[*one].was_started_with(loose) && self.wants(*one, &loose.device);
        match (0..self.wanting.len()).find(started) {
            Some(one) => self.give(at, one),
            None => self.bound[at].mac = self.had_before(loose),
        }
    }

    fn had_before(&self, loose: &Loose) -> Option<MacAddr> {
        let has = |(_, fds): &(&MacAddr, &Vec<u32>)| loose.fds.iter().any(|fd| fds.contains(fd));
        self.before.iter().find(has).map(|(mac, _)| *mac)
    }

    /// Where one interface waits for a device of a kind and one device of it is there, they belong together.
    fn the_only_one(&mut self, of: &[usize], loose: &[Loose]) {
        let left: Vec<usize> = of.iter().copied().filter(|at| self.bound[*at] == Bound::default()).collect();
        for kind in [DeviceKind::Tun, DeviceKind::Macvtap, DeviceKind::VhostNet] {
            let these: Vec<usize> =
                left.iter().copied().filter(|at| loose[*at].device.kind == kind).collect();
            let Some(first) = these.first() else { continue };
            let waits = |one: &usize| {
                let has = self.taken[*one].iter().any(|at| loose[*at].device.kind == kind);
                !has && self.wants(*one, &loose[*first].device)
            };
            let waiting = self.first(waits);
            // All vhost-nets look alike; of other kinds only one device can be meant.
            if let [one] = waiting[..]
                && (these.len() == 1 || kind == DeviceKind::VhostNet)
                && !loose[*first].is_of_another_than(self.wanting[one].mac)
            {
                these.iter().for_each(|at| self.give(*at, one));
            }
        }
    }

    /// The interfaces of which something is so; those that are leaving only where there is no other.
    fn first(&self, is: impl Fn(&usize) -> bool) -> Vec<usize> {
        let (leaving, mut staying): (Vec<usize>, Vec<usize>) =
            (0..self.wanting.len()).filter(is).partition(|one| self.wanting[*one].leaving);
        if staying.is_empty() {
            staying = leaving;
        }
        staying
    }

    /// A manager opens one interface's devices after the other's, and QEMU gives each the lowest free number: so a
    /// vhost-net is mostly of whose backend comes last before it, and each backend's queue has one.
    fn beside_their_backends(&mut self, accelerators: &[usize], loose: &[Loose]) {
        let vhost = Device::new("/dev/vhost-net", None, None);
        let waiting = self.first(|one| self.wants(*one, &vhost));
        for &at in accelerators {
            if self.bound[at] != Bound::default() {
                continue;
            }
            let number = loose[at].fds.first().copied().unwrap_or_default();
            let nearest = waiting.iter().filter_map(|one| {
                let (backends, accelerators) = self.numbers(*one, loose);
                let before = backends.iter().copied().filter(|fd| *fd < number).max()?;
                Some((accelerators < backends.len(), before, *one))
            });
            if let Some((.., one)) = nearest.max() {
                self.give(at, one);
            }
        }
    }

    /// The numbers of an interface's backend, and how many accelerators it has.
    fn numbers(&self, one: usize, loose: &[Loose]) -> (Vec<u32>, usize) {
        let is_backend = |device: &Device| device.kind != DeviceKind::VhostNet;
        let seen = self.wanting[one].seen.iter().map(|(device, fds)| (device, fds));
        let taken = self.taken[one].iter().map(|at| (&loose[*at].device, &loose[*at].fds));
        let (mut backends, mut accelerators) = (Vec::new(), 0);
        for (device, fds) in seen.chain(taken) {
            if is_backend(device) {
                backends.extend(fds);
            } else {
                accelerators += fds.len();
            }
        }
        (backends, accelerators)
    }
}

/// Whether what was opened can be what is held, as far as their kinds tell.
fn is_of(opened: &Device, held: &Device) -> bool {
    match opened.kind {
        // A record may name it otherwise, or not at all.
        DeviceKind::Unknown => opened.path == held.path,
        kind => kind == held.kind,
    }
}

/// Whether the record of an open names this very device: libvirt names a macvtap by its interface.
fn names(opened: &Device, held: &Device) -> bool {
    held.kind == DeviceKind::Macvtap
        && is_of(opened, held)
        && (held.dev.as_ref() == Some(&opened.path) || opened.path == held.path)
}

#[cfg(test)]
mod tests {
    use taptrail_record::Rdev;

    use super::*;

    fn mac(last: u8) -> MacAddr {
        MacAddr::kvm([0, 0, last])
    }

    fn tun(number: u32) -> Device {
        Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{number}").into()))
    }

    fn macvtap(number: u32) -> Device {
        let rdev = Some(Rdev { major: 246, minor: number });
        Device::new(format!("/dev/tap{number}"), rdev, Some(format!("macvtap{number}").into()))
    }

    fn vhost() -> Device {
        Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None)
    }

    fn loose(device: Device, fds: &[u32]) -> Loose {
        Loose { device, address: None, named: None, fds: fds.to_vec() }
    }

    /// As libvirt opens: without the interface's name.
    fn wanting(last: u8, opened: &[Device]) -> Wanting {
        let opened = opened.iter().map(|device| Device { dev: None, ..device.clone() }).collect();
        let (granted, leaving) = (true, false);
        Wanting { mac: mac(last), opened, seen: Vec::new(), granted, leaving, started_with: Vec::new() }
    }

    fn told(wanting: &[Wanting], loose: &[Loose]) -> Vec<Option<usize>> {
        bind(wanting, loose, &Before::new()).into_iter().map(|bound| bound.wanting).collect()
    }

    #[test]
    fn the_only_one_of_a_kind_is_meant() {
        let one = [wanting(1, &[tun(0), vhost()])];
        let held = [loose(tun(7), &[25, 26]), loose(vhost(), &[27]), loose(vhost(), &[28])];
        assert_eq!(told(&one, &held), [Some(0); 3]);
        let two = [loose(tun(7), &[25]), loose(tun(8), &[26])];
        assert_eq!(told(&one, &two), [None, None], "one of them nobody opened");
        assert_eq!(told(&[wanting(1, &[macvtap(3)])], &two[..1]), [None]);
    }

    #[test]
    fn a_macvtap_is_known_by_its_interfaces_name() {
        let by_name = |number: u32| Device::new(format!("macvtap{number}"), None, None);
        let both = [wanting(1, &[by_name(3)]), wanting(2, &[by_name(4)])];
        assert_eq!(told(&both, &[loose(macvtap(4), &[30]), loose(macvtap(3), &[31])]), [Some(1), Some(0)]);
    }

    #[test]
    fn an_address_tells_the_guests() {
        let both = [wanting(1, &[tun(0)]), wanting(2, &[tun(0)])];
        let at = |number, last| {
            let mut address = mac(last);
            address.0[0] = 0xFE;
            Loose { address: Some(address), ..loose(tun(number), &[30 + number]) }
        };
        assert_eq!(told(&both, &[at(1, 2), at(0, 1)]), [Some(1), Some(0)]);
        let named = Loose { named: Some(mac(2)), ..loose(tun(5), &[40]) };
        assert_eq!(told(&both, &[named, at(0, 1)]), [Some(1), Some(0)]);
        // The interface is known, and no open of it waits.
        let bound = bind(&[wanting(1, &[])], &[at(0, 1)], &Before::new());
        assert_eq!(bound, [Bound { wanting: None, mac: Some(mac(1)) }]);
        let strange = Loose { address: Some(mac(9)), ..loose(macvtap(5), &[41]) };
        assert_eq!(bind(&[], &[strange], &Before::new()), [Bound { wanting: None, mac: Some(mac(9)) }]);
    }

    #[test]
    fn what_qemu_was_started_with_tells_too() {
        let mut both = [wanting(1, &[tun(0), vhost()]), wanting(2, &[tun(0), vhost()])];
        both[0].started_with = vec![30, 32];
        both[1].started_with = vec![31, 33];
        let held = [loose(tun(1), &[31]), loose(tun(0), &[30]), loose(vhost(), &[32]), loose(vhost(), &[33])];
        assert_eq!(told(&both, &held), [Some(1), Some(0), Some(0), Some(1)]);
    }

    #[test]
    fn what_a_guest_has_had_since_before_the_log_is_known_by_its_command_line() {
        let before = Before::from([(mac(1), vec![30, 32])]);
        let held = [loose(tun(0), &[30]), loose(vhost(), &[32]), loose(tun(1), &[35])];
        let macs: Vec<_> = bind(&[], &held, &before).into_iter().map(|bound| bound.mac).collect();
        assert_eq!(macs, [Some(mac(1)), Some(mac(1)), None]);
    }

    #[test]
    fn vhost_nets_stand_beside_their_taps() {
        let by_name = |number: u32| Device::new(format!("macvtap{number}"), None, None);
        let both = [wanting(1, &[by_name(1), vhost()]), wanting(2, &[by_name(2), vhost()])];
        let held = [
            loose(macvtap(1), &[30, 31]),
            loose(vhost(), &[32]),
            loose(vhost(), &[33]),
            loose(macvtap(2), &[34]),
            loose(vhost(), &[35]),
        ];
        assert_eq!(told(&both, &held), [Some(0), Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!(
            told(&both, &held[..4])[1..3],
            [Some(0), Some(0)],
            "one is missing, and these are the neighbours"
        );
    }

    #[test]
    fn twins_are_given_one_each_and_further_queues_join_theirs() {
        let twins = [wanting(1, &[tun(0)]), wanting(1, &[tun(0)])];
        let at = |number| Loose { named: Some(mac(1)), ..loose(tun(number), &[30 + number]) };
        assert_eq!(told(&twins, &[at(0), at(1), at(2)]), [Some(0), Some(1), None]);
        let known = Wanting { seen: vec![(tun(0), vec![34])], ..wanting(1, &[]) };
        assert_eq!(told(&[known], &[loose(tun(0), &[35])]), [Some(0)]);
    }

    #[test]
    fn what_is_granted_comes_before_what_was_only_opened() {
        let opened = Wanting { granted: false, ..wanting(1, &[tun(0)]) };
        let at = |number| Loose { named: Some(mac(1)), ..loose(tun(number), &[30 + number]) };
        assert_eq!(told(&[opened, wanting(1, &[tun(0)])], &[at(0)]), [Some(1)]);
    }
}
