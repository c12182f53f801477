//! `taptrail run`.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context, anyhow};
use taptrail_guest::{
    AdoptOptions, Dirs, Ended, Observer, RecoverOptions, RecoveredState, Running, StartError, SuperviseError,
    supervise,
};
use taptrail_kernel::process::take_inherited;
use tracing::warn;
use uuid::Uuid;

use crate::cli::{Cli, Run};
use crate::log::LogLimits;
use crate::output::Failure;
use crate::run_config::RunConfig;
use crate::unresponsive::claim_failure;
use crate::{CommandResult, background, log, stderr};

pub(crate) fn run(cli: &Cli, arguments: &Run, dirs: Dirs) -> CommandResult {
    let config = RunConfig::new(arguments)?;
    let request = &config.request;
    let options = match config.options(dirs.clone()) {
        Ok(options) => Some(options),
        // A guest that still runs is adopted, even if the host lacks something that its start would
        // need.
        Err(failure) if config.is_file() && runs_on(&request.name, &dirs) => {
            failure.report();
            None
        }
        Err(failure) => return Err(failure),
    };
    if arguments.background {
        return background::run(cli, arguments, request);
    }
    supervised(arguments.ready_fd, arguments.log.into(), |caller| {
        let adopt = AdoptOptions {
            name: request.name.clone(),
            audit: request.audit,
            dirs: dirs.clone(),
            nft: request.nft.clone(),
            allow: config.allowed()?,
            revoke_unfiltered: request.revoke_unfiltered,
            bpf: request.bpf,
        };
        if let Some(uuid) = orphan(&adopt)? {
            if request.uuid.is_some_and(|asked| asked != uuid) {
                return Err(anyhow!("Guest '{}' runs on with another uuid: {uuid}", request.name).into());
            }
            warn!(
                "'{}' is still running, and is taken up as it is: the given configuration is not used",
                request.name
            );
            return Ok(taptrail_guest::adopt(&adopt, request.stop_timeout, caller)?);
        }
        match options {
            Some(options) => supervise(options, request.stop_timeout, caller)
                .map_err(|error| failed(error, &request.name, &dirs)),
            // It ended between the two checks.
            None => Err(config.options(dirs).err().unwrap_or_else(|| anyhow!("Guest has just ended").into())),
        }
    })
}

/// Whether this guest runs without a supervisor.
fn runs_on(name: &str, dirs: &Dirs) -> bool {
    let all = taptrail_guest::unsupervised(dirs).unwrap_or_default();
    all.iter().any(|one| one.guest.name == name && one.pid.is_some())
}

/// Recovers after an earlier supervisor of this guest; returns the guest's uuid, if it runs on
/// without a supervisor.
fn orphan(adopt: &AdoptOptions) -> Result<Option<Uuid>, Failure> {
    let recover = RecoverOptions {
        name: Some(adopt.name.clone()),
        audit: adopt.audit,
        dirs: adopt.dirs.clone(),
        nft: adopt.nft.clone(),
    };
    let mut orphan = None;
    for recovered in taptrail_guest::recover(&recover)? {
        match recovered.state? {
            RecoveredState::Orphaned { .. } => orphan = Some(recovered.guest.uuid),
            RecoveredState::Elsewhere { netns } => {
                return Err(anyhow!(
                    "Guest '{}' has ended, and what is left of it is in another network namespace (net:[{netns}]): \
                     `taptrail recover` from there closes its account",
                    adopt.name
                )
                .into());
            }
            RecoveredState::Supervised | RecoveredState::Closed { .. } => {}
        }
    }
    Ok(orphan)
}

/// Supervises a guest in this process, and reports its start to a parent that waits on `ready_fd`.
pub(crate) fn supervised(
    ready_fd: Option<RawFd>,
    log_limits: LogLimits,
    supervise: impl FnOnce(&mut dyn Observer) -> Result<Ended, Failure>,
) -> CommandResult {
    if ready_fd.is_some() {
        // The kernel named this process after /proc/self/exe. Only its name in lists depends on it.
        let _ = rustix::thread::set_name(c"taptrail");
    }
    let news = ready_fd.map(take_inherited).transpose();
    let news = news.context("The start can't be reported to the parent of --background")?.map(File::from);
    let mut caller = Caller { background: news.is_some(), log_limits, news };
    let ended = supervise(&mut caller);
    if let Some(log) = log::current() {
        log.drain();
        log.close_caller();
    }
    let failure = match ended {
        Ok(ended) => return Ok(exit_code(&ended)),
        Err(failure) => failure,
    };
    if let Some(mut news) = caller.news {
        let _ = background::report_failure(&mut news, &failure);
        if log::current().is_none() {
            // The caller has the error, and prints it to the same standard error.
            return Ok(ExitCode::from(failure.code()));
        }
    }
    Err(failure)
}

/// The process that started the supervisor.
struct Caller {
    background: bool,
    log_limits: LogLimits,
    /// The pipe on which it waits for the report, until it has that.
    news: Option<File>,
}

impl Observer for Caller {
    fn claimed(&mut self, directory: &Path) -> io::Result<()> {
        if self.background {
            log::start(directory, self.log_limits)
        } else {
            stderr::forward_qemu_output(directory)
        }
    }

    fn running(&mut self, running: Running) {
        if let Some(mut news) = self.news.take() {
            // The parent may have been killed: the guest runs all the same.
            let _ = background::report_ready(&mut news, running);
        }
        if let Some(log) = log::current() {
            log.close_caller();
        }
    }
}

fn failed(error: SuperviseError, name: &str, dirs: &Dirs) -> Failure {
    match &error {
        SuperviseError::Start { source, .. } if let StartError::Refused(status) = **source => {
            Failure::from(error_text(status)).with_code(exit_number(status).max(1))
        }
        _ => claim_failure(error, name, dirs),
    }
}

fn error_text(status: ExitStatus) -> anyhow::Error {
    anyhow!("QEMU refused to start the guest (its message stands above): {status}")
}

fn exit_number(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1)
}

/// QEMU's exit code; for an adopted QEMU, whether it ended in order.
fn exit_code(ended: &Ended) -> ExitCode {
    match ended.status {
        Some(status) => ExitCode::from(exit_number(status)),
        None if ended.reason.is_orderly() => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_ends_with_qemus_code_or_its_signals() {
        assert_eq!(exit_number(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_number(ExitStatus::from_raw(9)), 137);
    }
}
