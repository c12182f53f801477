//! Watchers that restart, and ledgers that can't be written.

use taptrail_ledger::Ledger;
use taptrail_trail::{Content, Gap, GapReason};
use taptrail_witness::watch::{WatchError, WatchOptions, Watcher};
use uuid::Uuid;

use crate::lab::{HOST, ip, lab, mac};
use crate::manager::{LIBVIRTD, attach, detach, macvtap, op_start, tap};

// Shows 13.10.
#[test]
fn the_next_watcher_goes_on_where_the_last_one_was() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1), tap("vnet1", mac(2), 2)]);
        lab.round();
        lab.watcher = None;
        // Recorded while no watcher runs.
        lab.attaches(&mut domain, "net8", tap("vnet8", mac(8), 1));
        lab.watch();
        lab.round();
        lab.assert_recorded(domain.qemu.pid());
        lab.detaches(&mut domain, "net1", mac(2));
        lab.round();
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(lab.released(), ["tun vnet1 02 x2 released detach definitive"]);
        assert_eq!(lab.findings(), [""; 0]);
        let texts: Vec<String> = lab.ledger().into_records().map(|stored| stored.unwrap().text).collect();
        let seen = texts.iter().filter(|text| text.contains("reason=seen")).count();
        assert_eq!(seen, 4, "nothing is recorded twice: {texts:#?}");
        assert_eq!(lab.guests().len(), 1);
    });
}

// Shows 13.7.
#[test]
fn what_ended_while_nobody_watched_has_its_time_span() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1), tap("vnet1", mac(2), 1)]);
        lab.round();
        lab.watcher = None;
        std::thread::sleep(std::time::Duration::from_millis(2100));
        let before = jiff::Timestamp::now();
        lab.detaches(&mut domain, "net0", mac(1));
        std::thread::sleep(std::time::Duration::from_millis(2100));
        lab.watch();
        lab.round();
        lab.assert_recorded(domain.qemu.pid());
        let report = lab.report();
        let released = &report.holdings[0];
        assert_eq!(lab.holdings()[0], "tun vnet0 01 x1 released detach definitive");
        assert!(released.last_seen.unwrap() < before && before < released.released.unwrap(), "{released:?}");

        lab.watcher = None;
        domain.qemu.kill();
        lab.watch();
        lab.round();
        lab.stops(&domain, "failed");
        lab.round();
        let report = lab.report();
        assert_eq!(lab.holdings()[1], "tun vnet1 02 x1 released stop definitive");
        assert!(report.holdings[1].last_seen.is_some());
        assert_eq!(lab.guests()[0].ended.as_ref().unwrap().1, "failed");
        assert_eq!(lab.findings(), [""; 0]);
        assert_eq!(report.findings, []);
    });
}

#[test]
fn a_qemu_that_calls_itself_otherwise_is_watched_again_until_it_ends() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1), macvtap(mac(2), 1)]);
        lab.round();
        for other in [0, 7] {
            lab.watcher = None;
            domain.qemu.show_uuid(if other == 0 { domain.id.uuid } else { uuid(0) }, uuid(other));
            lab.watch();
            lab.run_past_patience();
            assert_eq!(lab.watcher.as_ref().unwrap().awaited().count(), 1);
            lab.assert_recorded(domain.qemu.pid());
            assert_eq!((lab.released().len(), lab.findings().len()), (0, 0), "{:#?}", lab.happened);
        }
        assert_eq!(
            lab.holdings(),
            ["tun vnet0 01 x1 held - definitive", "macvtap macvtap0 02 x1 held - definitive"]
        );
        lab.detaches(&mut domain, "net0", mac(1));
        lab.run_until("its release", |lab| lab.released() == ["tun vnet0 01 x1 released detach definitive"]);
        domain.qemu.kill();
        lab.run_until("its end", |lab| lab.guests()[0].ended.is_some());
        assert_eq!(lab.recorded_devices(), [""; 0]);
    });
}

#[test]
fn a_qemu_that_calls_itself_otherwise_before_it_is_found_is_found_by_its_pid() {
    // The manager is alive, as this process is; or it is gone, and a device of the guest identifies
    // QEMU.
    for writer in [std::process::id(), u32::MAX] {
        lab(|mut lab| {
            let domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
            domain.qemu.show_uuid(domain.id.uuid, uuid(7));
            lab.log.iter_mut().for_each(|entry| entry.writer = Some(writer));
            lab.run_until("its device", |lab| lab.recorded_devices().len() == 1);
            lab.assert_recorded(domain.qemu.pid());
            assert_eq!(lab.findings(), [""; 0]);
        });
    }
}

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

// Shows 13.9.
#[test]
fn a_guest_older_than_the_log_is_found_by_its_uuid() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        // The log begins after the boot.
        lab.log.clear();
        lab.round();
        assert_eq!(lab.guests().len(), 0);
        lab.attaches(&mut domain, "net8", tap("vnet8", mac(8), 1));
        lab.run_until("its device", |lab| lab.recorded_devices().len() == 1);
        assert_eq!(lab.guests()[0].qemu.unwrap().pid, domain.qemu.pid());
        // Nothing shows to which interface the other device belongs.
        lab.run_until("the finding", |lab| lab.findings() == ["unaccounted-device"]);
        lab.detaches(&mut domain, "net8", mac(8));
        lab.round();
        assert_eq!(lab.released(), ["tun vnet8 08 x1 released detach definitive"]);
    });
}

