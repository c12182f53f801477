//! Every JSON output of the program against its schema, or the fields of ECS, for the logs of
//! `tests/data` and this host.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;
use taptrail_report::Schema;

use crate::world::{contract, ecs};

fn taptrail(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.env("TZ", "UTC").env_remove("TAPTRAIL_LOG").args(arguments).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = taptrail(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {error}"))
}

/// Every log of real libvirts and other programs.
fn logs() -> Vec<PathBuf> {
    fn search(dir: &Path, all: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                search(&path, all);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                all.push(path);
            }
        }
    }
    let mut all = Vec::new();
    search(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data"), &mut all);
    all.sort();
    all
}

fn lines(arguments: &[&str]) -> Vec<Value> {
    let text = String::from_utf8(taptrail(arguments).stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn assert_lines_valid(name: &str, arguments: &[&str]) {
    for line in lines(arguments) {
        contract::assert_valid(name, &line);
    }
}

/// Checks the answers about a log, and returns the number of its holdings. Of the queries whose
/// answers differ little from log to log, `turn` decides which are asked.
fn check_log(log: &str, turn: usize) -> usize {
    let trail = json(&["trail", "--format", "json", log]);
    contract::assert_valid("trail", &trail);
    assert_lines_valid("trail-lines", &["trail", "--format", "jsonl", log]);
    for (name, guests) in [("guests", &["guests"][..]), ("guest-events", &["guests", "--all-events"])] {
        contract::assert_valid(name, &json(&[guests, &["--format", "json", log]].concat()));
        assert_lines_valid("guests-lines", &[guests, &["--format", "jsonl", log]].concat());
    }
    let by: &[&str] = match turn % 6 {
        0 => &["--by", "guest"],
        1 => &["--by", "host"],
        2 => &["--by", "day"],
        3 => &["--by", "device"],
        _ => &[],
    };
    contract::assert_valid("summary", &json(&[&["summary", "--format", "json", log], by].concat()));
    if turn % 6 == 4 {
        contract::assert_valid("findings", &json(&["findings", "--format", "json", log]));
    }
    let holdings = trail["holdings"].as_array().unwrap();
    if let Some(holding) = holdings.first() {
        let (mac, uuid) = (holding["mac"].as_str().unwrap(), holding["guest"]["uuid"].as_str().unwrap());
        contract::assert_valid("explain", &json(&["explain", uuid, "--format", "json", log]));
        if turn % 6 == 5 {
            contract::assert_valid("trail", &json(&["who", mac, "--at", "2030-01-01", "--json", log]));
        }
    }
    holdings.len()
}

#[test]
fn queries_answer_as_their_schemas_say() {
    let logs = logs();
    let (next, holdings) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let Some(log) = logs.get(turn) else { break };
            holdings.fetch_add(check_log(log.to_str().unwrap(), turn), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().for_each(|worker| worker.join().expect("this worker found no fault"));
    });
    assert!(holdings.into_inner() > 100);
}

#[test]
fn documents_of_ecs_have_its_fields() {
    let (mut documents, mut used) = (0, BTreeSet::new());
    for log in logs() {
        let log = log.to_str().unwrap();
        let lines = |format| String::from_utf8(taptrail(&["trail", "--format", format, log]).stdout).unwrap();
        let (written, all) = (lines("ecs"), lines("jsonl"));
        for line in written.lines() {
            let document: Value = serde_json::from_str(line).unwrap();
            assert_eq!(ecs::faults(&document), Vec::<String>::new(), "{log}: {document:#}");
            documents += 1;
            used.extend(ecs::of(&document));
        }
        // Each holding and finding is a document; the last line of jsonl is about the input.
        assert_eq!(written.lines().count(), all.lines().count().saturating_sub(1), "{log}");
    }
    assert!(documents > 100, "{documents}");
    // No real log of these has a tap of the bridge helper: tests/e2e/bridge_taps.rs has one.
    let listed = ecs::listed().map(|field| field.name.to_owned()).filter(|name| name != "user.id");
    let listed: BTreeSet<_> = listed.collect();
    assert_eq!(used, listed, "fields that real logs bring, and fields of the list");
}

#[test]
fn a_changed_answer_is_refused() {
    let log =
        logs().into_iter().find(|log| log.to_str().unwrap().contains("libvirt-9.0/06-hotplug")).unwrap();
    let log = log.to_str().unwrap();
    for (name, arguments) in [
        ("trail", &["trail", "--at", "2026-11-23 18:54:08", "--format", "json"][..]),
        ("findings", &["findings", "--format", "json"]),
        ("summary", &["summary", "--by", "guest", "--format", "json"]),
        ("explain", &["explain", "t6-hotplug", "--at", "2026-11-23 18:54:08", "--format", "json"]),
        ("guests", &["guests", "--format", "json"]),
        ("guest-events", &["guests", "--all-events", "--format", "json"]),
    ] {
        assert_changes_refused(name, &json(&[arguments, &[log]].concat()));
    }
    for arguments in [&["guests", "--format", "jsonl"][..], &["guests", "--all-events", "--format", "jsonl"]]
    {
        let lines = lines(&[arguments, &[log]].concat());
        assert!(lines.len() > 1, "{arguments:?}");
        lines.iter().for_each(|line| assert_changes_refused("guests-lines", line));
    }
}

fn assert_changes_refused(name: &str, answer: &Value) {
    contract::assert_valid(name, answer);
    let changed = contract::mutations(answer);
    assert!(changed.len() > 10, "{name}: {}", changed.len());
    for (place, changed) in changed {
        assert!(!contract::faults(name, &changed).is_empty(), "{name}: a change of {place} is not noticed");
    }
}

#[test]
fn a_watchers_lines_are_as_their_schema_says() {
    let mut kinds = BTreeSet::new();
    for log in logs().iter().filter(|log| log.to_str().unwrap().contains("/libvirt-9.0/")) {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
        command.args(["watch", "--stdin", "--json"]).env_remove("TAPTRAIL_LOG");
        for (option, name) in [("--log", "none.log"), ("--state-dir", "state"), ("--run-dir", "run")] {
            command.arg(option).arg(dir.path().join(name));
        }
        let output = command.stdin(File::open(log).unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            contract::assert_valid("watch", &event);
            kinds.insert(event["kind"].as_str().unwrap().to_owned());
        }
    }
    assert!(
        kinds.is_superset(&["opened", "released", "finding", "guest"].map(str::to_owned).into()),
        "{kinds:?}"
    );
}

#[test]
fn commands_about_this_host_answer_as_their_schemas_say() {
    let dir = tempfile::tempdir().unwrap();
    let (state, run) = (dir.path().join("state"), dir.path().join("run"));
    let dirs = ["--state-dir", state.to_str().unwrap(), "--run-dir", run.to_str().unwrap()];
    let ask = |arguments: &[&str]| json(&[arguments, &dirs[..], &["--format", "json"]].concat());
    contract::assert_valid("list", &ask(&["list"]));
    contract::assert_valid("ledger-prune", &ask(&["ledger", "prune", "--before", "2020-01-01"]));
    contract::assert_valid("ledger-check", &ask(&["ledger", "check"]));
    contract::assert_valid("ledger-checkpoint", &ask(&["ledger", "checkpoint"]));
    contract::assert_valid("recover", &ask(&["recover", "--audit", "off"]));
    let log = logs().into_iter().find(|log| log.to_str().unwrap().contains("06-hotplug")).unwrap();
    contract::assert_valid("verify", &ask(&["verify", log.to_str().unwrap()]));
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/examples");
    let files = std::fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<String> = files.map(|path| path.to_str().unwrap().to_owned()).collect();
    files.push("/nonexistent.toml".to_owned());
    let files: Vec<&str> = ["check"].into_iter().chain(files.iter().map(String::as_str)).collect();
    contract::assert_valid("check", &ask(&files));
}

#[test]
fn the_program_prints_the_schemas() {
    let list = String::from_utf8(taptrail(&["schema"]).stdout).unwrap();
    assert_eq!(list.lines().count(), Schema::ALL.len());
    let shown = include_str!("../../docs/schema.md").split_once("$ taptrail schema\n").unwrap().1;
    assert!(shown.starts_with(&format!("{list}```\n")), "docs/schema.md has another list: {list}");
    let width = Schema::ALL.iter().map(|schema| schema.name.len()).max().unwrap();
    for schema in Schema::ALL {
        assert!(list.contains(&format!("{:width$}  taptrail ", schema.name)), "{list}");
        assert_eq!(json(&["schema", schema.name]), schema.standalone().unwrap());
    }
    assert_eq!(taptrail(&["schema", "defs"]).status.code(), Some(2));
}
