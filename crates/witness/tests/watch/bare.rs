//! Interfaces that their manager grants without an open: most need no raw network device.

use taptrail_record::Event;
use taptrail_witness::watch::EventKind;

use crate::lab::{Lab, ip, lab, mac};
use crate::manager::{attach, id, op_start, start, tap};
use crate::qemu::Qemu;

impl Lab {
    /// How often the watcher reported that QEMU has an interface.
    fn grants(&self) -> usize {
        self.happened.iter().filter(|event| matches!(event.kind, EventKind::Granted { .. })).count()
    }
}

// Shows 13.15.
#[test]
fn an_interface_without_a_raw_device_is_no_finding() {
    lab(|mut lab| {
        // As libvirt starts one with QEMU's own user network, and plugs in one with passt.
        let id = id();
        let netdev = r#"{"type":"user","id":"hostnet0"}"#;
        let device = format!("virtio-net-pci,netdev=hostnet0,mac={},bus=port0,addr=0", mac(1));
        let qemu = Qemu::start_with(id.uuid, &["-netdev", netdev, "-device", &device]);
        lab.log_record(&id, start(mac(1)));
        lab.log_record(&id, op_start(qemu.pid()));
        lab.run_until("the grant", |lab| lab.grants() == 1);
        lab.log_record(&id, attach(mac(2)));
        lab.run_until("the second grant", |lab| lab.grants() == 2);
        lab.run_past_patience();
        assert_eq!(lab.findings(), [""; 0]);
        drop(qemu);
    });
}

#[test]
fn a_raw_device_that_no_record_opened_is_a_finding_beside_interfaces_without_one() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        // No record opens it, and QEMU has it.
        let opened = tap("vnet1", mac(2), 1);
        domain.qemu.give("net1", &opened.devices);
        drop(opened);
        lab.log_record(&domain.id, attach(mac(2)));
        lab.run_until("the finding", |lab| !lab.findings().is_empty());
        lab.run_past_patience();
        assert_eq!(lab.findings(), ["grant-without-open"]);
        // A device of no known interface may be this interface's: then its backend is unknown.
        ip("tuntap add dev own7 mode tap");
        domain.qemu.open_by_itself("own7");
        lab.log_record(&domain.id, attach(mac(3)));
        lab.run_until("the second", |lab| lab.findings().len() == 3);
        let mut findings = lab.findings();
        findings.sort_unstable();
        assert_eq!(findings, ["grant-without-open", "grant-without-open", "unaccounted-device"]);
    });
}

// Shows 13.15.
#[test]
fn a_grant_without_an_open_is_reported_where_qemu_can_not_be_looked_into() {
    lab(|mut lab| {
        let id = id();
        lab.log_record(&id, start(mac(1)));
        // No process has this pid.
        lab.log_record(&id, op_start(1_000_000_001));
        lab.run_until("the finding", |lab| lab.findings().contains(&"grant-without-open"));
        // The same if the watcher ends before it has inspected QEMU.
        let other = taptrail_record::GuestId { uuid: uuid::Uuid::from_u128(7), ..id };
        lab.log_record(&other, Event::Attach { mac: mac(2), vm_pid: None, fds: None });
        let count = lab.findings().len();
        lab.round();
        lab.watcher.as_mut().unwrap().final_look();
        lab.happened.extend(lab.watcher.as_mut().unwrap().commit(None).unwrap());
        assert_eq!(lab.findings()[count..], ["grant-without-open"]);
    });
}
