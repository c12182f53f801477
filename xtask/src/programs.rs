//! Programs, run and waited for.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt;

pub(crate) const AUDITCTL: &str = "/sbin/auditctl";
pub(crate) const AUDITD: &str = "/sbin/auditd";
pub(crate) const IP: &str = "/sbin/ip";
pub(crate) const NFT: &str = "/usr/sbin/nft";
pub(crate) const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// The exit status and output of a command.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) said: String,
}

pub(crate) fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> Result<Done> {
    // Audit records name the directory that a program runs in.
    let output = Command::new(program).args(arguments).current_dir("/").stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("Can't run {program}"))?;
    let said = [output.stdout, output.stderr].concat();
    Ok(Done {
        status: output.status.code().unwrap_or(-1),
        said: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}

/// As [`run`], for a command that must succeed.
pub(crate) fn must(program: &str, arguments: &[&str]) -> Result<String> {
    let Done { status, said } = run(program, arguments)?;
    interrupt::check()?;
    ensure!(status == 0, "{program} {} ended with status {status}: {said}", arguments.join(" "));
    Ok(said)
}

/// The standard output of a command that must succeed. Its standard error is shown with a failure.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("Can't run {}", words(command)))?;
    interrupt::check()?;
    let (said, status) = (String::from_utf8_lossy(&output.stderr), output.status);
    ensure!(status.success(), "{}: {status}: {}", words(command), said.trim());
    String::from_utf8(output.stdout).with_context(|| words(command))
}

/// A command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let mut words = command.get_program().to_string_lossy().into_owned();
    for word in command.get_args() {
        let _ = write!(words, " {}", word.to_string_lossy());
    }
    words
}

/// Fails if one of these programs is not there.
pub(crate) fn need(programs: &[&str], packages: &str) -> Result<()> {
    for program in programs {
        ensure!(Path::new(program).exists(), "{program} is missing: apt-get install {packages}");
    }
    Ok(())
}

/// A process that is ended by SIGTERM, and waited for, when this value is dropped.
#[derive(Debug)]
pub(crate) struct Background(Child);

impl Background {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        command.spawn().map(Self).with_context(|| format!("Can't run {}", words(command)))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It is not reaped yet, so its number is no other process's.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Emulated processors are slow, and shared ones slower.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for a condition that is expected to become true.
pub(crate) fn wait_for(what: &str, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !there()? {
        if Instant::now() >= end {
            bail!("Waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        interrupt::sleep(Duration::from_millis(20))?;
    }
    Ok(())
}
