#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rusqlite::Connection;
use taptrail_record::GuestId;
use uuid::Uuid;

use super::*;
use crate::{GuestKey, Ledger, Logged, NewGuest, NewRecord, Process, Tx};

fn guest(tx: &Tx<'_>, number: u128) -> GuestKey {
    let id = GuestId { name: format!("web{number}").as_str().into(), uuid: Uuid::from_u128(number) };
    let supervisor = Process { pid: 1, start: 2 };
    tx.guest_begins(&NewGuest { id: &id, boot_id: "boot", supervisor, netns: 5, paused: false }).unwrap()
}

fn record(tx: &Tx<'_>, guest: GuestKey, text: &str) {
    let new = NewRecord { time: Timestamp::now(), kind: 2501, text, logged: Logged::OFF };
    tx.record(guest, &new).unwrap();
}

/// Writes guests with three records each.
fn write(ledger: &mut Ledger, guests: std::ops::Range<u128>) -> Vec<GuestKey> {
    let one = |number| {
        let tx = ledger.begin().unwrap();
        let key = guest(&tx, number);
        record(&tx, key, "open");
        record(&tx, key, "start");
        tx.commit().unwrap();
        let tx = ledger.begin().unwrap();
        record(&tx, key, "close");
        tx.commit().unwrap();
        key
    };
    guests.map(one).collect()
}

fn end(ledger: &mut Ledger, guest: GuestKey) {
    let tx = ledger.begin().unwrap();
    tx.guest_ends(guest, "shutdown").unwrap();
    tx.commit().unwrap();
}

/// A ledger with guests 1 to 4, of which the first has ended: records 1 to 12.
fn ledger(state: &Path) -> Ledger {
    let mut ledger = Ledger::open(state).unwrap();
    let guests = write(&mut ledger, 1..5);
    end(&mut ledger, guests[0]);
    ledger
}

/// Changes the file with other means than taptrail's.
fn raw(state: &Path, sql: &str) {
    let raw = Connection::open(Ledger::file(state)).unwrap();
    raw.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    raw.execute_batch(sql).unwrap();
}

fn report(state: &Path, checkpoints: &[ChainCheckpoint]) -> ChainReport {
    Ledger::open_to_read(state).unwrap().check_chain(checkpoints).unwrap().unwrap()
}

/// The kinds of the faults, with their records and rows.
fn faults(state: &Path) -> Vec<String> {
    let report = report(state, &[]);
    assert_eq!(report.fault_count, report.faults.len() as u64);
    let fault = |fault: &ChainFault| {
        let record = fault.record().map_or(0, |record| record.record);
        let (from, to) = fault.rows().unwrap_or_default();
        format!("{} {record} {from}-{to}", fault.kind())
    };
    report.faults.iter().map(fault).collect()
}

fn checkpoint(state: &Path) -> ChainCheckpoint {
    Ledger::open_to_read(state).unwrap().chain_checkpoint().unwrap().unwrap()
}

fn verdict(state: &Path, checkpoint: &ChainCheckpoint) -> CheckpointVerdict {
    report(state, std::slice::from_ref(checkpoint)).checkpoints[0]
}

// Shows 4.33.
#[test]
fn a_ledger_that_only_taptrail_wrote_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut new = Ledger::open(dir.path()).unwrap();
    let empty = checkpoint(dir.path());
    assert_eq!(empty.row, 0);
    assert_eq!(verdict(dir.path(), &empty), CheckpointVerdict::Holds);
    write(&mut new, 1..3);
    let now = checkpoint(dir.path());
    let whole = report(dir.path(), &[empty.clone(), now.clone()]);
    assert_eq!(whole.checkpoints, [CheckpointVerdict::Holds; 2]);
    assert_eq!((whole.last_row, whole.unchanged, whole.deleted, whole.older), (6, 6, 0, None));
    assert_eq!((whole.ledger, whole.fault_count, whole.outside_count), (now.ledger.to_string(), 0, 0));
    // What is not committed leaves nothing, also when it is written again.
    for _ in 0..3 {
        let tx = new.begin().unwrap();
        let key = guest(&tx, 9);
        record(&tx, key, "never committed");
        drop(tx);
    }
    assert_eq!(checkpoint(dir.path()).sha256, now.sha256);
    write(&mut new, 3..4);
    let later = report(dir.path(), &[now]);
    assert_eq!((later.last_row, later.unchanged, later.fault_count), (9, 9, 0));
    assert_eq!(later.checkpoints, [CheckpointVerdict::Holds]);
}

