//! A guest whose manager plugs and unplugs at will, while its watcher looks whenever it comes to it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use proptest::prelude::*;
use taptrail_record::{Device, Event, GuestId, MacAddr, Rdev, Reason, Record};

use super::guest::{Act, Guest, Now};
use super::sight::{Place, Sight, Sighted};

const PID: u32 = 40;

/// What the manager does next.
#[derive(Debug, Clone)]
enum Step {
    Attach {
        mac: u8,
        macvtap: bool,
        vhost: bool,
        queues: u32,
    },
    /// Of those that are plugged in, by its place.
    Detach(prop::sample::Index),
    ChangeBridge(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4_u8, any::<bool>(), any::<bool>(), 1..3_u32)
            .prop_map(|(mac, macvtap, vhost, queues)| Step::Attach { mac, macvtap, vhost, queues }),
        3 => any::<prop::sample::Index>().prop_map(Step::Detach),
        1 => any::<prop::sample::Index>().prop_map(Step::ChangeBridge),
    ]
}

/// The manager, QEMU and the watcher, in time.
struct World {
    guest: Guest,
    now: Now,
    number: u64,
    /// QEMU's descriptors, by number: what they are, and for which plug.
    fds: BTreeMap<u32, (Sighted, usize)>,
    /// What is plugged in: its number and address.
    plugged: Vec<(usize, u8)>,
    plugs: usize,
    /// Records that the watcher has not read yet.
    unread: VecDeque<(Timestamp, Event)>,
    seen: BTreeMap<u64, u32>,
    told: Vec<String>,
    /// Whether two may have one address.
    twins: bool,
}

fn mac(last: u8) -> MacAddr {
    MacAddr::kvm([0, 0, last])
}

