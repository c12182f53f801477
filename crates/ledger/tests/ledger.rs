//! The ledger's promises, on real files.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use jiff::Timestamp;
use taptrail_ledger::{
    AuditOutcome, Checkpoint, GuestKey, Ledger, LedgerError, Logged, NewBridgeTap, NewDevice, NewGuest,
    NewRecord, NewWatched, Process, Step, Tx,
};
use taptrail_record::{DeviceKind, GuestId, MacAddr, Rdev};
use uuid::Uuid;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

fn guest() -> GuestId {
    GuestId { name: "web1".into(), uuid: Uuid::from_u128(7) }
}

fn begin(tx: &Tx<'_>) -> Result<GuestKey, LedgerError> {
    let supervisor = Process { pid: 1, start: 2 };
    tx.guest_begins(&NewGuest { id: &guest(), boot_id: "boot", supervisor, netns: 5, paused: true })
}

fn record(text: &str) -> NewRecord<'_> {
    NewRecord {
        time: Timestamp::now(),
        kind: 2501,
        text,
        logged: Logged { outcome: AuditOutcome::ReadBack, serial: Some(u32::MAX) },
    }
}

fn tun() -> NewDevice<'static> {
    NewDevice {
        mac: MAC,
        kind: DeviceKind::Tun,
        path: "/dev/net/tun",
        rdev: Some(Rdev::TUN),
        dev: Some("vnet0"),
        queue: 0,
    }
}

#[test]
fn who_must_not_wait_reads_a_ledger_in_place_or_a_small_copy() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Ledger::open_at_once(dir.path()), Err(LedgerError::File { .. })), "there is none");
    std::fs::write(dir.path().join("ledger.sqlite"), "").unwrap();
    std::fs::set_permissions(dir.path().join("ledger.sqlite"), std::fs::Permissions::from_mode(0o600))
        .unwrap();
    assert!(Ledger::open_at_once(dir.path()).unwrap().is_none(), "it is just being made");

    let mut ledger = Ledger::open(dir.path()).unwrap();
    let tx = ledger.begin().unwrap();
    let key = begin(&tx).unwrap();
    for _ in 0..2 {
        let opened = tx.record(key, &record("open")).unwrap();
        tx.device_opened(key, &tun(), opened).unwrap();
    }
    tx.commit().unwrap();
    let look = || {
        let ledger = Ledger::open_at_once(dir.path()).unwrap()?;
        let guests = ledger.recent_guests().unwrap().into_iter().map(|guest| guest.id);
        Some((guests.collect::<Vec<_>>(), ledger.recent_macs().unwrap()))
    };
    let found = Some((vec![guest()], vec![MAC]));
    assert_eq!(look(), found, "in place");
    // Another process writes.
    let tx = ledger.begin().unwrap();
    assert_eq!(look(), found);
    drop(tx);

    let text = "x".repeat(8000);
    let tx = ledger.begin().unwrap();
    for _ in 0..600 {
        tx.record(key, &record(&text)).unwrap();
    }
    tx.commit().unwrap();
    assert_eq!(look(), found, "a large one in place");
    drop(ledger);
    assert_eq!(look(), None, "a large one that has to be copied");
}

// Shows 4.1.
#[test]
fn what_is_committed_is_read_back_and_what_is_not_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let tx = ledger.begin().unwrap();
    let key = begin(&tx).unwrap();
    tx.guest_runs(key, Process { pid: 3, start: 4 }).unwrap();
    let opened = tx.record(key, &record("open")).unwrap();
    tx.device_opened(key, &tun(), opened).unwrap();
    tx.commit().unwrap();

    let tx = ledger.begin().unwrap();
    tx.record(key, &record("never committed")).unwrap();
    drop(tx);

    let reader = Ledger::open_to_read(dir.path()).unwrap();
    let guests = reader.guests().unwrap();
    assert_eq!(guests.len(), 1);
    assert_eq!(guests[0].id, guest());
    assert_eq!(guests[0].qemu, Some(Process { pid: 3, start: 4 }));
    assert!(guests[0].ended.is_none());
    assert_eq!(reader.open_devices().unwrap(), 1);
    let records: Vec<_> = reader.into_records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].text.as_str(), records[0].serial), ("open", Some(u32::MAX)));
    assert_eq!((records[0].writer, records[0].boot_id.as_str()), (Some(1), "boot"));
}

