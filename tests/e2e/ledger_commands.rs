//! The ledger's maintenance commands: `ledger export`, `prune`, `check` and `checkpoint`; and what an
//! answer says of a ledger that they changed.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use taptrail_ledger::Ledger;

use crate::world::{World, contract};

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";
const TWO: &str = "bridge=br0,mac=52:54:00:00:00:02,vhost=off";

// Shows 4.12.
#[test]
fn an_exported_ledger_reads_as_an_audit_log() {
    let world = World::new();
    let guest = world.start("it's web1", &["--nic", ONE]);
    world.attach(&guest, "macvtap=lower,mac=52:54:00:00:00:02,queues=2,vhost=off").ok();
    world.detach(&guest, 2, &["--timeout", "20s"]).ok();
    world.stop(&guest);
    let log = world.path("exported");
    fs::write(&log, world.taptrail(["ledger", "export"]).ok().stdout).unwrap();
    let holdings = |trail: serde_json::Value| -> Vec<String> {
        let keys =
            ["guest", "mac", "device", "queues", "opened", "granted", "released", "state", "certainty"];
        let holdings = trail["holdings"].as_array().unwrap().iter();
        holdings.map(|holding| keys.map(|key| holding[key].to_string()).join(" ")).collect()
    };
    // With auditing on, other records have the serial numbers in between.
    let exported = world.json(["trail", "--extract", "--format", "json", log.to_str().unwrap()]);
    assert_eq!(holdings(exported), holdings(world.trail()));
    // ausearch reads it, too.
    let ausearch = Command::new("/sbin/ausearch")
        .args(["--input", log.to_str().unwrap(), "--vm-name", "it's web1", "--raw"])
        .output()
        .unwrap();
    let found = String::from_utf8(ausearch.stdout).unwrap();
    assert_eq!(found.lines().count(), world.records().len(), "{found}");
}

// Shows 4.13.
#[test]
fn pruning_forgets_guests_that_have_ended() {
    let world = World::new();
    let first = world.start("web1", &["--nic", ONE]);
    world.stop(&first);
    let second = world.start("web2", &["--nic", TWO]);
    world.taptrail(["ledger", "prune", "--before", "no time"]).fails(2, "--before can't be used");
    let none = world.json(["ledger", "prune", "--before", "yesterday", "--json"]);
    assert_eq!(none, json!({"guests": 0, "records": 0}));
    let pruned = world.json(["ledger", "prune", "--before", "now", "--json"]);
    assert_eq!(pruned, json!({"guests": 1, "records": 5}));
    assert_eq!(world.record_lines(), ["open 02 tun vnet0 q0", "start 02", "guest booted"]);
    world.stop(&second);
    assert!(world.taptrail(["ledger", "check"]).ok().stdout.contains("is sound"));
    world.assert_clean();
}

#[test]
fn an_answer_says_how_sqlite_shows_its_records() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.stop(&guest);
    let answer = world.taptrail(["who", "web1"]).ok().stdout;
    let rows: Vec<i64> = answer
        .lines()
        .filter_map(|line| line.split_once("sqlite3 -readonly ")?.1.split_once("WHERE id = "))
        .map(|(command, row)| {
            assert_eq!(
                command,
                format!("{} 'SELECT text FROM record ", Ledger::file(&world.state()).display())
            );
            row.trim_end_matches('\'').parse().unwrap()
        })
        .collect();
    let records = Ledger::open_to_read(&world.state()).unwrap().into_records();
    let texts: Vec<String> =
        records.map(Result::unwrap).filter(|row| rows.contains(&row.id)).map(|row| row.text).collect();
    let steps = ["reason=open", "reason=start", "reason=close"];
    let found = steps.map(|step| texts.iter().filter(|text| text.contains(step)).count());
    assert_eq!((found, texts.len()), ([1, 1, 1], 3), "{answer}{texts:?}");
}

