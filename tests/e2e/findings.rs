//! `taptrail findings` on logs that libvirt wrote: severities, incidents, and each format.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// Two boots that fail, and nothing else.
const BOOT_FAILS: &str = "libvirt-9.0-vhost-plug/10-boot-fails";
/// A boot whose filter can't be set, and failed and incomplete ones beside it.
const FILTER: &str = "libvirt-9.0/07-fail-nwfilter";
/// A libvirtd that was restarted twice.
const RESTARTS: &str = "libvirt-11.3-virtqemud/05-daemon-restart";

fn findings(arguments: &[&str], folder: &str) -> Output {
    let log = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt").join(folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.current_dir(log).env("TZ", "UTC").env_remove("TAPTRAIL_LOG");
    command.arg("findings").args(arguments).arg("audit.log").output().unwrap()
}

fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The findings of JSON lines.
fn lines(output: &Output) -> Vec<Value> {
    let all = text(output).lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter_map(|mut line| line.get_mut("finding").map(Value::take)).collect()
}

#[test]
fn a_severity_selects_what_is_at_least_as_grave() {
    for (severity, folder, count, code) in [
        ("notice", RESTARTS, 3, 1),
        ("warning", RESTARTS, 0, 0),
        ("grave", RESTARTS, 0, 0),
        ("notice", FILTER, 10, 1),
        ("warning", FILTER, 9, 1),
        ("grave", FILTER, 0, 0),
    ] {
        let output = findings(&["--severity", severity, "--format", "jsonl"], folder);
        assert_eq!((lines(&output).len(), output.status.code()), (count, Some(code)), "{severity} {folder}");
    }
    let wrong = findings(&["--severity", "fatal"], FILTER);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("notice, warning, grave"));
}

#[test]
fn a_boot_that_failed_is_one_row_or_each_of_its_findings() {
    let by_kind = findings(&[], BOOT_FAILS);
    let rows: Vec<&str> = text(&by_kind).lines().filter(|line| line.starts_with("warning")).collect();
    assert_eq!(rows.len(), 1, "{}", text(&by_kind));
    assert!(rows[0].starts_with("warning   false-start      2  "), "{}", rows[0]);
    assert!(text(&by_kind).contains("    With 7 open-without-grant, 2 more false-start\n"));
    assert!(text(&by_kind).contains("\n2 incidents; 11 findings; 13 records read\n"));

    let each = findings(&["--each"], BOOT_FAILS);
    let rows = text(&each).lines().filter(|line| line.contains("  warning   "));
    assert_eq!(rows.clone().count(), 11);
    assert_eq!(rows.filter(|line| line.contains("  warning     ")).count(), 9, "those that follow");
}

#[test]
fn every_format_has_severity_and_incident() {
    let by_line = lines(&findings(&["--format", "jsonl"], BOOT_FAILS));
    let all: Value = serde_json::from_slice(&findings(&["--json"], BOOT_FAILS).stdout).unwrap();
    assert_eq!(all["findings"].as_array().unwrap(), &by_line);
    let mut incidents: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
    for finding in &by_line {
        assert_eq!(finding["severity"], "warning");
        let follows = finding.get("follows").is_some_and(|follows| follows == true);
        incidents.entry(finding["incident"].as_u64().unwrap()).or_default().push(follows);
    }
    assert_eq!(incidents.values().map(Vec::len).collect::<Vec<_>>(), [6, 5]);
    assert!(incidents.values().all(|all| all.iter().enumerate().all(|(at, follows)| *follows == (at > 0))));

    let csv = findings(&["--format", "csv"], BOOT_FAILS);
    let mut rows = text(&csv).lines();
    assert!(rows.next().unwrap().ends_with(",text,proof,unauthenticated_source,severity,incident,follows"));
    assert!(rows.next().unwrap().ends_with(",false,warning,1,false"));
    assert!(rows.next().unwrap().ends_with(",false,warning,1,true"));
}
