//! `taptrail doctor`: what this host has and lacks for taptrail's work. It changes nothing, and what
//! it may not see is unknown.

mod audit;
mod check;
mod feature;
mod kernel;
mod libvirt;
mod programs;
mod reach;
mod rights;
mod show;
mod state;
mod system;

use std::process::ExitCode;

use taptrail_guest::Dirs;
use taptrail_source::host_log;

use self::check::{Check, Readiness, Verdict};
use self::rights::Rights;
use self::system::System;
use crate::CommandResult;
use crate::cli::{Doctor, Job};
use crate::output::{page, print_json, style};

/// The exit codes when something essential is missing, or is not known to be there.
const LACKING: u8 = 1;
const UNKNOWN: u8 = 4;

pub(crate) fn doctor(arguments: &Doctor, dirs: &Dirs) -> CommandResult {
    let mut checks = all(arguments, dirs);
    let jobs = jobs(arguments, &checks);
    if !arguments.jobs.is_empty() {
        checks.retain(|check| jobs.iter().any(|job| check.weight(*job).is_some()));
    }
    let verdicts: Vec<_> = jobs.iter().map(|job| Verdict::of(*job, &checks)).collect();
    if arguments.output.is_json() {
        print_json(&show::Json::of(&checks, &verdicts))?;
    } else {
        page(&show::text(&checks, &verdicts, &style(false)))?;
    }
    Ok(exit_code(&verdicts, !arguments.jobs.is_empty()))
}

fn all(arguments: &Doctor, dirs: &Dirs) -> Vec<Check> {
    let system = System::host();
    let rights = Rights::of(&system);
    let log = host_log(arguments.log.as_deref());
    let mut checks = rights::checks(&rights, dirs);
    checks.extend(kernel::checks(&system, &rights, arguments.nft.as_deref()));
    checks.extend(audit::checks(&system, &log));
    checks.extend(libvirt::checks(&system));
    checks.extend(programs::checks(&system));
    checks.extend(state::checks(dirs, &log));
    checks
}

/// The jobs that the user names; by default all, and of these the bridge helper's only where it is
/// installed.
fn jobs(arguments: &Doctor, checks: &[Check]) -> Vec<Job> {
    if arguments.jobs.is_empty() {
        let has_helper = programs::has_helper(checks);
        return Job::ALL.into_iter().filter(|job| *job != Job::BridgeHelper || has_helper).collect();
    }
    let mut jobs = arguments.jobs.clone();
    jobs.sort_unstable();
    jobs.dedup();
    jobs
}

/// Without --for, only what is missing counts: nobody said that each job is to be done here with
/// these rights.
fn exit_code(verdicts: &[Verdict], is_named: bool) -> ExitCode {
    let any = |readiness| verdicts.iter().any(|verdict| verdict.readiness == readiness);
    match () {
        () if any(Readiness::Lacking) => ExitCode::from(LACKING),
        () if is_named && any(Readiness::Unknown) => ExitCode::from(UNKNOWN),
        () => ExitCode::SUCCESS,
    }
}
