//! `taptrail run --background`: the supervisor in a session of its own, and its first news.
//!
//! The parent starts its own program again with a pipe, and waits for one line: `ready PID`, or an
//! exit code and why.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, anyhow};
use rustix::pipe::{PipeFlags, pipe_with};
use taptrail_guest::{NOFOLLOW, log_file, make};
use taptrail_kernel::process::{BackgroundRequest, spawn_background};
use taptrail_record::GuestId;

use crate::Done;
use crate::cli::{Cli, Run};
use crate::output::{Failure, print};

/// A guest's name and an error chain fit; more is not news.
const NEWS: u64 = 64 * 1024;

pub(crate) fn start(cli: &Cli, run: &Run, guest: &GuestId) -> Done {
    make(&cli.run_dir, &guest.name)?;
    let log_path = log_file(&cli.run_dir, &guest.name);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(NOFOLLOW)
        .open(&log_path)
        .with_context(|| format!("Log {} can't be opened", log_path.display()))?;
    let (news, ready) = pipe_with(PipeFlags::CLOEXEC).context("Pipe can't be made")?;
    let arguments = arguments(cli, run, guest, ready.as_raw_fd());
    let request = BackgroundRequest { args: &arguments, output: log, ready: ready.as_fd() };
    let child = spawn_background(request).context("Supervisor can't be started in the background")?;
    drop(ready);
    let mut line = String::new();
    File::from(news).take(NEWS).read_to_string(&mut line).context("Supervisor's news can't be read")?;
    let line = line.trim_end();
    match line.split_once(' ') {
        Some(("ready", pid)) => print(&format!(
            "{} {} runs: QEMU has pid {pid}, its supervisor {}\n",
            guest.name,
            guest.uuid,
            child.id()
        )),
        Some((code, why)) => {
            let failure = Failure::from(anyhow!("{why}; more is in {}", log_path.display()));
            Err(failure.with_code(code.parse().unwrap_or(1)))
        }
        None => {
            Err(anyhow!("Supervisor ended without a word; what it said is in {}", log_path.display()).into())
        }
    }
}

/// Tells the parent that the guest runs.
pub(crate) fn tell_ready(news: &mut File, pid: u32) -> io::Result<()> {
    writeln!(news, "ready {pid}")
}

/// The same command, resolved, for the program in the background.
fn arguments(cli: &Cli, run: &Run, guest: &GuestId, ready: i32) -> Vec<OsString> {
    let option = |name: &str, value: OsString| {
        let mut word = OsString::from(name);
        word.push("=");
        word.push(value);
        word
    };
    let mut words = vec![
        option("--state-dir", cli.state_dir.clone().into()),
        option("--run-dir", cli.run_dir.clone().into()),
        "run".into(),
        option("--name", guest.name.clone().into()),
        option("--uuid", guest.uuid.to_string().into()),
        option("--audit", run.audit.as_str().into()),
        option("--hotplug-ports", run.hotplug_ports.to_string().into()),
        option("--stop-timeout", format!("{}ms", run.stop_timeout.as_millis()).into()),
        option("--ready-fd", ready.to_string().into()),
    ];
    words.extend(run.nic.iter().map(|nic| option("--nic", nic.into())));
    words.extend(run.user.iter().map(|user| option("--user", user.into())));
    words.extend(run.nft.iter().map(|nft| option("--nft", nft.into())));
    words.extend(run.no_sandbox.then(|| "--no-sandbox".into()));
    words.extend(std::iter::repeat_n("-v".into(), usize::from(cli.verbose)));
    words.extend(cli.quiet.then(|| "-q".into()));
    words.push("--".into());
    words.extend(run.command.iter().cloned());
    words
}
