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
