//! Logs from elsewhere: public bug reports, other tools' output, the logs of many hosts in one
//! directory.
//!
//! taptrail reports what these logs show, and says what is unknown and what it did not read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(path).canonicalize().unwrap()
}

fn wild(name: &str) -> PathBuf {
    data("wild").join(name)
}

fn taptrail(arguments: &[&str], files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_taptrail"))
        .args(arguments)
        .args(files)
        .env("TZ", "UTC")
        .env("TAPTRAIL_STATE_DIR", "/nonexistent")
        .env("TAPTRAIL_AUDIT_LOG", "/nonexistent/audit.log")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The JSON, standard error and exit code of a command.
struct Answer {
    json: Value,
    stderr: String,
    code: Option<i32>,
}

fn run_json(arguments: &[&str], files: &[&Path]) -> Answer {
    let done = taptrail(arguments, files);
    let stderr = String::from_utf8(done.stderr).unwrap();
    let json = serde_json::from_slice(&done.stdout).unwrap_or(Value::Null);
    Answer { json, stderr, code: done.status.code() }
}

fn trail(files: &[&Path]) -> Answer {
    run_json(&["trail", "--format=json"], files)
}

impl Answer {
    /// Each holding as one line.
    fn holdings(&self) -> Vec<String> {
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let line = |holding: &Value| {
            let (guest, kind) = (word(&holding["guest"]["name"]), word(&holding["device"]["kind"]));
            let (state, by) = (word(&holding["state"]), word(&holding["ended_by"]));
            format!("{guest} {kind} {state} {by} {}", word(&holding["certainty"]))
        };
        self.json["holdings"].as_array().unwrap().iter().map(line).collect()
    }

    fn findings(&self) -> Vec<&str> {
        self.json["findings"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect()
    }
}

// Shows 10.27, 10.29.
#[test]
fn each_log_from_outside_has_its_right_answer() {
    let stopped = ["web1 tun released stop inferred"];
    let held = ["web1 tun held - inferred"];
    let none: [&str; 0] = [];
    for (name, holdings, findings) in [
        ("twice-in-one-input.log", &held[..], &none[..]),
        ("auditing-off-for-a-day.log", &["web1 tun held - incomplete"], &["log-gap"]),
        ("two-boots-in-one-journal.log", &["web1 tun released reboot inferred"], &["release-by-reboot"]),
        ("kernel-lost-records.log", &["web1 tun unknown - incomplete"], &["grant-unknown", "log-gap"]),
        ("printk-suppressed.log", &["web1 tun unknown - incomplete"], &["grant-unknown", "log-gap"]),
        ("libaudit-before-2.2.log", &["web1 tun opening - incomplete"], &none),
        ("libaudit-1.log", &stopped, &none),
        ("dmesg-T.log", &stopped, &none),
        ("dmesg-r.log", &stopped, &none),
        ("kmsg.log", &stopped, &none),
        ("libvirtd-without-libaudit.log", &held, &none),
        ("libvirtd-without-libaudit-hex-name.log", &["CAFE tun held - inferred"], &none),
        ("virtchd-opens-only.log", &["chvm tun opening - incomplete"], &none),
        ("ausearch-i-zh_CN.log", &stopped, &none),
        ("journal-fr_FR.log", &["rhel-10-beta tun held - inferred"], &none),
        ("audisp-syslog-interpret.log", &stopped, &none),
        ("relay-with-address.log", &stopped, &none),
        ("cri.log", &stopped, &none),
        // Its first line lacks the last brace, after all that the reader needs.
        ("go-audit.log", &stopped, &none),
        ("virt-launcher-json.log", &none, &["record-not-sent"]),
    ] {
        let answer = trail(&[&wild(name)]);
        assert_eq!(answer.code, Some(0), "{name}: {}", answer.stderr);
        assert_eq!(answer.holdings(), holdings, "{name}");
        let mut kinds = answer.findings();
        kinds.sort_unstable();
        assert_eq!(kinds, findings, "{name}");
    }
    let relay = trail(&[&wild("relay-with-address.log")]);
    assert_eq!(relay.json["holdings"][0]["host"], "hostname_xxxx");
    let times = &trail(&[&wild("audisp-syslog-interpret.log")]).json["holdings"][0];
    assert_eq!(
        (&times["opened"], &times["proof"][0]["serial"]),
        (&"2022-09-19T18:16:45.000Z".into(), &Value::Null)
    );
}

// Shows 10.29.
#[test]
fn a_containers_records_are_foreign_and_no_guests() {
    let answer = trail(&[&wild("docker-virt-control.log")]);
    assert_eq!(answer.holdings(), [""; 0]);
    assert!(answer.findings().contains(&"foreign-control"));
}

// Shows 10.25.
#[test]
fn lines_in_no_known_shape_are_reported_and_never_pass_for_clean() {
    let dir = tempfile::tempdir().unwrap();
    let unread = dir.path().join("strange.log");
    let line = r#"<row action="VIRT_RESOURCE" virt=kvm resrc=net reason=open vm="web1" uuid=8d7a4ace-3751-438c-b7e9-4c4370630cf9/>"#;
    fs::write(&unread, format!("{line}\n{line}\n")).unwrap();
    for command in ["trail", "findings"] {
        let done = taptrail(&[command], &[&unread]);
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{stderr}");
        assert_eq!(String::from_utf8(done.stdout).unwrap(), "", "nothing was read, and nothing is answered");
        assert!(stderr.contains("strange.log: 2 lines look like records"), "{stderr}");
    }
    // The note appears also if another input was read.
    let both = trail(&[&unread, &wild("libaudit-1.log")]);
    assert_eq!((both.code, &both.json["input"]["unread"]), (Some(0), &2.into()), "{}", both.stderr);
    assert!(both.stderr.contains("the first is line 1"), "{}", both.stderr);
    // An input without any line that looks like a record gets no answer either.
    let prose = dir.path().join("prose.log");
    fs::write(&prose, "It was a dark night.\n").unwrap();
    assert_eq!(taptrail(&["findings"], &[&prose]).status.code(), Some(2));
}

/// Writes the logs of real runs, each as the log of another host; no line names its host.
fn write_host_logs(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut runs: Vec<PathBuf> = ["libvirt-9.0", "libvirt-9.0-vhost-plug"]
        .iter()
        .flat_map(|set| fs::read_dir(data("libvirt").join(set)).unwrap().map(|run| run.unwrap().path()))
        .collect();
    runs.sort();
    let hosts = runs.iter().take(20).enumerate().map(|(number, run)| {
        let host = format!("host{number:02}");
        let logs = dir.join(&host).join("audit");
        fs::create_dir_all(&logs).unwrap();
        fs::copy(run.join("audit.log"), logs.join("audit.log")).unwrap();
        (host, logs.join("audit.log"))
    });
    hosts.collect()
}

/// A host's holdings and findings, without its name and the places of the lines.
fn of_host(answer: &Value, host: &str) -> Vec<String> {
    let lists = ["holdings", "findings"].map(|list| answer[list].as_array().unwrap().clone());
    let own = lists.into_iter().flatten().filter(|one| one["host"] == host);
    let mut all: Vec<String> = own
        .map(|mut one| {
            one["host"].take();
            for proof in one["proof"].as_array_mut().unwrap() {
                proof["source"].take();
            }
            one.to_string()
        })
        .collect();
    all.sort();
    all
}

// Shows 10.22.
#[test]
fn the_logs_of_twenty_hosts_in_one_heap_are_read_as_each_alone() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = write_host_logs(dir.path());
    let all = trail(&[dir.path()]);
    assert_eq!(all.code, Some(0), "{}", all.stderr);
    for (host, log) in &hosts {
        let alone = trail(&[log]);
        let (together, alone) = (of_host(&all.json, host), of_host(&alone.json, "?"));
        assert!(!alone.is_empty());
        assert_eq!(together, alone, "{host}");
    }
    let covered: Vec<&Value> =
        all.json["input"]["coverage"].as_array().unwrap().iter().map(|one| &one["host"]).collect();
    assert_eq!(covered.len(), hosts.len(), "{covered:?}");
}

// Shows 10.23.
#[test]
fn directories_that_are_one_hosts_are_named_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = fs::read(data("libvirt/libvirt-9.0/06-hotplug/audit.log")).unwrap();
    for name in ["a", "b"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("audit.log"), &log).unwrap();
    }
    let refused = taptrail(&["trail"], &[dir.path()]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(String::from_utf8(refused.stdout).unwrap(), "");
    assert!(stderr.contains("are the same record") && stderr.contains("--assume-host"), "{stderr}");
    let one = run_json(&["trail", "--format=json", "--assume-host", "web1"], &[dir.path()]);
    let alone = trail(&[&data("libvirt/libvirt-9.0/06-hotplug/audit.log")]);
    assert_eq!(of_host(&one.json, "web1").len(), of_host(&alone.json, "?").len());
    let assumed = format!("web2={}", dir.path().join("b").display());
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    let both = run_json(&["trail", "--format=json", "--assume-host", &assumed, "--held"], &[&first, &second]);
    assert_eq!(both.code, Some(0), "{}", both.stderr);
}

