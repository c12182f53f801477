//! `taptrail lake sql`: questions as SQL, and their answers without an engine. `make test-engines`
//! asks the engines.

use std::process::{Command, Output};

use serde_json::Value;
use taptrail_lake::Store;

use crate::world::contract::assert_valid;

#[path = "../../crates/lake/tests/fleet/mod.rs"]
mod fleet;

struct Lake {
    url: String,
    truth: Value,
    _directory: tempfile::TempDir,
}

impl Lake {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("file://{}", directory.path().display());
        let first_day = "2026-10-01".parse().unwrap();
        let options = fleet::Options { hosts: 8, days: 4, guests: 1, first_day, seed: 3 };
        let truth = fleet::write_lake(&Store::open(&url).unwrap().into(), &options).unwrap();
        Self { url, truth, _directory: directory }
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
        command.env("TZ", "Asia/Tokyo").env_remove("TAPTRAIL_LOG");
        command.args(["lake", "sql", &self.url]).args(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ask(&[arguments, &["--engine", "taptrail", "--run", "--json"]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let value = serde_json::from_slice(&output.stdout).unwrap();
        assert_valid("lake-sql", &value);
        value
    }

    fn text(&self, name: &str) -> &str {
        self.truth[name].as_str().unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_question_is_answered_without_an_engine() {
    let lake = Lake::new();
    let (mac, at, end) = (lake.text("mac"), lake.text("at"), lake.text("end"));
    let all = lake.json(&[
        "who",
        "device",
        "trail",
        "never-granted",
        "count",
        "mac-on-two-hosts",
        "silent-hosts",
        "clock-skew",
        "findings",
        "findings-by-kind",
        "unknown-hosts",
        "--mac",
        mac,
        "--device",
        "vhost-net",
        "--at",
        at,
        "--end",
        end,
    ]);
    assert_eq!(all["answers"].as_array().unwrap().len(), 11);
    assert_eq!(all["generation"], 2);
    let who = &all["answers"][0];
    assert_eq!((&who["question"], who["rows"].as_array().unwrap().len()), (&"who".into(), 2), "{who}");
    assert_eq!(who["rows"][0]["mac"], mac);
    assert_eq!(who["rows"][0]["granted"], "2026-10-01T03:00:00.030000Z", "microseconds, UTC");
}

#[test]
fn nobody_comes_with_the_hosts_that_are_not_known() {
    let lake = Lake::new();
    let asked = ["who", "--mac", "52:54:00:ff:ff:ff", "--at", "2026-10-02T11:00:00Z"];
    let nobody = lake.json(&asked);
    assert_eq!(nobody["answers"].as_array().unwrap().len(), 1);
    assert_eq!(nobody["answers"][0]["rows"], serde_json::json!([]));
    let hosts: Vec<_> = nobody["unknown_hosts"].as_array().unwrap().iter().map(|row| &row["host"]).collect();
    assert!(hosts.contains(&&Value::from("kvm0004")), "{hosts:?}");
    let table = lake.ask(&[&asked[..], &["--engine", "taptrail", "--run"]].concat());
    assert!(stderr(&table).contains("Host kvm0004: what was held is not known"), "{}", stderr(&table));
}

#[test]
fn a_hostile_name_finds_its_guest() {
    let lake = Lake::new();
    for name in lake.truth["hostile"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let found = lake.json(&["trail", "--guest", name]);
        assert_eq!(found["answers"][0]["rows"].as_array().unwrap().len(), 2, "{name}");
        let csv = lake.ask(&["trail", "--guest", name, "--engine", "taptrail", "--run", "--format", "csv"]);
        assert!(!stdout(&csv).contains('\u{1b}'), "{}", stdout(&csv));
    }
}

#[test]
fn sql_names_only_the_objects_of_the_last_generation() {
    let lake = Lake::new();
    for engine in ["duckdb", "clickhouse", "spark", "trino", "datafusion"] {
        let printed =
            lake.ask(&["count", "device", "--device", "tun", "--at", lake.text("at"), "--engine", engine]);
        let sql = stdout(&printed);
        assert!(printed.status.success(), "{}", stderr(&printed));
        assert!(sql.contains("/g00000002-") && !sql.contains("/g00000001-"), "{sql}");
        assert!(
            sql.contains("unknown") || sql.contains("records_from"),
            "the hosts that are not known: {sql}"
        );
        assert!(sql.contains("UTC") || sql.contains("+00:00"), "{sql}");
    }
}

#[test]
fn what_can_not_be_asked_is_refused() {
    let lake = Lake::new();
    for (arguments, said) in [
        (&["who", "--at", "yesterday"][..], "--mac"),
        (&["device", "--device", "tun"], "--at"),
        (&["count", "--engine", "taptrail"], "--run"),
        (&["count", "--engine", "trino", "--run"], "print the SQL"),
        (&["count", "--run", "--client", "/bin/true"], "true is no client"),
        (&["count", "--engine-url", "/srv/{a,b}"], "pattern"),
        (&["count", "never-granted", "--engine", "taptrail", "--run", "--format", "csv"], "one question"),
    ] {
        let refused = lake.ask(arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {}", stdout(&refused));
        assert!(stderr(&refused).contains(said), "{arguments:?}: {}", stderr(&refused));
    }
    let failed = lake.ask(&["count", "--run", "--client", "/usr/bin/python3-that-is-not-there"]);
    assert_eq!(failed.status.code(), Some(2), "{}", stderr(&failed));
}
