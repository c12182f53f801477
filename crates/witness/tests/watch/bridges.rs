//! A tap that is moved to another bridge while QEMU holds it, without a record.

use taptrail_witness::watch::EventKind;

use crate::lab::{Lab, ip, lab, mac};
use crate::manager::{macvtap, tap};

impl Lab {
    /// The bridge changes that the watcher reported: MAC, tap, from, to.
    fn bridge_changes(&self) -> Vec<String> {
        let changed = self.happened.iter().filter_map(|event| match &event.kind {
            EventKind::BridgeChanged { mac, device, from, to, .. } => {
                let name = |bridge: &Option<String>| bridge.clone().unwrap_or_else(|| "-".to_owned());
                let mac = mac.map_or("-".to_owned(), |mac| format!("{:02x}", mac.0[5]));
                Some(format!("{mac} {} {} {}", device.dev.as_deref().unwrap(), name(from), name(to)))
            }
            _ => None,
        });
        changed.collect()
    }
}

// Shows 13.16.
#[test]
fn a_tap_that_is_moved_to_another_bridge_without_a_record_is_an_event_and_no_release() {
    lab(|mut lab| {
        ip("link add br1 type bridge");
        let opened = tap("vnet0", mac(1), 2);
        ip("link set vnet0 master br0");
        let domain = lab.boots(vec![opened, macvtap(mac(2), 1)]);
        lab.run_until("the tap", |lab| lab.recorded_devices().len() == 3);
        lab.run_past_patience();
        assert_eq!(lab.bridge_changes(), [""; 0]);

        ip("link set vnet0 master br1");
        lab.run_until("the change", |lab| !lab.bridge_changes().is_empty());
        lab.run_past_patience();
        assert_eq!(lab.bridge_changes(), ["01 vnet0 br0 br1"]);

        // A change that fails leaves it in no bridge. A tap that is out of one bridge and at once
        // in the next is a change between the two.
        ip("link set vnet0 nomaster");
        lab.round();
        ip("link set vnet0 master br0");
        lab.run_until("the second change", |lab| lab.bridge_changes().len() == 2);
        ip("link set vnet0 nomaster");
        lab.run_until("the third change", |lab| lab.bridge_changes().len() == 3);
        lab.run_past_patience();
        assert_eq!(lab.bridge_changes()[1..], ["01 vnet0 br1 br0", "01 vnet0 br0 -"]);

        assert_eq!((lab.released(), lab.findings()), (vec![], vec![]));
        lab.assert_recorded(domain.qemu.pid());
        let texts: Vec<String> = lab.ledger().into_records().map(|stored| stored.unwrap().text).collect();
        assert!(texts.iter().all(|text| !text.contains("br1")), "{texts:#?}");
    });
}

#[test]
fn a_watcher_that_comes_back_reports_what_changes_from_then_on() {
    lab(|mut lab| {
        ip("link add br1 type bridge");
        let opened = tap("vnet0", mac(1), 1);
        ip("link set vnet0 master br0");
        let mut domain = lab.boots(vec![opened]);
        lab.run_until("the tap", |lab| lab.recorded_devices().len() == 1);
        lab.watcher = None;
        lab.watch();
        lab.round();
        ip("link set vnet0 master br1");
        lab.run_until("the change", |lab| !lab.bridge_changes().is_empty());
        assert_eq!(lab.bridge_changes(), ["01 vnet0 br0 br1"]);
        // A tap that is closed is a release, and no change of bridge.
        lab.detaches(&mut domain, "net0", mac(1));
        lab.run_until("the release", |lab| !lab.released().is_empty());
        lab.run_past_patience();
        assert_eq!(lab.bridge_changes().len(), 1);
    });
}