// Shows 10.40.
#[test]
fn what_a_heap_of_hosts_lacks_is_said_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = write_host_logs(dir.path());
    let at = |name: &str| dir.path().join(name);
    // One is named as no log, one is there twice, of one nothing was delivered, one lacks lines.
    let unnamed = hosts[0].1.with_file_name("saved.txt");
    fs::rename(&hosts[0].1, &unnamed).unwrap();
    fs::create_dir(at("copy")).unwrap();
    fs::copy(&hosts[6].1, at("copy/audit.log")).unwrap();
    fs::create_dir(at("nothing")).unwrap();
    let cut = &hosts[13];
    let text = fs::read_to_string(&cut.1).unwrap();
    let lines = text.lines().enumerate().filter(|(number, _)| !(20..30).contains(number));
    fs::write(&cut.1, lines.map(|(_, line)| format!("{line}\n")).collect::<String>()).unwrap();

    let refused = taptrail(&["summary", "--by", "host"], &[dir.path()]);
    assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(2), &b""[..]));
    let stderr = String::from_utf8(refused.stderr).unwrap();
    for (path, what) in [(unnamed.clone(), "lines of a log"), (at("nothing"), "no file in this directory")] {
        let said = |line: &str| line.contains(&format!("{}:", path.display())) && line.contains(what);
        assert!(stderr.lines().any(said), "{stderr}");
    }
    // The reason stands last, with the options that let the next command answer.
    let reason = stderr.lines().last().unwrap();
    assert!(reason.contains("No answer") && reason.contains("copy"), "{reason}");
    let options: Vec<&str> = reason.split_whitespace().skip_while(|word| *word != "--assume-host").collect();
    let known = [&["summary", "--by", "host", "--json", "--start", "2026-11-20"], &options[..]].concat();
    let answer = run_json(&known, &[dir.path(), &unnamed]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(!answer.stderr.contains("saved.txt: not read"), "{}", answer.stderr);
    assert!(answer.stderr.contains("nothing: no file in this directory"), "{}", answer.stderr);

    // Each host that was read has a row; what is missing is named, and nothing else is.
    let rows = answer.json["by"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), hosts.len(), "{rows:?}");
    let missing: Vec<&Value> = answer.json["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|host| host["missing"].as_array().unwrap() != &[] as &[Value])
        .map(|host| &host["host"])
        .collect();
    assert_eq!(missing, [&cut.0]);
}