// Shows 1.3.
#[test]
fn a_device_is_granted_once_and_closed_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let tx = ledger.begin().unwrap();
    let key = begin(&tx).unwrap();
    let text = tx.record(key, &record("text")).unwrap();
    let device = tx.device_opened(key, &tun(), text).unwrap();
    tx.device_granted(device, text, Some(9)).unwrap();
    assert!(matches!(
        tx.device_granted(device, text, Some(9)),
        Err(LedgerError::AlreadyDone { what: "grant", .. })
    ));
    tx.device_closed(device, text).unwrap();
    assert!(matches!(tx.device_closed(device, text), Err(LedgerError::AlreadyDone { what: "close", .. })));
    tx.commit().unwrap();
    assert_eq!(ledger.open_devices().unwrap(), 0);
}

// Shows 4.6.
#[test]
fn a_step_without_an_outcome_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let tx = ledger.begin().unwrap();
    let key = begin(&tx).unwrap();
    let step = tx.intend(key, Step::HandOver, Some(MAC), "bridge=br0").unwrap();
    tx.commit().unwrap();
    assert_eq!(ledger.open_steps().unwrap(), 1);
    let tx = ledger.begin().unwrap();
    tx.done(step, "success").unwrap();
    assert!(tx.done(step, "success").is_err());
    tx.commit().unwrap();
    assert_eq!(ledger.open_steps().unwrap(), 0);
}

// Shows 4.4.
#[test]
fn only_its_owner_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("a/state");
    let mut ledger = Ledger::open(&state).unwrap();
    let tx = ledger.begin().unwrap();
    begin(&tx).unwrap();
    tx.commit().unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&state), 0o700);
    for file in std::fs::read_dir(&state).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
}

// Shows 4.4.
#[test]
fn a_newer_ledger_a_foreign_file_and_a_symbolic_link_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(Ledger::open(dir.path()).unwrap());
    let file = Ledger::file(dir.path());
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let error = Ledger::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("schema version 99"), "{error}");

    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(Ledger::file(foreign.path()), "not a database, not at all").unwrap();
    assert!(matches!(Ledger::open(foreign.path()), Err(LedgerError::Open { .. })));

    let linked = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&file, Ledger::file(linked.path())).unwrap();
    assert!(matches!(Ledger::open(linked.path()), Err(LedgerError::File { .. })));
}

#[test]
fn open_parts_of_an_account_are_listed_until_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let tx = ledger.begin().unwrap();
    let key = begin(&tx).unwrap();
    let step = tx.intend(key, Step::Open, Some(MAC), "").unwrap();
    let interface = tx.interface_begins(key, MAC, "nic0", "bridge=br0").unwrap();
    let opened = tx.record(key, &record("open")).unwrap();
    let device = tx.device_opened(key, &tun(), opened).unwrap();
    tx.commit().unwrap();

    assert_eq!(ledger.live_guests().unwrap()[0].key, key);
    assert_eq!(ledger.netns_and_paused(key).unwrap(), (Some(5), true));
    assert!(ledger.last_observed(key).unwrap() >= ledger.live_guests().unwrap()[0].begun);
    let interfaces = ledger.live_interfaces(key).unwrap();
    assert_eq!((interfaces[0].nic.as_str(), interfaces[0].spec.as_str()), ("nic0", "bridge=br0"));
    assert_eq!((interfaces[0].mac, interfaces[0].ifname.as_deref()), (MAC, Some("vnet0")));
    let devices = ledger.live_devices(key).unwrap();
    assert_eq!((devices[0].key, devices[0].granted, devices[0].qemu_fd), (device, false, None));
    assert_eq!(devices[0].device.kind, DeviceKind::Tun);
    assert_eq!(ledger.live_steps(key).unwrap()[0].step, Step::Open);

    let tx = ledger.begin().unwrap();
    tx.device_closed(device, opened).unwrap();
    tx.interface_ends(interface).unwrap();
    assert!(matches!(tx.interface_ends(interface), Err(LedgerError::AlreadyDone { .. })));
    // Begun by a process that will not end it.
    let release = tx.intend(key, Step::Release, Some(MAC), "revoke").unwrap();
    tx.interface_begins(key, MAC, "nic1", "bridge=br0").unwrap();
    assert!(matches!(tx.done(release, "success"), Err(LedgerError::AlreadyDone { .. })), "superseded");
    tx.intend(key, Step::Release, Some(MAC), "revoke").unwrap();
    tx.done(step, "success").unwrap();
    tx.guest_ends(key, "destroyed").unwrap();
    tx.commit().unwrap();
    assert!(ledger.live_guests().unwrap().is_empty());
    assert!(ledger.live_interfaces(key).unwrap().is_empty() && ledger.live_steps(key).unwrap().is_empty());
}