// Shows 4.31.
#[test]
fn what_was_altered_removed_or_inserted_is_named() {
    for (change, found) in [
        ("UPDATE record SET text = 'ope' WHERE id = 5", &["record-altered 5 5-5"][..]),
        ("UPDATE record SET time = time + 1 WHERE id = 5", &["record-altered 5 5-5"]),
        ("UPDATE record SET serial = 7 WHERE id = 5", &["record-altered 5 5-5"]),
        ("UPDATE record SET guest = 1 WHERE id = 5", &["record-altered 5 5-5"]),
        (
            "UPDATE guest SET name = 'web9' WHERE id = 2",
            &["record-altered 4 4-4", "record-altered 5 5-5", "record-altered 6 6-6"],
        ),
        // In the middle, and at the end.
        ("DELETE FROM record WHERE id = 5", &["record-removed 5 5-5"]),
        ("DELETE FROM record WHERE id = 12", &["record-removed 12 12-12"]),
        (
            "DELETE FROM record WHERE guest = 2; DELETE FROM guest WHERE id = 2",
            &["record-removed 4 4-4", "record-removed 5 5-5", "record-removed 6 6-6"],
        ),
        (
            "DELETE FROM record WHERE id IN (5, 6); DELETE FROM chain WHERE id IN (5, 6)",
            &["chain-removed 0 5-6"],
        ),
        // At the beginning, in the middle and at the end.
        (
            "INSERT INTO record (id, guest, time, type, text, logged) VALUES (0, 1, 1, 2501, 'x', 'off')",
            &["record-inserted 0 0-0"],
        ),
        (
            "UPDATE record SET id = id + 100 WHERE id > 10;
             INSERT INTO record (id, guest, time, type, text, logged) VALUES (11, 1, 1, 2501, 'x', 'off');
             UPDATE record SET id = id - 99 WHERE id > 100",
            &["record-altered 11 11-11", "record-altered 12 12-12", "record-inserted 13 0-0"],
        ),
        (
            "INSERT INTO record (guest, time, type, text, logged) VALUES (1, 1, 2501, 'x', 'off')",
            &["record-inserted 13 0-0"],
        ),
        // Two records in each other's place.
        (
            "UPDATE record SET id = 99 WHERE id = 4; UPDATE record SET id = 4 WHERE id = 8;
             UPDATE record SET id = 8 WHERE id = 99",
            &["record-altered 4 4-4", "record-altered 8 8-8"],
        ),
        // With the chain's own digest: only its row's hash is left.
        (
            "UPDATE record SET text = 'x' WHERE id = 5; UPDATE chain SET digest = zeroblob(32) WHERE id = 5",
            &["chain-altered 5 5-5", "record-altered 5 5-5"],
        ),
        (
            "UPDATE chain SET hash = zeroblob(32) WHERE id = 5",
            &["chain-altered 5 5-5", "chain-altered 6 6-6"],
        ),
        ("UPDATE chain SET hash = x'00' WHERE id = 12", &["chain-altered 12 12-12"]),
        ("UPDATE chain SET time = 0 WHERE id = 5", &["chain-altered 5 5-5"]),
        ("UPDATE chain SET kind = 'note' WHERE id = 5", &["chain-altered 0 5-5", "record-inserted 5 0-0"]),
        (
            "DELETE FROM chain WHERE id < 3",
            &["chain-removed 0 1-2", "record-inserted 1 0-0", "record-inserted 2 0-0"],
        ),
        // The beginning of the chain.
        ("UPDATE chain_start SET older = 0", &["start-altered 0 0-0"]),
        ("UPDATE chain_start SET ledger = '00000000-0000-0000-0000-000000000007'", &["start-altered 0 0-0"]),
        ("UPDATE chain_start SET pruned = 3, pruned_hash = zeroblob(32)", &["start-altered 0 0-0"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        drop(ledger(dir.path()));
        assert_eq!(faults(dir.path()), [""; 0]);
        raw(dir.path(), change);
        let mut named = faults(dir.path());
        named.sort();
        assert_eq!(named, found, "{change}");
    }
    let dir = tempfile::tempdir().unwrap();
    drop(ledger(dir.path()));
    raw(dir.path(), "UPDATE record SET text = 'x', time = 0 WHERE id = 5");
    let fault = report(dir.path(), &[]).faults[0].to_string();
    let time = format!("{:.3}", Timestamp::now()).split_at(11).0.to_owned();
    assert!(fault.starts_with(&format!("record 5 of {time}")), "as it was written: {fault}");
    assert!(fault.contains("(guest web2, row 5 of the chain) was altered"), "{fault}");
}

/// The next record does not get the id of one that was removed from the end, and is not taken for it.
#[test]
fn a_record_that_follows_removed_ones_is_none_of_them() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut new = ledger(dir.path());
    let whole = checkpoint(dir.path());
    raw(dir.path(), "DELETE FROM record WHERE id > 10");
    write(&mut new, 5..6);
    let removed = ["record-removed 11 11-11", "record-removed 12 12-12"];
    assert_eq!(faults(dir.path()), removed);
    let mut old = Ledger::open(other.path()).unwrap();
    let key = write(&mut old, 1..2)[0];
    raw(dir.path(), "DELETE FROM record WHERE id > 12");
    old.move_account(key, &mut new).unwrap();
    let found = report(dir.path(), &[whole]);
    assert_eq!((found.fault_count, found.unchanged), (5, 13), "{:?}", found.faults);
    assert_eq!(found.checkpoints, [CheckpointVerdict::Holds]);
}

/// Without its beginning or its rows, a ledger is still written to: a guest's release has to be
/// recorded.
#[test]
fn a_chain_that_was_removed_keeps_no_record_from_being_written() {
    for (change, found) in [
        ("DELETE FROM chain_start", "start-altered"),
        ("DELETE FROM chain", "record-inserted"),
        ("DELETE FROM chain; DELETE FROM chain_start", "start-altered"),
        ("UPDATE chain SET hash = zeroblob(100000)", "chain-altered"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = ledger(dir.path());
        raw(dir.path(), change);
        write(&mut ledger, 5..7);
        assert!(faults(dir.path()).iter().any(|fault| fault.starts_with(found)), "{change}");
        assert_eq!(ledger.into_records().map(Result::unwrap).count(), 18);
    }
}

/// Whoever can write the file can write the chain again: only a checkpoint shows it.
// Shows 4.32.
#[test]
fn a_checkpoint_shows_a_chain_that_was_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = ledger(dir.path());
    let before = checkpoint(dir.path());
    write(&mut ledger, 5..6);
    let after = checkpoint(dir.path());
    raw(dir.path(), "UPDATE record SET text = 'x' WHERE id = 14; DELETE FROM chain");
    let connection = Connection::open(Ledger::file(dir.path())).unwrap();
    let mut head = Head::read(&connection).unwrap();
    for id in 1..=15 {
        head.append_record(&connection, id).unwrap();
    }
    let found = report(dir.path(), &[before, after]);
    assert_eq!((found.fault_count, found.unchanged), (0, 15), "nothing else shows it");
    assert_eq!(found.checkpoints, [CheckpointVerdict::Holds, CheckpointVerdict::Differs]);
}

// Shows 4.32.
#[test]
fn a_checkpoint_shows_what_was_cut_off_restored_or_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = ledger(dir.path());
    let early = checkpoint(dir.path());
    drop(ledger);
    let backup = fs::read(Ledger::file(dir.path())).unwrap();
    ledger = Ledger::open(dir.path()).unwrap();
    write(&mut ledger, 5..6);
    drop(ledger);
    let late = checkpoint(dir.path());
    // The last two records, with their rows.
    raw(dir.path(), "DELETE FROM record WHERE id > 13; DELETE FROM chain WHERE id > 13");
    let found = report(dir.path(), &[early.clone(), late.clone()]);
    assert_eq!(found.fault_count, 0, "nothing else shows it");
    assert_eq!(found.checkpoints, [CheckpointVerdict::Holds, CheckpointVerdict::RolledBack]);
    // An older copy, first as it was, and then written to.
    fs::write(Ledger::file(dir.path()), backup).unwrap();
    assert_eq!(verdict(dir.path(), &late), CheckpointVerdict::RolledBack);
    let mut ledger = Ledger::open(dir.path()).unwrap();
    write(&mut ledger, 6..9);
    assert_eq!(verdict(dir.path(), &late), CheckpointVerdict::Differs);
    assert_eq!(verdict(dir.path(), &early), CheckpointVerdict::Holds);
    // A row that is missing in the middle.
    raw(dir.path(), "DELETE FROM chain WHERE id = 15");
    assert_eq!(verdict(dir.path(), &late), CheckpointVerdict::Removed);
    // Another ledger.
    let other = tempfile::tempdir().unwrap();
    let mut new = Ledger::open(other.path()).unwrap();
    write(&mut new, 1..6);
    assert_eq!(verdict(other.path(), &late), CheckpointVerdict::AnotherLedger);
}

