//! Finds which interface a descriptor serves.
//!
//! The kernel shows which device a descriptor refers to; the manager's records say which device was
//! opened for which interface. The two are connected by, strongest first: the interface's name in
//! the record of a macvtap; the MAC of the host interface, which a manager makes from the guest's;
//! its name in libvirt's state of the guest; the descriptors on QEMU's command line; elimination;
//! and for a vhost-net, which does not show what it serves, its neighbours among the descriptors.
//! None of these makes a device accounted for: they only assign it to an interface.

use std::collections::HashMap;

use taptrail_record::{Device, DeviceKind, MacAddr};

/// A device that QEMU holds, with all its descriptors that belong to no interface yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnboundDevice {
    pub(super) device: Device,
    /// The MAC of the host interface behind it.
    pub(super) address: Option<MacAddr>,
    /// The guest's MAC in libvirt's state of the interface with this name.
    pub(super) libvirt_mac: Option<MacAddr>,
    /// The descriptors' numbers in QEMU, lowest first.
    pub(super) fds: Vec<u32>,
}

/// An interface from its manager's records, to which devices may be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InterfaceCandidate {
    pub(super) mac: MacAddr,
    /// Devices that were opened for it and not seen in QEMU yet.
    pub(super) opened: Vec<Device>,
    /// Its devices that were seen before, with the descriptors' numbers.
    pub(super) seen: Vec<(Device, Vec<u32>)>,
    /// Whether a record says that QEMU has it.
    pub(super) granted: bool,
    /// Whether a pending detach may mean it: then other interfaces come first.
    pub(super) leaving: bool,
    /// The descriptors' numbers for it on QEMU's command line.
    pub(super) started_with: Vec<u32>,
}

impl UnboundDevice {
    /// Whether the MAC of the host interface shows that it was made for another interface: only
    /// guests' managers give taps a MAC that begins with FE.
    fn is_of_other_mac(&self, mac: MacAddr) -> bool {
        self.address.is_some_and(|address| match self.device.kind {
            DeviceKind::Macvtap => address != mac,
            _ => address.0[0] == 0xFE && address.0[1..] != mac.0[1..],
        })
    }
}

impl InterfaceCandidate {
    fn was_started_with(&self, unbound: &UnboundDevice) -> bool {
        unbound.fds.iter().any(|fd| self.started_with.contains(fd))
    }
}

/// Finds the vhost-nets that were bound to an interface of which no backend is known.
pub(super) fn lone_vhosts(
    candidates: &[InterfaceCandidate],
    unbound: &[UnboundDevice],
    bound: &[Match],
) -> Vec<bool> {
    let is_backend = |device: &Device| device.kind != DeviceKind::VhostNet;
    let has_backend = |candidate: usize| {
        let mut taken = unbound.iter().zip(bound).filter(|(_, bound)| bound.candidate == Some(candidate));
        candidates[candidate].seen.iter().any(|(device, _)| is_backend(device))
            || taken.any(|(unbound, _)| is_backend(&unbound.device))
    };
    let is_lone = |(unbound, bound): (&UnboundDevice, &Match)| {
        !is_backend(&unbound.device) && bound.candidate.is_some_and(|candidate| !has_backend(candidate))
    };
    unbound.iter().zip(bound).map(is_lone).collect()
}

/// The result for one device: the index of its interface, and the guest's MAC, as far as known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) candidate: Option<usize>,
    pub(super) mac: Option<MacAddr>,
}

/// The descriptors on QEMU's command line by interface, for a guest whose start is not on record.
pub(super) type StartFds = HashMap<MacAddr, Vec<u32>>;

/// Finds the interface of each unbound device. vhost-nets may serve different interfaces, so
/// `unbound` has an item for each of their descriptors.
pub(super) fn bind(
    candidates: &[InterfaceCandidate],
    unbound: &[UnboundDevice],
    start_fds: &StartFds,
) -> Vec<Match> {
    let bound = vec![Match::default(); unbound.len()];
    let mut binder = Binder { candidates, start_fds, taken: vec![Vec::new(); candidates.len()], bound };
    let is_backend = |at: &usize| unbound[*at].device.kind != DeviceKind::VhostNet;
    let (backends, accelerators): (Vec<usize>, Vec<usize>) = (0..unbound.len()).partition(is_backend);
    for &at in &backends {
        binder.bind_backend(at, &unbound[at]);
    }
    binder.bind_only_candidates(&backends, unbound);
    for &at in &accelerators {
        binder.bind_accelerator(at, &unbound[at]);
    }
    binder.bind_only_candidates(&accelerators, unbound);
    binder.bind_by_neighbours(&accelerators, unbound);
    binder.bound
}

