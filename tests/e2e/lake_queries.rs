//! Queries with `--lake`: real logs of many hosts, archived, answer as the logs themselves.

use std::collections::BTreeSet;
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
    records.into_iter().enumerate().map(audit_line).collect()
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

/// The line of an audit record.
fn audit_line((serial, (at, kind, text)): (usize, (&str, &str, String))) -> String {
    let time = at.parse::<jiff::Timestamp>().unwrap().as_second();
    format!(
        "type={kind} msg=audit({time}.000:{}): pid=900 uid=0 auid=4294967295 ses=4294967295 msg='{text}'\n",
        serial + 100
    )
}

/// A host's log of ten days with taps of the bridge helper: one that a watcher closed (`tap0`), two of
/// one name, of which a reboot ended the second (`tap1`), one whose end nobody recorded (`tap2`), one
/// that is held (`tap3`), one that could not be passed (`tap4`), and a refused request.
fn log_with_bridge_taps() -> String {
    let open = |at: &'static str, tap: &str, pid: u32, more: &str| {
        let text = format!(
            r#"virt=kvm resrc=net reason=bridge-open bridge="br0" path="/dev/net/tun" rdev=0A:C8 dev="{tap}" req-uid=1000 req-auid=1000 req-pid={pid} req-start={pid}00 {more} exe="/usr/libexec/taptrail-bridge-helper" hostname=? addr=? terminal=? res=success"#
        );
        (at, "VIRT_RESOURCE", text)
    };
    let web = r#"claimed-vm="web1" claimed-uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e netns=4026531840"#;
    let watched = format!("{web} ifindex=7");
    let refused = |at: &'static str, refusal: &str, tap: &str| {
        let text = format!(
            r#"virt=kvm resrc=net reason=bridge-open bridge="br0" {tap}refusal={refusal} req-uid=1000 req-auid=4294967295 req-pid=4716 req-start=471600 netns=4026531840 exe="/usr/libexec/taptrail-bridge-helper" hostname=? addr=? terminal=? res=failed"#
        );
        (at, "VIRT_RESOURCE", text)
    };
    let close = r#"virt=kvm resrc=net reason=bridge-close bridge="br0" dev="tap0" req-uid=1000 req-auid=1000 req-pid=4711 req-start=471100 exe="/usr/bin/taptrail" hostname=? addr=? terminal=? res=success"#;
    let boot = r#"comm="systemd-update-utmp" exe="/usr/lib/systemd/systemd-update-utmp" hostname=? addr=? terminal=? res=success"#;
    let named = r#"claimed-vm="db1" netns=4026531840"#;
    let tap4 = r#"path="/dev/net/tun" rdev=0A:C8 dev="tap4" "#;
    let records = [
        ("2026-11-01T00:00:00Z", "SYSTEM_BOOT", boot.to_owned()),
        open("2026-11-02T10:00:00Z", "tap0", 4711, web),
        open("2026-11-02T10:00:00Z", "tap0", 4711, &watched),
        open("2026-11-02T12:00:00Z", "tap1", 4712, named),
        ("2026-11-04T10:00:00Z", "VIRT_RESOURCE", close.to_owned()),
        open("2026-11-05T10:00:00Z", "tap1", 4713, "netns=4026531840"),
        ("2026-11-07T10:00:00Z", "SYSTEM_BOOT", boot.to_owned()),
        open("2026-11-08T10:00:00Z", "tap2", 4714, named),
        open("2026-11-08T11:00:00Z", "tap3", 4715, &watched),
        refused("2026-11-08T12:00:00Z", "acl", ""),
        open("2026-11-08T13:00:00Z", "tap4", 4716, "netns=4026531840").with_auid_unset(),
        refused("2026-11-08T13:00:00Z", "hand-over", tap4),
        ("2026-11-10T10:00:00Z", "VIRT_CONTROL", r#"virt=kvm op=start reason=booted vm="other" uuid=9c1f0f1a-9a0b-4d4e-8a39-2f6d2b8f5c11 vm-pid=4711 exe="/usr/sbin/libvirtd" hostname=? addr=? terminal=? res=success"#.to_owned()),
    ];
    records.into_iter().enumerate().map(audit_line).collect()
}

trait WithoutLogin {
    fn with_auid_unset(self) -> Self;
}

impl WithoutLogin for (&'static str, &'static str, String) {
    fn with_auid_unset(self) -> Self {
        (self.0, self.1, self.2.replace("req-auid=1000", "req-auid=4294967295"))
    }
}