// Shows 10.22.
#[test]
fn files_that_a_host_keeps_in_several_places_are_of_one_host() {
    let dir = tempfile::tempdir().unwrap();
    let run = data("libvirt/libvirt-9.0/06-hotplug");
    for (to, from) in [("var/log/audit", "audit.log"), ("var/log/libvirt", "libvirtd.log")] {
        let to = dir.path().join("h1").join(to);
        fs::create_dir_all(&to).unwrap();
        fs::copy(run.join(from), to.join(from)).unwrap();
    }
    let alone = trail(&[&run.join("audit.log")]);
    let both = trail(&[dir.path()]);
    assert_eq!(both.holdings(), alone.holdings(), "{}", both.stderr);
    // The proof cites the audit log's line, and libvirtd's as a copy.
    let proof = &both.json["holdings"][0]["proof"][0];
    assert!(proof["source"].as_str().unwrap().ends_with("audit.log") && proof["serial"].is_u64(), "{proof}");
    assert!(proof["copies"][0]["source"].as_str().unwrap().ends_with("libvirtd.log"), "{proof}");
}

// Shows 10.23.
#[test]
fn two_hosts_in_one_stream_are_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let record = |second: u32, serial: u32, guest: u32| {
        format!(
            "type=VIRT_CONTROL msg=audit(17954600{second:02}.000:{serial}): pid=9 uid=0 auid=1 ses=1 msg='virt=kvm \
             op=start reason=booted vm=\"g{guest}\" uuid=8d7a4ace-3751-438c-b7e9-4c4370630c{guest:02} vm-pid={guest} \
             exe=\"/x\" hostname=? addr=? terminal=? res=success'\n"
        )
    };
    let stream: String =
        (0..4).map(|n| record(n * 20, 50_000 + n, n) + &record(n * 20 + 10, 700 + n, 10 + n)).collect();
    let path = dir.path().join("stream.log");
    fs::write(&path, &stream).unwrap();
    let refused = taptrail(&["trail"], &[&path]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{stderr}");
    assert!(
        stderr.contains("stream.log:") && stderr.contains("--assume-host") && stderr.contains("node="),
        "{stderr}"
    );
    // If each line names its host, the stream is read.
    let named: String =
        (0..).zip(stream.lines()).map(|(number, line)| format!("node=h{} {line}\n", number % 2)).collect();
    fs::write(&path, named).unwrap();
    assert_eq!(trail(&[&path]).code, Some(0));
}

// Shows 10.40.
#[test]
fn directories_of_one_hosts_months_are_named_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = |month: &str, text: &str| {
        fs::create_dir(dir.path().join(month)).unwrap();
        fs::write(dir.path().join(month).join("audit.log"), text).unwrap();
    };
    file("october", &(open(801, 1) + &start(802, 2) + &booted(803, 3)));
    file("november", &(stop(804, 9) + &noise(805, 20)));
    let done = taptrail(&["trail"], &[dir.path()]);
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(
        done.status.code() == Some(0) && stderr.contains("go on in the log of another directory"),
        "{stderr}"
    );
    let done = taptrail(&["trail", "--assume-host", "h", "--format", "csv"], &[dir.path()]);
    assert!(String::from_utf8(done.stdout).unwrap().contains("released"));
    // A path that no input has is an error that names it.
    let done = taptrail(&["trail", "--assume-host", "h=/nonexistent"], &[dir.path()]);
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(2) && stderr.contains("--assume-host names /nonexistent"), "{stderr}");
}

/// A log whose events have several lines each is read completely, however it is cut into files,
/// pieces and compressed parts.
// Shows 10.45.
#[test]
fn events_of_several_lines_are_whole_wherever_a_log_is_cut() {
    let event = |serial: u32, at: u32| {
        let stamp = format!("msg=audit({}.000:{serial}):", 1_795_460_000 + at);
        format!(
            "type=SYSCALL {stamp} arch=c000003e syscall=46 success=yes\ntype=NETFILTER_CFG {stamp} table=t\n\
             type=PROCTITLE {stamp} proctitle=61\n"
        )
    };
    let life = boot(1, 0) + &open(2, 1) + &start(3, 2) + &booted(4, 3);
    let log: String = (5..9000).map(|serial| event(serial, serial)).collect();
    let log = life + &log + &stop(9000, 9000) + &event(9001, 9001) + &event(9002, 9500);
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("audit.log");
    fs::write(&plain, &log).unwrap();
    let packed = dir.path().join("audit.log.gz");
    let pack = || {
        let gzip = Command::new("/bin/gzip").args(["--keep", "--force"]).arg(&plain).status().unwrap();
        assert!(gzip.success());
    };
    pack();
    let split = dir.path().join("split");
    fs::create_dir(&split).unwrap();
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    // Each cut is inside of an event.
    for (name, from, to) in
        [("audit.log.2", 0, 5001), ("audit.log.1", 5001, 9002), ("audit.log", 9002, lines.len())]
    {
        fs::write(split.join(name), lines[from..to].concat()).unwrap();
    }
    for input in [&plain, &packed, &split] {
        let answer = trail(&[input]);
        assert_eq!(answer.holdings(), ["web1 tun released stop inferred"], "{input:?}: {}", answer.stderr);
        assert_eq!(answer.findings(), [""; 0], "{input:?}");
        let coverage = &answer.json["input"]["coverage"][0];
        assert_eq!(coverage["spans"][0]["until"], "2026-11-23T21:31:40.000Z", "{input:?}");
    }
    // Lines that are missing are missing in each of them.
    let lossy: String = log
        .split_inclusive('\n')
        .filter(|line| !line.contains(":4000)") && !line.contains(":9000)"))
        .collect();
    fs::write(&plain, &lossy).unwrap();
    pack();
    for input in [&plain, &packed] {
        assert_eq!(trail(&[input]).holdings(), ["web1 tun held - incomplete"], "{input:?}");
    }
}

// Shows 10.40.
#[test]
fn a_log_of_selected_records_hints_at_the_option_that_says_so() {
    let log = open(11, 5) + &start(15, 6) + &booted(19, 7);
    let answer = trail_of_text(&log);
    assert!(answer.stderr.contains("--extract says so"), "{}", answer.stderr);
    assert!(answer.json["input"]["notes"][0].as_str().unwrap().contains("--extract"));
    assert!(!trail_of_text(&(log + &noise(30, 8))).stderr.contains("--extract"));
}

