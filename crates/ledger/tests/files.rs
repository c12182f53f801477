//! Ledgers as files: evidence that must not change, and databases that may be hostile.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use taptrail_ledger::{AuditOutcome, GuestKey, Ledger, LedgerError, Logged, NewGuest, NewRecord, Process};
use taptrail_record::GuestId;
use uuid::Uuid;

/// A ledger with one guest.
fn ledger(state: &Path) -> (Ledger, GuestKey) {
    let mut ledger = Ledger::open(state).unwrap();
    let tx = ledger.begin().unwrap();
    let id = GuestId { name: "web1".into(), uuid: Uuid::from_u128(7) };
    let supervisor = Process { pid: 1, start: 2 };
    let new = NewGuest { id: &id, boot_id: "boot", supervisor, netns: 5, paused: false };
    let key = tx.guest_begins(&new).unwrap();
    tx.commit().unwrap();
    (ledger, key)
}

fn write(ledger: &mut Ledger, guest: GuestKey, texts: &[&str]) {
    let tx = ledger.begin().unwrap();
    for text in texts {
        let logged = Logged { outcome: AuditOutcome::Off, serial: None };
        tx.record(guest, &NewRecord { time: Timestamp::now(), kind: 2501, text, logged }).unwrap();
    }
    tx.commit().unwrap();
}

/// The files of a directory with their contents.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn texts(path: &Path) -> Vec<Result<String, String>> {
    let ledger = Ledger::open_file_to_read(path.to_owned()).unwrap();
    ledger.into_records().map(|row| row.map(|row| row.text).map_err(|error| error.to_string())).collect()
}

/// The files of a ledger whose writer died: the last records are only in the write-ahead log.
fn cut_off(to: &Path) -> PathBuf {
    let state = tempfile::tempdir().unwrap();
    let (mut ledger, guest) = ledger(state.path());
    write(&mut ledger, guest, &["one", "two"]);
    for name in ["ledger.sqlite", "ledger.sqlite-wal"] {
        fs::copy(state.path().join(name), to.join(name)).unwrap();
    }
    to.join("ledger.sqlite")
}

// Shows 4.18.
#[test]
fn reading_a_file_changes_nothing_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = cut_off(dir.path());
    let before = files(dir.path());
    assert!(before[&dir.path().join("ledger.sqlite-wal")].len() > 4096, "the records are in its log");
    assert_eq!(texts(&path), [Ok("one".to_owned()), Ok("two".to_owned())]);
    assert_eq!(files(dir.path()), before);
    // The same through a symbolic link.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(texts(&link).len(), 2);
    fs::remove_file(link).unwrap();
    // Without its log, the file has an older state.
    fs::remove_file(dir.path().join("ledger.sqlite-wal")).unwrap();
    let before = files(dir.path());
    let error = Ledger::open_file_to_read(path).unwrap_err();
    assert!(matches!(error, LedgerError::Version { found: 0, .. }), "{error}");
    assert_eq!(files(dir.path()), before);
}

/// The texts of the records in a state directory's ledger.
fn texts_in_place(state: &Path) -> Vec<String> {
    let ledger = Ledger::open_to_read(state).unwrap();
    assert_eq!(ledger.faults().unwrap(), [""; 0]);
    ledger.into_records().map(|row| row.unwrap().text).collect()
}

/// The database and its log, without the log's index, which contains readers' locks.
fn database(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files(dir);
    files.retain(|path, _| !path.to_string_lossy().ends_with("-shm"));
    files
}

// Shows 4.30.
#[test]
fn reading_a_state_directory_leaves_the_database_and_its_log_as_they_are() {
    // A writer died, and left its log, or its log and the index.
    for with_index in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = cut_off(dir.path());
        if with_index {
            let state = tempfile::tempdir().unwrap();
            let _alive = ledger(state.path());
            fs::copy(state.path().join("ledger.sqlite-shm"), dir.path().join("ledger.sqlite-shm")).unwrap();
        }
        let before = (database(dir.path()), files(dir.path()).len());
        assert_eq!(texts_in_place(dir.path()), ["one", "two"], "{with_index}");
        assert!((database(dir.path()), files(dir.path()).len()) == before, "{with_index}");
        // The next writer opens it.
        drop(Ledger::open(dir.path()).unwrap());
        assert_eq!(files(dir.path()).keys().collect::<Vec<_>>(), [&path]);
        // No process has it open: reading creates no file beside it.
        let before = files(dir.path());
        assert_eq!(texts_in_place(dir.path()), ["one", "two"]);
        assert!(files(dir.path()) == before);
    }
    // A writer continues meanwhile, and the reader sees what is committed.
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, guest) = ledger(dir.path());
    let mut expect = Vec::new();
    for text in ["one", "two", "three"] {
        write(&mut ledger, guest, &[text]);
        expect.push(text.to_owned());
        let before = database(dir.path());
        assert_eq!(before.len(), 2);
        assert_eq!(texts_in_place(dir.path()), expect);
        assert!(database(dir.path()) == before, "{text}");
    }
}

