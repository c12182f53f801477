//! Devices without a record, and records that are wrong.

use crate::lab::{ip, lab, mac};
use crate::manager::{detach, tap};

// Shows 13.6.
#[test]
fn a_tap_that_qemu_opened_by_itself_is_a_finding() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        ip("tuntap add dev own7 mode tap");
        domain.qemu.open_by_itself("own7");
        lab.run_until("the finding", |lab| lab.findings().contains(&"unaccounted-device"));
        lab.run_past_patience();
        assert_eq!(lab.findings(), ["unaccounted-device"], "once");
        domain.qemu.close_by_itself();
        lab.run_past_patience();
        lab.assert_recorded(domain.qemu.pid());
        let texts: Vec<String> = lab.ledger().into_records().map(|stored| stored.unwrap().text).collect();
        let of = |reason: &str| {
            texts
                .iter()
                .filter(|text| text.contains(reason) && text.contains("net=? ") && text.contains("own7"))
                .count()
        };
        assert_eq!((of("reason=seen"), of("reason=close")), (1, 1), "{texts:#?}");
    });
}

// Shows 13.7.
#[test]
fn what_goes_with_no_record_is_closed_with_its_time_span() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        domain.qemu.take("net0");
        lab.run_until("the close", |lab| lab.recorded_devices().is_empty());
        assert_eq!(lab.holdings(), ["tun vnet0 01 x1 released close definitive"]);
        assert_eq!(lab.findings(), [""; 0]);
    });
}

// Shows 13.6.
#[test]
fn what_is_recorded_as_unplugged_and_is_not_is_a_finding() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        lab.log_record(&domain.id, detach(mac(1)));
        lab.run_until("the finding", |lab| lab.findings().contains(&"held-after-release"));
        lab.run_past_patience();
        assert_eq!(lab.findings(), ["held-after-release"]);
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(lab.holdings(), ["tun vnet0 01 x1 held - definitive"]);
        domain.qemu.take("net0");
        lab.run_until("the close", |lab| lab.recorded_devices().is_empty());
        assert_eq!(lab.findings(), ["held-after-release"]);
    });
}

// Shows 13.6.
#[test]
fn what_qemu_got_without_an_attach_record_is_a_finding_when_none_comes() {
    lab(|mut lab| {
        let mut domain = lab.boots(Vec::new());
        lab.round();
        let opened = tap("vnet0", mac(1), 1);
        lab.log_open(&domain.id, &opened);
        domain.qemu.give("net0", &opened.devices);
        drop(opened);
        lab.run_until("the finding", |lab| !lab.findings().is_empty());
        assert_eq!(lab.findings(), ["attach-failed"]);
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(lab.holdings(), ["tun vnet0 01 x1 held - definitive"]);
    });
}