// Shows 13.9.
#[test]
fn a_guest_that_runs_when_watching_begins_is_known_by_libvirts_state_of_it() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 2), macvtap(mac(2), 1)]);
        lab.log.clear();
        lab.write_libvirt_state(&domain, &[(mac(1), "vnet0")]);
        lab.run_until("all of it", |lab| lab.recorded_devices().len() == 3);
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(
            lab.holdings(),
            ["tun vnet0 01 x2 held - definitive", "macvtap macvtap0 02 x1 held - definitive"]
        );
        lab.detaches(&mut domain, "net0", mac(1));
        lab.round();
        assert_eq!(lab.released(), ["tun vnet0 01 x2 released detach definitive"]);
        domain.qemu.kill();
        ip("link delete macvtap0");
        lab.round();
        lab.stops(&domain, "shutdown");
        lab.round();
        assert_eq!(lab.findings(), [""; 0]);
        assert_eq!(lab.guests()[0].ended.as_ref().unwrap().1, "shutdown");
    });
}

#[test]
fn a_guest_whose_start_is_lost_with_a_stretch_of_the_log_is_found() {
    lab(|mut lab| {
        lab.round();
        let domain = lab.boots(vec![macvtap(mac(1), 1)]);
        lab.log.clear();
        let gap = Gap { since: None, serials: None, why: GapReason::NeverWritten };
        lab.append(Content::Gap(gap), LIBVIRTD);
        lab.write_libvirt_state(&domain, &[]);
        lab.run_until("its device", |lab| lab.recorded_devices().len() == 1);
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(lab.holdings(), ["macvtap macvtap0 01 x1 held - definitive"]);
    });
}

// Shows 13.9.
#[test]
fn who_shows_a_uuid_and_holds_no_device_of_the_guest_is_not_it() {
    lab(|mut lab| {
        let id = crate::manager::id();
        let _liar = crate::qemu::Qemu::start(id.uuid);
        lab.log_record(&id, attach(mac(1)));
        lab.run_past_patience();
        assert_eq!(lab.guests()[0].qemu, None);
    });
}

// Shows 13.10.
#[test]
fn what_the_ledger_cannot_take_now_it_takes_later_and_once() {
    lab(|mut lab| {
        let domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        let raw = rusqlite::Connection::open(Ledger::file(lab.path())).unwrap();
        raw.execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON device BEGIN SELECT RAISE(ABORT, 'full'); END;",
        )
        .unwrap();
        let watcher = lab.watcher.as_mut().unwrap();
        lab.log.iter().for_each(|entry| watcher.take(entry));
        for _ in 0..3 {
            watcher.look();
            assert!(matches!(watcher.commit(Some("4")), Err(WatchError::Ledger(_))));
            assert_eq!(watcher.checkpoint(), None);
        }
        let guests: u32 = raw.query_row("SELECT count(*) FROM guest", [], |row| row.get(0)).unwrap();
        assert_eq!(guests, 0);
        raw.execute_batch("DROP TRIGGER refuse").unwrap();
        let happened = lab.watcher.as_mut().unwrap().commit(Some("3")).unwrap();
        assert_eq!(happened.len(), 3, "{happened:?}");
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(lab.holdings(), ["tun vnet0 01 x1 held - definitive"]);
        assert_eq!(lab.watcher.as_ref().unwrap().checkpoint(), Some("3"));
    });
}

// Shows 13.10.
#[test]
fn one_watcher_at_a_time_has_a_ledger() {
    lab(|mut lab| {
        let again = || Watcher::open(lab.path(), WatchOptions::of_host(HOST));
        assert!(matches!(again(), Err(WatchError::Taken { .. })));
        lab.watcher = None;
        assert!(Watcher::open(lab.path(), WatchOptions::of_host(HOST)).is_ok());
    });
}

#[test]
fn what_is_of_another_host_is_passed_over() {
    lab(|mut lab| {
        let record = taptrail_record::Record::success(crate::manager::id(), op_start(std::process::id()));
        lab.append(taptrail_trail::Content::Record(record), LIBVIRTD);
        lab.log[0].host = "h2".into();
        lab.round();
        assert_eq!((lab.guests().len(), lab.happened.len()), (0, 0));
    });
}

#[test]
fn what_one_watcher_reported_as_held_the_next_one_reports_again_only_after_another_detach() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        lab.log_record(&domain.id, detach(mac(1)));
        lab.run_until("the finding", |lab| lab.findings() == ["held-after-release"]);
        lab.attaches(&mut domain, "net1", tap("vnet1", mac(1), 1));
        lab.run_until("both", |lab| lab.recorded_devices().len() == 2);
        let seen = |lab: &crate::lab::Lab| {
            lab.ledger()
                .into_records()
                .filter(|stored| stored.as_ref().unwrap().text.contains("reason=seen"))
                .count()
        };
        lab.watcher = None;
        lab.watch();
        lab.run_past_patience();
        assert_eq!(seen(&lab), 3, "two, and the first once more");
        // The second stays, too, and then the first once more.
        for reported in 2..4 {
            lab.log_record(&domain.id, detach(mac(1)));
            lab.run_until("another", |lab| lab.findings().len() > reported);
            lab.run_past_patience();
            let mut expected = vec!["held-after-release"; reported];
            expected.insert(1, "duplicate-mac");
            assert_eq!(lab.findings(), expected);
        }
        assert_eq!(
            lab.holdings(),
            ["tun vnet0 01 x1 held - definitive", "tun vnet1 01 x1 held - definitive"]
        );
        lab.assert_recorded(domain.qemu.pid());
    });
}