/// Compares what is asked about the bridge helper's taps of a log and of a lake. Returns how many taps
/// were found.
fn compare_bridge_taps(log: &str, lake: &str) -> usize {
    let mut questions: Vec<Vec<&str>> = vec![
        vec!["trail"],
        vec!["trail", "--held"],
        vec!["trail", "--guest", "web1"],
        vec!["trail", "--guest", "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e"],
        vec!["trail", "--guest", "web1", "--guest", "db1", "--start", "2026-11-05"],
        vec!["trail", "--device", "tap1"],
        vec!["trail", "--device", "tun"],
        vec!["trail", "--device", "/dev/net/tun"],
        vec!["trail", "--device", "0A:C8"],
        vec!["trail", "--device", "macvtap"],
        vec!["trail", "--mac", "52:54:00:00:00:01"],
        vec!["trail", "--host", "kvm1.example.org"],
        vec!["trail", "--host", "kvm2"],
        vec!["explain", "tap0"],
        vec!["explain", "db1"],
        vec!["summary"],
        vec!["summary", "--start", "2026-11-06"],
        vec!["findings"],
    ];
    for subject in ["tap0", "tap1", "tap4", "web1", "db1", "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e", "nosuch"] {
        questions.push(vec!["who", subject]);
        questions.push(vec!["who", subject, "--at", "2026-11-03T12:00:00Z"]);
    }
    let times = ["2026-11-02T10:00:00Z", "2026-11-03", "2026-11-04T10:00:00Z", "2026-11-05T10:00:00Z"]
        .into_iter()
        .chain(["2026-11-07T10:00:00Z", "2026-11-08T13:00:00Z", "2026-11-09", "2026-11-20"]);
    for time in times {
        for option in ["--at", "--start", "--end"] {
            questions.push(vec!["trail", option, time]);
        }
        questions.push(vec!["trail", "--start", "2026-11-03", "--end", time]);
    }
    let mut found = 0;
    for question in questions {
        let of_log = taptrail(&[&question[..], &[log, "--assume-host", "kvm1", "--json"]].concat());
        let of_lake = taptrail(&[&question[..], &["--lake", lake, "--json"]].concat());
        assert_eq!(of_log.0, of_lake.0, "{question:?}: {}", of_lake.2);
        let json = |text: &str| {
            let mut value = comparable(serde_json::from_str(text).unwrap_or_default());
            // Of a summary: a lake's are those of its objects.
            value.pointer_mut("/input/bytes").map(Value::take);
            value
        };
        let (of_log, of_lake) = (json(&of_log.1), json(&of_lake.1));
        assert!(of_log == of_lake, "{question:?}\n{of_log:#}\n{of_lake:#}");
        found += of_log["bridge_taps"].as_array().map_or(0, Vec::len);
    }
    // In the same words.
    for question in [vec!["who", "tap1"], vec!["who", "web1"], vec!["explain", "tap0", "--raw"]] {
        let of_log = taptrail(&[&question[..], &[log, "--assume-host", "kvm1"]].concat());
        let of_lake = taptrail(&[&question[..], &["--lake", lake]].concat());
        assert!(of_log.1.contains("tap") && of_log.1 == of_lake.1, "{}\n{}", of_log.1, of_lake.1);
    }
    for format in ["jsonl", "ecs"] {
        let of_log = taptrail(&["trail", log, "--assume-host", "kvm1", "--format", format]);
        let of_lake = taptrail(&["trail", "--lake", lake, "--format", format]);
        let taps = |text: &str| -> BTreeSet<String> {
            text.lines().filter(|line| line.contains("bridge_tap")).map(str::to_owned).collect()
        };
        assert_eq!(taps(&of_log.1), taps(&of_lake.1), "{format}");
        assert_eq!(taps(&of_log.1).len(), 6, "{format}: {}", of_log.1);
    }
    found
}

/// Makes a manifest one of version 1, which has no table of the bridge helper's taps.
fn without_bridge_taps(manifest: &Path) {
    let mut content: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    content["version"] = 1.into();
    for name in ["objects", "summary", "months"] {
        if let Some(objects) = content.get_mut(name).and_then(Value::as_array_mut) {
            objects.retain(|object| object["table"] != "bridge_taps");
        }
    }
    fs::write(manifest, serde_json::to_vec(&content).unwrap()).unwrap();
}