// Shows 10.39.
#[test]
fn a_name_that_no_record_has_is_not_answered_with_nobody() {
    let log = noise(1, 0).replace("USER_ACCT", "SYSTEM_BOOT")
        + &open(2, 1)
        + &start(3, 2)
        + &booted(4, 3)
        + &noise(5, 9);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &log).unwrap();
    for (what, code) in
        [("vnet0", 4), ("macvtap0", 4), ("52:54:00:aa:cc:99", 1), ("/dev/tap7", 1), ("0A:C9", 1)]
    {
        let done = taptrail(&["who", what, "--at", "2026-11-23T18:53:25Z"], &[file.path()]);
        assert_eq!(done.status.code(), Some(code), "{what}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

// Shows 10.39.
#[test]
fn nothing_that_was_read_is_no_answer() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for question in ["trail", "findings"] {
        let done = taptrail(&[question], &[empty.path()]);
        assert_eq!(done.status.code(), Some(4), "{question}");
    }
    let log = data("libvirt/libvirt-9.0/06-hotplug/audit.log");
    let done = taptrail(&["trail", "--start", "2026-11-24", "--end", "2026-11-22"], &[&log]);
    assert_eq!(done.status.code(), Some(2));
}

// Shows 10.37.
#[test]
fn two_machines_or_boots_at_once_under_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |machine: u32, boot: u32, second: u32, guest: u32| {
        format!(
            "{{\"__REALTIME_TIMESTAMP\":\"1795460{second:03}000000\",\"_TRANSPORT\":\"audit\",\"_AUDIT_TYPE\":\"2500\",\
             \"_AUDIT_ID\":\"{guest}\",\"_HOSTNAME\":\"kvm\",\"_MACHINE_ID\":\"{machine:032x}\",\"_BOOT_ID\":\"{boot:032x}\",\
             \"MESSAGE\":\"VIRT_CONTROL pid=9 uid=0 auid=1 ses=1 msg='virt=kvm op=start reason=booted vm=\\\"g{guest}\\\" \
             uuid=8d7a4ace-3751-438c-b7e9-4c4370630c{guest:02} vm-pid={guest} exe=\\\"/x\\\" hostname=? addr=? terminal=? \
             res=success'\"}}\n"
        )
    };
    let read_journal = |lines: &[String]| {
        let path = dir.path().join("journal.json");
        fs::write(&path, lines.concat()).unwrap();
        let done = taptrail(&["trail"], &[&path]);
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, stderr) = read_journal(&[entry(1, 5, 0, 1), entry(2, 6, 10, 2)]);
    assert!(code == Some(2) && stderr.contains("their machine ids differ"), "{stderr}");
    let alternating = [entry(1, 5, 0, 1), entry(1, 6, 5, 2), entry(1, 5, 80, 3), entry(1, 6, 160, 4)];
    let (code, stderr) = read_journal(&alternating);
    assert!(code == Some(2) && stderr.contains("they are of two boots at one time"), "{stderr}");
    assert_eq!(read_journal(&[entry(1, 5, 0, 1), entry(1, 6, 50, 2), entry(1, 6, 80, 3)]).0, Some(0));
}

// Shows 10.24.
#[test]
fn a_question_beyond_the_log_is_not_answered_with_nobody() {
    let log = data("libvirt/libvirt-9.0/06-hotplug/audit.log");
    let who = |at: &str| run_json(&["who", "52:54:00:00:06:01", "--format=json", "--at", at], &[&log]);
    for at in ["2026-11-20", "2026-11-23 18:53:00", "2026-11-24 20:00"] {
        let answer = who(at);
        assert_eq!(answer.code, Some(4), "{at}: {}", answer.stderr);
        assert_eq!(answer.json["input"]["asked"]["unknown_on"][0], "?", "{at}");
        assert!(
            answer
                .stderr
                .contains("is not known of all the time asked for: its records are from 2026-11-23T18:53:"),
            "{}",
            answer.stderr
        );
    }
    let table = taptrail(&["trail", "--at", "2026-11-20"], &[&log]);
    assert_eq!(table.status.code(), Some(4));
}

// Shows 10.36.
#[test]
fn nobody_is_nobody_from_a_boot_on_without_a_gap() {
    let query = |log: &str, at: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), log).unwrap();
        let answer = run_json(&["who", "52:54:00:aa:cc:77", "--format=json", "--at", at], &[file.path()]);
        assert_eq!(answer.holdings().len(), 0, "{}", answer.stderr);
        (answer.code.unwrap(), answer.json["input"]["asked"]["no_start_on"].as_array().map_or(0, Vec::len))
    };
    let (before, after) = ("2026-11-23T18:53:23Z", "2026-11-23T18:53:28Z");
    let life = open(11, 5) + &start(12, 6) + &booted(13, 7) + &stop(14, 9);
    // A guest may have run all along: its devices are unknown.
    for log in [noise(10, 1) + &life, noise(10, 1) + &stop(11, 9), noise(10, 1) + &noise(11, 9)] {
        assert_eq!([query(&log, before), query(&log, after)], [(4, 1), (4, 1)]);
    }
    let boot = noise(10, 1).replace("USER_ACCT", "SYSTEM_BOOT");
    assert_eq!(
        [query(&(boot.clone() + &life), before), query(&(boot.clone() + &life), after)],
        [(1, 0), (1, 0)]
    );
    // Two events are lost after the boot.
    let life = open(13, 5) + &start(14, 6) + &booted(15, 7) + &stop(16, 9);
    assert_eq!(query(&(boot + &life), after), (4, 1));
}