// Shows 11.10.
#[test]
fn an_older_ledger_is_read_as_it_is_and_migrated_when_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = Ledger::file(dir.path());
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.execute_batch(include_str!("../src/schema/1.sql")).unwrap();
    raw.execute_batch(
        "INSERT INTO guest (name, uuid, boot_id, supervisor_pid, supervisor_start, begun)
         VALUES ('old', '00000000-0000-0000-0000-000000000007', 'boot', 1, 2, 3);
         INSERT INTO record (guest, time, type, text, logged) VALUES (1, 4, 2501, 'text', 'off');
         PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(raw);
    let reader = Ledger::open_to_read(dir.path()).unwrap();
    let guests = reader.guests().unwrap();
    assert_eq!((&*guests[0].id.name, guests[0].watched), ("old", false));
    let mut count = 0;
    reader.each_record(guests[0].key, |record| count += u32::from(record.writer == Some(1))).unwrap();
    assert_eq!(count, 1);
    let records: Vec<_> = reader.into_records().map(Result::unwrap).collect();
    assert_eq!((records[0].writer, records[0].copied), (Some(1), false));

    let mut ledger = Ledger::open(dir.path()).unwrap();
    let old = ledger.live_guests().unwrap()[0].key;
    assert_eq!(ledger.netns_and_paused(old).unwrap(), (None, false));
    assert_eq!(ledger.checkpoint().unwrap(), None);
    assert_eq!(ledger.last_observed(old).unwrap(), Timestamp::from_millisecond(4).unwrap());
    let tx = ledger.begin().unwrap();
    tx.interface_begins(old, MAC, "nic0", "bridge=br0").unwrap();
    tx.commit().unwrap();
    // Opening it again does not migrate it again.
    assert_eq!(Ledger::open(dir.path()).unwrap().live_interfaces(old).unwrap().len(), 1);
}

/// Writes a watched guest with one device, as a watcher does.
fn watch(ledger: &mut Ledger) -> GuestKey {
    let tx = ledger.begin().unwrap();
    let watcher = Process { pid: 70, start: 71 };
    let begun = Timestamp::from_second(1000).unwrap();
    let key = tx.watched_begins(&NewWatched { id: &guest(), boot_id: "boot", watcher, begun }).unwrap();
    let at = |seconds, text| NewRecord { time: Timestamp::from_second(seconds).unwrap(), ..record(text) };
    tx.guest_runs(key, Process { pid: 3, start: 4 }).unwrap();
    let opened = tx.copy(key, &at(1000, "libvirt opens"), Some(9)).unwrap();
    tx.copy(key, &at(1001, "libvirt starts"), None).unwrap();
    let seen = tx.watched(key, &at(1002, "seen"), 70).unwrap();
    let device = tx.device_opened(key, &tun(), opened).unwrap();
    tx.device_granted(device, seen, Some(25)).unwrap();
    let checkpoint = Checkpoint { text: "there".to_owned(), time: begun, serial: Some(7) };
    tx.save_checkpoint(&checkpoint).unwrap();
    tx.save_checkpoint(&Checkpoint { text: "here".to_owned(), ..checkpoint }).unwrap();
    tx.commit().unwrap();
    key
}

