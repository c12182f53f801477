//! `taptrail archive`: real logs into a lake in a directory; interrupted, again, by two at once, and
//! from a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use taptrail_lake::{
    CoverageRow, Day, FindingRow, HeldRow, Limits, ObjectReader, RecordRow, Row, RunRow, Snapshot, Store,
};

use crate::world::contract;

/// A directory with logs, a lake, and a place for temporary files.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("tt").tempdir_in("/tmp").unwrap();
        fs::create_dir(directory.path().join("tmp")).unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn lake(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
        command
            .args(arguments)
            .env("TZ", "Asia/Tokyo")
            .env("TMPDIR", self.path("tmp"))
            .env("TAPTRAIL_STATE_DIR", "/nonexistent")
            .env("TAPTRAIL_AUDIT_LOG", "/nonexistent/audit.log")
            .env_remove("TAPTRAIL_LOG")
            .stdin(Stdio::null());
        command
    }

    fn taptrail(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Archives, and returns the summary, which is as its schema says.
    #[track_caller]
    fn archive(&self, lake: &str, more: &[&str]) -> Value {
        let logs = self.path("logs");
        let lake = self.lake(lake);
        let arguments = ["archive", logs.to_str().unwrap(), "--to", &lake, "--format", "json"];
        let done = self.taptrail(&[&arguments[..], more].concat());
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        let summary = serde_json::from_slice(&done.stdout).unwrap();
        contract::assert_valid("archive", &summary);
        summary
    }
}

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt").join(path)
}

/// Copies the log of a run to be a host's.
fn add_host(place: &Place, run: &str, host: &str) {
    let directory = place.path("logs").join(host);
    fs::create_dir(&directory).unwrap();
    fs::copy(data(run).join("audit.log"), directory.join("audit.log")).unwrap();
}

/// The files of a lake, by their path in it.
fn files(lake: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut directories = vec![lake.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.strip_prefix(lake).unwrap().to_owned();
            all.insert(name, fs::read(&path).unwrap());
        }
    }
    all
}

/// As [`files`], without what a killed archiver had begun to write: an object counts once it has its
/// name.
fn objects(lake: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = files(lake);
    all.retain(|path, _| !path.to_str().unwrap().contains('#'));
    all
}

fn rows<R: Row>(lake: &str) -> Vec<(Day, R)> {
    let store = Arc::new(Store::open(lake).unwrap());
    let snapshot = Snapshot::existing(&store).unwrap();
    let mut all = Vec::new();
    for object in snapshot.objects().filter(|object| object.table == R::TABLE) {
        let reader = ObjectReader::<R>::open(&store, &object.path, object.bytes, Limits::default()).unwrap();
        all.extend(reader.rows().unwrap().map(|row| (object.day, row.unwrap())));
    }
    all
}

/// The last rows: those of whole holdings or runs.
fn last_rows<R: Row>(lake: &str, is_last: impl Fn(&R) -> bool) -> impl Iterator<Item = R> {
    rows(lake).into_iter().map(|(_, row)| row).filter(move |row| is_last(row))
}

fn as_json<T: serde::Serialize>(all: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    all.into_iter().map(|one| serde_json::to_value(one).unwrap().to_string()).collect()
}

fn of_answer(answer: &Value, list: &str) -> BTreeSet<String> {
    as_json(answer[list].as_array().unwrap())
}

