//! Queries with `--lake`: real logs of many hosts, archived, answer as the logs themselves.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::world::lab;

/// The logs of the lab, each as a host of its own.
fn copy_logs(to: &Path) {
    let hosts: usize = ["libvirt-9.0-vhost", "libvirt-9.0"]
        .iter()
        .map(|version| lab::copy_logs(version, usize::MAX, to))
        .sum();
    assert!(hosts >= 20, "{hosts}");
}

fn taptrail(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.args(arguments).env("TZ", "UTC").env_remove("TAPTRAIL_LOG").stdin(Stdio::null());
    command.env("TAPTRAIL_STATE_DIR", "/nonexistent").env("TAPTRAIL_AUDIT_LOG", "/nonexistent/audit.log");
    let done = command.output().unwrap();
    (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
}

/// JSON without what an input's files are; what happened in one moment in one order.
fn comparable(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if fields.contains_key("coverage") {
                    fields.retain(|name, _| matches!(name.as_str(), "coverage" | "asked"));
                }
                fields.values_mut().for_each(walk);
            }
            Value::Array(all) => {
                all.iter_mut().for_each(walk);
                if all.first().is_some_and(Value::is_object) {
                    all.sort_by_cached_key(ToString::to_string);
                }
            }
            _ => {}
        }
    }
    walk(&mut value);
    value
}

#[test]
fn a_lake_answers_as_the_logs_that_were_archived() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    copy_logs(&logs);
    let logs = logs.to_str().unwrap();
    let lake = format!("file://{}/lake", directory.path().display());
    let (code, _, said) = taptrail(&["archive", logs, "--to", &lake]);
    assert_eq!(code, Some(0), "{said}");
    let trail: Value = serde_json::from_str(&taptrail(&["trail", logs, "--json"]).1).unwrap();
    let holdings = trail["holdings"].as_array().unwrap();
    let text = |holding: &Value, name: &str| holding[name].as_str().unwrap_or_default().to_owned();
    let (first, last) = (&holdings[holdings.len() / 3], &holdings[holdings.len() - 1]);
    let (mac, guest) = (text(first, "mac"), text(&first["guest"], "name"));
    let (uuid, host) = (text(&first["guest"], "uuid"), text(last, "host"));
    let (opened, granted) = (text(first, "opened"), text(last, "granted"));
    let mut questions: Vec<Vec<&str>> = vec![
        vec!["trail"],
        vec!["trail", "--held"],
        vec!["trail", "--mac", &mac],
        vec!["trail", "--guest", &uuid],
        vec!["trail", "--host", &host],
        vec!["trail", "--host", "nosuch"],
        vec!["trail", "--start", &granted],
        vec!["trail", "--end", &granted],
        vec!["who", &mac],
        vec!["who", &guest],
        vec!["who", "nosuch"],
        vec!["explain", &mac],
        vec!["explain", &guest],
        vec!["findings"],
        vec!["findings", "--severity", "grave"],
        vec!["findings", "--mac", &mac],
        vec!["findings", "--start", &opened, "--end", &granted],
        vec!["guests"],
        vec!["guests", "--guest", &guest],
    ];
    for time in [opened.as_str(), &granted, "2026-11-23", "2020-01-01", "2030-01-01"] {
        questions.push(vec!["trail", "--at", time]);
        questions.push(vec!["who", &mac, "--at", time]);
        questions.push(vec!["guests", "--at", time]);
    }
    for device in ["macvtap", "vnet0", "0A:C8", "/dev/vhost-net"] {
        questions.push(vec!["trail", "--device", device]);
        questions.push(vec!["who", device, "--at", &opened]);
    }
    for question in questions {
        let of_logs = taptrail(&[&question[..], &[logs, "--json"]].concat());
        let of_lake = taptrail(&[&question[..], &["--lake", &lake, "--json"]].concat());
        assert_eq!(of_logs.0, of_lake.0, "{question:?}: {}", of_lake.2);
        let json = |text: &str| comparable(serde_json::from_str(text).unwrap());
        let (of_logs, of_lake) = (json(&of_logs.1), json(&of_lake.1));
        assert!(of_logs == of_lake, "{question:?}\n{of_logs:#}\n{of_lake:#}");
    }
}

