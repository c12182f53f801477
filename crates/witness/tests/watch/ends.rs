//! Guests that end, with or without a record of their manager.

use taptrail_record::{Event, Rdev, Reason};
use taptrail_witness::watch::{EventKind, GuestState};

use crate::lab::{lab, mac};
use crate::manager::{LIBVIRTD, op_stop, start, tap};

// Shows 13.11.
#[test]
fn a_start_that_fails_leaves_nothing_open() {
    lab(|mut lab| {
        let id = crate::manager::id();
        let opened = tap("vnet0", mac(1), 1);
        lab.log_open(&id, &opened);
        lab.round();
        assert_eq!(lab.guests().len(), 1);
        drop(opened);
        lab.log_record(&id, start(mac(1)));
        lab.log_failure(&id, Event::GuestStart { reason: Reason::BOOTED, vm_pid: None });
        lab.round();
        assert_eq!(lab.guests()[0].ended.as_ref().unwrap().1, "failed");
        assert_eq!(lab.holdings(), ["tun - 01 x? never-granted - inferred"]);
        assert_eq!(lab.findings(), ["false-start", "open-without-grant"]);
        // The next attempt is another instance.
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        lab.assert_recorded(domain.qemu.pid());
        domain.qemu.kill();
        lab.round();
    });
}

// Shows 13.3.
#[test]
fn an_end_that_no_daemon_notices_is_reported_and_its_late_record_is_no_other_end() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        domain.qemu.kill();
        lab.round();
        assert_eq!(lab.recorded_devices(), [""; 0]);
        let pid = domain.qemu.pid();
        lab.run_until("the guest's end", |lab| {
            lab.happened.iter().any(|event| {
                matches!(&event.kind, EventKind::Guest { state: GuestState::Gone { vm_pid }, .. } if *vm_pid == pid)
            })
        });
        assert_eq!(lab.guests()[0].ended.as_ref().unwrap().1, "exited");
        assert_eq!(lab.holdings(), ["tun vnet0 01 x1 released stop definitive"]);
        lab.log_record(&domain.id, op_stop("failed"));
        lab.round();
        assert_eq!(lab.holdings(), ["tun vnet0 01 x1 released stop definitive"]);
        assert_eq!(lab.findings(), [""; 0]);
        let copied = lab.ledger().into_records().map(Result::unwrap).filter(|stored| stored.copied);
        assert!(
            copied.last().unwrap().text.contains("op=stop reason=failed"),
            "the late stop record is kept, too"
        );
        // The same guest starts once more.
        let domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        lab.assert_recorded(domain.qemu.pid());
    });
}

// Shows 13.6.
#[test]
fn what_is_held_after_a_stop_is_a_finding_until_qemu_ends() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        lab.stops(&domain, "shutdown");
        lab.run_until("the finding", |lab| lab.findings().contains(&"held-after-release"));
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(lab.holdings(), ["tun vnet0 01 x1 held - definitive"]);
        domain.qemu.kill();
        lab.round();
        assert_eq!(lab.guests()[0].ended.as_ref().unwrap().1, "shutdown");
        assert_eq!(lab.holdings(), ["tun vnet0 01 x1 released close definitive"]);
        assert_eq!(lab.findings(), ["held-after-release"]);
    });
}

// Shows 13.9.
#[test]
fn a_pid_that_is_another_process_by_now_is_not_taken_for_qemu() {
    lab(|mut lab| {
        // A QEMU of another guest has the pid in this guest's record, which may be one of a
        // container.
        let other = crate::qemu::Qemu::start(uuid::Uuid::from_u128(7));
        let id = crate::manager::id();
        let record =
            |event| taptrail_trail::Content::Record(taptrail_record::Record::success(id.clone(), event));
        // The manager is gone, so its pid namespace is unknown.
        lab.append(record(crate::manager::op_start(other.pid())), u32::MAX);
        lab.run_past_patience();
        assert!(lab.guests()[0].ended.is_none() && lab.guests()[0].qemu.is_none());
        lab.append(record(op_stop("shutdown")), u32::MAX);
        lab.run_until("the guest's end", |lab| lab.guests()[0].ended.is_some());
        assert_eq!(lab.guests()[0].ended.as_ref().unwrap().1, "shutdown");

        // A process that started long after the record.
        let same = crate::qemu::Qemu::start(id.uuid);
        let long_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(1);
        let record = taptrail_record::Record::success(id, crate::manager::op_start(same.pid()));
        lab.append_at(long_ago, taptrail_trail::Content::Record(record), LIBVIRTD);
        lab.run_until("the guest's end", |lab| lab.guests()[1].ended.is_some());
        assert_eq!(lab.guests()[1].qemu, None);
    });
}

// Shows 13.11.
#[test]
fn guests_of_our_own_are_left_to_their_supervisors() {
    lab(|mut lab| {
        let id = crate::manager::id();
        let device = taptrail_record::Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into()));
        let (mac, pid) = (mac(1), Some(std::process::id()));
        lab.log_record(&id, Event::Open { mac, device: device.clone(), queue: Some(0) });
        lab.log_record(&id, Event::Start { mac, vm_pid: pid, fds: Some(1) });
        lab.log_record(&id, Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid });
        lab.round();
        assert_eq!(lab.watcher.as_ref().unwrap().held().count(), 1);
        lab.log_record(&id, Event::Close { mac, device, queue: Some(0) });
        lab.log_record(&id, Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: pid });
        lab.round();
        assert!(lab.ledger().into_records().next().is_none());
        assert_eq!(lab.released(), ["tun vnet0 01 x1 released stop definitive"]);
        assert_eq!(lab.watcher.as_ref().unwrap().held().count(), 0);
    });
}

// Shows 13.9.
#[test]
fn a_guest_of_a_container_that_came_and_went_unseen_is_over() {
    lab(|mut lab| {
        let id = crate::manager::id();
        lab.log_record(&id, start(mac(1)));
        // A pid in the container. Outside, it is the pid of the first process of all, which stays.
        lab.log_record(&id, crate::manager::op_start(1));
        lab.log_record(&id, op_stop("shutdown"));
        lab.run_until("its end", |lab| lab.guests()[0].ended.is_some());
        assert_eq!(lab.guests()[0].ended.as_ref().unwrap().1, "shutdown");
        assert_eq!(lab.watcher.as_ref().unwrap().awaited().count(), 0);
    });
}