// Shows 13.8.
#[test]
fn a_watched_guest_has_its_account_with_its_managers_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let key = watch(&mut ledger);
    let live = ledger.live_guests().unwrap();
    assert_eq!((live[0].key, live[0].watched, live[0].supervisor.pid), (key, true, 70));
    assert_eq!(ledger.live_devices(key).unwrap()[0].qemu_fd, Some(25));
    let checkpoint = ledger.checkpoint().unwrap().unwrap();
    assert_eq!((&*checkpoint.text, checkpoint.serial), ("here", Some(7)));
    assert_eq!(ledger.last_observed(key).unwrap(), Timestamp::from_second(1002).unwrap());
    let tx = ledger.begin().unwrap();
    tx.guest_seen(key, Timestamp::from_second(1009).unwrap()).unwrap();
    tx.commit().unwrap();
    assert_eq!(ledger.last_observed(key).unwrap(), Timestamp::from_second(1009).unwrap());

    let mut records = Vec::new();
    ledger.each_record(key, |record| records.push((record.text, record.writer, record.copied))).unwrap();
    assert_eq!(
        records,
        [
            ("libvirt opens".to_owned(), Some(9), true),
            ("libvirt starts".to_owned(), None, true),
            ("seen".to_owned(), Some(70), false)
        ]
    );
    assert!(ledger.faults().unwrap().is_empty());

    let device = ledger.live_devices(key).unwrap()[0].key;
    let tx = ledger.begin().unwrap();
    let gone = tx.watched(key, &record("gone"), 70).unwrap();
    tx.device_closed(device, gone).unwrap();
    tx.guest_ends(key, "gone").unwrap();
    assert!(matches!(tx.guest_seen(key, Timestamp::now()), Err(LedgerError::AlreadyDone { .. })));
    tx.commit().unwrap();
    let later = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    assert_eq!(ledger.prune(later).unwrap().records, 4);
    assert!(ledger.checkpoint().unwrap().is_some());
}

// Shows 13.8.
#[test]
fn copies_stand_where_their_records_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let tx = ledger.begin().unwrap();
    let own = begin(&tx).unwrap();
    let at = |seconds, text| NewRecord { time: Timestamp::from_second(seconds).unwrap(), ..record(text) };
    tx.record(own, &at(10, "first")).unwrap();
    tx.record(own, &at(3, "second, after the clock was set back")).unwrap();
    tx.commit().unwrap();
    let tx = ledger.begin().unwrap();
    tx.copy(own, &at(9, "copied late"), Some(9)).unwrap();
    tx.copy(own, &at(10, "at the same time"), Some(9)).unwrap();
    for number in 0..2000 {
        tx.copy(own, &at(11 + number, "many"), Some(9)).unwrap();
    }
    tx.record(own, &at(500, "between")).unwrap();
    tx.commit().unwrap();
    let records: Vec<_> = ledger.into_records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 2005);
    let texts: Vec<_> = records[..4].iter().map(|record| &*record.text).collect();
    assert_eq!(texts, ["copied late", "at the same time", "first", "second, after the clock was set back"]);
    let between = records.iter().position(|record| record.text == "between").unwrap();
    let neighbours = [&records[between - 1], &records[between + 1]].map(|record| record.time.as_second());
    assert_eq!(neighbours, [500, 501]);
}

/// A guest with one device, ended or not.
fn one_guest(ledger: &mut Ledger, ended: bool) -> GuestKey {
    let tx = ledger.begin().unwrap();
    let key = begin(&tx).unwrap();
    let step = tx.intend(key, Step::Start, None, "").unwrap();
    tx.interface_begins(key, MAC, "nic0", "bridge=br0").unwrap();
    let text = tx.record(key, &record("text")).unwrap();
    let device = tx.device_opened(key, &tun(), text).unwrap();
    if ended {
        tx.device_closed(device, text).unwrap();
        tx.done(step, "success").unwrap();
        tx.guest_ends(key, "shutdown").unwrap();
    }
    tx.commit().unwrap();
    key
}

// Shows 4.13.
#[test]
fn pruning_forgets_what_has_ended_and_never_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    one_guest(&mut ledger, true);
    let open = one_guest(&mut ledger, false);
    one_guest(&mut ledger, true);
    let long_ago = Timestamp::from_second(1).unwrap();
    assert_eq!(ledger.prune(long_ago).unwrap().guests, 0);
    let later = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let pruned = ledger.prune(later).unwrap();
    assert_eq!((pruned.guests, pruned.records), (2, 2));
    assert_eq!(ledger.guests().unwrap().iter().map(|guest| guest.key).collect::<Vec<_>>(), [open]);
    assert_eq!((ledger.open_devices().unwrap(), ledger.open_steps().unwrap()), (1, 1));
    assert!(ledger.faults().unwrap().is_empty());
    assert_eq!(ledger.into_records().count(), 1);
}