// Shows 4.33.
#[test]
fn pruning_leaves_a_chain_that_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let guests = write(&mut ledger, 1..5);
    let before = checkpoint(dir.path());
    let early = {
        let connection = Connection::open(Ledger::file(dir.path())).unwrap();
        let hash = connection.query_row("SELECT hash FROM chain WHERE id = 2", [], |row| hash_of(row, 0));
        ChainCheckpoint { row: 2, sha256: hash.unwrap().unwrap(), ..before.clone() }
    };
    let later = || Timestamp::now() + SignedDuration::from_hours(1);
    // A guest between others: its rows stay in the chain.
    end(&mut ledger, guests[1]);
    assert_eq!(ledger.prune(later()).unwrap().records, 3);
    let pruned = report(dir.path(), &[before.clone(), early.clone()]);
    assert_eq!((pruned.fault_count, pruned.unchanged, pruned.deleted, pruned.pruned), (0, 9, 3, None));
    assert!(pruned.deleted_at.is_some());
    assert_eq!(pruned.checkpoints, [CheckpointVerdict::Holds; 2]);
    // The first guest: the chain now begins with the third one's row 7.
    end(&mut ledger, guests[0]);
    ledger.prune(later()).unwrap();
    let pruned = report(dir.path(), &[before.clone(), early]);
    assert_eq!((pruned.fault_count, pruned.unchanged, pruned.deleted), (0, 6, 0));
    assert_eq!(pruned.pruned.unwrap().rows, 6);
    assert!(pruned.pruned.unwrap().at.is_some());
    assert_eq!(pruned.checkpoints, [CheckpointVerdict::Holds, CheckpointVerdict::Pruned]);
    // All of it: ids of guests are used again.
    end(&mut ledger, guests[2]);
    end(&mut ledger, guests[3]);
    let last = checkpoint(dir.path());
    ledger.prune(later()).unwrap();
    assert_eq!(report(dir.path(), &[]).fault_count, 0);
    write(&mut ledger, 5..7);
    let again = report(dir.path(), &[last, checkpoint(dir.path())]);
    assert_eq!((again.fault_count, again.unchanged), (0, 6));
    assert_eq!(again.checkpoints[1], CheckpointVerdict::Holds);
    // What was pruned is not removed by other means.
    raw(dir.path(), "DELETE FROM record WHERE id = 2");
    let removed = faults(dir.path());
    assert!(removed.len() == 1 && removed[0].starts_with("record-removed 2 "), "{removed:?}");
}

