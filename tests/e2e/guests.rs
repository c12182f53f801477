//! `taptrail guests`: when each guest ran, and why it ended; and the kernel's records of a guest's
//! process.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::world::auditing::{Auditing, wait_for_log};
use crate::world::contract;
use jiff::Timestamp;
use serde_json::Value;
use taptrail_kernel::audit::Audit;
use taptrail_record::{Device, Event, GuestId, MacAddr, Rdev, Reason, Record};

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt")
}

fn ask<'a>(arguments: impl IntoIterator<Item = &'a str>, log: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.env("TZ", "UTC").env_remove("TAPTRAIL_LOG").args(arguments).arg(log);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The JSON of an answer, which is as its schema says.
fn json(output: &Output) -> Value {
    let answer = serde_json::from_str(&text(output)).unwrap();
    documented(&answer);
    answer
}

#[track_caller]
fn documented(answer: &Value) {
    let lists =
        [("runs", "guests"), ("events", "guest-events"), ("holdings", "trail"), ("findings", "findings")];
    let (_, schema) = lists.iter().find(|(list, _)| answer.get(list).is_some()).expect("a list");
    contract::assert_valid(schema, answer);
}

fn runs(log: &Path) -> Vec<Value> {
    json(&ask(["guests", "--format", "json"], log))["runs"].as_array().unwrap().clone()
}

/// A time of JSON, in seconds since 1970.
fn seconds(time: &Value) -> Option<f64> {
    let time: Timestamp = time.as_str()?.parse().unwrap();
    Some(time.as_duration().as_secs_f64())
}

/// The folders with a log and the truth beside it.
fn folders() -> Vec<PathBuf> {
    let folders = |of: &Path| fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path());
    let versions = folders(&data()).filter(|path| path.is_dir());
    let mut all: Vec<_> = versions.flat_map(|version| folders(&version).collect::<Vec<_>>()).collect();
    all.retain(|folder| folder.join("truth.json").exists());
    all.sort();
    all
}

/// A process is looked for every 20 ms, and the record of a guest's start comes when its QEMU has
/// run for a while.
const POLL: f64 = 0.1;

// Shows 10.52.
#[test]
fn each_qemu_of_real_libvirt_logs_is_one_run() {
    let (mut all, mut failed) = (0, 0);
    for folder in folders() {
        let name = folder.display();
        let truth: Value = serde_json::from_slice(&fs::read(folder.join("truth.json")).unwrap()).unwrap();
        let log = folder.join("audit.log");
        let records = fs::read(&log).unwrap();
        let records = String::from_utf8_lossy(&records);
        let mut runs = runs(&log);
        for process in truth["processes"].as_array().unwrap() {
            let (pid, uuid) = (&process["pid"], process["uuid"].as_str().unwrap());
            let is_its = |run: &Value| run["pid"] == *pid && run["guest"]["uuid"] == *uuid;
            let Some(at) = runs.iter().position(is_its) else {
                let is_failed = |line: &str| {
                    line.contains(uuid) && line.contains("op=start") && line.contains("res=failed")
                };
                assert!(records.lines().any(is_failed), "{name}: no run of process {pid}");
                failed += 1;
                continue;
            };
            let run = runs.remove(at);
            let started = seconds(&run["started"]).unwrap();
            assert!(started >= process["first_seen"].as_f64().unwrap() - POLL, "{name}: {run:#}");
            let ended = seconds(&run["ended"]);
            assert!(
                ended.is_none_or(|ended| ended >= process["last_seen"].as_f64().unwrap() - POLL),
                "{name}: {run:#}"
            );
            // A guest that was killed while no daemon ran has no record of its end.
            let is_unseen = folder.ends_with("06-killed-unseen");
            assert!(ended.is_some() || is_unseen, "{name}: {run:#}");
            let held = truth["fd_intervals"].as_array().unwrap().iter();
            let held = held.filter(|one| {
                one["pid"] == *pid && ["tun", "macvtap"].contains(&one["kind"].as_str().unwrap_or_default())
            });
            let macs: std::collections::BTreeSet<_> =
                held.filter_map(|one| one["guest_mac"].as_str()).collect();
            // QEMU has the devices of a failed hot-plug for a moment.
            let fails = folder.ends_with("11-hotplug-fails");
            let interfaces = run["interfaces"].as_u64().unwrap();
            assert!(fails || interfaces >= macs.len() as u64, "{name}: {run:#} {macs:?}");
            all += 1;
        }
        assert!(runs.is_empty(), "{name}: runs of no process: {runs:#?}");
    }
    assert!(all > 60 && failed > 4, "{all} runs, {failed} failed starts");
}

