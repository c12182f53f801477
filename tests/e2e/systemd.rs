//! The packaged units under a real systemd, with its journald.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::world::EMPTY;
use crate::world::log::{Log, MAC, UUID};
use crate::world::systemd::Host;
use serde_json::{Value, json};

const OTHER: &str = "f3607ac8-f517-4952-b61c-b19b40f99662";

/// Starts a QEMU with a tap of its own as some manager would: in a network namespace of its own,
/// and as nobody once it has its devices. Returns its pid.
fn start_qemu(host: &Host) -> String {
    let start = "systemd-run --quiet --unit=web1 --property=PrivateNetwork=yes qemu-system-x86_64 -machine none \
                 -nodefaults -display none -name web1 -runas nobody -netdev \
                 tap,id=n0,ifname=watched0,script=no,downscript=no,vhost=off -uuid";
    host.run(start.split_whitespace().chain([UUID])).ok();
    let pid = host.property("web1", "MainPID");
    let name = ["nsenter", "--net", "--target", &pid, "ip", "link", "set", "watched0"];
    host.world.until("QEMU has its tap", || {
        host.run(name.iter().chain(&["address", "fe:54:00:0a:0f:01"])).success()
    });
    pid
}

// Shows 12.13, 13.34.
#[test]
fn the_watchers_unit_looks_into_a_foreign_qemu_reports_to_journald_and_goes_on_where_it_was() {
    let host = Host::boot();
    let hook = host.file("/etc/hook");
    fs::write(&hook, "#!/bin/sh\ncat >/var/lib/taptrail/finding\n").unwrap();
    fs::set_permissions(&hook, Permissions::from_mode(0o755)).unwrap();
    let numbers = "/var/lib/collector/taptrail.prom";
    fs::create_dir(host.file("/var/lib/collector")).unwrap();
    host.drop_in("taptrail-watch.service", "[Service]\nReadWritePaths=/var/lib/collector\n");
    let options = format!("--every=200ms --on-finding=any=/etc/hook --metrics-file={numbers}");
    let options = format!("TAPTRAIL_WATCH_OPTIONS=\"{options}\"\n");
    fs::write(host.file("/etc/default/taptrail-watch"), options).unwrap();
    let mut log = Log::at(host.file("/var/log/audit/audit.log"));
    host.systemctl("enable --now taptrail-watch");
    let pid = start_qemu(&host);
    log.opened(MAC);
    log.granted("start", MAC);
    log.control(&format!("op=start reason=booted vm-pid={pid}"));
    let granted = host.wait_for_entry(&["TAPTRAIL_GUEST=web1", "TAPTRAIL_EVENT=granted"]);
    let has = |entry: &Value, fields: &[(&str, &str)]| {
        for (name, value) in fields {
            assert_eq!(entry[*name], *value, "{name} in {entry:#}");
        }
    };
    has(
        &granted,
        &[
            ("MESSAGE", &format!("web1  {MAC}  granted /dev/net/tun 'watched0' as fd 3, QEMU {pid}")),
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "taptrail"),
            ("TAPTRAIL_INTERFACE", "watched0"),
            ("TAPTRAIL_QEMU", &pid),
            ("TAPTRAIL_RDEV", "0A:C8"),
            ("TAPTRAIL_UUID", UUID),
            ("_SYSTEMD_UNIT", "taptrail-watch.service"),
        ],
    );
    let mode = fs::metadata(host.file(numbers)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "node_exporter is somebody else");
    let holds = "Follows /var/log/audit/audit.log: 1 guest holds 1 device";
    host.until("taptrail-watch", "StatusText", holds);

    // After a kill and after an orderly restart the next watcher knows the held devices, and no
    // event is sent twice.
    let first = host.property("taptrail-watch", "MainPID");
    host.systemctl("kill --signal=KILL --kill-who=main taptrail-watch");
    host.until("taptrail-watch", "NRestarts", "1");
    host.until("taptrail-watch", "StatusText", holds);
    assert_ne!(host.property("taptrail-watch", "MainPID"), first);
    host.systemctl("restart taptrail-watch");
    host.until("taptrail-watch", "StatusText", holds);
    host.systemctl("stop taptrail-watch");
    assert_eq!(host.property("taptrail-watch", "Result"), "success");
    // While no watcher runs: a line that can't be read, a guest that does not start, and the end of
    // the first guest.
    log.line("VIRT_CONTROL", "op=start reason=booted vm=\"web2\" uuid=none");
    log.line_with("VIRT_CONTROL", &format!("op=start reason=booted vm=\"web2\" uuid={OTHER}"), "failed");
    log.control("op=stop reason=destroyed");
    host.systemctl("kill --signal=KILL web1");
    host.systemctl("start taptrail-watch");
    let released = host.wait_for_entry(&["TAPTRAIL_GUEST=web1", "TAPTRAIL_EVENT=released"]);
    // Nobody observed its end, and its network namespace went with it: nothing shows that no other
    // process has its tap.
    has(&released, &[("TAPTRAIL_CERTAINTY", "inferred"), ("TAPTRAIL_INTERFACE", "watched0")]);
    for event in ["opened", "granted", "released"] {
        let event = format!("TAPTRAIL_EVENT={event}");
        assert_eq!(host.journal(&["TAPTRAIL_GUEST=web1", &event]).len(), 1, "{event}");
    }
    // The program of `--on-finding` runs within the unit's restrictions.
    host.wait_for_entry(&["TAPTRAIL_FINDING=start-failed", "TAPTRAIL_GUEST=web2"]);
    host.world.until("the program gets the finding", || {
        let finding = fs::read_to_string(host.file("/var/lib/taptrail/finding")).unwrap_or_default();
        finding.contains(r#""finding":"start-failed""#)
    });
    let warnings = ["_SYSTEMD_UNIT=taptrail-watch.service", "PRIORITY=4", "_TRANSPORT=stdout"];
    host.world.until("the line is named", || {
        let says = |entry: &Value| entry["MESSAGE"].as_str().unwrap_or_default().to_owned();
        let is_it = |entry: &Value| says(entry).starts_with("/var/log/audit/audit.log:4 can't be read: ");
        host.journal(&warnings).iter().any(is_it)
    });
}