// Shows 4.33.
#[test]
fn an_account_that_was_moved_is_chained_in_its_new_ledger() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut old = Ledger::open(dir.path()).unwrap();
    let key = write(&mut old, 1..2)[0];
    let mut new = ledger(other.path());
    let before = checkpoint(other.path());
    old.move_account(key, &mut new).unwrap();
    let moved = report(other.path(), std::slice::from_ref(&before));
    assert_eq!((moved.fault_count, moved.unchanged, moved.deleted), (0, 15, 0));
    // Again: the older state of the account gives way.
    let tx = old.begin().unwrap();
    record(&tx, key, "later");
    tx.commit().unwrap();
    old.move_account(key, &mut new).unwrap();
    let moved = report(other.path(), &[before]);
    assert_eq!((moved.fault_count, moved.unchanged, moved.deleted), (0, 16, 3));
    assert_eq!(moved.checkpoints, [CheckpointVerdict::Holds]);
}

/// A ledger that taptrail with version 4 of the schema wrote, beside a real QEMU.
const OLDER: &[u8] = include_bytes!("testdata/version-4.sqlite");

fn older(state: &Path) {
    fs::write(Ledger::file(state), OLDER).unwrap();
    fs::set_permissions(Ledger::file(state), PermissionsExt::from_mode(0o600)).unwrap();
}