/// Asserts that no holding is certain: the query is about a time after the guest's last record.
#[track_caller]
fn assert_nothing_certain(inputs: &[&Path]) {
    let answer = trail(inputs);
    for holding in answer.holdings() {
        assert!(holding.ends_with(" incomplete"), "{holding}: {}", answer.stderr);
    }
    let query = ["who", "52:54:00:aa:cc:01", "--format=json", "--at", "2026-11-23T18:55:30Z"];
    let answer = run_json(&query, inputs);
    let possibly = answer.json["holdings"].as_array().is_some_and(|all| !all.is_empty());
    assert!(answer.code == Some(4) || possibly, "{:?} {}", answer.code, answer.stderr);
}

fn boot(serial: u32, at: u32) -> String {
    noise(serial, at).replace("USER_ACCT", "SYSTEM_BOOT")
}

// Shows 10.43.
#[test]
fn a_boot_with_its_clock_behind_leaves_the_order_unknown() {
    // The guest stops at 50, the host boots at 30 by its clock, and starts the guest again.
    let first = boot(1, 0) + &open(2, 10) + &start(3, 11) + &booted(4, 12) + &stop(5, 50);
    let second = |from: u32| boot(1, from) + &open(2, from + 1) + &start(3, from + 2) + &booted(4, from + 3);
    let file = tempfile::NamedTempFile::new().unwrap();
    for second in [second(30) + &noise(5, 100) + &noise(6, 140), second(30) + &noise(5, 31) + &noise(6, 140)]
    {
        fs::write(file.path(), first.clone() + &second).unwrap();
        assert_nothing_certain(&[file.path()]);
        // Without the first line of the second boot the numbers fall nevertheless.
        fs::write(file.path(), first.clone() + &second.split_inclusive('\n').skip(1).collect::<String>())
            .unwrap();
        assert_nothing_certain(&[file.path()]);
    }
}

// Shows 10.46.
#[test]
fn hosts_whose_clocks_differ_are_each_in_order() {
    let life = open(2, 10) + &start(3, 11) + &booted(4, 12) + &noise(5, 20) + &noise(6, 30);
    let here: Vec<String> = life.lines().map(|line| format!("node=h1 {line}\n")).collect();
    let behind = life
        .replace("web1", "web2")
        .replace("8d7a4ace", "8d7a4acf")
        .replace("audit(17954600", "audit(17954500");
    let there: Vec<String> = behind.lines().map(|line| format!("node=h2 {line}\n")).collect();
    let both: String =
        here.iter().zip(&there).flat_map(|(one, other)| [one.clone(), other.clone()]).collect();
    assert_eq!(trail_of_text(&both).holdings(), ["web2 tun held - inferred", "web1 tun held - inferred"]);
}

// Shows 10.43.
#[test]
fn rotations_that_overlap_leave_the_order_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    for back in [20, 40] {
        file("audit.log.1", &(boot(1, 0) + &open(2, 10) + &start(3, 11) + &booted(4, 12) + &stop(5, 60)));
        let again = open(6, 61 - back) + &start(7, 62 - back) + &booted(8, 63 - back);
        file("audit.log", &(again + &noise(9, 90) + &noise(10, 140)));
        assert_nothing_certain(&[dir.path()]);
    }
}

// Shows 10.43.
#[test]
fn logs_of_two_hosts_one_behind_the_other_claim_nothing() {
    let life = |from: u32| open(2, from) + &start(3, from + 1) + &booted(4, from + 2);
    let one = boot(1, 0) + &life(10) + &noise(5, 100) + &noise(6, 140);
    let other = boot(1, 5)
        + &life(20).replace("52:54:00:aa:cc:01", "52:54:00:aa:cc:02")
        + &stop(5, 80)
        + &noise(6, 139);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), one + &other.replace("web1", "web2").replace("8d7a4ace", "8d7a4acf")).unwrap();
    assert_nothing_certain(&[file.path()]);
}

// Shows 10.44.
#[test]
fn records_that_can_not_be_read_are_nobodys_answer() {
    let known = boot(1, 0);
    let guest = [open(2, 10), start(3, 11), booted(4, 12)];
    let file = tempfile::NamedTempFile::new().unwrap();
    let cut: fn(&str) -> String = |line| format!("{}\n", line.split(" exe=").next().unwrap());
    let lower: fn(&str) -> String = |line| line.replace("VIRT_", "virt_");
    let prefixed: fn(&str) -> String = |line| format!("[kvm1] {line}");
    let no_json: fn(&str) -> String =
        |_| "{\"_TRANSPORT\": \"audit\", \"_AUDIT_TYPE\": \"2501\", \"MESS\n".to_owned();
    for spoil in [cut, lower, prefixed, no_json] {
        let lines: String = guest.iter().map(|line| spoil(line)).collect();
        fs::write(file.path(), known.clone() + &lines + &noise(5, 100) + &noise(6, 140)).unwrap();
        for more in [&[][..], &["--extract"]] {
            let query =
                [&["who", "52:54:00:aa:cc:01", "--format=json", "--at", "2026-11-23T18:55:30Z"], more]
                    .concat();
            let answer = run_json(&query, &[file.path()]);
            assert!(
                matches!(answer.code, Some(2 | 4)),
                "{more:?} {lines} {:?} {}",
                answer.code,
                answer.stderr
            );
        }
    }
}

// Shows 10.44.
#[test]
fn a_last_record_that_can_not_be_read_leaves_things_unknown_however_long_the_log_is() {
    let bad = stop(12_000, 12_000).replace("uuid=", "uuid=zz");
    for lines in [20, 11_000] {
        let noises: String = (12_000 - lines..12_000).map(|serial| noise(serial, serial)).collect();
        let first = 12_000 - lines - 3;
        let life = open(first, 1) + &start(first + 1, 2) + &booted(first + 2, 3);
        assert_eq!(
            trail_of_text(&(life + &noises + &bad)).holdings(),
            ["web1 tun held - incomplete"],
            "{lines}"
        );
    }
    // In the middle of a log its number is missing, and that is one finding.
    let life = open(1, 1) + &start(2, 2) + &booted(3, 3);
    let answer =
        trail_of_text(&(life + &bad.replace(":12000)", ":4)") + &noise(5, 12_001) + &stop(6, 12_002)));
    assert_eq!(answer.findings(), ["log-gap"]);
}