// Shows 13.34.
#[test]
fn a_watcher_that_hangs_is_followed_by_another() {
    let host = Host::boot();
    host.drop_in("taptrail-watch.service", "[Service]\nWatchdogSec=2s\nTimeoutAbortSec=1s\n");
    host.systemctl("start taptrail-watch");
    let first = host.property("taptrail-watch", "MainPID");
    host.systemctl("kill --signal=STOP --kill-who=main taptrail-watch");
    wait_for_new_main_pid(&host, "taptrail-watch", &first);
}

/// Waits until the unit has another main process than this, and returns its pid. (On a slow machine
/// it may be the next but one.)
fn wait_for_new_main_pid(host: &Host, unit: &str, by: &str) -> String {
    let mut main = String::new();
    host.world.until("another follows", || {
        main = host.property(unit, "MainPID");
        main != by && main != "0"
    });
    host.until(unit, "SubState", "running");
    main
}

/// Writes the file of a guest with one interface, whose QEMU runs as nobody.
fn guest_file(host: &Host, more: &str) {
    host.world.ip("link set br0 up");
    let dir = host.file("/etc/taptrail/guests");
    fs::create_dir_all(&dir).unwrap();
    let text = format!(
        "nics = [\"bridge=br0,mac=52:54:00:00:00:01,vhost=off,filter=no-mac-spoofing\"]\nuser = \"nobody\"\n\
         stop-timeout = \"1s\"\ncommand = {}\n{more}",
        json!(EMPTY)
    );
    fs::write(dir.join("web1.toml"), text).unwrap();
    fs::set_permissions(dir.join("web1.toml"), Permissions::from_mode(0o644)).unwrap();
}

