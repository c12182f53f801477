//! Property tests: a manager plugs and unplugs at random, and the watcher looks at random times.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use proptest::prelude::*;
use taptrail_record::{Device, Event, GuestId, MacAddr, Rdev, Reason, Record};

use super::guest::{GuestInstance, LookContext, Observation};
use super::observe::{LinkId, ObservedDescriptor};

const PID: u32 = 40;

/// A step of the manager.
#[derive(Debug, Clone)]
enum Step {
    Attach {
        mac: u8,
        macvtap: bool,
        vhost: bool,
        queues: u32,
    },
    /// Detaches one of the plugged-in interfaces.
    Detach(prop::sample::Index),
    ChangeBridge(prop::sample::Index),
    /// QEMU moves one of its descriptors to another number.
    Move(prop::sample::Index),
}

fn step() -> BoxedStrategy<Step> {
    prop_oneof![
        4 => (1..4_u8, any::<bool>(), any::<bool>(), 1..3_u32)
            .prop_map(|(mac, macvtap, vhost, queues)| Step::Attach { mac, macvtap, vhost, queues }),
        3 => any::<prop::sample::Index>().prop_map(Step::Detach),
        1 => any::<prop::sample::Index>().prop_map(Step::ChangeBridge),
    ]
    .boxed()
}

fn step_or_move() -> BoxedStrategy<Step> {
    prop_oneof![4 => step(), 1 => any::<prop::sample::Index>().prop_map(Step::Move)].boxed()
}