// Shows 10.36.
#[test]
fn what_was_held_as_the_log_ended_may_be_over_by_a_later_time() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), open(11, 5) + &start(12, 6) + &booted(13, 7) + &noise(14, 20)).unwrap();
    for (at, count) in [
        ("2026-11-23T18:53:30Z", "1 session held then, 0 possibly"),
        ("2026-11-24", "0 sessions held then, 1 possibly"),
    ] {
        let done = taptrail(&["trail", "--at", at], &[file.path()]);
        let text = String::from_utf8(done.stdout).unwrap();
        assert!(text.contains(count), "{text}");
    }
}

// Shows 10.24.
#[test]
fn a_question_within_a_gap_is_not_answered_with_nobody() {
    let log = wild("auditing-off-for-a-day.log");
    let answer =
        run_json(&["who", "52:54:00:aa:cc:77", "--format=json", "--at", "2026-11-21 06:00"], &[&log]);
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
    assert!(answer.stderr.contains("with one gap"), "{}", answer.stderr);
    let answer =
        run_json(&["who", "52:54:00:aa:cc:01", "--format=json", "--at", "2026-11-21 06:00"], &[&log]);
    assert_eq!(answer.holdings(), ["web1 tun held - incomplete"]);
    let possibly = &answer.json["holdings"][0]["possibly_held"][0];
    assert_eq!((&possibly["why"], &possibly["until"]), (&"records-lost".into(), &Value::Null));
}

// Shows 10.26.
#[test]
fn what_may_have_been_held_is_reported_as_possibly_held() {
    // libvirt records a start seconds after QEMU has the devices, also a start that failed.
    let log = data("libvirt/libvirt-9.0/08-fail-qemu/audit.log");
    let at = "2026-11-23T18:55:09.150Z";
    let answer = run_json(&["who", "52:54:00:00:08:01", "--format=json", "--at", at], &[&log]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(
        answer.holdings().contains(&"t8-badarg tun never-granted - inferred".to_owned()),
        "{:?}",
        answer.holdings()
    );
    let table = taptrail(&["who", "52:54:00:00:08:01", "--at", at], &[&log]);
    assert!(String::from_utf8(table.stdout).unwrap().contains("t8-badarg possibly held 52:54:00:00:08:01"));
    let holding = &answer.json["holdings"][0];
    assert_eq!(holding["possibly_held"][0]["why"], "failed", "{holding}");
    // A minute means all of that minute.
    let answer =
        run_json(&["who", "52:54:00:00:08:01", "--format=json", "--at", "2026-11-23 18:55"], &[&log]);
    assert!(!answer.holdings().is_empty());
}

// Shows 10.27.
#[test]
fn an_extract_is_taken_for_whole_where_its_user_says_so() {
    let log = fs::read_to_string(data("libvirt/libvirt-9.0/06-hotplug/audit.log")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let guests: String = log.split_inclusive('\n').filter(|line| line.starts_with("type=VIRT_")).collect();
    fs::write(file.path(), guests).unwrap();
    let whole = trail(&[&data("libvirt/libvirt-9.0/06-hotplug/audit.log")]);
    let extract = run_json(&["trail", "--format=json", "--extract"], &[file.path()]);
    assert_eq!(extract.holdings(), whole.holdings());
    let unsaid = trail(&[file.path()]);
    assert!(unsaid.holdings().iter().any(|line| line.ends_with("incomplete")), "{:?}", unsaid.holdings());
    assert!(unsaid.findings().contains(&"log-gap"));
}

// Shows 10.24.
#[test]
fn each_input_says_which_times_it_has() {
    let log = data("libvirt/libvirt-9.0/06-hotplug/audit.log");
    let answer = trail(&[&log]);
    let file = &answer.json["input"]["files"][0];
    assert_eq!(file["path"], log.to_str().unwrap());
    assert_eq!(file["hosts"][0]["host"], "?");
    let from = file["hosts"][0]["from"].as_str().unwrap();
    assert!(from.starts_with("2026-11-23T18:53:"), "{file}");
    assert!(file["lines"].as_u64().unwrap() > file["hosts"][0]["records"].as_u64().unwrap());
}

/// A record of an audit log, of second `at`.
fn record(serial: u32, at: u32, record_type: &str, exe: &str, text: &str) -> String {
    format!(
        "type={record_type} msg=audit({}.000:{serial}): pid=812 uid=0 auid=4294967295 ses=4294967295 \
         msg='virt=kvm {text} exe=\"{exe}\" hostname=? addr=? terminal=? res=success'\n",
        1_795_460_000 + at
    )
}

const VM: &str = "vm=\"web1\" uuid=8d7a4ace-3751-438c-b7e9-4c4370630cf9";
const LIBVIRTD: &str = "/usr/sbin/libvirtd";

fn open(serial: u32, at: u32) -> String {
    let text = format!("resrc=net reason=open {VM} net=52:54:00:aa:cc:01 path=\"/dev/net/tun\" rdev=0A:C8");
    record(serial, at, "VIRT_RESOURCE", LIBVIRTD, &text)
}

fn start(serial: u32, at: u32) -> String {
    let text = format!("resrc=net reason=start {VM} old-net=\"?\" new-net=\"52:54:00:aa:cc:01\"");
    record(serial, at, "VIRT_RESOURCE", LIBVIRTD, &text)
}

fn booted(serial: u32, at: u32) -> String {
    record(serial, at, "VIRT_CONTROL", LIBVIRTD, &format!("op=start reason=booted {VM} vm-pid=7"))
}

fn stop(serial: u32, at: u32) -> String {
    record(serial, at, "VIRT_CONTROL", LIBVIRTD, &format!("op=stop reason=shutdown {VM} vm-pid=-1"))
}

fn noise(serial: u32, at: u32) -> String {
    format!(
        "type=USER_ACCT msg=audit({}.000:{serial}): pid=1 uid=0 msg='op=x res=success'\n",
        1_795_460_000 + at
    )
}

fn trail_of_text(text: &str) -> Answer {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    trail(&[file.path()])
}

// Shows 10.31.
#[test]
fn the_content_of_a_cut_off_or_unreadable_record_is_unknown() {
    let cut = |record: String| format!("{}\n", &record[..record.find(" exe=").unwrap() - 30]);
    let garbled = |record: String| record.replace("reason=start", "reason=handover");
    let boot = |start: String| open(1, 0) + &start + &booted(3, 1) + &noise(4, 900);
    for log in [boot(cut(start(2, 1))), boot(garbled(start(2, 1)))] {
        assert_eq!(trail_of_text(&log).holdings(), ["web1 tun unknown - incomplete"], "{log}");
    }
    let log = open(1, 0) + &start(2, 1) + &booted(3, 1) + &cut(stop(4, 60)) + &noise(5, 900);
    assert_eq!(trail_of_text(&log).holdings(), ["web1 tun held - incomplete"]);
}

// Shows 10.32.
#[test]
fn the_numbers_of_one_boot_hide_no_loss_of_the_next() {
    let first: String = (1..200).map(|serial| noise(serial, serial)).collect();
    let boot = "type=SYSTEM_BOOT msg=audit(1795460400.000:2): pid=1 uid=0 msg='res=success'\n";
    let next = noise(1, 400) + boot + &open(3, 410) + &start(4, 411) + &booted(5, 411) + &noise(90, 500);
    let answer = trail_of_text(&(first + &next));
    assert_eq!(answer.holdings(), ["web1 tun held - incomplete"]);
    assert_eq!(answer.findings(), ["log-gap"]);
}

// Shows 10.33.
#[test]
fn a_manager_that_records_boots_and_no_grants_leaves_the_grants_unknown() {
    let log = (open(1, 0) + &booted(2, 1) + &noise(3, 900)).replace(LIBVIRTD, "/usr/sbin/virtchd");
    assert_eq!(trail_of_text(&log).holdings(), ["web1 tun unknown - incomplete"]);
}

// Shows 10.31.
#[test]
fn an_input_of_which_no_record_can_be_read_is_no_clean_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), noise(1, 0) + &start(2, 1).replace("reason=start", "reason=handover")).unwrap();
    let done = taptrail(&["findings"], &[file.path()]);
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(2), &b""[..]));
}