/// Why each run ended, and what shows it.
fn ends(runs: &[Value]) -> Vec<(&str, &str)> {
    runs.iter()
        .map(|run| (run["ended_by"].as_str().unwrap_or("-"), run["end_reason"].as_str().unwrap_or("-")))
        .collect()
}

// Shows 10.52.
#[test]
fn a_run_has_the_managers_reason_for_its_start_and_its_end() {
    let of = |folder: &str| runs(&data().join(folder).join("audit.log"));
    let saved = of("libvirt-9.0/13-save-restore");
    assert_eq!(ends(&saved), [("stop", "saved"), ("stop", "saved"), ("stop", "destroyed")]);
    let starts: Vec<_> = saved.iter().map(|run| run["start_reason"].as_str().unwrap()).collect();
    assert_eq!(starts, ["booted", "restored", "restored"]);
    assert_eq!(ends(&of("libvirt-9.0/11-kill9")), [("stop", "failed")]);
    assert_eq!(ends(&of("libvirt-9.0/12-shutdown")), [("stop", "shutdown")]);
    assert_eq!(
        ends(&of("libvirt-9.0-vhost-plug/06-killed-unseen")),
        [("-", "-"), ("-", "-"), ("stop", "destroyed")]
    );
    // The manager, not a person.
    let by = &saved[0]["started_by"];
    assert_eq!(
        (by["role"].as_str(), by["uid"].as_u64(), &by["auid"]),
        (Some("manager"), Some(0), &Value::Null)
    );
}

#[test]
fn options_select_runs_and_formats_have_the_same_runs() {
    let log = data().join("libvirt-9.0/13-save-restore/audit.log");
    let count = |arguments: &[&str]| {
        let arguments = ["guests", "--format", "json"].iter().chain(arguments).copied();
        let output = ask(arguments, &log);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (answer["runs"].as_array().unwrap().len(), output.status.code().unwrap())
    };
    assert_eq!(count(&[]), (3, 0));
    assert_eq!(count(&["--guest", "t13-save"]), (3, 0));
    assert_eq!(count(&["--guest", "cb53773a-3fd6-40d6-800b-03f248a57b0f"]), (3, 0));
    assert_eq!(count(&["--start", "2026-11-23 18:57:12"]), (2, 0));
    assert_eq!(count(&["--end", "2026-11-23 18:57:12"]), (2, 0));
    assert_eq!(count(&["--at", "2026-11-23 18:57:08"]), (1, 0));
    assert_eq!(count(&["--guest", "other"]), (0, 0));
    // A guest may have run before the log begins.
    assert_eq!(count(&["--at", "2026-11-23 18:57:11.9"]), (0, 4));
    let lines = text(&ask(["guests", "--format", "jsonl"], &log));
    let keys: Vec<_> = lines.lines().map(|line| line.split('"').nth(1).unwrap()).collect();
    assert_eq!(keys, ["run", "run", "run", "input"]);
    let csv = text(&ask(["guests", "--format", "csv"], &log));
    assert_eq!(csv.lines().count(), 4);
}

#[test]
fn a_start_that_failed_is_no_run_and_is_named_below_the_table() {
    let log = data().join("libvirt-9.0/08-fail-qemu/audit.log");
    let table = text(&ask(["guests"], &log));
    let below = "\nFailed starts: t8-badarg, t8-badarg-persist; `taptrail findings --kind start-failed";
    assert!(table.contains(below), "{table}");
    let one = text(&ask(["guests", "--guest", "t8-badarg"], &log));
    assert!(one.contains("\nFailed starts: t8-badarg; "), "{one}");
    let before =
        text(&ask(["guests", "--end", "2026-11-23"], &data().join("libvirt-9.0/11-kill9/audit.log")));
    assert!(!before.contains("Failed starts"), "{before}");
}