// Shows 10.24.
#[test]
fn what_was_pruned_is_unknown_and_not_nobodys() {
    let world = World::new();
    let first = world.start("web1", &["--nic", ONE]);
    let second = world.start("web2", &["--nic", TWO]);
    let both = jiff::Timestamp::now();
    world.stop(&first);
    let who = |mac: &str, at: jiff::Timestamp| world.taptrail(["who", mac, "--at", &at.to_string()]);
    who("52:54:00:00:00:01", both).ok();
    world.taptrail(["ledger", "prune", "--before", "now"]).ok();
    let after = jiff::Timestamp::now();
    world.attach(&second, "bridge=br0,mac=52:54:00:00:00:03,vhost=off").ok();
    // The other guest's records go back beyond that time.
    who("52:54:00:00:00:01", both).fails(4, "which were pruned");
    who("52:54:00:00:00:02", both).ok();
    who("52:54:00:00:00:01", after).fails(1, "");
    let at = both.to_string();
    let asked = &world.json(["who", "52:54:00:00:00:02", "--at", &at, "--format", "json"])["input"]["asked"];
    assert_eq!(asked["unknown_on"].as_array().unwrap().len(), 1, "{asked}");
    // Also where a log has that time: what only the ledger had is gone.
    let log = world.path("exported");
    fs::write(&log, world.taptrail(["ledger", "export"]).ok().stdout).unwrap();
    let ledger = Ledger::file(&world.state());
    let (log, ledger) = (log.to_str().unwrap(), ledger.to_str().unwrap());
    world
        .taptrail(["who", "52:54:00:00:00:01", "--at", &at, "--assume-host", "h", log, ledger])
        .fails(4, "which were pruned");
    world.stop(&second);
    world.assert_clean();
}

// Shows 4.13, 4.34.
#[test]
fn pruning_may_be_tried_and_leaves_an_altered_ledger_as_it_is() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.stop(&guest);
    let prune = |more: &[&str]| world.taptrail([&["ledger", "prune"], more].concat());
    prune(&["--keep", "soon"]).fails(2, "--keep can't be used: 'soon' is no time span");
    prune(&[]).fails(2, "<--before <TIME>|--keep <SPAN>>");
    let tried = world.json(["ledger", "prune", "--keep", "0 days", "--dry-run", "--json"]);
    assert_eq!(tried, json!({"guests": 1, "records": 5}));
    assert_eq!(
        prune(&["--keep", "1 day", "--dry-run"]).ok().stdout,
        "0 guests and 0 records would be deleted\n"
    );
    assert_eq!(world.records().len(), 5, "a try deletes nothing");
    let ledger = Ledger::file(&world.state());
    let text = "UPDATE record SET text = replace(text, 'success', 'failed') WHERE id = 2";
    tamper(&ledger, text);
    prune(&["--keep", "0 days", "--check"]).fails(1, "record 2 of ");
    assert_eq!(world.records().len(), 5);
    tamper(&ledger, "UPDATE record SET text = replace(text, 'failed', 'success') WHERE id = 2");
    assert_eq!(prune(&["--keep", "0 days", "--check"]).ok().stdout, "1 guest and 5 records deleted\n");
    assert!(world.taptrail(["ledger", "check"]).ok().stdout.contains("is sound"));
}

/// Runs SQL on the ledger, as somebody who is not taptrail would.
fn tamper(ledger: &Path, sql: &str) {
    let raw = rusqlite::Connection::open(ledger).unwrap();
    raw.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    raw.execute_batch(sql).unwrap();
}

/// The JSON of `ledger check`, which also has an exit code if it found something.
fn checked(world: &World, arguments: &[&str]) -> (i32, serde_json::Value) {
    let done = world.taptrail([&["ledger", "check", "--json"], arguments].concat());
    let json = serde_json::from_str(&done.stdout).unwrap();
    contract::assert_valid("ledger-check", &json);
    (done.code(), json)
}