/// The pid of the guest's QEMU, from the status of its service.
fn qemu_of(host: &Host) -> String {
    let status = host.property("taptrail@web1", "StatusText");
    let pid = status.strip_prefix("web1 runs, QEMU has pid ").and_then(|rest| rest.split(':').next());
    pid.unwrap_or_else(|| panic!("{status}")).to_owned()
}

fn is_alive(host: &Host, pid: &str) -> bool {
    host.run(["kill", "-0", pid]).success()
}

// Shows 12.11.
#[test]
fn a_guests_unit_starts_it_checks_its_file_stops_it_and_restarts_after_a_crash() {
    let host = Host::boot();
    guest_file(&host, "");
    host.systemctl("enable --now taptrail-recover taptrail@web1");
    let qemu = qemu_of(&host);
    assert_eq!(
        host.property("taptrail@web1", "StatusText"),
        format!("web1 runs, QEMU has pid {qemu}: 1 interface, 1 descriptor held")
    );
    assert_eq!(host.world.links(), ["vnet0"]);
    host.systemctl("reload taptrail@web1");
    guest_file(&host, "nonsense = 1\n");
    assert!(!host.run(["systemctl", "reload", "taptrail@web1"]).success());
    assert_eq!(qemu_of(&host), qemu, "a file that can't be used harms no guest");

    // One more interface, within the unit's restrictions.
    let spec = "macvtap=lower,mac=52:54:00:00:00:02,vhost=off";
    host.run(["taptrail", "attach", "web1", "--nic", spec]).ok();
    let verdict = host.json(&["verify", "--format", "json"]);
    assert_eq!(verdict["devices"].as_array().unwrap().len(), 2, "{verdict:#}");
    host.run(["taptrail", "detach", "web1", "52:54:00:00:00:02"]).ok();

    // QEMU crashes: with a file that can't be used, systemd does not start the guest again and
    // again.
    host.run(["kill", "-KILL", &qemu]).ok();
    host.until("taptrail@web1", "ActiveState", "failed");
    assert_eq!(
        (host.property("taptrail@web1", "ExecMainStatus"), host.property("taptrail@web1", "NRestarts")),
        ("2".to_owned(), "1".to_owned())
    );
    host.wait_for_entry(&[
        "_SYSTEMD_UNIT=taptrail@web1.service",
        "PRIORITY=3",
        "MESSAGE=error: Key 'nonsense' is unknown",
    ]);
    guest_file(&host, "");
    host.systemctl("start taptrail@web1");
    let qemu = qemu_of(&host);
    host.run(["kill", "-KILL", &qemu]).ok();
    host.until("taptrail@web1", "NRestarts", "1");
    host.until("taptrail@web1", "SubState", "running");
    let qemu = qemu_of(&host);

    host.systemctl("stop taptrail@web1");
    assert!(!is_alive(&host, &qemu));
    assert_eq!(host.property("taptrail@web1", "Result"), "success");
    assert_eq!((host.world.links(), host.world.tables()), (Vec::new(), String::new()));
}

// Shows 12.11.
#[test]
fn a_guests_unit_leaves_qemu_be_when_its_supervisor_is_killed_or_hangs() {
    let host = Host::boot();
    guest_file(&host, "");
    host.drop_in("taptrail@.service", "[Service]\nWatchdogSec=2s\nTimeoutAbortSec=1s\n");
    host.systemctl("start taptrail@web1");
    let qemu = qemu_of(&host);
    let mut supervisor = host.property("taptrail@web1", "MainPID");
    for signal in ["KILL", "STOP"] {
        host.systemctl(&format!("kill --signal={signal} --kill-who=main taptrail@web1"));
        supervisor = wait_for_new_main_pid(&host, "taptrail@web1", &supervisor);
        assert_eq!(qemu_of(&host), qemu);
    }
    // There is still the same QEMU, and its device is still on record as held.
    assert!(is_alive(&host, &qemu));
    let nics = host.json(&["nics", "web1", "--json"]);
    assert_eq!((&nics[0]["state"], &nics[1]), (&json!("held"), &Value::Null), "{nics:#}");
    host.systemctl("stop taptrail@web1");
    assert!(!is_alive(&host, &qemu));
    assert_eq!((host.world.links(), host.world.tables()), (Vec::new(), String::new()));
}