// Shows 15.1.
#[test]
fn real_logs_of_twenty_hosts_are_in_the_lake_as_the_logs_say() {
    let place = Place::new();
    let runs = fs::read_dir(data("libvirt-9.0")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut runs: Vec<String> = runs.map(|name| name.into_string().unwrap()).collect();
    runs.retain(|run| data("libvirt-9.0").join(run).join("audit.log").exists());
    runs.sort();
    for (run, number) in runs.iter().zip(1..) {
        add_host(&place, &format!("libvirt-9.0/{run}"), &format!("host{number:02}"));
    }
    let summary = place.archive("lake", &[]);
    assert_eq!(summary["batch"]["hosts"].as_u64(), Some(runs.len() as u64), "{summary}");
    assert!(runs.len() >= 19, "{runs:?}");

    let (logs, lake) = (place.path("logs"), place.lake("lake"));
    let ask = |command: &str| -> Value {
        let done = place.taptrail(&[command, "--format", "json", logs.to_str().unwrap()]);
        serde_json::from_slice(&done.stdout).unwrap()
    };
    let (trail, guests) = (ask("trail"), ask("guests"));
    let holdings = last_rows(&lake, |row: &HeldRow| row.last).map(|row| row.holding().unwrap());
    assert_eq!(as_json(holdings), of_answer(&trail, "holdings"));
    let findings = rows::<FindingRow>(&lake).into_iter().map(|(_, row)| row.finding().unwrap());
    assert_eq!(as_json(findings), of_answer(&trail, "findings"));
    let runs = last_rows(&lake, |row: &RunRow| row.last).map(|row| row.run().unwrap());
    assert_eq!(as_json(runs), of_answer(&guests, "runs"));
    let coverage = rows::<CoverageRow>(&lake).into_iter().map(|(_, row)| row).collect();
    assert_eq!(as_json(CoverageRow::coverage(coverage).unwrap()), of_answer(&trail["input"], "coverage"));
    // Each record's line is there, as it is in the log.
    for (_, row) in rows::<RecordRow>(&lake).into_iter().filter(|(_, row)| row.what == "record") {
        let log = fs::read(&row.source).unwrap();
        let line = log.split(|byte| *byte == b'\n').nth(usize::try_from(row.line).unwrap() - 1).unwrap();
        assert_eq!(row.text.map(|text| text.0).as_deref(), Some(line), "{}:{}", row.source, row.line);
    }
    // Once more, and from other names of the same files: nothing is added.
    let before = files(&place.path("lake"));
    let again = place.archive("lake", &[]);
    assert_eq!(
        (again["batch"]["existed"].as_bool(), again["batch"]["objects_written"].as_u64()),
        (Some(true), Some(0))
    );
    assert_eq!(files(&place.path("lake")), before);
    assert_eq!(fs::read_dir(place.path("tmp")).unwrap().count(), 0, "temporary files are removed");
}

// As by SIGKILL: before and after each object and the manifest.
// Shows 15.2.
#[test]
fn an_archiver_that_is_killed_at_any_step_is_completed_by_the_next() {
    use std::os::unix::process::ExitStatusExt as _;

    let place = Place::new();
    add_host(&place, "libvirt-9.0/06-hotplug", "host1");
    add_host(&place, "libvirt-9.0/11-kill9", "host2");
    let writes = place.archive("whole", &[])["batch"]["objects"].as_u64().unwrap() + 1;
    let whole = objects(&place.path("whole"));
    assert_eq!(whole.len() as u64, writes);
    for (write, point) in
        (0..writes).flat_map(|write| ["lake::put", "lake::put-done"].map(|point| (write, point)))
    {
        let name = format!("{point}-{write}");
        let (logs, lake) = (place.path("logs"), place.lake(&name));
        let mut command = place.command(&["archive", logs.to_str().unwrap(), "--to", &lake]);
        let skipped = if write == 0 { String::new() } else { format!("{write}*off->") };
        let killed = command.env("FAILPOINTS", format!("{point}={skipped}return")).output().unwrap();
        assert_eq!(killed.status.signal(), Some(6), "{name}: {killed:?}");
        let is_whole = point == "lake::put-done" && write == writes - 1;
        let batches = Snapshot::load(&Store::open(&lake).unwrap()).unwrap().batches.len();
        assert_eq!(batches, usize::from(is_whole), "{name}: without its manifest it does not count");
        place.archive(&name, &[]);
        assert_eq!(objects(&place.path(&name)), whole, "{name}");
    }
}

// Shows 15.3.
#[test]
fn two_archivers_at_once_add_one_batch() {
    let place = Place::new();
    add_host(&place, "libvirt-9.0/06-hotplug", "host1");
    add_host(&place, "libvirt-9.0/12-shutdown", "host2");
    place.archive("one", &[]);
    let (logs, lake) = (place.path("logs"), place.lake("both"));
    let start = || {
        let mut command = place.command(&["archive", logs.to_str().unwrap(), "--to", &lake]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for archiver in [start(), start(), start()] {
        let done = archiver.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert_eq!(files(&place.path("both")), files(&place.path("one")));
}

// Shows 15.5.
#[test]
fn a_checkpoint_spares_work_and_nothing_depends_on_it() {
    let place = Place::new();
    add_host(&place, "libvirt-9.0/06-hotplug", "host1");
    let log = place.path("logs/host1/audit.log");
    let whole = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let half = lines.len() / 2;
    fs::write(&log, lines[..half].concat()).unwrap();
    let checkpoint = place.path("checkpoint.json");
    let with = ["--checkpoint", checkpoint.to_str().unwrap()];
    let first = place.archive("lake", &with);
    assert!(first["batch"]["objects_written"].as_u64() > Some(0), "{first}");
    let second = place.archive("lake", &with);
    assert_eq!((second["unchanged"].as_bool(), second["lines"].as_u64()), (Some(true), Some(0)));

    // The log is rotated: all of it is read, and nothing is sent.
    let before = files(&place.path("lake"));
    fs::rename(&log, place.path("logs/host1/audit.log.1")).unwrap();
    fs::write(&log, "").unwrap();
    let rotated = place.archive("lake", &with);
    assert_eq!((rotated["unchanged"].as_bool(), &rotated["batch"]), (Some(false), &Value::Null), "{rotated}");
    assert_eq!(files(&place.path("lake")), before);

    // The log goes on.
    fs::write(&log, lines[half..].concat()).unwrap();
    let more = place.archive("lake", &with);
    assert!(more["batch"]["objects_written"].as_u64() > Some(0), "{more}");
    let complete = files(&place.path("lake"));

    // Lost, or of another lake: everything is sent, and is there already.
    for content in [None, Some("no checkpoint")] {
        match content {
            None => fs::remove_file(&checkpoint).unwrap(),
            Some(text) => fs::write(&checkpoint, text).unwrap(),
        }
        let again = place.archive("lake", &with);
        assert_eq!(again["batch"]["objects_written"].as_u64(), Some(0), "{again}");
        assert_eq!(files(&place.path("lake")), complete);
    }
    // A lake that was emptied gets everything, whatever the checkpoint says.
    fs::remove_dir_all(place.path("lake")).unwrap();
    let again = place.archive("lake", &with);
    assert_eq!(again["unchanged"].as_bool(), Some(false));
    assert!(again["batch"]["objects_written"].as_u64() > Some(0), "{again}");
    let other = place.archive("other", &with);
    assert!(other["batch"]["objects_written"].as_u64() > Some(0), "{other}");
}

#[test]
fn what_can_not_be_archived_is_said() {
    let place = Place::new();
    let (logs, lake) = (place.path("logs"), place.lake("lake"));
    let says = |arguments: &[&str]| {
        let done = place.taptrail(arguments);
        (done.status.code(), String::from_utf8(done.stderr).unwrap(), String::from_utf8(done.stdout).unwrap())
    };
    let missing = place.path("nothing.log");
    let (code, stderr, _) = says(&["archive", missing.to_str().unwrap(), "--to", &lake]);
    assert!(code == Some(2) && stderr.contains("nothing.log"), "{stderr}");
    fs::write(logs.join("empty.log"), "").unwrap();
    let (code, _, stdout) = says(&["archive", logs.join("empty.log").to_str().unwrap(), "--to", &lake]);
    assert_eq!((code, stdout.as_str()), (Some(0), "There is nothing to archive\n"));
    let (code, stderr, _) =
        says(&["archive", "--to", "ftp://me:secret@example.org/lake", logs.to_str().unwrap()]);
    assert!(
        code == Some(2) && stderr.contains("ftp://example.org/lake") && !stderr.contains("secret"),
        "{stderr}"
    );
    assert!(files(&place.path("lake")).is_empty());
    // Of two inputs one can't be read: the other is archived, and the batch says so.
    add_host(&place, "libvirt-9.0/12-shutdown", "host1");
    let log = logs.join("host1/audit.log");
    let (code, stderr, _) =
        says(&["archive", log.to_str().unwrap(), missing.to_str().unwrap(), "--to", &lake]);
    assert!(code == Some(2) && stderr.contains("nothing.log"), "{stderr}");
    let batch = &Snapshot::existing(&Store::open(&lake).unwrap()).unwrap().batches[0];
    assert!(batch.input.notes.iter().any(|note| note.contains("nothing.log")), "{:?}", batch.input);
    assert_eq!(batch.input.files.iter().filter(|file| file.lines > 0).count(), 1);
}