#[test]
fn a_guest_without_an_interface_is_a_run_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let line = |serial: u32, op: &str| {
        format!(
            "type=VIRT_CONTROL msg=audit(179546022{serial}.720:{serial}): pid=9 uid=0 auid=1000 ses=3 msg='virt=kvm {op} \
             vm=\"plain\" uuid=cb53773a-3fd6-40d6-800b-03f248a57b0f vm-pid=77 exe=\"/usr/sbin/libvirtd\" hostname=? addr=? \
             terminal=? res=success'\n"
        )
    };
    fs::write(&log, line(1, "op=start reason=booted") + &line(2, "op=stop reason=shutdown")).unwrap();
    let run = &runs(&log)[0];
    assert_eq!((run["interfaces"].as_u64(), run["pid"].as_u64()), (Some(0), Some(77)));
    assert_eq!(
        (&run["stopped_by"]["auid"], &run["stopped_by"]["ses"]),
        (&Value::from(1000), &Value::from(3))
    );
    let table = text(&ask(["guests"], &log));
    assert!(
        table.contains("manager (auid 1000)") && table.contains("1 run, 0 running; 2 records read"),
        "{table}"
    );
}

/// A manager beside auditd, which writes libvirt's records of a process that is no QEMU.
struct Manager {
    audit: Audit,
    guest: GuestId,
}

impl Manager {
    fn record(&mut self, event: Event) {
        let record = Record::success(self.guest.clone(), event);
        let text = record.text(Path::new("/usr/sbin/libvirtd")).unwrap();
        self.audit.log(record.record_type().number(), &text).unwrap();
    }
}

// Shows 10.53.
#[test]
fn a_fatal_signal_that_the_kernel_recorded_ends_a_run_before_the_managers_record() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = auditing.start_daemon(dir.path());
    let start = |program: &str| {
        let path = dir.path().join(program);
        fs::copy("/bin/sleep", &path).unwrap();
        Command::new(path).arg("600").stdin(Stdio::null()).spawn().unwrap()
    };
    let mut runs_of = Vec::new();
    for (number, program) in [(1, "qemu-system-x86_64"), (2, "other")] {
        let mut process = start(program);
        let guest = GuestId { name: program.into(), uuid: uuid::Uuid::from_u128(0xABE0 + number) };
        let mut manager = Manager { audit: Audit::open().unwrap(), guest: guest.clone() };
        let mac = MacAddr::kvm([0xAB, 0xE0, u8::try_from(number).unwrap()]);
        let device = Device::new("/dev/net/tun", Some(Rdev::TUN), None);
        manager.record(Event::Open { mac, device, queue: None });
        manager.record(Event::Start { mac, vm_pid: None, fds: None });
        manager.record(Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(process.id()) });
        let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSEGV).unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(11));
        // libvirtd needs some time, or does not run at all then.
        std::thread::sleep(Duration::from_millis(300));
        manager.record(Event::GuestStop { reason: Reason::FAILED, vm_pid: None });
        runs_of.push(guest.uuid.to_string());
    }
    wait_for_log(&log);
    auditing.end_daemon();
    drop(auditing);

    let of = |uuid: &str| {
        let answer = json(&ask(["guests", "--format", "json", "--guest", uuid], &log));
        let runs = answer["runs"].as_array().unwrap().clone();
        assert_eq!(runs.len(), 1, "{answer:#}");
        runs.into_iter().next().unwrap()
    };
    let crashed = of(&runs_of[0]);
    assert_eq!(
        (crashed["crash"]["signal"].as_u64(), crashed["crash"]["signal_name"].as_str()),
        (Some(11), Some("SIGSEGV"))
    );
    assert_eq!(
        (crashed["end_reason"].as_str(), crashed["proof"].as_array().unwrap().len()),
        (Some("failed"), 3)
    );
    let (at, ended) = (seconds(&crashed["crash"]["time"]).unwrap(), seconds(&crashed["ended"]).unwrap());
    assert!(at + 0.25 < ended, "{crashed:#}");
    let trail = json(&ask(["trail", "--format", "json", "--guest", &runs_of[0]], &log));
    let holding = &trail["holdings"][0];
    // Held until then at least; the signal does not show the release.
    assert_eq!(holding["last_seen"], crashed["crash"]["time"], "{trail:#}");
    assert_eq!((&holding["released"], holding["certainty"].as_str()), (&crashed["ended"], Some("inferred")));
    assert_eq!(holding["possibly_held"].as_array().unwrap().last().unwrap()["why"], "end-unseen");
    assert_eq!(trail["findings"][0]["kind"], "qemu-crashed");
    assert!(text(&ask(["guests", "--guest", &runs_of[0]], &log)).contains("crashed (SIGSEGV)"));
    // Another program that has the number may have got it after the guest's end.
    let other = of(&runs_of[1]);
    assert!(other["crash"].is_null() && other["end_reason"] == "failed", "{other:#}");
}