#[test]
fn a_copy_that_sqlite_made_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = cut_off(dir.path());
    let copy = dir.path().join("copy.sqlite");
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    drop(raw);
    let before = files(dir.path());
    assert_eq!(texts(&copy).len(), 2);
    assert_eq!(files(dir.path()), before, "it has no write-ahead log, and gets none");
}

#[test]
fn a_log_that_is_no_log_has_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = cut_off(dir.path());
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(raw);
    fs::write(dir.path().join("ledger.sqlite-wal"), [0xA5; 10_000]).unwrap();
    let before = files(dir.path());
    assert_eq!(texts(&path).len(), 2);
    assert_eq!(files(dir.path()), before);
}

#[test]
fn a_file_that_is_written_to_is_read_as_it_was_at_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, guest) = ledger(dir.path());
    let path = Ledger::file(dir.path());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // More than the size of the log at which SQLite makes a checkpoint.
            let text = "x".repeat(3000);
            for _ in 0..300 {
                write(&mut ledger, guest, &[text.as_str(); 10]);
            }
            done.store(true, Ordering::Release);
        });
        let (mut last, mut reads) = (0, 0);
        while !done.load(Ordering::Acquire) {
            let reader = match Ledger::open_file_to_read(path.clone()) {
                Ok(reader) => reader,
                Err(error) => {
                    assert!(format!("{error:?}").contains("written to all the time"), "{error:?}");
                    continue;
                }
            };
            assert_eq!(reader.faults().unwrap(), [""; 0]);
            let now = reader.into_records().map(Result::unwrap).count();
            assert!(now >= last && now % 10 == 0, "{last} {now}");
            (last, reads) = (now, reads + 1);
        }
        assert!(reads > 0);
    });
    assert_eq!(texts(&path).len(), 3000);
}

// Shows 4.18.
#[test]
fn a_database_that_is_not_a_ledgers_alone_is_refused() {
    for (change, what) in [
        (
            "ALTER TABLE record RENAME TO r; CREATE VIEW record AS SELECT * FROM r",
            "index 'record_copied' is another",
        ),
        ("CREATE VIEW v AS SELECT 1", "view 'v' is none of a ledger's"),
        (
            "CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM record; END",
            "trigger 't' is none of a ledger's",
        ),
        ("CREATE TABLE \"a\u{202e}b\" (x)", "table 'a\\u{202e}b' is none of a ledger's"),
        ("CREATE INDEX i ON record (text)", "index 'i' is none of a ledger's"),
        ("CREATE VIRTUAL TABLE f USING fts5(x)", "table 'f' is none of a ledger's"),
        ("ALTER TABLE record ADD COLUMN x TEXT", "table 'record' is another"),
        ("DROP TABLE watch", "table 'watch' is missing"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        drop(ledger(dir.path()));
        let path = Ledger::file(dir.path());
        let raw = rusqlite::Connection::open(&path).unwrap();
        raw.execute_batch(change).unwrap();
        drop(raw);
        let opened = [
            Ledger::open_file_to_read(path.clone()),
            Ledger::open_to_read(dir.path()),
            Ledger::open(dir.path()),
        ];
        for error in opened.map(Result::unwrap_err) {
            let LedgerError::Foreign { path: named, what: found } = error else {
                panic!("{error}: {change}")
            };
            assert_eq!((named, found.as_str()), (path.clone(), what), "{change}");
        }
    }
}

#[test]
fn a_database_of_somebody_elses_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = Ledger::file(dir.path());
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let error = Ledger::open(dir.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Foreign { .. }), "{error}");
    let raw = rusqlite::Connection::open(&path).unwrap();
    let tables: u32 = raw.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn statistics_of_sqlite_are_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, guest) = ledger(dir.path());
    write(&mut ledger, guest, &["one"]);
    drop(ledger);
    rusqlite::Connection::open(Ledger::file(dir.path())).unwrap().execute_batch("ANALYZE").unwrap();
    Ledger::open(dir.path()).unwrap();
    assert_eq!(texts(&Ledger::file(dir.path())).len(), 1);
}

#[test]
fn a_value_that_no_taptrail_writes_is_an_error_with_its_row_and_the_next_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, guest) = ledger(dir.path());
    write(&mut ledger, guest, &["one", "two", "three", "four"]);
    drop(ledger);
    let raw = rusqlite::Connection::open(Ledger::file(dir.path())).unwrap();
    raw.execute_batch(
        "UPDATE record SET text = printf('%.*c', 20000000, 'x') WHERE id = 1;
         UPDATE record SET time = 9223372036854775807 WHERE id = 2;
         UPDATE record SET text = CAST(x'ff1b' AS TEXT) WHERE id = 3;",
    )
    .unwrap();
    drop(raw);
    let rows = texts(&Ledger::file(dir.path()));
    assert!(rows[0].as_ref().is_err_and(|error| error.contains("record:1")), "{rows:?}");
    assert!(rows[1].as_ref().is_err_and(|error| error.contains("record:2")), "{rows:?}");
    assert!(rows[2].is_err(), "{rows:?}");
    assert_eq!(rows[3..], [Ok("four".to_owned())]);
}
