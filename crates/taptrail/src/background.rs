//! `--background` of `run` and `adopt`: starts the supervisor in a session of its own, and waits
//! for its first report.
//!
//! The parent starts its own program again with a pipe, and reads one line from it: `ready PID`, or
//! an exit code and the error. Warnings of the supervisor until then come by another pipe; the rest
//! is in its log.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use anyhow::{Context, anyhow};
use rustix::pipe::{PipeFlags, pipe_with};
use taptrail_guest::file::GuestRequest;
use taptrail_guest::spec::NicSpec;
use taptrail_guest::{Running, log_file};
use taptrail_kernel::process::{BackgroundRequest, spawn_background};

use crate::cli::{Adopt, Cli, LogOptions, Run};
use crate::output::{Failure, print};
use crate::{CommandResult, log};

/// Longest report: a guest's name and an error chain fit.
const MAX_NEWS_BYTES: u64 = 64 * 1024;

/// Starts the guest in the background.
pub(crate) fn run(cli: &Cli, run: &Run, request: &GuestRequest) -> CommandResult {
    start(cli, &request.name, run_words(run, &request.nics))
}

/// Adopts the guest in the background.
pub(crate) fn adopt(cli: &Cli, adopt: &Adopt) -> CommandResult {
    start(cli, &adopt.guest, adopt_words(adopt))
}

/// Starts this program again with these arguments, and waits for its report.
fn start(cli: &Cli, name: &str, words: Vec<OsString>) -> CommandResult {
    let (said, output) = pipe_with(PipeFlags::CLOEXEC).context("Pipe can't be made")?;
    let (news, ready) = pipe_with(PipeFlags::CLOEXEC).context("Pipe can't be made")?;
    let mut arguments = general_words(cli);
    let mut words = words.into_iter();
    // The command, then --ready-fd, then the command's own options.
    arguments.extend(words.next());
    arguments.push(option("--ready-fd", ready.as_raw_fd().to_string()));
    arguments.extend(words);
    let request = BackgroundRequest { args: &arguments, output: output.into(), ready: ready.as_fd() };
    let child = spawn_background(request).context("Supervisor can't be started in the background")?;
    drop(ready);
    // Passes on warnings, and QEMU's errors, until the report.
    let said = thread::spawn(move || io::copy(&mut File::from(said), &mut io::stderr()));
    let mut line = String::new();
    File::from(news)
        .take(MAX_NEWS_BYTES)
        .read_to_string(&mut line)
        .context("The supervisor's report can't be read")?;
    let line = line.trim_end();
    // An error of writing to standard error does not matter.
    let _ = said.join();
    let log_path = log_file(&cli.run_dir, name);
    match line.split_once(' ') {
        Some(("ready", news)) => {
            let (pid, uuid) = news.split_once(' ').unwrap_or((news, "?"));
            print(&format!("{name} {uuid} runs: QEMU has pid {pid}, its supervisor {}\n", child.id()))
        }
        Some((code, why)) => Err(Failure::from(anyhow!("{why}")).with_code(code.parse().unwrap_or(1))),
        None => {
            Err(anyhow!("The supervisor ended without a report; its log may be in {}", log_path.display())
                .into())
        }
    }
}

/// Reports to the parent that the guest runs.
pub(crate) fn report_ready(news: &mut File, running: Running) -> io::Result<()> {
    writeln!(news, "ready {} {}", running.pid, running.uuid)
}

/// Reports to the parent why the guest does not run.
pub(crate) fn report_failure(news: &mut File, failure: &Failure) -> io::Result<()> {
    let more = log::current().map(|log| format!("; more is in {}", log.path().display())).unwrap_or_default();
    writeln!(news, "{} {}{more}", failure.code(), failure.line())
}

/// The options of all commands, with their resolved values.
fn general_words(cli: &Cli) -> Vec<OsString> {
    let mut words = vec![option("--state-dir", &cli.state_dir), option("--run-dir", &cli.run_dir)];
    words.extend(std::iter::repeat_n("-v".into(), usize::from(cli.verbose)));
    words.extend(cli.quiet.then(|| "-q".into()));
    words
}

/// `nics`: the interfaces, those of libvirt's XML among them.
fn run_words(run: &Run, nics: &[NicSpec]) -> Vec<OsString> {
    if let Some(file) = &run.file {
        let mut words = vec!["run".into(), option("--file", file)];
        words.extend(run.nft.iter().map(|nft| option("--nft", nft)));
        words.extend(log_words(run.log));
        return words;
    }
    let mut words = vec![
        "run".into(),
        option("--audit", run.audit.as_str()),
        option("--hotplug-ports", run.hotplug_ports.to_string()),
        option("--stop-timeout", format!("{}ms", run.stop_timeout.as_millis())),
    ];
    words.extend(run.name.iter().map(|name| option("--name", name)));
    words.extend(run.uuid.map(|uuid| option("--uuid", uuid.to_string())));
    words.extend(nics.iter().map(|nic| option("--nic", nic.to_string())));
    words.extend(run.user.iter().map(|user| option("--user", user)));
    words.extend(run.device.iter().map(|device| option("--device", device)));
    words.extend(run.no_private_dev.then(|| "--no-private-dev".into()));
    words.extend(run.env.iter().map(|variable| option("--env", variable)));
    words.extend(run.limit.iter().map(|limit| option("--limit", limit)));
    words.extend(run.allow.iter().map(|user| option("--allow", user)));
    words.extend(run.nft.iter().map(|nft| option("--nft", nft)));
    words.extend(run.revoke_unfiltered.then(|| "--revoke-unfiltered".into()));
    words.extend(run.bpf.then(|| "--bpf".into()));
    words.extend(run.no_sandbox.then(|| "--no-sandbox".into()));
    words.extend(log_words(run.log));
    words.push("--".into());
    words.extend(run.command.iter().cloned());
    words
}

fn adopt_words(adopt: &Adopt) -> Vec<OsString> {
    let mut words = vec![
        "adopt".into(),
        option("--audit", adopt.audit.as_str()),
        option("--stop-timeout", format!("{}ms", adopt.stop_timeout.as_millis())),
    ];
    words.extend(adopt.allow.iter().map(|user| option("--allow", user)));
    words.extend(adopt.revoke_unfiltered.then(|| "--revoke-unfiltered".into()));
    words.extend(adopt.bpf.then(|| "--bpf".into()));
    words.extend(adopt.nft.iter().map(|nft| option("--nft", nft)));
    words.extend(log_words(adopt.log));
    words.extend(["--".into(), adopt.guest.clone().into()]);
    words
}

fn log_words(log: LogOptions) -> [OsString; 2] {
    [option("--log-size", log.log_size.to_string()), option("--log-files", log.log_files.to_string())]
}

fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}