// Shows 4.33.
#[test]
fn records_of_an_older_taptrail_are_chained_when_its_ledger_is_migrated() {
    let dir = tempfile::tempdir().unwrap();
    older(dir.path());
    let reader = Ledger::open_to_read(dir.path()).unwrap();
    assert_eq!(reader.check_chain(&[]).unwrap(), None);
    assert_eq!(reader.chain_checkpoint().unwrap(), None);
    let count = reader.into_records().map(Result::unwrap).count() as u64;
    assert!(count > 5);
    // Written to without having been migrated.
    let mut ledger = Ledger::open_existing(dir.path()).unwrap().unwrap();
    let live = ledger.live_guests().unwrap()[0].key;
    let tx = ledger.begin().unwrap();
    record(&tx, live, "by a process that did not migrate it");
    tx.commit().unwrap();
    // And on, when another process has.
    drop(Ledger::open(dir.path()).unwrap());
    let tx = ledger.begin().unwrap();
    record(&tx, live, "afterwards");
    tx.commit().unwrap();
    let migrated = report(dir.path(), &[checkpoint(dir.path())]);
    assert_eq!((migrated.fault_count, migrated.outside_count), (0, 0));
    assert_eq!((migrated.older, migrated.unchanged), (Some(count + 1), count + 2));
    assert_eq!(migrated.checkpoints, [CheckpointVerdict::Holds]);
    raw(dir.path(), "UPDATE record SET text = 'x' WHERE id = 3");
    assert_eq!(faults(dir.path()), ["record-altered 3 3-3"]);
}

/// An older taptrail's supervisor has the ledger open, and knows no chain.
#[test]
fn a_record_that_a_running_older_supervisor_may_have_written_is_not_called_inserted() {
    let dir = tempfile::tempdir().unwrap();
    older(dir.path());
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let live = ledger.live_guests().unwrap()[0].key.0;
    let ended = ledger.guests().unwrap().iter().find(|guest| guest.ended.is_some()).unwrap().key.0;
    let insert = |guest: i64| {
        let sql = "INSERT INTO record (guest, time, type, text, logged) VALUES";
        raw(dir.path(), &format!("{sql} ({guest}, 1, 2501, 'x', 'off')"));
    };
    insert(live);
    write(&mut ledger, 8..9);
    let outside = report(dir.path(), &[]);
    assert_eq!((outside.fault_count, outside.outside_count, outside.outside.len()), (0, 1, 1));
    insert(ended);
    assert!(faults(dir.path())[0].starts_with("record-inserted "));
}

// Shows 4.33.
#[test]
fn many_writers_and_readers_at_once_leave_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    drop(Ledger::open(dir.path()).unwrap());
    std::thread::scope(|scope| {
        let writer = |number: u128| {
            let mut ledger = Ledger::open(dir.path()).unwrap();
            for guest in 0..15 {
                let first = number * 100 + guest;
                let keys = write(&mut ledger, first..first + 1);
                if guest % 3 == 0 {
                    end(&mut ledger, keys[0]);
                }
                if guest % 7 == 0 {
                    ledger.prune(Timestamp::now()).unwrap();
                }
            }
        };
        let writers = [1, 2, 3].map(|number| scope.spawn(move || writer(number)));
        let mut taken: Vec<ChainCheckpoint> = Vec::new();
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            taken.push(checkpoint(dir.path()));
            let now = report(dir.path(), &taken);
            assert_eq!((now.fault_count, now.outside_count), (0, 0), "{:?}", now.faults);
            let kept = [CheckpointVerdict::Holds, CheckpointVerdict::Pruned];
            assert!(now.checkpoints.iter().all(|verdict| kept.contains(verdict)), "{:?}", now.checkpoints);
        }
        assert!(!taken.is_empty());
    });
    let done = report(dir.path(), &[]);
    assert_eq!((done.fault_count, done.last_row > 135), (0, true));
}

