//! Queries on the command line to trails that libvirt wrote.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A guest with one interface from its start, and another that is plugged and unplugged five times.
const HOTPLUG: &str = "06-hotplug";
const HOTPLUGGED: &str = "52:54:00:00:06:aa";

fn log(folder: &str) -> PathBuf {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt/libvirt-9.0");
    data.join(folder).join("audit.log")
}

fn taptrail() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.env("TZ", "UTC").env_remove("TAPTRAIL_LOG");
    command
}

fn ask<'a>(arguments: impl IntoIterator<Item = &'a str>, folder: &str) -> Output {
    taptrail().args(arguments).arg(log(folder)).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    parsed(output)
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn releases(answer: &Value) -> Vec<&str> {
    let holdings = answer["holdings"].as_array().unwrap().iter();
    holdings.filter_map(|holding| holding["released"].as_str()).collect()
}

// Shows 10.15.
#[test]
fn who_held_a_device_depends_on_the_time() {
    let at = |time: &str| json(&ask(["who", HOTPLUGGED, "--format", "json", "--at", time], HOTPLUG));
    assert_eq!(releases(&at("2026-11-23T18:53:51Z")), ["2026-11-23T18:53:52.744Z"]);
    assert_eq!(releases(&at("2026-11-23 18:53:57")), ["2026-11-23T18:53:58.520Z"]);
    // A guest that ran before the log begins may have had it.
    let none = ask(["who", HOTPLUGGED, "--format", "json", "--at", "2026-11-23 18:53:54"], HOTPLUG);
    assert_eq!((none.status.code(), releases(&parsed(&none)).len()), (Some(4), 0));
    let ever = json(&ask(["who", "macvtap4", "--format", "json"], HOTPLUG));
    assert_eq!(ever["holdings"].as_array().unwrap().len(), 1);
}

#[test]
fn options_narrow_the_answer() {
    let count = |arguments: &[&str]| {
        let arguments = ["trail", "--format", "json"].iter().chain(arguments).copied();
        parsed(&ask(arguments, HOTPLUG))["holdings"].as_array().unwrap().len()
    };
    let all = count(&[]);
    assert_eq!(count(&["--guest", "t6-hotplug"]), all);
    assert_eq!(count(&["--guest", "t6"]), 0);
    assert_eq!(count(&["--held"]), 0);
    assert_eq!(count(&["--device", "macvtap"]), 1);
    assert_eq!(count(&["--device", "macvtap", "--end", "2026-11-23 18:54:06"]), 0);
    assert_eq!(count(&["--device", "macvtap", "--end", "2026-11-23 18:54:07"]), 1);
    assert_eq!(count(&["--device", "macvtap", "--start", "2026-11-23 18:54:11"]), 0);
    assert_eq!(count(&["--mac", "52:54:00:00:06:01"]) + count(&["--mac", HOTPLUGGED]), all);
}

#[test]
fn findings_are_asked_for_by_kind() {
    let failed = ask(["findings", "--kind", "open-failed"], HOTPLUG);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed).contains("open-failed") && !text(&failed).contains("contradictory"));
    let none = ask(["findings", "--kind", "close-failed"], HOTPLUG);
    assert_eq!((none.status.code(), text(&none).starts_with("No findings")), (Some(0), true));
}

#[test]
fn a_file_that_cannot_be_read_does_not_hide_the_others() {
    let output = ask(["trail", "/nonexistent/audit.log"], HOTPLUG);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains(HOTPLUGGED));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/audit.log"));
}

#[test]
fn lines_of_json_end_with_what_was_read() {
    let output = text(&ask(["trail", "--format", "jsonl"], HOTPLUG));
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert!(last["input"]["records"].as_u64().unwrap() > 0);
    let first: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    assert!(first["holding"].is_object() || first["finding"].is_object());
}

#[test]
fn csv_has_a_row_for_each_holding() {
    let holdings = json(&ask(["trail", "--format", "json"], HOTPLUG))["holdings"].as_array().unwrap().len();
    let output = text(&ask(["trail", "--format", "csv"], HOTPLUG));
    assert!(output.starts_with("host,guest,uuid,mac,"));
    assert_eq!(output.lines().count(), holdings + 1);
}

// Shows 10.15.
#[test]
fn an_explanation_shows_the_lines_that_prove_it() {
    let output = text(&ask(["explain", "--raw", HOTPLUGGED], HOTPLUG));
    for part in
        ["reason=open", "reason=attach", "reason=detach", "the interface was unplugged", "(serial 2599)"]
    {
        assert!(output.contains(part), "{part}: {output}");
    }
    assert!(!output.contains('\x1d'));
    let nothing = text(&ask(["explain", "no such guest"], HOTPLUG));
    assert!(nothing.starts_with("No record is about no such guest"));
}

#[test]
fn an_invalid_time_is_refused_with_examples_of_valid_ones() {
    let output = ask(["trail", "--start", "checkpoint"], HOTPLUG);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("--start") && error.contains("yesterday"), "{error}");
    assert_eq!(text(&output), "");
}

// Shows 10.16.
#[test]
fn a_reader_who_goes_away_is_no_failure() {
    for format in ["table", "json", "jsonl", "csv"] {
        let mut child = taptrail()
            .args(["trail", "--format", format])
            .args(vec![log(HOTPLUG); 50])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert_eq!((child.wait().unwrap().code(), error.as_str()), (Some(0), ""), "{format}");
    }
}