/// SQLite's busy timeout does not apply to changing the journal mode.
// Shows 4.14.
#[test]
fn a_new_ledger_is_opened_by_many_at_once() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let begin = Barrier::new(6);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    begin.wait();
                    Ledger::open(dir.path()).unwrap();
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    begin.wait();
                    while !Ledger::file(dir.path()).exists() {
                        std::hint::spin_loop();
                    }
                    assert!(Ledger::open_to_read(dir.path()).unwrap().guests().unwrap().is_empty());
                });
            }
        });
    }
}

// Shows 4.11.
#[test]
fn faults_of_a_ledger_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    for _ in 0..200 {
        one_guest(&mut ledger, true);
    }
    assert!(ledger.faults().unwrap().is_empty());
    let raw = rusqlite::Connection::open(Ledger::file(dir.path())).unwrap();
    raw.execute_batch(
        "PRAGMA foreign_keys = OFF; UPDATE device SET closed = NULL WHERE id = 3; DELETE FROM guest WHERE id = 5;
         UPDATE device SET opened = 1 WHERE id = 7; PRAGMA wal_checkpoint(TRUNCATE);",
    )
    .unwrap();
    drop(raw);
    let faults = ledger.faults().unwrap();
    for fault in [
        "device 3 was never closed, though its guest has ended",
        "device 7 has records of another guest",
        "step 5 refers to a guest that is not there",
    ] {
        assert!(faults.iter().any(|found| found == fault), "{faults:#?}");
    }
    drop(ledger);

    // A page of zeros in the middle of the file.
    let file = Ledger::file(dir.path());
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0);
    std::fs::write(&file, bytes).unwrap();
    let faults = Ledger::open_to_read(dir.path()).and_then(|ledger| ledger.faults());
    assert!(faults.is_err() || !faults.unwrap().is_empty());
}

// Shows 4.15.
#[test]
fn an_account_is_carried_over_into_the_ledger_that_took_its_place() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let tx = ledger.begin().unwrap();
    let key = begin(&tx).unwrap();
    let opened = tx.record(key, &record("open")).unwrap();
    let device = tx.device_opened(key, &tun(), opened).unwrap();
    let interface = tx.interface_begins(key, MAC, "nic0", "bridge=br0").unwrap();
    let step = tx.intend(key, Step::Release, Some(MAC), "unplug").unwrap();
    tx.commit().unwrap();

    // Another ledger replaces it, with other guests in it.
    let mut another = Ledger::open(other.path()).unwrap();
    let tx = another.begin().unwrap();
    for _ in 0..3 {
        begin(&tx).unwrap();
    }
    tx.commit().unwrap();
    drop(another);
    for file in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"] {
        let _ = std::fs::remove_file(dir.path().join(file));
    }
    assert!(matches!(ledger.begin(), Err(LedgerError::Removed { .. })));
    std::fs::copy(Ledger::file(other.path()), Ledger::file(dir.path())).unwrap();
    assert!(ledger.is_replaced());
    assert!(matches!(ledger.begin(), Err(LedgerError::Replaced { .. })));

    let mut new = Ledger::open(dir.path()).unwrap();
    let moved = ledger.move_account(key, &mut new).unwrap();
    assert_eq!(new.guests().unwrap().len(), 4);
    let tx = new.begin().unwrap();
    let closed = tx.record(moved.guest(key), &record("close")).unwrap();
    tx.device_closed(moved.device(device), closed).unwrap();
    tx.done(moved.step(step), "success").unwrap();
    tx.interface_ends(moved.interface(interface)).unwrap();
    // Rows inserted after the move keep their ids.
    let later = tx.intend(moved.guest(key), Step::Stop, None, "").unwrap();
    assert_eq!(moved.step(later), later);
    tx.done(later, "success").unwrap();
    tx.commit().unwrap();
    let again = ledger.move_account(key, &mut new).unwrap();
    assert_eq!(new.guests().unwrap().len(), 4, "an older state of the same account gives way");
    assert_eq!(new.live_devices(again.guest(key)).unwrap().len(), 1);
    assert_eq!(new.faults().unwrap(), Vec::<String>::new());
}