// Shows 10.34.
#[test]
fn a_host_without_records_in_any_input_has_no_answer() {
    let log = data("libvirt/libvirt-9.0/06-hotplug/audit.log");
    let answer = run_json(&["trail", "--host", "elsewhere", "--format=json"], &[&log]);
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
    assert!(answer.stderr.contains("No input has records of host 'elsewhere'"), "{}", answer.stderr);
    let empty = tempfile::NamedTempFile::new().unwrap();
    let answer = run_json(&["who", "52:54:00:aa:cc:01", "--at", "2026-11-23"], &[empty.path()]);
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
}

// Shows 10.30.
#[test]
fn lines_that_a_relay_has_twice_count_once() {
    let log = open(1, 0) + &start(2, 1) + &booted(3, 1);
    let line = |line: &str| {
        let (head, text) = line.split_once("): ").unwrap();
        let record_type = head.split_once(' ').unwrap().0.trim_start_matches("type=");
        format!("Nov 23 18:53:20 h audit[812]: {record_type} {text}\n")
    };
    let once: String = log.lines().map(line).collect();
    let twice: String = once.split_inclusive('\n').flat_map(|line| [line, line]).collect();
    assert_eq!(trail_of_text(&once).holdings(), ["web1 tun held - inferred"]);
    assert_eq!(trail_of_text(&twice).holdings(), ["web1 tun held - inferred"]);
    assert_eq!(trail_of_text(&(once.clone() + &once)).holdings(), ["web1 tun held - inferred"]);
}

// Shows 10.35.
#[test]
fn events_after_auditing_is_off_are_unknown() {
    let off =
        "type=CONFIG_CHANGE msg=audit(1795460060.000:4): op=set audit_enabled=0 old=1 auid=0 ses=1 res=1\n";
    let log = open(1, 0) + &start(2, 1) + &booted(3, 1) + off;
    let boot = "type=SYSTEM_BOOT msg=audit(1795461000.000:5): pid=1 uid=0 msg='res=success'\n";
    for (log, expect) in [
        (log.clone(), "web1 tun held - incomplete"),
        (log.clone() + &noise(5, 900), "web1 tun held - incomplete"),
        (log + boot, "web1 tun released reboot incomplete"),
    ] {
        let answer = trail_of_text(&log);
        assert_eq!(answer.holdings(), [expect], "{log}");
        assert!(answer.findings().contains(&"log-gap"), "{log}");
    }
}

// Shows 10.35.
#[test]
fn a_clock_that_was_set_back_leaves_what_is_alive_uncertain() {
    let log = open(1, 4000) + &start(2, 4001) + &booted(3, 4001) + &stop(4, 500) + &noise(5, 600);
    let answer = trail_of_text(&log);
    assert_eq!(answer.holdings(), ["web1 tun released stop incomplete"]);
    assert_eq!(answer.findings(), ["log-gap"]);
}

// Shows 10.27.
#[test]
fn a_try_before_a_gap_takes_nothing_from_the_next() {
    let vhost = |serial, at| {
        let path = "path=\"/dev/vhost-net\" rdev=0A:EE";
        let text = format!("resrc=net reason=open {VM} net=52:54:00:aa:cc:01 {path}");
        record(serial, at, "VIRT_RESOURCE", LIBVIRTD, &text)
    };
    let attach = start(23, 31).replace("reason=start", "reason=attach");
    let log = booted(1, 0) + &vhost(2, 10) + &open(21, 30) + &vhost(22, 30) + &attach + &noise(24, 900);
    let answer = trail_of_text(&log);
    let expect = ["vhost-net unknown", "tun held", "vhost-net held"];
    assert_eq!(answer.holdings(), expect.map(|holding| format!("web1 {holding} - incomplete")));
}