// The kernel of the tests has no security module: the record is as the sources of SELinux write it
// (avc_audit_pre_callback(), security/selinux/avc.c).
// Shows 10.54.
#[test]
fn a_refused_access_names_the_guest_and_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let real = fs::read_to_string(data().join("libvirt-9.0/11-kill9/audit.log")).unwrap();
    let denied = "type=AVC msg=audit(1795460188.072:2976): avc:  denied  { open } for  pid=29269 comm=\"qemu-kvm\" \
                  path=\"/dev/net/tun\" dev=\"devtmpfs\" ino=105 scontext=system_u:system_r:svirt_t:s0:c392,c662 \
                  tcontext=system_u:object_r:tun_tap_device_t:s0 tclass=chr_file permissive=0";
    let lines = real.lines().map(|line| if line.contains(":2976)") { denied } else { line });
    fs::write(&log, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let output = ask(["findings", "--kind", "access-denied", "--format", "json"], &log);
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [finding] = &answer["findings"].as_array().unwrap()[..] else { panic!("{answer:#}") };
    assert_eq!(
        (finding["guest"]["name"].as_str(), finding["device"]["kind"].as_str()),
        (Some("t11-kill9"), Some("tun"))
    );
    let events = text(&ask(["guests", "--all-events"], &log));
    // Null for what the kernel recorded.
    let of_kernel = json(&ask(["guests", "--all-events", "--format", "json"], &log));
    let events_of_kernel = of_kernel["events"].as_array().unwrap().iter();
    assert_eq!(events_of_kernel.filter(|event| event["result"].is_null()).count(), 1);
    assert!(
        events.contains("access-denied") && events.contains("was refused 'open' of /dev/net/tun"),
        "{events}"
    );
    // It changes nothing else.
    let without = data().join("libvirt-9.0/11-kill9/audit.log");
    let held = |log: &Path| json(&ask(["trail", "--format", "json"], log))["holdings"][0]["released"].clone();
    assert_eq!(held(&log), held(&without));
}

/// Each event that auvirt prints, as its type, guest, resource and reason.
fn auvirts_events(log: &Path) -> Vec<String> {
    let options = ["--all-events", "--show-uuid", "--file"];
    let output = Command::new("/usr/bin/auvirt").args(options).arg(log).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let event = |line: &str| {
        let fields: Vec<_> = line.split('\t').map(str::trim).collect();
        let kind = fields[0].split(' ').next()?;
        let uuid = fields.iter().position(|field| field.parse::<uuid::Uuid>().is_ok())?;
        match kind {
            "start" | "stop" => Some(format!("{} guest {kind}", fields[uuid])),
            // Behind the user and the time.
            "resrc" => Some(format!("{} {} {}", fields[uuid], fields.get(uuid + 3)?, fields.get(uuid + 4)?)),
            _ => None,
        }
    };
    text.lines().filter_map(event).collect()
}

// Shows 10.55.
#[test]
fn all_events_has_each_event_that_auvirt_has() {
    if !Path::new("/usr/bin/auvirt").exists() {
        eprintln!("not run: audit-userspace 4.0 and later have no auvirt");
        return;
    }
    let mut all = 0;
    for folder in folders() {
        let log = folder.join("audit.log");
        let lines = text(&ask(["guests", "--all-events", "--format", "jsonl"], &log));
        let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let key = |line: Value| {
            let event = line.get("event")?;
            let word = |name: &str| event[name].as_str().unwrap();
            Some(format!("{} {} {}", event["guest"]["uuid"].as_str()?, word("resource"), word("event")))
        };
        let mut ours: Vec<_> = events.filter_map(key).collect();
        for event in auvirts_events(&log) {
            let at = ours.iter().position(|one| *one == event);
            ours.remove(at.unwrap_or_else(|| panic!("{}: no {event}", folder.display())));
            all += 1;
        }
    }
    assert!(all > 500, "{all}");
}

