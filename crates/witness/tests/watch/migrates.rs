//! A guest that migrates from one daemon of this host to another: for a while its uuid is two
//! QEMUs'.

use taptrail_record::{Event, Reason};
use taptrail_trail::Content;
use taptrail_witness::watch::What;

use crate::lab::{Lab, lab, mac};
use crate::manager::{Domain, Opened, attach, op_stop, start, tap};
use crate::qemu::Qemu;

/// The daemon that the guest migrates to.
const TARGET: u32 = 813;

impl Lab {
    fn target_says(&mut self, domain: &Domain, event: Event) {
        let record = taptrail_record::Record::success(domain.id.clone(), event);
        self.writes(Content::Record(record), TARGET);
    }

    /// The target's daemon starts the same guest with these, to take it in.
    fn takes_in(&mut self, source: &Domain, opened: Opened) -> Domain {
        let mut target = Domain { id: source.id.clone(), qemu: Qemu::start(source.id.uuid) };
        let open = Event::Open { mac: opened.mac, device: opened.recorded.clone(), queue: None };
        self.target_says(&target, open);
        // The watcher looks at each moment.
        self.round();
        target.qemu.give("net0", &opened.devices);
        let mac = opened.mac;
        drop(opened);
        self.round();
        self.target_says(&target, start(mac));
        self.round();
        let reason: Reason = "migrated".parse().unwrap();
        self.target_says(&target, Event::GuestStart { reason, vm_pid: Some(target.qemu.pid()) });
        target
    }

    /// The QEMUs that were granted an interface, as the watcher told it.
    fn granted(&self) -> Vec<(u32, usize)> {
        let granted = self.happened.iter().filter_map(|happening| match &happening.what {
            What::Granted { vm_pid: Some(pid), descriptors, .. } => Some((*pid, descriptors.len())),
            _ => None,
        });
        granted.collect()
    }
}

#[test]
fn both_lives_of_a_guest_that_migrates_within_a_host_are_told_apart() {
    lab(|mut lab| {
        let mut source = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.until("the source's grant", |lab| lab.granted() == [(source.qemu.pid(), 1)]);
        let mut target = lab.takes_in(&source, tap("vnet1", mac(1), 1));
        let both = [(source.qemu.pid(), 1), (target.qemu.pid(), 1)];
        lab.until("the target's grant", |lab| lab.granted() == both);
        assert_eq!(lab.on_record().len(), 2);
        // The source hands over and ends.
        source.qemu.kill();
        lab.stops(&source, "migrated");
        lab.until("the source's release", |lab| !lab.released().is_empty());
        lab.patiently();
        assert_eq!(lab.released(), ["tun vnet0 01 x1 released stop definitive"]);
        lab.assert_true(target.qemu.pid());
        assert_eq!(lab.guests().iter().filter(|guest| guest.ended.is_none()).count(), 1);
        // A hot-plug by the target's daemon, after the watcher came back, is the target's.
        lab.watcher = None;
        lab.watch();
        let opened = tap("vnet2", mac(2), 1);
        lab.target_says(&target, Event::Open { mac: mac(2), device: opened.recorded.clone(), queue: None });
        target.qemu.give("net1", &opened.devices);
        drop(opened);
        lab.target_says(&target, attach(mac(2)));
        lab.until("the hot-plug", |lab| lab.granted().len() == 3);
        lab.assert_true(target.qemu.pid());
        target.qemu.kill();
        lab.target_says(&target, op_stop("destroyed"));
        lab.until("the target's release", |lab| lab.released().len() == 3);
        assert!(lab.released().iter().all(|line| line.ends_with("released stop definitive")));
        assert_eq!(lab.findings(), [""; 0]);
        assert!(lab.guests().iter().all(|guest| guest.ended.is_some()));
    });
}

#[test]
fn a_target_that_does_not_take_the_guest_over_ends_alone() {
    lab(|mut lab| {
        let source = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.until("the source's grant", |lab| lab.granted().len() == 1);
        let mut target = lab.takes_in(&source, tap("vnet1", mac(1), 1));
        lab.until("the target's grant", |lab| lab.granted().len() == 2);
        target.qemu.kill();
        lab.target_says(&target, op_stop("failed"));
        lab.until("the target's release", |lab| !lab.released().is_empty());
        lab.patiently();
        assert_eq!(lab.released(), ["tun vnet1 01 x1 released stop definitive"]);
        lab.assert_true(source.qemu.pid());
        assert_eq!(lab.findings(), [""; 0]);
    });
}

#[test]
fn what_a_daemon_opens_that_started_anew_is_the_running_guests() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.until("the grant", |lab| lab.granted().len() == 1);
        let opened = tap("vnet1", mac(2), 1);
        lab.target_says(&domain, Event::Open { mac: mac(2), device: opened.recorded.clone(), queue: None });
        lab.round();
        domain.qemu.give("net1", &opened.devices);
        drop(opened);
        lab.target_says(&domain, attach(mac(2)));
        lab.until("the hot-plug", |lab| lab.granted().len() == 2);
        assert_eq!(lab.granted()[1], (domain.qemu.pid(), 1));
        assert_eq!(lab.guests().len(), 1);
        // Nobody but the new daemon speaks for it now, and the old one's number is no second
        // guest's.
        domain.qemu.kill();
        lab.target_says(&domain, op_stop("shutdown"));
        lab.until("the release", |lab| lab.released().len() == 2);
        assert_eq!(lab.findings(), ["daemon-restarted"]);
    });
}

#[test]
fn a_source_that_says_late_that_it_ended_ends_nobody_else() {
    lab(|mut lab| {
        let mut source = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.until("the source's grant", |lab| lab.granted().len() == 1);
        let target = lab.takes_in(&source, tap("vnet1", mac(1), 1));
        lab.until("the target's grant", |lab| lab.granted().len() == 2);
        source.qemu.kill();
        lab.patiently();
        assert_eq!(lab.released().len(), 1);
        lab.stops(&source, "migrated");
        lab.patiently();
        lab.assert_true(target.qemu.pid());
        assert_eq!(lab.guests().iter().filter(|guest| guest.ended.is_none()).count(), 1);
    });
}