// Shows 4.17.
#[test]
fn a_ledger_that_others_can_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |mode: u32, path: &std::path::Path| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        for opened in [Ledger::open(dir.path()), Ledger::open_to_read(dir.path())] {
            let error = opened.unwrap_err();
            assert!(matches!(error, LedgerError::NotOurs { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
        }
    };
    drop(Ledger::open(dir.path()).unwrap());
    let file = Ledger::file(dir.path());
    refused(0o666, &file);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    refused(0o777, dir.path());
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
    for opened in [Ledger::open(dir.path()), Ledger::open_to_read(dir.path())] {
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("belongs to user 65534"), "{error}");
    }
    Ledger::open_file_to_read(file.clone()).unwrap();
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
    let error = Ledger::open_to_read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("belongs to user 65534"), "{error}");
    std::os::unix::fs::chown(dir.path(), Some(0), None).unwrap();
    // A symbolic link is refused, too.
    let real = dir.path().join("real");
    std::fs::rename(&file, &real).unwrap();
    std::os::unix::fs::symlink(&real, &file).unwrap();
    assert!(matches!(Ledger::open_to_read(dir.path()), Err(LedgerError::NotOurs { .. })));
    // A dangling symbolic link does not create a ledger at its target.
    std::fs::remove_file(&file).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    assert!(matches!(Ledger::open(dir.path()), Err(LedgerError::File { .. })));
    assert!(!elsewhere.exists());
}

// Shows 13.43.
#[test]
fn a_bridge_helpers_tap_has_an_account_without_a_guest() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let watcher = Process { pid: 5, start: 6 };
    let tx = ledger.begin().unwrap();
    let tap =
        NewBridgeTap { boot_id: "boot", watcher, requester: Some(Process { pid: 7, start: 8 }), netns: 9 };
    let first = tx.bridge_tap_opened(&tap, &record("open 1")).unwrap();
    let second = tx.bridge_tap_opened(&NewBridgeTap { requester: None, ..tap }, &record("open 2")).unwrap();
    tx.commit().unwrap();
    let open: Vec<_> = ledger
        .live_bridge_taps()
        .unwrap()
        .into_iter()
        .map(|tap| (tap.key, tap.boot_id, tap.opened))
        .collect();
    let boot = || "boot".to_owned();
    assert_eq!(open, [(first, boot(), "open 1".to_owned()), (second, boot(), "open 2".to_owned())]);
    // It is no guest, whoever asks.
    for guests in [ledger.guests(), ledger.live_guests(), ledger.recent_guests()] {
        assert!(guests.unwrap().is_empty());
    }
    let seen = Timestamp::now() + jiff::SignedDuration::from_secs(9);
    let tx = ledger.begin().unwrap();
    tx.guest_seen(first, seen).unwrap();
    tx.bridge_tap_closed(second, &record("close 2"), watcher.pid).unwrap();
    assert!(matches!(
        tx.bridge_tap_closed(second, &record("again"), watcher.pid),
        Err(LedgerError::AlreadyDone { .. })
    ));
    drop(tx);
    assert_eq!(ledger.live_bridge_taps().unwrap().len(), 2, "nothing of a failed transaction");
    let tx = ledger.begin().unwrap();
    tx.guest_seen(first, seen).unwrap();
    tx.bridge_tap_closed(second, &record("close 2"), watcher.pid).unwrap();
    tx.commit().unwrap();
    let open = ledger.live_bridge_taps().unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].key, open[0].last_seen.as_millisecond()), (first, seen.as_millisecond()));
    assert!(ledger.faults().unwrap().is_empty());
    // Its records are of the chain, and pruned when it has ended.
    assert_eq!(ledger.prune(seen).unwrap().records, 2);
    let texts: Vec<_> = ledger.into_records().map(|row| row.unwrap().text).collect();
    assert_eq!(texts, ["open 1"]);
}