/// The manager, QEMU and the watcher, in time.
struct World {
    guest: GuestInstance,
    now: LookContext,
    number: u64,
    /// QEMU's descriptors by number, and the number of the interface that each serves.
    fds: BTreeMap<u32, (ObservedDescriptor, usize)>,
    /// The plugged-in interfaces: number, and last byte of the MAC.
    plugged: Vec<(usize, u8)>,
    interfaces: usize,
    /// Records that the watcher has not read yet.
    unread: VecDeque<(Timestamp, Event)>,
    seen: BTreeMap<u64, u32>,
    /// How many descriptors of each device were closed, less those that were recorded as closed
    /// without a doubt.
    unrecorded_closes: BTreeMap<String, i64>,
    errors: Vec<String>,
    /// Whether two interfaces may have one MAC.
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
            guest: GuestInstance::new(id, instant),
            now: LookContext { instant, time, patience, every },
            number: 0,
            fds: BTreeMap::new(),
            plugged: Vec::new(),
            interfaces: 0,
            unread: VecDeque::new(),
            seen: BTreeMap::new(),
            unrecorded_closes: BTreeMap::new(),
            errors: Vec::new(),
            twins,
        };
        world.write_record(Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(PID) });
        world
    }

    fn advance(&mut self, millis: u64) {
        self.now.instant += Duration::from_millis(millis);
        self.now.time += Duration::from_millis(millis);
    }

    fn write_record(&mut self, event: Event) {
        self.unread.push_back((self.now.time, event));
    }

    fn read_records(&mut self, left: usize) {
        while self.unread.len() > left {
            let Some((time, event)) = self.unread.pop_front() else { break };
            self.number += 1;
            let record = Record::success(self.guest.id.clone(), event);
            self.guest.apply_record(&record, Some(812), time, self.number, self.now.instant);
        }
    }

    fn look(&mut self) {
        let all = self.fds.values().map(|(observed, _)| observed.clone()).collect();
        let mut observations = Vec::new();
        self.guest.reconcile(PID, all, self.now, &mut |_| Ok(()), &mut self.number, &mut observations);
        for observation in observations {
            match observation {
                Observation::Seen { number, descriptor, .. } => {
                    let (_, interface) = &self.fds[&descriptor.fd];
                    let of = self.plugged.iter().find(|(number, _)| number == interface);
                    if descriptor.mac.is_none() {
                        self.errors.push(format!("{descriptor:?} is nobody's"));
                    } else if descriptor.device.rdev != Some(Rdev::VHOST_NET)
                        && of.is_some_and(|(_, last)| descriptor.mac != Some(mac(*last)))
                    {
                        self.errors.push(format!("{descriptor:?} is another's"));
                    }
                    self.seen.insert(number, descriptor.fd);
                }
                Observation::StillHeld(descriptor) => self.errors.push(format!("{descriptor:?} stays")),
                Observation::Gone { number, descriptor, doubt, .. } => {
                    if self.seen.remove(&number).is_none() {
                        self.errors.push(format!("{number} went twice"));
                    }
                    if doubt.is_none() {
                        let left =
                            self.unrecorded_closes.entry(format!("{:?}", descriptor.device)).or_default();
                        *left -= 1;
                        if *left < 0 {
                            self.errors.push(format!("{descriptor:?} was not closed"));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// QEMU gets a descriptor, with the lowest free number.
    fn give_descriptor(&mut self, mut observed: ObservedDescriptor) {
        let free = (20..).find(|fd| !self.fds.contains_key(fd)).unwrap();
        observed.fds = vec![free];
        self.fds.insert(free, (observed, self.interfaces));
    }

    /// Takes a step, between whose parts the watcher may look; `looks` says when, and how many
    /// records are unread then.
    fn take_step(&mut self, step: &Step, looks: &mut dyn Iterator<Item = (bool, usize)>) {
        let mut may_look = |world: &mut Self| {
            world.advance(100);
            if let Some((true, late)) = looks.next() {
                world.read_records(late);
                world.look();
            }
        };
        match step {
            // Two with one MAC can only be distinguished if the watcher looks in between.
            Step::Attach { mac: last, .. }
                if !self.twins && self.plugged.iter().any(|(_, of)| of == last) => {}
            Step::Attach { mac: last, macvtap, vhost, queues } => {
                self.interfaces += 1;
                let number = u32::try_from(self.interfaces).unwrap();
                let name = format!("{}{number}", if *macvtap { "macvtap" } else { "vnet" });
                let (held, recorded) = if *macvtap {
                    let rdev = Some(Rdev { major: 246, minor: number });
                    let path = format!("/dev/tap{number}");
                    (Device::new(path, rdev, Some(name.clone().into())), Device::new(name, None, None))
                } else {
                    let recorded = Device::new("/dev/net/tun", Some(Rdev::TUN), None);
                    (Device { dev: Some(name.into()), ..recorded.clone() }, recorded)
                };
                let accelerator = Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None);
                self.write_record(Event::Open { mac: mac(*last), device: recorded, queue: None });
                if *vhost {
                    self.write_record(Event::Open {
                        mac: mac(*last),
                        device: accelerator.clone(),
                        queue: None,
                    });
                }
                may_look(self);
                let address = if *macvtap { mac(*last) } else { mac(*last).host_side() };
                for _ in 0..*queues {
                    let (address, link) = (Some(address), Some(LinkId { netns: None, index: number }));
                    self.give_descriptor(ObservedDescriptor {
                        fds: Vec::new(),
                        device: held.clone(),
                        link,
                        address,
                        libvirt_mac: None,
                        port: None,
                    });
                    may_look(self);
                }
                for _ in 0..if *vhost { *queues } else { 0 } {
                    let device = accelerator.clone();
                    self.give_descriptor(ObservedDescriptor {
                        fds: Vec::new(),
                        device,
                        link: None,
                        address: None,
                        libvirt_mac: None,
                        port: None,
                    });
                }
                self.plugged.push((self.interfaces, *last));
                may_look(self);
                self.write_record(Event::Attach { mac: mac(*last), vm_pid: None, fds: None });
            }
            Step::Detach(_) | Step::ChangeBridge(_) if self.plugged.is_empty() => {}
            Step::Move(_) if self.fds.is_empty() => {}
            Step::Move(which) => {
                let from = *self.fds.keys().nth(which.index(self.fds.len())).unwrap();
                let to = (60..).find(|fd| !self.fds.contains_key(fd)).unwrap();
                let (mut observed, interface) = self.fds.remove(&from).unwrap();
                observed.fds = vec![to];
                self.fds.insert(to, (observed, interface));
            }
            Step::Detach(which) => {
                let (interface, last) = self.plugged.remove(which.index(self.plugged.len()));
                for (_, (observed, _)) in self.fds.extract_if(.., |_, (_, of)| *of == interface) {
                    *self.unrecorded_closes.entry(format!("{:?}", observed.device)).or_default() += 1;
                }
                may_look(self);
                self.write_record(Event::Detach { mac: mac(last), vm_pid: None, fds: None, forced: false });
            }
            Step::ChangeBridge(which) => {
                let (_, last) = self.plugged[which.index(self.plugged.len())];
                self.write_record(Event::Detach { mac: mac(last), vm_pid: None, fds: None, forced: false });
                may_look(self);
                self.write_record(Event::Attach { mac: mac(last), vm_pid: None, fds: None });
            }
        }
        may_look(self);
    }

    /// The watcher reads all records, and looks for as long as anything may take.
    fn settle(&mut self) {
        self.read_records(0);
        for _ in 0..80 {
            self.look();
            self.advance(1000);
        }
    }
}

proptest! {
    // Shows 13.13.
    #[test]
    fn what_is_known_in_the_end_is_what_is_held_and_nothing_was_found(
        steps in prop::collection::vec(step(), 1..12),
        looks in prop::collection::vec((prop::bool::weighted(0.6), 0..3_usize), 0..100),
        twins in any::<bool>(),
    ) {
        let mut world = World::new(twins);
        let mut looks = looks.into_iter();
        for step in &steps {
            world.take_step(step, &mut looks);
            if twins {
                world.read_records(0);
                world.look();
            }
        }
        world.settle();
        let held: Vec<(u32, Device)> =
            world.fds.iter().map(|(fd, (observed, _))| (*fd, observed.device.clone())).collect();
        let mut known: Vec<(u32, Device)> =
            world.guest.descriptors().map(|known| (known.fd, known.device.clone())).collect();
        known.sort_by_key(|(fd, _)| *fd);
        prop_assert_eq!(&known, &held);
        prop_assert_eq!(world.seen.len(), held.len());
        prop_assert!(world.errors.is_empty(), "{:#?}", world.errors);
    }

    #[test]
    fn nothing_that_qemu_moves_is_released(
        steps in prop::collection::vec(step_or_move(), 1..12),
        looks in prop::collection::vec((prop::bool::weighted(0.6), 0..3_usize), 0..100),
    ) {
        let mut world = World::new(false);
        let mut looks = looks.into_iter();
        for step in &steps {
            world.take_step(step, &mut looks);
        }
        world.settle();
        prop_assert_eq!(world.guest.descriptors().count(), world.fds.len());
        let is_wrong = |error: &&String| error.contains("was not closed") || error.contains("went twice");
        prop_assert_eq!(world.errors.iter().find(is_wrong), None);
    }
}
