//! The kernel's auditing, for the tests that switch it: one switch for the whole machine.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use taptrail_record::{Line, Record};

/// The machine's auditing, held by this test until dropped, and then restored.
pub(crate) struct Auditing {
    was_on: bool,
    rules: Vec<Vec<&'static str>>,
    /// auditd, and its log.
    daemon: Option<(Child, PathBuf)>,
    plugins: Vec<(&'static str, String)>,
    /// A locked file with the commands that undo the changes: if a run is killed, the next one runs
    /// them.
    undo: Flock<File>,
}

impl Auditing {
    /// Switches auditing on or off. None where tests may not do that.
    pub(crate) fn switch(on: bool) -> Option<Self> {
        let set = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
        let allowed = set("CI", "true") || set("TAPTRAIL_TEST_AUDIT", "1");
        let path = "/run/lock/taptrail-audit.lock";
        let lock = File::options().create(true).read(true).append(true).open(path).unwrap();
        let mut undo = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
        let daemon = status("pid");
        if daemon != "0" {
            eprintln!("not run: this test turns auditing, which is that of auditd (process {daemon}) here");
            return None;
        }
        let mut left = String::new();
        undo.read_to_string(&mut left).unwrap();
        for arguments in left.lines() {
            // The killed run may not have made the change that this command undoes.
            let _ = Command::new("/sbin/auditctl").args(arguments.split(' ')).output().unwrap();
        }
        undo.set_len(0).unwrap();
        let was_on = enabled();
        if was_on != on {
            if !allowed {
                eprintln!("not run: this test turns auditing, which needs CI=true or TAPTRAIL_TEST_AUDIT=1");
                return None;
            }
            writeln!(undo, "-e {}", u8::from(was_on)).unwrap();
            auditctl(&["-e", if on { "1" } else { "0" }]);
        }
        Some(Self { was_on, rules: Vec::new(), daemon: None, plugins: Vec::new(), undo })
    }

    pub(crate) fn rule(&mut self, rule: &[&'static str]) {
        writeln!(self.undo, "-d {}", rule.join(" ")).unwrap();
        auditctl(&[&["-a"], rule].concat());
        self.rules.push(rule.to_vec());
    }

    /// Loads the packaged rules: the kernel logs each open(2) of a raw network device.
    pub(crate) fn packaged_rules(&mut self) {
        let rules = include_str!("../../../packaging/taptrail.rules").lines();
        for rule in rules.filter_map(|line| line.strip_prefix("-a ")) {
            self.rule(&rule.split(' ').collect::<Vec<_>>());
        }
    }

    /// Adds a plugin to the next auditd: its file's name and text.
    pub(crate) fn plugin(&mut self, name: &'static str, text: &str) {
        self.plugins.push((name, text.to_owned()));
    }

    /// Starts a real auditd with a log of its own.
    pub(crate) fn start_daemon(&mut self, dir: &Path) -> PathBuf {
        fs::create_dir(dir.join("auditd")).unwrap();
        fs::create_dir(dir.join("auditd/plugins.d")).unwrap();
        self.restart_daemon(dir)
    }

    /// Starts another auditd, which continues the log of the last one, if there was one.
    pub(crate) fn restart_daemon(&mut self, dir: &Path) -> PathBuf {
        let dir = dir.join("auditd");
        fs::create_dir_all(dir.join("plugins.d")).unwrap();
        for (name, text) in &self.plugins {
            let path = dir.join("plugins.d").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        for dir in [&dir, &dir.join("plugins.d")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let log = dir.join("audit.log");
        let settings = include_str!("../../config/auditd.conf").replace("DIR", dir.to_str().unwrap());
        fs::write(dir.join("auditd.conf"), settings).unwrap();
        fs::set_permissions(dir.join("auditd.conf"), fs::Permissions::from_mode(0o600)).unwrap();
        let output = File::create(dir.join("output")).unwrap();
        // auditd ends with the test, however that ends.
        let child = Command::new("/usr/bin/setpriv")
            .args(["--pdeathsig", "TERM", "/sbin/auditd", "-n", "-s", "nochange", "-c"])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let pid = child.id();
        self.daemon = Some((child, log.clone()));
        for _ in 0..500 {
            if status("pid") == pid.to_string() {
                return log;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("auditd did not come up: {}", fs::read_to_string(dir.join("output")).unwrap());
    }

    /// Ends auditd, so that its log is complete.
    pub(crate) fn end_daemon(&mut self) {
        if let Some((mut daemon, log)) = self.daemon.take() {
            // It does not write what the kernel still has for it.
            if enabled() && !thread::panicking() && log.exists() {
                wait_for_log(&log);
            }
            let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            daemon.wait().unwrap();
        }
    }
}

impl Drop for Auditing {
    fn drop(&mut self) {
        self.end_daemon();
        for rule in self.rules.drain(..) {
            auditctl(&[&["-d"], &rule[..]].concat());
        }
        if enabled() != self.was_on {
            auditctl(&["-e", if self.was_on { "1" } else { "0" }]);
        }
        self.undo.set_len(0).unwrap();
    }
}

pub(crate) fn auditctl(arguments: &[&str]) -> String {
    let output = Command::new("/sbin/auditctl").args(arguments).output().unwrap();
    assert!(output.status.success(), "auditctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn status(of: &str) -> String {
    let status = auditctl(&["-s"]);
    let value = status.lines().find_map(|line| line.strip_prefix(of)).unwrap_or_default();
    value.trim().to_owned()
}

fn enabled() -> bool {
    status("enabled ") != "0"
}

/// Waits until all earlier events are in the log that auditd writes.
pub(crate) fn wait_for_log(log: &Path) {
    static SETTLED: AtomicU32 = AtomicU32::new(0);
    let mark = format!("settled-{}-{}", std::process::id(), SETTLED.fetch_add(1, Ordering::Relaxed));
    auditctl(&["-m", &mark]);
    for _ in 0..6000 {
        if fs::read_to_string(log).unwrap().contains(&format!("{mark} ")) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("auditd has not written {mark} within a minute");
}

/// The records of one guest in a log that auditd wrote. (Other guests of this machine write there
/// too.)
pub(crate) fn records_of(log: &Path, uuid: &str) -> Vec<Record> {
    let text = fs::read_to_string(log).unwrap();
    let record = |line: &str| Line::parse(line.as_bytes()).ok()?.record().ok()?;
    text.lines().filter_map(record).filter(|record| record.guest.uuid.to_string() == uuid).collect()
}
