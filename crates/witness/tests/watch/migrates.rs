//! A guest that migrates from one daemon of this host to another: for a while two QEMUs have its
//! uuid.

use taptrail_record::{Event, Reason};
use taptrail_trail::Content;
use taptrail_witness::watch::EventKind;

use crate::lab::{Lab, lab, mac};
use crate::manager::{Domain, Opened, attach, op_stop, start, tap};
use crate::qemu::Qemu;

/// The daemon that the guest migrates to.
const TARGET: u32 = 813;

impl Lab {
    fn log_target_record(&mut self, domain: &Domain, event: Event) {
        let record = taptrail_record::Record::success(domain.id.clone(), event);
        self.append(Content::Record(record), TARGET);
    }

    /// The target's daemon starts the same guest with this interface, to receive it.
    fn receive_guest(&mut self, source: &Domain, opened: Opened) -> Domain {
        let mut target = Domain { id: source.id.clone(), qemu: Qemu::start(source.id.uuid) };
        let open = Event::Open { mac: opened.mac, device: opened.recorded.clone(), queue: None };
        self.log_target_record(&target, open);
        // The watcher looks after each step.
        self.round();
        target.qemu.give("net0", &opened.devices);
        let mac = opened.mac;
        drop(opened);
        self.round();
        self.log_target_record(&target, start(mac));
        self.round();
        let reason: Reason = "migrated".parse().unwrap();
        self.log_target_record(&target, Event::GuestStart { reason, vm_pid: Some(target.qemu.pid()) });
        target
    }

    /// The QEMUs that got an interface, as the watcher reported it, and the number of descriptors.
    fn granted(&self) -> Vec<(u32, usize)> {
        let granted = self.happened.iter().filter_map(|event| match &event.kind {
            EventKind::Granted { vm_pid: Some(pid), descriptors, .. } => Some((*pid, descriptors.len())),
            _ => None,
        });
        granted.collect()
    }
}

// Shows 13.14.
#[test]
fn both_instances_of_a_guest_that_migrates_within_a_host_are_distinguished() {
    lab(|mut lab| {
        let mut source = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.run_until("the source's grant", |lab| lab.granted() == [(source.qemu.pid(), 1)]);
        let mut target = lab.receive_guest(&source, tap("vnet1", mac(1), 1));
        let both = [(source.qemu.pid(), 1), (target.qemu.pid(), 1)];
        lab.run_until("the target's grant", |lab| lab.granted() == both);
        assert_eq!(lab.recorded_devices().len(), 2);
        // The source hands the guest over and ends.
        source.qemu.kill();
        lab.stops(&source, "migrated");
        lab.run_until("the source's release", |lab| !lab.released().is_empty());
        lab.run_past_patience();
        assert_eq!(lab.released(), ["tun vnet0 01 x1 released stop definitive"]);
        lab.assert_recorded(target.qemu.pid());
        assert_eq!(lab.guests().iter().filter(|guest| guest.ended.is_none()).count(), 1);
        // A hot-plug by the target's daemon, after the watcher has restarted, belongs to the
        // target.
        lab.watcher = None;
        lab.watch();
        let opened = tap("vnet2", mac(2), 1);
        lab.log_target_record(
            &target,
            Event::Open { mac: mac(2), device: opened.recorded.clone(), queue: None },
        );
        target.qemu.give("net1", &opened.devices);
        drop(opened);
        lab.log_target_record(&target, attach(mac(2)));
        lab.run_until("the hot-plug", |lab| lab.granted().len() == 3);
        lab.assert_recorded(target.qemu.pid());
        target.qemu.kill();
        lab.log_target_record(&target, op_stop("destroyed"));
        lab.run_until("the target's release", |lab| lab.released().len() == 3);
        assert!(lab.released().iter().all(|line| line.ends_with("released stop definitive")));
        assert_eq!(lab.findings(), [""; 0]);
        assert!(lab.guests().iter().all(|guest| guest.ended.is_some()));
    });
}

// Shows 13.14.
#[test]
fn a_target_that_does_not_take_the_guest_over_ends_alone() {
    lab(|mut lab| {
        let source = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.run_until("the source's grant", |lab| lab.granted().len() == 1);
        let mut target = lab.receive_guest(&source, tap("vnet1", mac(1), 1));
        lab.run_until("the target's grant", |lab| lab.granted().len() == 2);
        target.qemu.kill();
        lab.log_target_record(&target, op_stop("failed"));
        lab.run_until("the target's release", |lab| !lab.released().is_empty());
        lab.run_past_patience();
        assert_eq!(lab.released(), ["tun vnet1 01 x1 released stop definitive"]);
        lab.assert_recorded(source.qemu.pid());
        assert_eq!(lab.findings(), [""; 0]);
    });
}

#[test]
fn what_a_restarted_daemon_opens_is_the_running_guests() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.run_until("the grant", |lab| lab.granted().len() == 1);
        let opened = tap("vnet1", mac(2), 1);
        lab.log_target_record(
            &domain,
            Event::Open { mac: mac(2), device: opened.recorded.clone(), queue: None },
        );
        lab.round();
        domain.qemu.give("net1", &opened.devices);
        drop(opened);
        lab.log_target_record(&domain, attach(mac(2)));
        lab.run_until("the hot-plug", |lab| lab.granted().len() == 2);
        assert_eq!(lab.granted()[1], (domain.qemu.pid(), 1));
        assert_eq!(lab.guests().len(), 1);
        // Only the new daemon writes its records now; its pid does not make a second instance.
        domain.qemu.kill();
        lab.log_target_record(&domain, op_stop("shutdown"));
        lab.run_until("the release", |lab| lab.released().len() == 2);
        assert_eq!(lab.findings(), ["daemon-restarted"]);
    });
}

#[test]
fn a_late_stop_record_of_the_source_does_not_end_the_target() {
    lab(|mut lab| {
        let mut source = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.run_until("the source's grant", |lab| lab.granted().len() == 1);
        let target = lab.receive_guest(&source, tap("vnet1", mac(1), 1));
        lab.run_until("the target's grant", |lab| lab.granted().len() == 2);
        source.qemu.kill();
        lab.run_past_patience();
        assert_eq!(lab.released().len(), 1);
        lab.stops(&source, "migrated");
        lab.run_past_patience();
        lab.assert_recorded(target.qemu.pid());
        assert_eq!(lab.guests().iter().filter(|guest| guest.ended.is_none()).count(), 1);
    });
}