#[test]
fn a_report_lists_so_many_faults_and_counts_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    write(&mut ledger, 1..101);
    raw(dir.path(), "UPDATE record SET text = 'x'");
    let found = report(dir.path(), &[]);
    assert_eq!((found.faults.len(), found.fault_count, found.unchanged), (100, 300, 0));
}

/// Values that SQLite accepts in these tables, and taptrail never writes.
#[test]
fn a_hostile_chain_is_reported_or_refused() {
    for change in [
        "UPDATE chain SET id = 9223372036854775807 WHERE id = 12",
        "UPDATE chain SET id = -5 WHERE id = 1",
        "UPDATE chain SET kind = printf('%.*c', 20000000, 'x'), digest = zeroblob(20000000), hash = zeroblob(20000000)
         WHERE id = 5",
        "UPDATE chain SET time = 9223372036854775807, guest = -1, row = -9223372036854775808",
        "UPDATE chain_start SET ledger = CAST(x'ff1b' AS TEXT), begun = 9223372036854775807, pruned = -1",
        "UPDATE chain_start SET ledger = printf('%.*c', 20000000, 'x'), pruned_hash = zeroblob(20000000)",
        "UPDATE guest SET name = CAST(x'ff1b' AS TEXT), uuid = printf('%.*c', 20000000, 'x') WHERE id = 2",
        "UPDATE record SET text = printf('%.*c', 20000000, 'x'), logged = '', time = 9223372036854775807 WHERE id = 5",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = ledger(dir.path());
        let taken = checkpoint(dir.path());
        raw(dir.path(), change);
        match Ledger::open_to_read(dir.path()).unwrap().check_chain(&[taken]) {
            Ok(found) => {
                let found = found.unwrap();
                assert!(found.fault_count > 0, "{change}");
                assert!(found.faults.iter().all(|fault| fault.to_string().len() < 1000), "{change}");
            }
            Err(error) => assert!(change.contains("20000000"), "{error}: {change}"),
        }
        // A checkpoint of it is refused, or is as any other.
        if let Ok(taken) = ledger.chain_checkpoint() {
            assert!(taken.unwrap().to_string().parse::<ChainCheckpoint>().is_ok());
        }
        let tx = ledger.begin().unwrap();
        let key = guest(&tx, 9);
        let new = NewRecord { time: Timestamp::now(), kind: 2501, text: "on", logged: Logged::OFF };
        let _ = tx.record(key, &new);
    }
}

#[test]
fn a_checkpoint_is_one_line_that_is_read_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    drop(ledger(dir.path()));
    let taken = checkpoint(dir.path());
    for taken in [taken.clone(), taken.clone().with_host("h1.example.org")] {
        let line = taken.to_string();
        assert!(line.is_ascii() && line.len() < 250 && !line.contains('\n'), "{line}");
        assert_eq!(line.parse::<ChainCheckpoint>().unwrap(), taken);
        let within = format!("Nov 29 12:00:00 h1 taptrail[7]: {line}\r\n");
        assert!(ChainCheckpoint::is_in(&within));
        assert_eq!(within.parse::<ChainCheckpoint>().unwrap(), taken);
        let json = serde_json::to_string(&taken).unwrap();
        assert_eq!(serde_json::from_str::<ChainCheckpoint>(&json).unwrap(), taken);
    }
    assert_eq!(taken.clone().with_host("no host").host, None);
    assert_eq!(taken.clone().with_host(&"h".repeat(300)).host, None);
    let line = taken.to_string();
    assert_eq!("".parse::<ChainCheckpoint>(), Err(InvalidCheckpoint::NoMark));
    assert_eq!("x".repeat(5000).parse::<ChainCheckpoint>(), Err(InvalidCheckpoint::TooLong));
    for (from, to, field) in [
        ("row=12", "row=-1", "row"),
        ("row=12", "row=12 row=12", "row"),
        ("row=12 ", "", "row"),
        ("sha256=", "sha256=0", "sha256"),
        ("ledger=", "ledger=0", "ledger"),
        ("time=", "time=x", "time"),
        (" time=", " host=a/b time=", "host"),
    ] {
        let changed = line.replace(from, to);
        assert_eq!(changed.parse::<ChainCheckpoint>(), Err(InvalidCheckpoint::Field(field)), "{changed}");
    }
}