/// Records of an open, an interface's start and a guest's start, forged in syslog's text.
fn forged(tag: &str, kind: &str) -> String {
    let line = |at: u32, record_type: u32, text: &str| {
        let stamp = format!("audit({}.000:{}): ", 1_795_911_000 + at, 501 + at);
        let front = if kind == "kernel" {
            format!("audit: type={record_type} {stamp}")
        } else {
            let name = if record_type == 2500 { "VIRT_CONTROL" } else { "VIRT_RESOURCE" };
            format!("type={name} msg={stamp}")
        };
        format!(
            "Nov 29 00:10:{at:02} host {tag}: {front}pid=812 uid=0 auid=4294967295 ses=4294967295 msg='virt=kvm {text} \
             exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'\n"
        )
    };
    let who = "vm=\"victim\" uuid=00000000-0000-4000-8000-000000000001";
    let mac = "52:54:00:00:00:66";
    let open = format!("resrc=net reason=open {who} net={mac} path=\"/dev/net/tun\" rdev=0A:C8");
    line(0, 2501, &open)
        + &line(1, 2501, &format!("resrc=net reason=start {who} old-net=\"?\" new-net=\"{mac}\""))
        + &line(2, 2500, &format!("op=start reason=booted {who} vm-pid=99"))
}

/// Runs taptrail: exit code, standard output and standard error.
fn run_text(arguments: &[&str]) -> (Option<i32>, String, String) {
    let done = taptrail(arguments, &[]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

// Shows 10.49.
#[test]
fn a_logs_text_is_believed_and_marked_as_what_any_user_can_write() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (tag, kind)) in [
        ("kernel", "kernel"),
        ("audisp-syslog", "dispatched"),
        ("audisp-syslog[77]", "dispatched"),
        ("audit[7]", "dispatched"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(format!("syslog.{number}"));
        fs::write(&path, forged(tag, kind)).unwrap();
        let file = path.to_str().unwrap();
        let marks = |arguments: &[&str], mark: &str| {
            let (_, stdout, stderr) = run_text(arguments);
            assert!(stdout.contains(mark), "{tag} {arguments:?}: {stdout}");
            assert!(stderr.contains("not authenticated"), "{tag} {arguments:?}: {stderr}");
        };
        marks(&["trail", file], "inferred*");
        marks(&["trail", file], "\n* not authenticated: ");
        marks(&["who", "tun", file], "Not authenticated: ");
        marks(&["explain", "victim", file], "Not authenticated: ");
        marks(&["explain", "victim", file], "(not authenticated)");
        marks(&["explain", "victim", "--format=json", file], "\"unauthenticated\": true");
        marks(&["trail", "--format=json", file], "\"unauthenticated\": 3");
        marks(&["trail", "--format=jsonl", file], "\"unauthenticated\":3");
        marks(&["findings", "--format=json", file], "\"unauthenticated\": 3");
        let source = "\"unauthenticated_source\"";
        for command in ["trail", "who", "explain", "findings"] {
            let what = match command {
                "who" => vec!["who", "tun"],
                "explain" => vec!["explain", "victim"],
                of => vec![of],
            };
            // Records without an open are a finding.
            let found = dir.path().join("syslog");
            fs::write(&found, forged(tag, kind).split_inclusive('\n').skip(1).collect::<String>()).unwrap();
            let file = if command == "findings" { found.to_str().unwrap() } else { file };
            let ask = |format| [&what[..], &[format, file]].concat();
            marks(&ask("--format=json"), &format!("{source}: true"));
            if command != "explain" {
                marks(&ask("--format=jsonl"), &format!("{source}:true"));
                let after = if command == "findings" { ",grave,1,false" } else { "" };
                marks(&ask("--format=csv"), &format!(",true{after}\r\n"));
            }
            fs::remove_file(found).unwrap();
        }
        let (code, _, stderr) = run_text(&["verify", file]);
        assert!(code.is_some_and(|code| code > 0) && stderr.contains("not authenticated"), "{stderr}");
    }
}

#[test]
fn a_process_id_shows_that_it_is_not_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    for tag in [
        "kernel[4711]",
        "kernel[x]",
        "kernel[]",
        "kernel.service",
        "kernel.service[7]",
        "host2 kernel[4711]",
        "mallory",
    ] {
        let path = dir.path().join("syslog");
        fs::write(&path, forged(tag, "kernel")).unwrap();
        let (code, stdout, stderr) = run_text(&["trail", path.to_str().unwrap()]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{tag}: {stderr}");
        assert!(stderr.contains("3 lines look like records"), "{tag}: {stderr}");
    }
}

#[test]
fn what_an_audit_log_has_too_is_not_marked() {
    let dir = tempfile::tempdir().unwrap();
    let syslog = forged("kernel", "kernel");
    fs::write(dir.path().join("syslog"), &syslog).unwrap();
    let audit = forged("auditd", "dispatched");
    let own = |line: &str| {
        line.split_once("auditd: ").map(|(_, line)| line.replace("type=", "node=host type=") + "\n")
    };
    fs::write(dir.path().join("audit.log"), audit.lines().filter_map(own).collect::<String>()).unwrap();
    let path = dir.path().to_str().unwrap();
    for format in ["json", "jsonl", "csv"] {
        let (_, stdout, _) = run_text(&["trail", "--format", format, path]);
        let marked = stdout.contains("unauthenticated_source\"") || stdout.contains(",true\r\n");
        assert!(stdout.contains("victim") && !marked, "{stdout}");
    }
    let (_, stdout, stderr) = run_text(&["trail", path]);
    assert!(stdout.contains("victim") && !stdout.contains('*'), "{stdout}");
    assert!(
        stderr.contains("not authenticated"),
        "the input is, and what rests on it alone would be: {stderr}"
    );
}