/// The state of each device on record.
fn holdings(host: &Host) -> Vec<(String, String)> {
    let trail = host.json(&["trail", "--format", "json"]);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let holdings = trail["holdings"].as_array().unwrap();
    holdings.iter().map(|holding| (word(&holding["state"]), word(&holding["certainty"]))).collect()
}

// Shows 12.12.
#[test]
fn a_boot_recovers_interrupted_guests_and_starts_enabled_units() {
    let mut host = Host::boot();
    guest_file(&host, "");
    host.systemctl("enable taptrail-recover taptrail-watch");
    host.systemctl("start taptrail@web1");
    assert_eq!(holdings(&host), [("held".to_owned(), "definitive".to_owned())]);
    host.reboot();
    assert_eq!(host.property("taptrail-recover", "Result"), "success");
    assert_eq!(host.property("taptrail-recover", "ConditionResult"), "yes");
    assert_eq!(host.property("taptrail-watch", "SubState"), "running");
    assert_eq!(holdings(&host), [("released".to_owned(), "definitive".to_owned())]);

    // Enabled units run after a boot.
    host.systemctl("enable taptrail@web1");
    host.reboot();
    let qemu = qemu_of(&host);
    assert!(is_alive(&host, &qemu));
    host.systemctl("stop taptrail@web1 taptrail-watch");

    // A supervisor ends as by SIGKILL, after it started QEMU and before the guest ran.
    let cut = "[Service]\nRestart=no\nEnvironment=FAILPOINTS=start::on-record=return\n";
    host.drop_in("taptrail@.service", cut);
    assert!(!host.run(["systemctl", "start", "taptrail@web1"]).success());
    assert_eq!(host.world.links(), ["vnet0"]);
    host.systemctl("start taptrail-recover");
    assert_eq!((host.world.links(), host.world.tables()), (Vec::new(), String::new()));
    assert!(!host.run(["pgrep", "qemu"]).success(), "QEMU was ended");
    assert_eq!(holdings(&host)[2].0, "never-granted");
}

