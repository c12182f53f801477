//! A QEMU that keeps a device out of sight of its descriptor's number: this test's process, or
//! another program.

use std::os::fd::{AsFd as _, OwnedFd};

use taptrail_trail::{Certainty, Holding, State};

use crate::hidden::{Puppet, Way};
use crate::lab::{Lab, ip, lab, mac};
use crate::manager::{Opened, attach, detach, id, lasting_tap, macvtap, op_start, op_stop, start, tap};

/// A device, by the name of its link.
type Named = (&'static str, fn() -> Opened);

const TAPS: [Named; 2] = [
    ("vnet0", || tap("vnet0", mac(1), 1)),
    ("tap5", || {
        ip("tuntap add dev tap5 mode tap");
        lasting_tap("tap5", mac(1), 1)
    }),
];

const DEVICES: [Named; 3] = [TAPS[0], TAPS[1], ("macvtap0", || macvtap(mac(1), 1))];

/// The only descriptor of an opened device.
fn only(opened: &mut Opened) -> OwnedFd {
    opened.devices.remove(0).as_fd().try_clone_to_owned().unwrap()
}

impl Lab {
    /// The manager records that a process is a QEMU with this device, and the watcher sees it.
    fn boots_by(&mut self, opened: &Opened, pid: u32) {
        self.log_open(&id(), opened);
        self.log_record(&id(), start(opened.mac));
        self.log_record(&id(), op_start(pid));
        self.run_until("its device", |lab| lab.recorded_devices().len() == 1);
    }

    /// This process is the QEMU of a guest with this one device.
    fn boots_here(&mut self, device: fn() -> Opened) -> OwnedFd {
        let mut opened = device();
        self.boots_by(&opened, std::process::id());
        only(&mut opened)
    }

    /// Another program is, and has it under this number.
    fn boots_there(&mut self, device: fn() -> Opened) -> (Puppet, i32) {
        let mut opened = device();
        let mut puppet = Puppet::start();
        let fd = puppet.takes(&only(&mut opened));
        self.boots_by(&opened, puppet.pid());
        (puppet, fd)
    }

    fn holding(&self) -> Holding {
        let mut holdings = self.report().holdings;
        assert_eq!(holdings.len(), 1, "{holdings:#?}");
        holdings.remove(0)
    }

    fn end(&self) -> (&'static str, &'static str, Option<&'static str>) {
        let of = self.holding();
        (of.state.as_str(), of.certainty.as_str(), of.end_doubt.map(|doubt| doubt.as_str()))
    }
}

// Shows 13.17.
#[test]
fn what_is_shown_under_another_number_or_by_another_thread_is_held() {
    for way in [Way::Number, Way::Thread] {
        // The link of a macvtap is looked for in the process's namespace, not this thread's.
        for (name, device) in TAPS {
            lab(|mut lab| {
                let hidden = way.hides(lab.boots_here(device));
                lab.log_record(&id(), detach(mac(1)));
                lab.run_until("the finding", |lab| lab.findings().contains(&"held-after-release"));
                lab.run_past_patience();
                assert_eq!((lab.findings(), lab.released()), (vec!["held-after-release"], vec![]));
                // The next watcher does not record an end, either.
                lab.watcher = None;
                lab.watch();
                lab.run_past_patience();
                assert_eq!(lab.released(), [""; 0]);
                assert_eq!(lab.end(), ("held", "definitive", None), "{name} {way:?}");
                drop(hidden);
                lab.run_until("its end", |lab| lab.recorded_devices().is_empty());
                assert_eq!(lab.end(), ("released", "definitive", None), "{name} {way:?}");
            });
        }
    }
}

// Shows 13.17.
#[test]
fn what_is_shown_by_nobody_or_by_another_process_is_not_given_up_for_certain() {
    for (way, doubt) in [(Way::Flight, "attached"), (Way::Child, "held-elsewhere")] {
        for (name, device) in TAPS {
            lab(|mut lab| {
                let hidden = way.hides(lab.boots_here(device));
                lab.log_record(&id(), detach(mac(1)));
                lab.run_until("its end", |lab| lab.recorded_devices().is_empty());
                assert_eq!(lab.end(), ("released", "inferred", Some(doubt)), "{name} {way:?}");
                let possibly: Vec<_> =
                    lab.holding().possibly_held.iter().map(|stretch| stretch.why.as_str()).collect();
                assert_eq!(possibly, ["close-doubted"], "{name} {way:?}");
                drop(hidden);
            });
        }
    }
}

#[test]
fn what_is_given_up_while_the_kernel_is_asked_is_given_up_for_certain() {
    for (name, device) in TAPS {
        lab(|mut lab| {
            let hidden = Way::Flight.hides(lab.boots_here(device));
            lab.log_record(&id(), detach(mac(1)));
            lab.round();
            assert_eq!(lab.recorded_devices().len(), 1, "nothing shows its end");
            drop(hidden);
            lab.run_until("its end", |lab| lab.recorded_devices().is_empty());
            assert_eq!(lab.end(), ("released", "definitive", None), "{name}");
        });
    }
}

// Shows 13.17.
#[test]
fn the_exit_of_qemu_is_no_proof_while_a_child_has_its_device() {
    for (name, device) in DEVICES {
        for (watched, recorded) in [(true, true), (true, false), (false, true)] {
            lab(|mut lab| {
                let (mut qemu, fd) = lab.boots_there(device);
                if !watched {
                    lab.watcher = None;
                }
                let orphan = qemu.leaves(fd);
                drop(qemu);
                if recorded {
                    lab.log_record(&id(), op_stop("destroyed"));
                }
                if !watched {
                    lab.watch();
                }
                lab.run_until("the account's end", |lab| lab.guests()[0].ended.is_some());
                assert_eq!(lab.end(), ("released", "inferred", Some("held-elsewhere")), "{name}");
                drop(orphan);
            });
        }
    }
}

#[test]
fn another_program_hides_as_little() {
    type Hides = fn(&mut Puppet, i32) -> i32;
    let ways: [(&str, Hides, _); 3] = [
        ("number", Puppet::moves, [("held", "definitive", None); 3]),
        ("ring", Puppet::registers, doubted("attached", "hidden")),
        ("flight", Puppet::sends, doubted("attached", "hidden")),
    ];
    for (way, hides, expected) in ways {
        for ((name, device), expected) in DEVICES.into_iter().zip(expected) {
            lab(|mut lab| {
                let (mut qemu, fd) = lab.boots_there(device);
                hides(&mut qemu, fd);
                lab.log_record(&id(), detach(mac(1)));
                lab.run_past_patience();
                lab.run_past_patience();
                // A macvtap's driver may be a module; then open files can be counted.
                let end = lab.end();
                let is_counted = end.2 == Some("uncounted") && name == "macvtap0";
                assert!(end == expected || is_counted, "{name} {way} {end:?}");
                if name == "macvtap0" {
                    ip("link delete macvtap0");
                }
                drop(qemu);
                lab.run_until("its end", |lab| lab.recorded_devices().is_empty());
                if way == "number" {
                    assert_eq!(lab.end(), ("released", "definitive", None), "{name}");
                }
            });
        }
    }
}

/// Ends with a doubt, for the two taps and the macvtap.
fn doubted(
    tap: &'static str,
    macvtap: &'static str,
) -> [(&'static str, &'static str, Option<&'static str>); 3] {
    [tap, tap, macvtap].map(|doubt| ("released", "inferred", Some(doubt)))
}

// Shows 13.17.
#[test]
fn what_is_kept_under_its_number_while_what_follows_it_is_hidden_is_not_given_up_for_certain() {
    for (name, device) in TAPS {
        lab(|mut lab| {
            let _kept = lab.boots_here(device);
            // All before the watcher looks again: as if the first was closed, and the second had
            // its number.
            lab.log_record(&id(), detach(mac(1)));
            let mut second = tap("vnet1", mac(1), 1);
            lab.log_open(&id(), &second);
            let _hidden = Way::Flight.hides(only(&mut second));
            lab.log_record(&id(), attach(mac(1)));
            lab.run_past_patience();
            let is_certain = |holding: &Holding| {
                holding.state == State::Released && holding.certainty == Certainty::Definitive
            };
            assert!(!lab.report().holdings.iter().any(is_certain), "{name}: {:?}", lab.holdings());
            assert_eq!(lab.recorded_devices().len(), 1, "{name}");
        });
    }
}

#[test]
fn what_is_kept_after_a_detach_is_not_taken_for_what_follows_another() {
    lab(|mut lab| {
        let _kept = lab.boots_here(TAPS[0].1);
        lab.log_record(&id(), detach(mac(1)));
        lab.run_until("the finding", |lab| lab.findings() == ["held-after-release"]);
        let attaches = |lab: &mut Lab| {
            let mut opened = tap("vnet1", mac(1), 1);
            lab.log_open(&id(), &opened);
            let file = only(&mut opened);
            lab.log_record(&id(), attach(mac(1)));
            file
        };
        let second = attaches(&mut lab);
        lab.run_until("both", |lab| lab.recorded_devices().len() == 2);
        drop(second);
        lab.log_record(&id(), detach(mac(1)));
        let _hidden = Way::Flight.hides(attaches(&mut lab));
        lab.run_past_patience();
        assert_eq!(lab.recorded_devices().len(), 1);
        assert_eq!(
            lab.holdings(),
            [
                "tun vnet0 01 x1 held - definitive",
                "tun vnet1 01 x1 released detach definitive",
                "tun - 01 x? held - inferred"
            ]
        );
    });
}

#[test]
fn what_is_kept_is_not_taken_for_what_followed_and_is_recorded_as_gone_as_well() {
    lab(|mut lab| {
        let _hidden = Way::Number.hides(lab.boots_here(TAPS[0].1));
        lab.log_record(&id(), detach(mac(1)));
        let second = tap("vnet1", mac(1), 1);
        lab.log_open(&id(), &second);
        drop(second);
        lab.log_record(&id(), attach(mac(1)));
        lab.log_record(&id(), detach(mac(1)));
        lab.run_until("the finding", |lab| lab.findings() == ["held-after-release"]);
        lab.run_past_patience();
        assert_eq!(lab.recorded_devices().len(), 1);
        assert!(lab.holdings()[0].starts_with("tun vnet0 01 x1 held"), "{:?}", lab.holdings());
    });
}