// Shows 15.16.
#[test]
fn a_lake_has_the_bridge_helpers_taps_as_the_logs_have_them() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    fs::write(&log, log_with_bridge_taps()).unwrap();
    let log = log.to_str().unwrap();
    let place = directory.path().join("lake");
    let lake = format!("file://{}", place.display());
    let (code, _, said) = taptrail(&["archive", log, "--assume-host", "kvm1", "--to", &lake]);
    assert_eq!(code, Some(0), "{said}");
    assert!(compare_bridge_taps(log, &lake) > 80);
    let compact = || {
        let (code, answer, said) = taptrail(&["lake", "compact", &lake]);
        assert_eq!(code, Some(0), "{said}");
        answer
    };
    compact();
    assert!(compare_bridge_taps(log, &lake) > 80);
    let check = || taptrail(&["lake", "check", &lake]);
    assert_eq!(check().0, Some(0), "{}", check().1);
    assert!(compact().contains("othing"), "all of it is compacted");

    // What an earlier version left is read, said to lack them, and completed from its records.
    without_bridge_taps(&place.join("generations/00000001.json"));
    let (code, answer, said) = taptrail(&["who", "tap0", "--lake", &lake]);
    assert!(
        answer.contains("No record shows") && said.contains("earlier version"),
        "{code:?} {answer} {said}"
    );
    let (_, _, said) = taptrail(&["who", "52:54:00:00:00:01", "--lake", &lake]);
    assert!(!said.contains("earlier version"), "no tap has a MAC: {said}");
    compact();
    assert!(compare_bridge_taps(log, &lake) > 80);
    assert!(!taptrail(&["who", "tap0", "--lake", &lake]).2.contains("earlier version"));
    assert_eq!(check().0, Some(0), "{}", check().1);
    assert!(compact().contains("othing"), "once");

    // Days that are removed are gone from this table, too; what went on over them is known.
    let (code, _, said) = taptrail(&["lake", "prune", &lake, "--before", "2026-11-06T00:00:00Z"]);
    assert_eq!(code, Some(0), "{said}");
    let left = taptrail(&["trail", "--lake", &lake, "--json"]).1;
    let left: Value = serde_json::from_str(&left).unwrap();
    let taps = left["bridge_taps"].as_array().unwrap().iter().map(|tap| tap["device"]["dev"].clone());
    assert_eq!(taps.collect::<Vec<_>>(), ["tap1", "tap2", "tap3", "tap4"]);
    assert_eq!(check().0, Some(0), "{}", check().1);
}

// Shows 15.16.
#[test]
fn pieces_of_a_log_give_the_bridge_helpers_taps_of_the_whole() {
    let directory = tempfile::tempdir().unwrap();
    let whole = log_with_bridge_taps();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let lake = format!("file://{}/lake", directory.path().display());
    // Two that overlap; the second begins after the opens of taps that end in it. An earlier version
    // sent the first.
    for (number, part) in [&lines[..8], &lines[4..]].into_iter().enumerate() {
        let log = directory.path().join(format!("part{number}.log"));
        fs::write(&log, part.concat()).unwrap();
        let log = log.to_str().unwrap();
        let (code, _, said) = taptrail(&["archive", log, "--assume-host", "kvm1", "--to", &lake]);
        assert_eq!(code, Some(0), "{said}");
        if number == 0 {
            let batches = fs::read_dir(directory.path().join("lake/inbox/batches")).unwrap();
            batches.for_each(|batch| without_bridge_taps(&batch.unwrap().path()));
        }
    }
    let log = directory.path().join("audit.log");
    fs::write(&log, &whole).unwrap();
    let said = taptrail(&["who", "tap0", "--lake", &lake]).2;
    assert!(said.contains("earlier version"), "{said}");
    assert_eq!(taptrail(&["lake", "compact", &lake]).0, Some(0));
    let taps = |arguments: &[&str]| {
        let trail: Value =
            serde_json::from_str(&taptrail(&[&["trail", "--json"], arguments].concat()).1).unwrap();
        let what = |tap: &Value| {
            ["passed", "released", "last_seen", "state", "ended_by", "device", "requester"]
                .map(|name| tap[name].to_string())
                .join(" ")
        };
        trail["bridge_taps"].as_array().unwrap().iter().map(what).collect::<Vec<_>>()
    };
    let of_log = taps(&[log.to_str().unwrap(), "--assume-host", "kvm1"]);
    assert_eq!(of_log, taps(&["--lake", &lake]));
    assert_eq!(of_log.len(), 6);
    assert_eq!(taptrail(&["lake", "check", &lake]).0, Some(0));
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