/// A host's log of ten days: an interface with a recorded open (`:01`), and some without: one that was
/// unplugged (`:02`), one that was not (`:03`), and one whose guest ended (`:04`).
fn log_without_opens() -> String {
    let (web, db) = ("2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e", "7b1f0f1a-9a0b-4d4e-8a39-2f6d2b8f5c11");
    let ours = r#"exe="/usr/sbin/libvirtd" hostname=? addr=? terminal=? res=success"#;
    let net = |at: &'static str, reason: &str, vm: &str, uuid: &str, rest: &str| {
        let text = format!(r#"virt=kvm resrc=net reason={reason} vm="{vm}" uuid={uuid} {rest} {ours}"#);
        (at, "VIRT_RESOURCE", text)
    };
    let control = |at: &'static str, what: &str, vm: &str, uuid: &str| {
        (at, "VIRT_CONTROL", format!(r#"virt=kvm {what} vm="{vm}" uuid={uuid} vm-pid=4711 {ours}"#))
    };
    let new = |mac: &str| format!(r#"old-net="?" new-net="52:54:00:00:00:{mac}""#);
    let boot = r#"comm="systemd-update-utmp" exe="/usr/lib/systemd/systemd-update-utmp" hostname=? addr=? terminal=? res=success"#;
    let tap = r#"net=52:54:00:00:00:01 path="/dev/net/tun" rdev=0A:C8"#;
    let gone = r#"old-net="52:54:00:00:00:02" new-net="?""#;
    let records = [
        ("2026-11-01T00:00:00Z", "SYSTEM_BOOT", boot.to_owned()),
        net("2026-11-05T10:00:00Z", "open", "web1", web, tap),
        net("2026-11-05T10:00:00Z", "start", "web1", web, &new("01")),
        net("2026-11-05T10:00:00Z", "start", "web1", web, &new("02")),
        control("2026-11-05T10:00:00Z", "op=start reason=booted", "web1", web),
        net("2026-11-07T10:00:00Z", "detach", "web1", web, gone),
        net("2026-11-08T10:00:00Z", "start", "db1", db, &new("04")),
        control("2026-11-08T10:00:00Z", "op=start reason=booted", "db1", db),
        net("2026-11-08T11:00:00Z", "attach", "web1", web, &new("03")),
        control("2026-11-09T10:00:00Z", "op=stop reason=destroyed", "db1", db),
        control(
            "2026-11-10T10:00:00Z",
            "op=start reason=booted",
            "other",
            "9c1f0f1a-9a0b-4d4e-8a39-2f6d2b8f5c11",
        ),
    ];
    let line = |(serial, (at, kind, text)): (usize, (&str, &str, String))| {
        let time = at.parse::<jiff::Timestamp>().unwrap().as_second();
        format!(
            "type={kind} msg=audit({time}.000:{}): pid=900 uid=0 auid=4294967295 ses=4294967295 msg='{text}'\n",
            serial + 100
        )
    };
    records.into_iter().enumerate().map(line).collect()
}

/// The MACs and paths of holdings, sorted.
fn holdings_of(rows: &Value, path: impl Fn(&Value) -> Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all: Vec<_> =
        rows.as_array().unwrap().iter().map(|row| (text(&row["mac"]), text(&path(row)))).collect();
    all.sort();
    all
}

// Shows 15.15.
#[test]
fn a_lake_knows_when_an_interface_without_a_recorded_open_began_and_what_is_still_held() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    fs::write(&log, log_without_opens()).unwrap();
    let log = log.to_str().unwrap();
    let lake = format!("file://{}/lake", directory.path().display());
    let (code, _, said) = taptrail(&["archive", log, "--assume-host", "kvm1", "--to", &lake]);
    assert_eq!(code, Some(0), "{said}");
    // Before, over and after each of them; times of day, and days without records.
    let days = ["2026-11-01", "2026-11-05T09:59:59.999Z", "2026-11-05T10:00:00Z", "2026-11-05T10:00:00.001Z"]
        .into_iter()
        .chain(["2026-11-06", "2026-11-07T10:00:00Z", "2026-11-07T10:00:00.001Z", "2026-11-08T10:30:00Z"])
        .chain(["2026-11-09T10:00:00Z", "2026-11-09T10:00:00.001Z", "2026-11-10", "2026-11-20"]);
    let days: Vec<&str> = days.collect();
    let mut ranges: Vec<Vec<&str>> = vec![vec![], vec!["--end", days[0]]];
    for (number, start) in days.iter().enumerate() {
        ranges.push(vec!["--start", start]);
        let ends = days[number + 1..].iter().step_by(3);
        ranges.extend(ends.map(|end| vec!["--start", *start, "--end", *end]));
    }
    for is_compacted in [false, true] {
        if is_compacted {
            assert_eq!(taptrail(&["lake", "compact", &lake]).0, Some(0));
        }
        let mut seen = 0;
        for range in &ranges {
            for about in [vec![], vec!["--mac", "52:54:00:00:00:01"]] {
                let asked = [range.as_slice(), &about].concat();
                let of = |more: &[&str]| taptrail(&[&["trail"], &asked[..], more].concat());
                let (of_logs, of_lake) =
                    (of(&[log, "--assume-host", "kvm1", "--json"]), of(&["--lake", &lake, "--json"]));
                assert_eq!(of_logs.0, of_lake.0, "{asked:?}: {}", of_lake.2);
                let json = |text: &str| comparable(serde_json::from_str(text).unwrap());
                let (of_logs, of_lake) = (json(&of_logs.1), json(&of_lake.1));
                assert!(of_logs == of_lake, "{asked:?}\n{of_logs:#}\n{of_lake:#}");
                let expected = holdings_of(&of_logs["holdings"], |row| row["device"]["path"].clone());
                seen += expected.len();
                if is_compacted {
                    let native = ["--engine", "taptrail", "--run", "--json"];
                    let sql = taptrail(&[&["lake", "sql", &lake, "trail"], &asked[..], &native].concat());
                    let sql: Value = serde_json::from_str(&sql.1).unwrap_or_else(|_| panic!("{}", sql.2));
                    let rows = holdings_of(&sql["answers"][0]["rows"], |row| row["path"].clone());
                    assert_eq!(rows, expected, "{asked:?}");
                }
            }
            if range.len() > 2 {
                continue;
            }
            for question in ["guests", "findings"] {
                let of = |more: &[&str]| taptrail(&[&[question], &range[..], more].concat());
                let (of_logs, of_lake) =
                    (of(&[log, "--assume-host", "kvm1", "--json"]), of(&["--lake", &lake, "--json"]));
                assert_eq!(of_logs.0, of_lake.0, "{question} {range:?}: {}", of_lake.2);
                let json = |text: &str| comparable(serde_json::from_str(text).unwrap());
                assert!(json(&of_logs.1) == json(&of_lake.1), "{question} {range:?}");
            }
        }
        assert!(seen > 60, "{seen}");
    }
}

#[test]
fn a_lake_that_is_not_there_is_an_error_and_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("none");
    let lake = format!("file://{}", place.display());
    let (code, answer, said) = taptrail(&["who", "web1", "--lake", &lake]);
    assert_eq!((code, answer.as_str()), (Some(2), ""), "{said}");
    assert!(said.contains(&lake), "{said}");
    assert!(!place.exists());
    fs::create_dir(&place).unwrap();
    let (code, _, said) = taptrail(&["trail", "--lake", &lake]);
    assert!(code == Some(2) && said.contains("there is no lake"), "{said}");
    let (code, _, said) = taptrail(&["guests", "--all-events", "--lake", &lake]);
    assert!(code == Some(2) && said.contains("give the logs"), "{said}");
}
