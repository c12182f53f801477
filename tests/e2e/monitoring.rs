//! The packaged alerts and dashboard: what they name exists, a real Prometheus evaluates it, and an
//! alert fires for a real watcher.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::OwnedChild;
use serde_json::Value;
use taptrail_trail::{FindingKind, Severity};

const PROMTOOL: &str = "/usr/bin/promtool";
const PROMETHEUS: &str = "/usr/bin/prometheus";

/// How long Prometheus may take to start, to scrape, and to evaluate.
const TIMEOUT: Duration = Duration::from_secs(60);

fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name).canonicalize().unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&read(&packaged("grafana/taptrail.json"))).unwrap()
}

/// Each query of the dashboard, with the title of its panel.
fn panel_queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| (panel["title"].as_str().unwrap(), target["expr"].as_str().unwrap()))
    });
    // As Grafana does, with all hosts selected.
    let filled = |expr: &str| {
        let filled =
            expr.replace("$__rate_interval", "1m").replace("$__range", "6h").replace("$instance", ".*");
        assert!(!filled.contains('$'), "a variable that this test does not know: {filled}");
        filled
    };
    targets.map(|(title, expr)| (title.to_owned(), filled(expr))).collect()
}

fn metric_names(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with("taptrail_")).collect()
}

/// Runs promtool on a rules file, and returns whether it accepts it.
fn promtool(arguments: &[&str], file: &Path) -> Result<(), String> {
    let output =
        Command::new(PROMTOOL).args(arguments).arg(file).output().expect("promtool (scripts/setup test)");
    let text = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&text).into_owned()) }
}

#[test]
fn promtool_accepts_the_alerts_and_their_tests() {
    promtool(&["check", "rules"], &packaged("prometheus/taptrail.rules.yml")).unwrap();
    promtool(&["test", "rules"], &packaged("prometheus/taptrail.rules.test.yml")).unwrap();
}

#[test]
fn each_alert_is_tested_firing_and_silent() {
    let (rules, tests) = (
        read(&packaged("prometheus/taptrail.rules.yml")),
        read(&packaged("prometheus/taptrail.rules.test.yml")),
    );
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        let cases = || tests.split("eval_time").filter(|case| case.contains(&format!("alertname: {alert}")));
        assert!(
            cases().any(|case| case.contains("exp_alerts: []")),
            "{alert} has no test in which it is silent"
        );
        assert!(cases().any(|case| case.contains("exp_labels")), "{alert} has no test in which it fires");
    }
    // The tests notice a changed rule.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("taptrail.rules.test.yml");
    fs::write(&file, tests).unwrap();
    for (from, to) in
        [("log_lag_seconds > 60", "log_lag_seconds > 600"), ("|unaccounted-device", "|unaccounted")]
    {
        assert!(rules.contains(from));
        fs::write(dir.path().join("taptrail.rules.yml"), rules.replace(from, to)).unwrap();
        promtool(&["test", "rules"], &file).unwrap_err();
    }
}

#[test]
fn every_grave_finding_has_one_alert() {
    let rules = read(&packaged("prometheus/taptrail.rules.yml"));
    let words = |before: &str| -> BTreeSet<String> {
        let lists = rules.split(before).skip(1).map(|rest| rest.split('"').next().unwrap());
        lists.flat_map(|list| list.split('|').map(str::to_owned)).collect()
    };
    // Two alerts are about some kinds, one about all others.
    let named = words("{finding=~\"");
    assert_eq!(named, words("severity=\"grave\",finding!~\""));
    for word in &named {
        let kind = FindingKind::from_word(word).unwrap();
        assert_eq!((kind.as_str(), kind.severity()), (word.as_str(), Severity::Grave));
    }
    assert!(named.len() < FindingKind::ALL.iter().filter(|kind| kind.severity() == Severity::Grave).count());
}

#[test]
fn the_panels_of_the_dashboard_stand_beside_each_other_and_say_what_they_show() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel:#}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{panel:#}");
        for (x, y) in (0..place("w")).flat_map(|x| (0..place("h")).map(move |y| (x, y))) {
            assert!(cells.insert((place("x") + x, place("y") + y)), "panels overlap: {panel:#}");
        }
        if panel["type"] != "row" {
            assert!(panel["description"].as_str().unwrap().ends_with('.'), "{panel:#}");
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel:#}");
            }
        }
    }
}

/// The metrics that the watcher can write, as its own test has them.
fn written_metrics() -> String {
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/watch/snapshots");
    read(&snapshots.join("taptrail__watch__metrics__tests__the_numbers_as_prometheus_reads_them.snap"))
}