struct Binder<'a> {
    candidates: &'a [InterfaceCandidate],
    start_fds: &'a StartFds,
    /// For each interface the indexes of the devices that were assigned to it.
    taken: Vec<Vec<usize>>,
    bound: Vec<Match>,
}

impl Binder<'_> {
    fn assign(&mut self, unbound: usize, candidate: usize) {
        self.bound[unbound] = Match { candidate: Some(candidate), mac: Some(self.candidates[candidate].mac) };
        self.taken[candidate].push(unbound);
    }

    /// Whether an interface waits for a device of this kind.
    fn wants(&self, at: usize, device: &Device) -> bool {
        self.candidates[at].opened.iter().any(|opened| is_of(opened, device))
    }

    fn bind_backend(&mut self, at: usize, unbound: &UnboundDevice) {
        let all = || 0..self.candidates.len();
        // Another queue of a device that an interface has.
        let more =
            all().find(|one| self.candidates[*one].seen.iter().any(|(seen, _)| *seen == unbound.device));
        let by_name = || {
            let is_named = |one: &usize| {
                self.candidates[*one].opened.iter().any(|opened| names(opened, &unbound.device))
            };
            all().find(is_named)
        };
        let started = || self.candidates.iter().find(|one| one.was_started_with(unbound)).map(|one| one.mac);
        let mac = self
            .by_address(unbound)
            .or(unbound.libvirt_mac)
            .or_else(started)
            .or_else(|| self.by_start_fds(unbound));
        let by_mac = |mac: MacAddr| {
            let wants = |one: &usize| {
                self.candidates[*one].mac == mac
                    && self.taken[*one].is_empty()
                    && self.wants(*one, &unbound.device)
            };
            all()
                .filter(wants)
                .min_by_key(|one| (self.candidates[*one].leaving, !self.candidates[*one].granted))
        };
        match more.or_else(by_name).or_else(|| by_mac(mac?)) {
            Some(one) => self.assign(at, one),
            None => self.bound[at].mac = mac,
        }
    }

    /// The guest's MAC by the MAC of the host interface: a macvtap has the guest's own, a tap the
    /// same with FE in front.
    fn by_address(&self, unbound: &UnboundDevice) -> Option<MacAddr> {
        let address = unbound.address?;
        let made = |mac: &MacAddr| address == *mac || (address.0[0] == 0xFE && address.0[1..] == mac.0[1..]);
        match unbound.device.kind {
            DeviceKind::Macvtap => Some(address),
            _ => self.candidates.iter().map(|one| one.mac).find(made),
        }
    }

    /// A vhost-net does not show what it serves. If QEMU was started with it, the command line may.
    fn bind_accelerator(&mut self, at: usize, unbound: &UnboundDevice) {
        let started = |one: &usize| {
            self.candidates[*one].was_started_with(unbound) && self.wants(*one, &unbound.device)
        };
        match (0..self.candidates.len()).find(started) {
            Some(one) => self.assign(at, one),
            None => self.bound[at].mac = self.by_start_fds(unbound),
        }
    }

    fn by_start_fds(&self, unbound: &UnboundDevice) -> Option<MacAddr> {
        let has = |(_, fds): &(&MacAddr, &Vec<u32>)| unbound.fds.iter().any(|fd| fds.contains(fd));
        self.start_fds.iter().find(has).map(|(mac, _)| *mac)
    }

    /// If one interface waits for a device of a kind, and there is one such device, they belong
    /// together.
    fn bind_only_candidates(&mut self, of: &[usize], unbound: &[UnboundDevice]) {
        let left: Vec<usize> = of.iter().copied().filter(|at| self.bound[*at] == Match::default()).collect();
        for kind in [DeviceKind::Tun, DeviceKind::Macvtap, DeviceKind::VhostVdpa, DeviceKind::VhostNet] {
            let these: Vec<usize> =
                left.iter().copied().filter(|at| unbound[*at].device.kind == kind).collect();
            let Some(first) = these.first() else { continue };
            let waits = |one: &usize| {
                let has = self.taken[*one].iter().any(|at| unbound[*at].device.kind == kind);
                !has && self.wants(*one, &unbound[*first].device)
            };
            let waiting = self.candidates_where(waits);
            // All vhost-nets look alike; of other kinds only one device can be meant.
            if let [one] = waiting[..]
                && match kind {
                    DeviceKind::VhostNet => {
                        self.vhosts_missing(one, unbound).is_none_or(|missing| these.len() <= missing)
                    }
                    _ => these.len() == 1,
                }
                && !unbound[*first].is_of_other_mac(self.candidates[one].mac)
            {
                these.iter().for_each(|at| self.assign(*at, one));
            }
        }
    }

    /// The interfaces that fulfil a condition; those that are leaving only if there are no others.
    fn candidates_where(&self, is: impl Fn(&usize) -> bool) -> Vec<usize> {
        let (leaving, mut staying): (Vec<usize>, Vec<usize>) =
            (0..self.candidates.len()).filter(is).partition(|one| self.candidates[*one].leaving);
        if staying.is_empty() {
            staying = leaving;
        }
        staying
    }

    /// A manager opens the devices of one interface after those of another, and QEMU gives each the
    /// lowest free number. So a vhost-net mostly serves the interface whose backend comes last
    /// before it. Each queue of a backend has one: more than that are another interface's, of which
    /// records are still to come.
    fn bind_by_neighbours(&mut self, accelerators: &[usize], unbound: &[UnboundDevice]) {
        let vhost = Device::new("/dev/vhost-net", None, None);
        let waiting = self.candidates_where(|one| self.wants(*one, &vhost));
        for &at in accelerators {
            if self.bound[at] != Match::default() {
                continue;
            }
            let number = unbound[at].fds.first().copied().unwrap_or_default();
            let nearest = waiting.iter().filter_map(|one| {
                let (backends, accelerators) = self.numbers(*one, unbound);
                let before = backends.iter().copied().filter(|fd| *fd < number).max()?;
                (accelerators < backends.len()).then_some((before, *one))
            });
            if let Some((.., one)) = nearest.max() {
                self.assign(at, one);
            }
        }
    }

    /// How many vhost-nets an interface lacks; none if no queue of its backend is known.
    fn vhosts_missing(&self, one: usize, unbound: &[UnboundDevice]) -> Option<usize> {
        let (backends, accelerators) = self.numbers(one, unbound);
        (!backends.is_empty()).then(|| backends.len().saturating_sub(accelerators))
    }

    /// The descriptors' numbers of an interface's backend, and the number of its vhost-nets.
    fn numbers(&self, one: usize, unbound: &[UnboundDevice]) -> (Vec<u32>, usize) {
        let is_backend = |device: &Device| device.kind != DeviceKind::VhostNet;
        let seen = self.candidates[one].seen.iter().map(|(device, fds)| (device, fds));
        let taken = self.taken[one].iter().map(|at| (&unbound[*at].device, &unbound[*at].fds));
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

/// Whether an opened device can be a held one, by their kinds.
fn is_of(opened: &Device, held: &Device) -> bool {
    match opened.kind {
        // A record may have another name for it, or none.
        DeviceKind::Unknown => opened.path == held.path,
        DeviceKind::VhostVdpa if opened.path != "?" => opened.path == held.path,
        kind => kind == held.kind,
    }
}

/// Whether the record of an open names this very device: libvirt names a macvtap by its interface.
fn names(opened: &Device, held: &Device) -> bool {
    matches!(held.kind, DeviceKind::Macvtap | DeviceKind::VhostVdpa)
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

    fn unbound(device: Device, fds: &[u32]) -> UnboundDevice {
        UnboundDevice { device, address: None, libvirt_mac: None, fds: fds.to_vec() }
    }

    /// An interface with opens as libvirt records them: without the host interface's name.
    fn candidate(last: u8, opened: &[Device]) -> InterfaceCandidate {
        let opened = opened.iter().map(|device| Device { dev: None, ..device.clone() }).collect();
        let (granted, leaving) = (true, false);
        InterfaceCandidate {
            mac: mac(last),
            opened,
            seen: Vec::new(),
            granted,
            leaving,
            started_with: Vec::new(),
        }
    }

    fn bound_to(candidates: &[InterfaceCandidate], unbound: &[UnboundDevice]) -> Vec<Option<usize>> {
        bind(candidates, unbound, &StartFds::new()).into_iter().map(|bound| bound.candidate).collect()
    }

    #[test]
    fn the_only_one_of_a_kind_is_meant() {
        let one = [candidate(1, &[tun(0), vhost()])];
        let held = [unbound(tun(7), &[25, 26]), unbound(vhost(), &[27]), unbound(vhost(), &[28])];
        assert_eq!(bound_to(&one, &held), [Some(0); 3]);
        let two = [unbound(tun(7), &[25]), unbound(tun(8), &[26])];
        assert_eq!(bound_to(&one, &two), [None, None], "no record opens one of them");
        assert_eq!(bound_to(&[candidate(1, &[macvtap(3)])], &two[..1]), [None]);
    }

    #[test]
    fn a_macvtap_is_known_by_its_interfaces_name() {
        let by_name = |number: u32| Device::new(format!("macvtap{number}"), None, None);
        let both = [candidate(1, &[by_name(3)]), candidate(2, &[by_name(4)])];
        assert_eq!(
            bound_to(&both, &[unbound(macvtap(4), &[30]), unbound(macvtap(3), &[31])]),
            [Some(1), Some(0)]
        );
    }

    #[test]
    fn the_mac_of_a_tap_shows_its_interface() {
        let both = [candidate(1, &[tun(0)]), candidate(2, &[tun(0)])];
        let at = |number, last| {
            let mut address = mac(last);
            address.0[0] = 0xFE;
            UnboundDevice { address: Some(address), ..unbound(tun(number), &[30 + number]) }
        };
        assert_eq!(bound_to(&both, &[at(1, 2), at(0, 1)]), [Some(1), Some(0)]);
        let libvirt_mac = UnboundDevice { libvirt_mac: Some(mac(2)), ..unbound(tun(5), &[40]) };
        assert_eq!(bound_to(&both, &[libvirt_mac, at(0, 1)]), [Some(1), Some(0)]);
        // The interface is known, and no open of it is waiting.
        let bound = bind(&[candidate(1, &[])], &[at(0, 1)], &StartFds::new());
        assert_eq!(bound, [Match { candidate: None, mac: Some(mac(1)) }]);
        let strange = UnboundDevice { address: Some(mac(9)), ..unbound(macvtap(5), &[41]) };
        assert_eq!(bind(&[], &[strange], &StartFds::new()), [Match { candidate: None, mac: Some(mac(9)) }]);
    }

    #[test]
    fn qemus_command_line_shows_the_interface_too() {
        let mut both = [candidate(1, &[tun(0), vhost()]), candidate(2, &[tun(0), vhost()])];
        both[0].started_with = vec![30, 32];
        both[1].started_with = vec![31, 33];
        let held = [
            unbound(tun(1), &[31]),
            unbound(tun(0), &[30]),
            unbound(vhost(), &[32]),
            unbound(vhost(), &[33]),
        ];
        assert_eq!(bound_to(&both, &held), [Some(1), Some(0), Some(0), Some(1)]);
    }

    #[test]
    fn what_a_guest_has_had_since_before_the_log_is_known_by_its_command_line() {
        let before = StartFds::from([(mac(1), vec![30, 32])]);
        let held = [unbound(tun(0), &[30]), unbound(vhost(), &[32]), unbound(tun(1), &[35])];
        let macs: Vec<_> = bind(&[], &held, &before).into_iter().map(|bound| bound.mac).collect();
        assert_eq!(macs, [Some(mac(1)), Some(mac(1)), None]);
    }

    #[test]
    fn vhost_nets_stand_beside_their_taps() {
        let by_name = |number: u32| Device::new(format!("macvtap{number}"), None, None);
        let both = [candidate(1, &[by_name(1), vhost()]), candidate(2, &[by_name(2), vhost()])];
        let held = [
            unbound(macvtap(1), &[30, 31]),
            unbound(vhost(), &[32]),
            unbound(vhost(), &[33]),
            unbound(macvtap(2), &[34]),
            unbound(vhost(), &[35]),
        ];
        assert_eq!(bound_to(&both, &held), [Some(0), Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!(
            bound_to(&both, &held[..4])[1..3],
            [Some(0), Some(0)],
            "one is missing, and these are the neighbours"
        );
    }

    #[test]
    fn twins_are_given_one_each_and_further_queues_join_theirs() {
        let twins = [candidate(1, &[tun(0)]), candidate(1, &[tun(0)])];
        let at = |number| UnboundDevice { libvirt_mac: Some(mac(1)), ..unbound(tun(number), &[30 + number]) };
        assert_eq!(bound_to(&twins, &[at(0), at(1), at(2)]), [Some(0), Some(1), None]);
        let known = InterfaceCandidate { seen: vec![(tun(0), vec![34])], ..candidate(1, &[]) };
        assert_eq!(bound_to(&[known], &[unbound(tun(0), &[35])]), [Some(0)]);
    }

    #[test]
    fn what_is_granted_comes_before_what_was_only_opened() {
        let opened = InterfaceCandidate { granted: false, ..candidate(1, &[tun(0)]) };
        let at = |number| UnboundDevice { libvirt_mac: Some(mac(1)), ..unbound(tun(number), &[30 + number]) };
        assert_eq!(bound_to(&[opened, candidate(1, &[tun(0)])], &[at(0)]), [Some(1)]);
    }
}