/// One change of a covered value, as SQL.
fn change() -> impl Strategy<Value = String> {
    let id = 1..=12_i64;
    let text = "[a-z' ]{0,12}".prop_map(|text| text.replace('\'', "''"));
    let number = prop_oneof![Just("NULL".to_owned()), any::<i64>().prop_map(|number| number.to_string())];
    let record = (
        id.clone(),
        prop_oneof![
            (prop_oneof![Just("text"), Just("logged")], text.clone())
                .prop_map(|(column, text)| format!("{column} = '{text}'")),
            (prop_oneof![Just("serial"), Just("writer")], number.clone())
                .prop_map(|(column, number)| format!("{column} = {number}")),
            (
                prop_oneof![Just("time"), Just("type"), Just("guest"), Just("copied"), Just("id")],
                any::<i64>()
            )
                .prop_map(|(column, number)| format!("{column} = {number}")),
        ],
    )
        .prop_map(|(id, set)| format!("UPDATE OR REPLACE record SET {set} WHERE id = {id}"));
    let of_guest = (
        1..=4_i64,
        prop_oneof![
            (prop_oneof![Just("name"), Just("uuid"), Just("boot_id")], text)
                .prop_map(|(column, text)| format!("{column} = '{text}'")),
            (prop_oneof![Just("begun"), Just("watched"), Just("id")], any::<i64>())
                .prop_map(|(column, number)| format!("{column} = {number}")),
        ],
    )
        .prop_map(|(id, set)| format!("UPDATE OR REPLACE guest SET {set} WHERE id = {id}"));
    let chain = (
        id.clone(),
        prop_oneof![
            (prop_oneof![Just("id"), Just("guest"), Just("row"), Just("time")], any::<i64>())
                .prop_map(|(column, number)| format!("{column} = {number}")),
            (prop_oneof![Just("digest"), Just("hash")], any::<[u8; 32]>())
                .prop_map(|(column, hash)| format!("{column} = x'{}'", ChainHash(hash))),
            prop_oneof![Just("prune"), Just("replace"), Just("")].prop_map(|kind| format!("kind = '{kind}'")),
        ],
    )
        .prop_map(|(id, set)| format!("UPDATE OR REPLACE chain SET {set} WHERE id = {id}"));
    let removed = (prop_oneof![Just("record"), Just("guest")], 1..=4_i64)
        .prop_map(|(table, id)| format!("DELETE FROM {table} WHERE id = {id}"));
    // The chain's last row without its record's removal: the record is inserted then.
    let unchained = id.prop_map(|id| format!("DELETE FROM chain WHERE id = {id}"));
    let inserted = (any::<i64>(), 1..=4_i64).prop_map(|(id, guest)| {
        format!("INSERT OR IGNORE INTO record (id, guest, time, type, text, logged) VALUES ({id}, {guest}, 1, 1, '', '')")
    });
    prop_oneof![4 => record, 2 => of_guest, 4 => chain, 1 => removed, 1 => unchained, 1 => inserted]
}

/// The file of [`ledger`].
static WRITTEN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    drop(ledger(dir.path()));
    fs::read(Ledger::file(dir.path())).unwrap()
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Any single change of a covered row, made with other means, is found.
    // Shows 4.31.
    #[test]
    fn any_change_of_a_covered_row_is_found(change in change()) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(Ledger::file(dir.path()), &*WRITTEN).unwrap();
        fs::set_permissions(Ledger::file(dir.path()), PermissionsExt::from_mode(0o600)).unwrap();
        let rows = || -> Vec<Vec<String>> {
            let connection = Connection::open(Ledger::file(dir.path())).unwrap();
            ["record", "guest", "chain"].map(|table| {
                let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
                let columns = statement.column_count();
                let row = |row: &Row<'_>| Ok((0..columns).map(|at| format!("{:?};", row.get_ref(at).unwrap())).collect());
                statement.query_map([], row).unwrap().map(Result::unwrap).collect()
            }).into()
        };
        let before = rows();
        raw(dir.path(), &change);
        let is_changed = rows() != before;
        let found = report(dir.path(), &[]);
        prop_assert_eq!(found.fault_count > 0, is_changed, "{}: {:?}", change, found);
    }
}