// Shows 4.31, 4.32.
#[test]
fn records_that_are_altered_after_a_checkpoint_was_sent_away_are_named() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let kept = world.path("kept");
    let kept = kept.to_str().unwrap();
    world.taptrail(["ledger", "checkpoint", "--out", kept]).ok();
    // A copy from before the guest went on.
    let (file, copy) = (Ledger::file(&world.state()), world.path("copy.sqlite"));
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    drop(raw);
    world.attach(&guest, TWO).ok();
    let line = world.taptrail(["ledger", "checkpoint"]).ok().stdout;
    assert_eq!(world.json(["ledger", "checkpoint", "--json"])["row"], 5);
    let both = ["--checkpoint-file", kept, "--checkpoint", line.trim_end()];
    let (code, whole) = checked(&world, &both);
    assert_eq!((code, &whole["verdict"], &whole["chain"]["unchanged"]), (0, &json!("sound"), &json!(5)));
    assert_eq!(whole["checkpoints"].as_array().unwrap().len(), 2);
    assert!(whole["checkpoints"].as_array().unwrap().iter().all(|one| one["verdict"] == "holds"));
    assert!(world.taptrail(["ledger", "check"]).ok().stdout.contains("No checkpoint shows"));

    // A device gets another name, and the grant of the other one is gone.
    tamper(&file, "UPDATE record SET text = replace(text, 'vnet0', 'vnet7') WHERE id = 1");
    tamper(&file, "DELETE FROM record WHERE id = 5");
    let (code, altered) = checked(&world, &both);
    assert_eq!(
        (code, &altered["verdict"], &altered["chain"]["unchanged"]),
        (1, &json!("altered"), &json!(3))
    );
    let faults: Vec<_> = altered["chain"]["faults"].as_array().unwrap().iter().collect();
    let named = |fault: &serde_json::Value| {
        [&fault["kind"], &fault["record"]["id"], &fault["record"]["guest"]].map(ToString::to_string).join(" ")
    };
    assert_eq!(named(faults[0]), r#""record-altered" 1 "web1""#);
    assert_eq!(named(faults[1]), r#""record-removed" 5 "web1""#);
    let text = world.taptrail(["ledger", "check"]);
    assert_eq!(text.code(), 1);
    assert!(text.stdout.contains("record 1 of ") && text.stdout.contains("was altered"), "{}", text.stdout);

    // The guest goes on, and so does the chain: the changes are still named, and no other.
    world.stop(&guest);
    let (code, later) = checked(&world, &both);
    assert_eq!((code, &later["chain"]["fault_count"]), (1, &json!(2)), "{later}");

    // The copy is whole, and ends before the second checkpoint.
    let copy = copy.to_str().unwrap();
    assert_eq!(checked(&world, &[copy]).0, 0);
    let (code, old) = checked(&world, &[&[copy], &both[..]].concat());
    let verdicts = [0, 1].map(|at| old["checkpoints"][at]["verdict"].clone());
    assert_eq!((code, verdicts), (1, ["rolled-back", "holds"].map(|verdict| json!(verdict))), "{old}");
}

// Shows 4.32.
#[test]
fn a_checkpoint_that_can_not_be_compared_is_no_answer() {
    let world = World::new();
    let line = |state: &Path| {
        let state = state.to_str().unwrap();
        world.taptrail(["--state-dir", state, "ledger", "checkpoint"]).ok().stdout.trim_end().to_owned()
    };
    let guest = world.start("web1", &["--nic", ONE]);
    let first = line(&world.state());
    world.stop(&guest);
    let last = line(&world.state());
    world.json(["ledger", "prune", "--before", "now", "--json"]);
    let (code, pruned) = checked(&world, &["--checkpoint", &first]);
    assert_eq!((code, &pruned["verdict"]), (2, &json!("unknown")), "{pruned}");
    assert_eq!(checked(&world, &["--checkpoint", &last]).0, 0);
    // One of another ledger.
    drop(Ledger::open(&world.path("other")).unwrap());
    let other = line(&world.path("other"));
    let (code, another) = checked(&world, &["--checkpoint", &other]);
    assert_eq!((code, &another["checkpoints"][0]["verdict"]), (1, &json!("another-ledger")));
    // None at all.
    let check = |arguments: &[&str]| world.taptrail([&["ledger", "check"], arguments].concat());
    check(&["--checkpoint", &last[..last.len() - 80]]).fails(2, "its 'sha256=' is missing");
    check(&["--checkpoint", "row 7"]).fails(2, "it has no 'taptrail-checkpoint v=1'");
    let file = world.path("kept");
    fs::write(&file, format!("Dear auditor,\n{last}\ntaptrail-checkpoint v=1 ledger=\n")).unwrap();
    check(&["--checkpoint-file", file.to_str().unwrap()]).fails(2, "kept:3 has no valid checkpoint");
    fs::write(&file, "Dear auditor,\n").unwrap();
    check(&["--checkpoint-file", file.to_str().unwrap()]).fails(2, "has no checkpoint");
    check(&["--checkpoint-file", "/nonexistent"]).fails(2, "can't be read");
}