// Shows 10.55.
#[test]
fn other_resources_are_read_only_where_they_are_asked_for() {
    let log = data().join("libvirt-12.9/32-snapshot/audit.log");
    let answer = json(&ask(["guests", "--all-events", "--format", "json", "--guest", "t32-snap"], &log));
    let count = |resource: &str| {
        answer["events"].as_array().unwrap().iter().filter(|event| event["resource"] == resource).count()
    };
    let counts = ["guest", "net", "disk", "mem", "vcpu", "chardev", "label"].map(count);
    let text = String::from_utf8(fs::read(&log).unwrap()).unwrap();
    let lines = |part: &str| {
        text.lines().filter(|line| line.starts_with("type=VIRT_") && line.contains(part)).count()
    };
    let parts = [
        "VIRT_CONTROL",
        "resrc=net",
        "resrc=disk",
        "resrc=mem",
        "resrc=vcpu",
        "resrc=chardev",
        "VIRT_MACHINE_ID",
    ];
    assert_eq!(counts, parts.map(lines));
    assert!(counts.iter().all(|count| *count >= 5), "{counts:?}");
    assert_eq!(answer["events"].as_array().unwrap().len(), counts.iter().sum::<usize>());
    let none = ask(["guests", "--all-events", "--start", "2026-11-29 00:31", "--format", "csv"], &log);
    assert_eq!(String::from_utf8(none.stdout).unwrap().lines().count(), 1);
}

/// A log from which lines are lost, doubled, moved, or that begins late.
fn spoil(log: &[u8], random: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    let mut lines: Vec<_> = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    for _ in 0..=random(3) {
        let at = random(lines.len());
        match random(4) {
            0 => drop(lines.drain(at..lines.len().min(at + 1 + random(4)))),
            1 => lines.insert(at, lines[at]),
            2 => {
                let line = lines.remove(at);
                lines.insert(random(lines.len() + 1), line);
            }
            _ => drop(lines.drain(..random(lines.len() / 2 + 1))),
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.into_iter().flat_map(|line| [line, b"\n"].concat()).collect()
}

/// The latest time of a log's lines, in seconds since 1970.
fn last_time(log: &[u8]) -> f64 {
    let text = String::from_utf8_lossy(log);
    let times =
        text.lines().filter_map(|line| line.split_once("audit(")?.1.split_once(':')?.0.parse::<f64>().ok());
    times.fold(0.0, f64::max)
}

// Shows 10.52.
#[test]
fn no_definitive_run_of_a_spoilt_log_is_false() {
    // libvirtd may take so long for the record of an end.
    const LATE_STOP: f64 = 30.0;
    let mut state = 0x5EED_u64;
    let mut random = |below: usize| {
        // xorshift64 (G. Marsaglia)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below.max(1) as u64).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut definitive = 0;
    for folder in folders().iter().cycle().take(200) {
        let truth: Value = serde_json::from_slice(&fs::read(folder.join("truth.json")).unwrap()).unwrap();
        let log = spoil(&fs::read(folder.join("audit.log")).unwrap(), &mut random);
        fs::write(&path, &log).unwrap();
        let output = ask(["guests", "--format", "json"], &path);
        if output.status.code() != Some(0) {
            continue;
        }
        let mut processes = truth["processes"].as_array().unwrap().clone();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        documented(&answer);
        let runs = answer["runs"].as_array().unwrap().iter();
        for run in runs.filter(|run| run["certainty"] == "definitive") {
            definitive += 1;
            let is_its =
                |process: &Value| process["pid"] == run["pid"] && process["uuid"] == run["guest"]["uuid"];
            let shown = || format!("{}: {run:#}\n{}", folder.display(), String::from_utf8_lossy(&log));
            let at = processes.iter().position(is_its).unwrap_or_else(|| panic!("no process: {}", shown()));
            let process = processes.remove(at);
            let (first, last) =
                (process["first_seen"].as_f64().unwrap(), process["last_seen"].as_f64().unwrap());
            assert!(seconds(&run["started"]).unwrap() >= first - POLL, "{}", shown());
            match seconds(&run["ended"]) {
                Some(ended) => assert!((last - POLL..last + LATE_STOP).contains(&ended), "{}", shown()),
                None => {
                    let unseen = folder.ends_with("06-killed-unseen") || last_time(&log) < last + LATE_STOP;
                    assert!(unseen, "{}", shown());
                }
            }
        }
    }
    assert!(definitive > 150, "{definitive}");
}
