//! The kernel's auditing: one switch for the whole machine, and one daemon.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::programs::{AUDITCTL, AUDITD, Background, must, run, wait_for};

/// Every program that switches auditing, or has an auditd of its own, holds a lock of this file;
/// the tests, too.
const LOCK: &str = "/run/lock/taptrail-audit.lock";

/// `DIR` is the daemon's directory.
const SETTINGS: &str = include_str!("../../tests/config/auditd.conf");

/// Whether auditing may be switched on for a measurement.
pub(crate) fn is_allowed() -> bool {
    let set = |name, value| std::env::var_os(name).is_some_and(|found| found == value);
    set("CI", "true") || set("TAPTRAIL_TEST_AUDIT", "1")
}

/// A line of `auditctl -s`; none where the kernel has no auditing.
pub(crate) fn status(name: &str) -> Option<String> {
    let said = run(AUDITCTL, &["-s"]).ok().filter(|done| done.status == 0)?.said;
    let mut lines = said.lines().filter_map(|line| line.split_once(' '));
    lines.find_map(|(key, value)| (key == name).then(|| value.to_owned()))
}

/// The machine's auditing, which is this program's alone until it is dropped, and then as before.
#[derive(Debug)]
pub(crate) struct Auditing {
    is_turned_on: bool,
    rules: Vec<Vec<String>>,
    _lock: File,
}

impl Auditing {
    /// Waits for others to be done with it.
    pub(crate) fn lock() -> Result<Self> {
        let lock = File::options().create(true).append(true).open(LOCK).with_context(|| LOCK)?;
        lock.lock().with_context(|| LOCK)?;
        Ok(Self { is_turned_on: false, rules: Vec::new(), _lock: lock })
    }

    pub(crate) fn turn_on(&mut self) -> Result<()> {
        if status("enabled").is_some_and(|enabled| enabled == "0") {
            self.is_turned_on = true;
            must(AUDITCTL, &["-e", "1"])?;
        }
        Ok(())
    }

    /// Adds a rule: a list and an action, fields, keys.
    pub(crate) fn rule(&mut self, rule: &[&str]) -> Result<()> {
        self.rules.push(rule.iter().copied().map(String::from).collect());
        must(AUDITCTL, &[&["-a"], rule].concat())?;
        Ok(())
    }
}

impl Drop for Auditing {
    fn drop(&mut self) {
        for rule in &self.rules {
            let option = String::from("-d");
            let _ = run(AUDITCTL, &[&[option], &rule[..]].concat());
        }
        if self.is_turned_on {
            let _ = run(AUDITCTL, &["-e", "0"]);
        }
    }
}

/// Starts an auditd whose log is `audit.log` in this directory. `state` is its option `-s`:
/// `enable`, or `nochange`.
pub(crate) fn start_daemon(dir: &Path, state: &str) -> Result<Background> {
    let plugins = dir.join("plugins.d");
    fs::create_dir_all(&plugins).context("Can't make auditd's directories")?;
    let settings = dir.join("auditd.conf");
    fs::write(&settings, SETTINGS.replace("DIR", &dir.to_string_lossy()))?;
    for (path, mode) in [(dir, 0o700), (&plugins, 0o750), (&settings, 0o600)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    let output = File::create(dir.join("output"))?;
    let mut command = Command::new(AUDITD);
    command.args(["-n", "-s", state, "-c"]).arg(dir).current_dir("/").stdin(Stdio::null());
    let daemon = Background::start(command.stdout(output.try_clone()?).stderr(output))?;
    let registered = daemon.id().to_string();
    wait_for("auditd", || Ok(status("pid").is_some_and(|pid| pid == registered)))?;
    Ok(daemon)
}