#[test]
fn every_metric_that_alerts_and_dashboard_name_is_written() {
    let text = written_metrics();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let written: BTreeSet<&str> = types.collect();
    let rules = read(&packaged("prometheus/taptrail.rules.yml"));
    let queries: String = panel_queries().into_iter().map(|(_, expr)| expr + "\n").collect();
    let named: BTreeSet<&str> = metric_names(&rules).union(&metric_names(&queries)).copied().collect();
    assert!(named.is_subset(&written), "{:?}", named.difference(&written));
    // And the dashboard shows each.
    assert_eq!(metric_names(&queries), written);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(url: &str) -> Option<String> {
    ureq::get(url).call().ok()?.body_mut().read_to_string().ok()
}

/// Repeats a question until it has an answer.
#[track_caller]
fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {TIMEOUT:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// A Prometheus with the packaged rules, which scrapes one watcher.
struct Monitoring {
    dir: tempfile::TempDir,
    base: String,
    _processes: [OwnedChild; 2],
}

impl Monitoring {
    /// Starts both. The watcher follows the beginning of a log of libvirt.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (metrics, port) = (free_port(), free_port());
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt/libvirt-9.0");
        let log = read(&data.join("06-hotplug/audit.log"));
        fs::write(
            dir.path().join("audit.log"),
            log.lines().take(20).map(|line| format!("{line}\n")).collect::<String>(),
        )
        .unwrap();
        fs::write(
            dir.path().join("prometheus.yml"),
            format!(
                "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n  - \
                 job_name: taptrail\n    static_configs: [{{ targets: ['127.0.0.1:{metrics}'] }}]\n",
                packaged("prometheus/taptrail.rules.yml").display()
            ),
        )
        .unwrap();
        let watcher = Command::new(env!("CARGO_BIN_EXE_taptrail"))
            .args(["watch", "--silent", "--bpf", "--log"])
            .arg(dir.path().join("audit.log"))
            .arg("--state-dir")
            .arg(dir.path().join("state"))
            .arg("--run-dir")
            .arg(dir.path().join("run"))
            .arg(format!("--metrics-listen=127.0.0.1:{metrics}"))
            .env_remove("TAPTRAIL_LOG")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let watcher = OwnedChild::from(watcher);
        let prometheus = Command::new(PROMETHEUS)
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus (scripts/setup test)");
        let base = format!("http://127.0.0.1:{port}");
        Self { dir, base, _processes: [watcher, prometheus.into()] }
    }

    fn ask(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&get(&format!("{}/{path}", self.base))?).ok()
    }

    /// The result of a query; none if Prometheus refuses it.
    fn query(&self, expr: &str) -> Option<Value> {
        let url = format!("{}/api/v1/query", self.base);
        let text = ureq::get(url).query("query", expr).call().ok()?.body_mut().read_to_string().ok()?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        (answer["status"] == "success").then(|| answer["data"]["result"].clone())
    }

    /// The number that a query gives.
    fn number(&self, expr: &str) -> Option<f64> {
        self.query(expr)?[0]["value"][1].as_str()?.parse().ok()
    }

    /// The labels of the alerts of this name that fire.
    fn firing(&self, name: &str) -> Vec<Value> {
        let Some(answer) = self.ask("api/v1/alerts") else { return Vec::new() };
        let alerts = answer["data"]["alerts"].as_array().unwrap().iter();
        let named = alerts.filter(|alert| alert["labels"]["alertname"] == name && alert["state"] == "firing");
        named.map(|alert| alert["labels"].clone()).collect()
    }
}

#[test]
fn prometheus_scrapes_a_watcher_and_an_alert_fires() {
    let monitoring = Monitoring::start();
    let lines = "taptrail_log_lines_total";
    wait_for("the log is read", || monitoring.number(lines).filter(|lines| *lines >= 20.0));
    for name in metric_names(&written_metrics()) {
        // The kernel's own numbers need a kernel that lets itself be asked, deliveries a destination,
        // holdings a guest that holds something.
        if !name.contains("_kernel_") && !["taptrail_deliveries_total", "taptrail_holdings"].contains(&name) {
            let result = monitoring.query(name).unwrap();
            assert!(!result.as_array().unwrap().is_empty(), "{name} is not scraped");
        }
    }
    for (title, expr) in panel_queries() {
        assert!(monitoring.query(&expr).is_some(), "panel '{title}': Prometheus refuses {expr}");
    }
    let rules = monitoring.ask("api/v1/rules").unwrap();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 10);
    wait_for("all rules are evaluated", || {
        let rules = monitoring.ask("api/v1/rules")?;
        let rules = rules["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(())
    });
    assert_eq!(monitoring.firing("TaptrailRecordsMissing"), Vec::<Value>::new());

    // The log goes on behind a gap, and long enough that no event of the gap can still come.
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt/libvirt-9.0");
    let log = read(&data.join("06-hotplug/audit.log"));
    let mut more: String = log.lines().skip(30).map(|line| format!("{line}\n")).collect();
    let last = more.rsplit_once("msg=audit(").unwrap().1.split([':', ')']).nth(1).unwrap();
    let last: u32 = last.parse().unwrap();
    for serial in last + 1..last + 400 {
        more += &format!(
            "type=USER_START msg=audit(1795460100.000:{serial}): pid=1 uid=0 auid=0 ses=1 msg='op=x'\n"
        );
    }
    let path = monitoring.dir.path().join("audit.log");
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, more.as_bytes()).unwrap();
    let alert = wait_for("an alert", || monitoring.firing("TaptrailRecordsMissing").pop());
    assert_eq!((&alert["finding"], &alert["severity"]), (&"log-gap".into(), &"critical".into()));
    assert_eq!(monitoring.firing("TaptrailDeviceUnaccounted"), Vec::<Value>::new());
}
