//! Records a real libvirt in the virtual machine: its logs about guests with a real vhost-net, and
//! the descriptors that their QEMUs held. `crate::suites` lists the versions.
//! tests/data/libvirt/README.md says what a recording consists of.
//!
//! | File | What |
//! |---|---|
//! | `scenarios`, `guest` | the scenarios and their guests |
//! | `stage` | runs one scenario |
//! | `lab`, `programs`, `versions` | the host that libvirt runs on, with the settings of tests/config |
//! | `poller`, `descriptors`, `command_line`, `intervals` | the witness: which process holds which descriptor when |
//! | `truth`, `window` | the recording's files |
//!
//! This machine starts the virtual machine and unpacks its output; everything else happens inside.

mod command_line;
mod descriptors;
mod guest;
mod intervals;
mod lab;
mod poller;
mod programs;
mod scenarios;
mod stage;
mod truth;
mod versions;
mod window;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use self::lab::Lab;
use self::poller::Poller;
use self::scenarios::Scenario;
use self::stage::{Recorded, Stage};
use crate::cli::{RecordArguments, ScenariosArguments, VmArguments};
use crate::suites::{self, Daemons};
use crate::vm;

pub(crate) use self::scenarios::ALL;

/// The chore's name inside of the virtual machine.
pub(crate) const INSIDE: &str = "libvirt-scenarios";

/// Records all scenarios, or the named ones, into a directory.
pub(crate) fn record(arguments: &RecordArguments) -> Result<ExitCode> {
    let suite = arguments.suite.as_deref();
    if suite.is_none() {
        for program in programs::required(suites::INSTALLED) {
            ensure!(Path::new(program).exists(), "{program} is missing: run scripts/setup test");
        }
    }
    let mut command = vec![vm::seen_inside(suite, &std::env::current_exe()?).into(), INSIDE.into()];
    command.extend(suite.into_iter().flat_map(|name| ["--suite".into(), OsString::from(name)]));
    command.extend(arguments.only.iter().map(OsString::from));
    let vm = VmArguments {
        kernel: arguments.kernel.clone(),
        suite: arguments.suite.clone(),
        over: arguments.over.clone(),
        update: false,
        timeout: arguments.timeout,
        variables: Vec::new(),
        kvm: false,
        // With two emulated processors, a kernel that changes its own code (as KVM makes it do)
        // sometimes dies.
        cpus: 1,
        memory: 3072,
        append: String::new(),
        console: false,
        command,
    };
    let mut archive = Vec::new();
    let status = vm::run_into(&vm, &mut archive);
    // Recordings before a failure are kept, even if the virtual machine died.
    let mut archive = tar::Archive::new(&archive[..]);
    archive.set_preserve_mtime(false);
    archive
        .unpack(&arguments.dir)
        .with_context(|| format!("Can't unpack the recordings into {}", arguments.dir.display()))?;
    status.map(ExitCode::from)
}

/// Plays scenarios in the virtual machine and writes their recordings to standard output, as a tar
/// archive.
pub(crate) fn play(arguments: &ScenariosArguments) -> Result<ExitCode> {
    // It changes the host that it runs on.
    let first = std::fs::read_link("/proc/1/exe").context("The first process is not known")?;
    ensure!(
        first == std::env::current_exe()?,
        "The scenarios are for the virtual machine: cargo xtask record-libvirt"
    );
    let mut lab = Lab::set_up(daemons(arguments.suite.as_deref())?)?;
    let folder = lab.versions().folder();
    let poller = Poller::start(std::process::id());
    let mut archive = tar::Builder::new(std::io::stdout());
    let mut stderr = std::io::stderr();
    let mut failed = false;
    let asked = |scenario: &&Scenario| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| name == scenario.name)
    };
    for scenario in ALL.iter().filter(asked) {
        let recorded = play_one(scenario, &mut lab, &poller);
        let said = match recorded {
            Ok(recorded) => {
                append(&mut archive, &format!("{folder}/{}", scenario.name), &recorded)?;
                "recorded".to_owned()
            }
            Err(error) => {
                failed = true;
                format!("{error:#}")
            }
        };
        let _ = writeln!(stderr, "xtask: {}: {said}", scenario.name);
    }
    archive.finish()?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn play_one(scenario: &Scenario, lab: &mut Lab, poller: &Poller) -> Result<Recorded> {
    let mut stage = Stage::begin(scenario.name, lab, poller)?;
    let played = (scenario.play)(&mut stage);
    if played.is_err() {
        stage.clear_away();
    }
    let recorded = stage.end(scenario.what)?;
    played.map(|()| recorded)
}

/// The daemons of the suite, or of this machine's own libvirt.
fn daemons(suite: Option<&str>) -> Result<&'static Daemons> {
    match suite {
        None => Ok(suites::INSTALLED),
        Some(name) => {
            let suite = suites::named(name).context("No suite of this name")?;
            suite.daemons(|path| Path::new(path).exists()).context("None of libvirt's daemons is installed")
        }
    }
}

/// The recording's files, in this directory.
fn append(archive: &mut tar::Builder<impl Write>, directory: &str, recorded: &Recorded) -> Result<()> {
    let readme = format!("{}\n{}\n", recorded.truth.what, recorded.truth.notes.join("\n"));
    let truth = format!("{:#}\n", serde_json::to_value(&recorded.truth)?);
    let files = [
        ("README", &readme),
        ("audit.log", &recorded.audit_log),
        ("libvirtd.log", &recorded.daemon_log),
        ("truth.json", &truth),
    ];
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len())?);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, format!("{directory}/{name}"), text.as_bytes())?;
    }
    archive.get_mut().flush()?;
    Ok(())
}
