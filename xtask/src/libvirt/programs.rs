//! Programs, run and waited for.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::suites::Daemons;

pub(super) const AUDITCTL: &str = "/sbin/auditctl";
pub(super) const AUDITD: &str = "/sbin/auditd";
/// libvirt runs it, for filters.
const EBTABLES: &str = "/usr/sbin/ebtables";
pub(super) const IP: &str = "/sbin/ip";
pub(super) const MODPROBE: &str = "/sbin/modprobe";
pub(super) const NFT: &str = "/usr/sbin/nft";
pub(super) const RMMOD: &str = "/sbin/rmmod";
pub(super) const VIRSH: &str = "/usr/bin/virsh";

/// The programs that a recording needs in addition to libvirt's daemons.
const TOOLS: [&str; 8] = [AUDITCTL, AUDITD, EBTABLES, IP, MODPROBE, NFT, RMMOD, VIRSH];

/// All programs that a recording needs.
pub(super) fn required(daemons: &Daemons) -> impl Iterator<Item = &'static str> + use<> {
    let helpers = daemons.helpers.iter().map(|helper| helper.program);
    TOOLS.into_iter().chain([daemons.main]).chain(helpers)
}

/// The exit status and output of a command.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) status: i32,
    pub(super) said: String,
}

pub(super) fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> Result<Done> {
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
pub(super) fn must(program: &str, arguments: &[&str]) -> Result<String> {
    let Done { status, said } = run(program, arguments)?;
    ensure!(status == 0, "{program} {} ended with status {status}: {said}", arguments.join(" "));
    Ok(said)
}

/// Emulated processors are slow, and shared ones slower.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for a condition that is expected to become true.
pub(super) fn wait_for(what: &str, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !there()? {
        if Instant::now() >= end {
            bail!("Waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