// Shows 4.34.
#[test]
fn the_prune_unit_deletes_what_is_older_than_its_setting_and_leaves_a_checkpoint_in_the_journal() {
    let host = Host::boot();
    guest_file(&host, "");
    for _ in 0..2 {
        host.systemctl("start taptrail@web1");
        host.systemctl("stop taptrail@web1");
    }
    let guests = || holdings(&host).len();
    assert_eq!(guests(), 2);
    host.systemctl("enable --now taptrail-prune.timer");
    assert_eq!(host.property("taptrail-prune.timer", "SubState"), "waiting");
    let next = host.property("taptrail-prune.timer", "NextElapseUSecRealtime");
    assert!(!next.is_empty(), "the timer has a time");
    host.systemctl("start taptrail-prune");
    assert_eq!(guests(), 2, "400 days are kept");
    let checkpoint = || {
        let entries = host.journal(&["_SYSTEMD_UNIT=taptrail-prune.service"]);
        let said = |entry: &Value| entry["MESSAGE"].as_str().unwrap_or_default().to_owned();
        entries.iter().map(said).rfind(|said| said.starts_with("taptrail-checkpoint v=1 "))
    };
    host.world.until("the checkpoint is in the journal", || checkpoint().is_some());

    // Of the two, one ended longer ago than is kept.
    // Not by host.file(): SQLite resolves /proc/PID/root, which leads to this machine's own files.
    let path = host.world.path("host/lib/taptrail/ledger.sqlite");
    let ledger = rusqlite::Connection::open(&path).unwrap();
    let year: i64 = 365 * 24 * 3600 * 1000;
    ledger.execute("UPDATE guest SET ended = ended - ?1 WHERE id = 1", [2 * year]).unwrap();
    drop(ledger);
    host.run(["mkdir", "-p", "/etc/default"]).ok();
    fs::write(host.file("/etc/default/taptrail-prune"), "TAPTRAIL_KEEP=\"3 years\"\n").unwrap();
    host.systemctl("start taptrail-prune");
    assert_eq!(guests(), 2);
    fs::write(host.file("/etc/default/taptrail-prune"), "TAPTRAIL_KEEP=\"1 year\"\n").unwrap();
    let before = checkpoint();
    host.systemctl("start taptrail-prune");
    assert_eq!(guests(), 1);
    host.world.until("another checkpoint is in the journal", || checkpoint() != before);
    let kept = checkpoint().unwrap();
    let said = host.run(["taptrail", "ledger", "check", "--checkpoint", &kept]).ok().stdout;
    assert!(said.contains("is sound") && said.contains("were pruned with their records"), "{said}");

    // An altered ledger is left as it is, and the unit says so.
    let ledger = rusqlite::Connection::open(&path).unwrap();
    ledger
        .execute("UPDATE record SET text = text || ' ' WHERE id = (SELECT max(id) FROM record)", [])
        .unwrap();
    drop(ledger);
    fs::write(host.file("/etc/default/taptrail-prune"), "TAPTRAIL_KEEP=\"0 days\"\n").unwrap();
    assert!(!host.run(["systemctl", "start", "taptrail-prune"]).success());
    assert_eq!((host.property("taptrail-prune", "Result"), guests()), ("exit-code".to_owned(), 1));
}

// Shows 16.1.
#[test]
fn the_doctor_sees_which_units_are_enabled() {
    let host = Host::boot();
    let asked = || {
        let done = host.run(["taptrail", "doctor", "--json"]);
        let answer: Value = serde_json::from_str(&done.stdout).unwrap();
        let checks = answer["checks"].as_array().unwrap().iter();
        let units = checks.filter(|check| check["id"].as_str().unwrap().starts_with("unit-"));
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        units.map(|unit| (word(&unit["id"]), word(&unit["status"]), word(&unit["found"]))).collect::<Vec<_>>()
    };
    let statuses = |units: &[(String, String, String)]| -> Vec<(String, String)> {
        units.iter().map(|(id, status, _)| (id.clone(), status.clone())).collect()
    };
    let expected = |words: [&str; 5]| {
        let ids = ["unit-watch", "unit-recover", "unit-guest", "unit-prune", "unit-archive"];
        ids.into_iter().map(str::to_owned).zip(words.into_iter().map(str::to_owned)).collect::<Vec<_>>()
    };
    // The host has no unit for archiving, and none is enabled.
    let units = asked();
    assert_eq!(statuses(&units), expected(["missing", "missing", "ok", "missing", "missing"]), "{units:?}");
    assert_eq!(units[4].2, "taptrail-archive.timer is not installed");
    host.systemctl("enable --now taptrail-watch taptrail-prune.timer");
    host.systemctl("enable taptrail-recover");
    let units = asked();
    assert_eq!(statuses(&units), expected(["ok", "ok", "ok", "ok", "missing"]), "{units:?}");
    assert_eq!(units[0].2, "taptrail-watch.service is enabled, and active");
    // A unit that failed.
    fs::write(host.file("/etc/default/taptrail-watch"), "TAPTRAIL_WATCH_OPTIONS=--nonsense\n").unwrap();
    assert!(!host.run(["systemctl", "restart", "taptrail-watch"]).success());
    let units = asked();
    assert_eq!(units[0].2, "taptrail-watch.service has failed");
}