impl World {
    fn new(twins: bool) -> Self {
        let (patience, every) = (Duration::from_secs(5), Duration::from_secs(30));
        let (instant, time) = (Instant::now(), Timestamp::now());
        let id = GuestId { name: "g".into(), uuid: uuid::Uuid::from_u128(1) };
        let mut world = Self {
            guest: Guest::new(id, instant),
            now: Now { instant, time, patience, every },
            number: 0,
            fds: BTreeMap::new(),
            plugged: Vec::new(),
            plugs: 0,
            unread: VecDeque::new(),
            seen: BTreeMap::new(),
            told: Vec::new(),
            twins,
        };
        world.writes(Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(PID) });
        world
    }

    fn passes(&mut self, millis: u64) {
        self.now.instant += Duration::from_millis(millis);
        self.now.time += Duration::from_millis(millis);
    }

    fn writes(&mut self, event: Event) {
        self.unread.push_back((self.now.time, event));
    }

    fn reads(&mut self, left: usize) {
        while self.unread.len() > left {
            let Some((time, event)) = self.unread.pop_front() else { break };
            self.number += 1;
            let record = Record::success(self.guest.id.clone(), event);
            self.guest.tell(&record, Some(812), time, self.number, self.now.instant);
        }
    }

    fn looks(&mut self) {
        let descriptors = self.fds.values().map(|(sighted, _)| sighted.clone()).collect();
        let all = Sight { descriptors, vdpa: Vec::new() };
        let mut acts = Vec::new();
        self.guest.look(PID, all, self.now, &mut |_| Ok(()), &mut self.number, &mut acts);
        for act in acts {
            match act {
                Act::Seen { number, descriptor, .. } => {
                    let (_, plug) = &self.fds[&descriptor.fd];
                    let of = self.plugged.iter().find(|(number, _)| number == plug);
                    if descriptor.mac.is_none() {
                        self.told.push(format!("{descriptor:?} is nobody's"));
                    } else if descriptor.device.rdev != Some(Rdev::VHOST_NET)
                        && of.is_some_and(|(_, last)| descriptor.mac != Some(mac(*last)))
                    {
                        self.told.push(format!("{descriptor:?} is another's"));
                    }
                    self.seen.insert(number, descriptor.fd);
                }
                Act::Still(descriptor) => self.told.push(format!("{descriptor:?} stays")),
                Act::Gone { number, .. } if self.seen.remove(&number).is_none() => {
                    self.told.push(format!("{number} went twice"));
                }
                _ => {}
            }
        }
    }

    /// QEMU gets a descriptor, of the lowest free number.
    fn gives(&mut self, mut sighted: Sighted) {
        let free = (20..).find(|fd| !self.fds.contains_key(fd)).unwrap();
        sighted.fds = vec![free];
        self.fds.insert(free, (sighted, self.plugs));
    }

    /// A step, between whose parts a watcher may look; `looks` says at which.
    fn takes(&mut self, step: &Step, looks: &mut dyn Iterator<Item = (bool, usize)>) {
        let mut may_look = |world: &mut Self| {
            world.passes(100);
            if let Some((true, late)) = looks.next() {
                world.reads(late);
                world.looks();
            }
        };
        match step {
            // Two with one address are told apart only by who looks between.
            Step::Attach { mac: last, .. }
                if !self.twins && self.plugged.iter().any(|(_, of)| of == last) => {}
            Step::Attach { mac: last, macvtap, vhost, queues } => {
                self.plugs += 1;
                let number = u32::try_from(self.plugs).unwrap();
                let name = format!("{}{number}", if *macvtap { "macvtap" } else { "vnet" });
                let (held, told) = if *macvtap {
                    let rdev = Some(Rdev { major: 246, minor: number });
                    let path = format!("/dev/tap{number}");
                    (Device::new(path, rdev, Some(name.clone().into())), Device::new(name, None, None))
                } else {
                    let told = Device::new("/dev/net/tun", Some(Rdev::TUN), None);
                    (Device { dev: Some(name.into()), ..told.clone() }, told)
                };
                let accelerator = Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None);
                self.writes(Event::Open { mac: mac(*last), device: told, queue: None });
                if *vhost {
                    self.writes(Event::Open { mac: mac(*last), device: accelerator.clone(), queue: None });
                }
                may_look(self);
                let address = if *macvtap { mac(*last) } else { mac(*last).host_side() };
                for _ in 0..*queues {
                    let (address, link) = (Some(address), Some(Place { netns: None, index: number }));
                    self.gives(Sighted {
                        fds: Vec::new(),
                        device: held.clone(),
                        link,
                        address,
                        named: None,
                        port: None,
                    });
                    may_look(self);
                }
                for _ in 0..if *vhost { *queues } else { 0 } {
                    let device = accelerator.clone();
                    self.gives(Sighted {
                        fds: Vec::new(),
                        device,
                        link: None,
                        address: None,
                        named: None,
                        port: None,
                    });
                }
                self.plugged.push((self.plugs, *last));
                may_look(self);
                self.writes(Event::Attach { mac: mac(*last), vm_pid: None, fds: None });
            }
            Step::Detach(_) | Step::ChangeBridge(_) if self.plugged.is_empty() => {}
            Step::Detach(which) => {
                let (plug, last) = self.plugged.remove(which.index(self.plugged.len()));
                self.fds.retain(|_, (_, of)| *of != plug);
                may_look(self);
                self.writes(Event::Detach { mac: mac(last), vm_pid: None, fds: None, forced: false });
            }
            Step::ChangeBridge(which) => {
                let (_, last) = self.plugged[which.index(self.plugged.len())];
                self.writes(Event::Detach { mac: mac(last), vm_pid: None, fds: None, forced: false });
                may_look(self);
                self.writes(Event::Attach { mac: mac(last), vm_pid: None, fds: None });
            }
        }
        may_look(self);
    }

    /// All is read, and looked at for as long as anything may take.
    fn comes_to_rest(&mut self) {
        self.reads(0);
        for _ in 0..80 {
            self.looks();
            self.passes(1000);
        }
    }
}

proptest! {
    #[test]
    fn what_is_known_in_the_end_is_what_is_held_and_nothing_was_found(
        steps in prop::collection::vec(step(), 1..12),
        looks in prop::collection::vec((prop::bool::weighted(0.6), 0..3_usize), 0..100),
        twins in any::<bool>(),
    ) {
        let mut world = World::new(twins);
        let mut looks = looks.into_iter();
        for step in &steps {
            world.takes(step, &mut looks);
            if twins {
                world.reads(0);
                world.looks();
            }
        }
        world.comes_to_rest();
        let held: Vec<(u32, Device)> =
            world.fds.iter().map(|(fd, (sighted, _))| (*fd, sighted.device.clone())).collect();
        let mut known: Vec<(u32, Device)> =
            world.guest.descriptors().map(|known| (known.fd, known.device.clone())).collect();
        known.sort_by_key(|(fd, _)| *fd);
        prop_assert_eq!(&known, &held);
        prop_assert_eq!(world.seen.len(), held.len());
        prop_assert!(world.told.is_empty(), "{:#?}", world.told);
    }
}
