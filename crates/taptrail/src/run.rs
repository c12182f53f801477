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

use crate::asked::Request;
use crate::cli::{Cli, Run};
use crate::output::Failure;
use crate::unresponsive::claim_failure;
use crate::{Done, background, log};

pub(crate) fn run(cli: &Cli, arguments: &Run, dirs: Dirs) -> Done {
    let request = Request::new(arguments)?;
    let asked = &request.asked;
    let options = match request.options(dirs.clone()) {
        Ok(options) => Some(options),
        // What the host lacks by now must not keep a guest that runs on from being taken up.
        Err(failure) if request.is_file() && runs_on(&asked.name, &dirs) => {
            failure.report();
            None
        }
        Err(failure) => return Err(failure),
    };
    if arguments.background {
        return background::run(cli, arguments, &asked.name);
    }
    supervised(arguments.ready_fd, |caller| {
        let adopt = AdoptOptions {
            name: asked.name.clone(),
            audit: asked.audit,
            dirs: dirs.clone(),
            nft: asked.nft.clone(),
            allow: request.allowed()?,
            revoke_unfiltered: asked.revoke_unfiltered,
            bpf: asked.bpf,
        };
        if let Some(uuid) = orphan(&adopt)? {
            if asked.uuid.is_some_and(|asked| asked != uuid) {
                return Err(anyhow!("Guest '{}' runs on with another uuid: {uuid}", asked.name).into());
            }
            warn!("'{}' runs still, and is taken up as it is: what is asked for is not used", asked.name);
            return Ok(taptrail_guest::adopt(&adopt, asked.stop_timeout, caller)?);
        }
        match options {
            Some(options) => supervise(options, asked.stop_timeout, caller)
                .map_err(|error| failed(error, &asked.name, &dirs)),
            // It ended between two looks.
            None => {
                Err(request.options(dirs).err().unwrap_or_else(|| anyhow!("Guest has just ended").into()))
            }
        }
    })
}

/// Does this guest run without a supervisor?
fn runs_on(name: &str, dirs: &Dirs) -> bool {
    let all = taptrail_guest::unsupervised(dirs).unwrap_or_default();
    all.iter().any(|one| one.guest.name == name && one.pid.is_some())
}

/// Settles what an earlier supervisor of this guest left behind; the guest's uuid, if it runs on without one.
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

/// Supervises a guest in this process, and tells its news where they are waited for.
pub(crate) fn supervised(
    ready_fd: Option<RawFd>,
    supervise: impl FnOnce(&mut dyn Observer) -> Result<Ended, Failure>,
) -> Done {
    if ready_fd.is_some() {
        // The kernel named this process after /proc/self/exe. Only its name in lists depends on it.
        let _ = rustix::thread::set_name(c"taptrail");
    }
    let news = ready_fd.map(take_inherited).transpose();
    let news = news.context("News can't be given to the background's parent")?.map(File::from);
    let mut caller = Caller { background: news.is_some(), news };
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
        let _ = background::tell_failure(&mut news, &failure);
        if log::current().is_none() {
            // Standard error is the caller's, who says it.
            return Ok(ExitCode::from(failure.code()));
        }
    }
    Err(failure)
}

/// Who started the supervisor.
struct Caller {
    background: bool,
    /// Where it waits for news, until it has them.
    news: Option<File>,
}

impl Observer for Caller {
    fn claimed(&mut self, directory: &Path) -> io::Result<()> {
        if self.background { log::start(directory) } else { log::forward_to_stderr(directory) }
    }

    fn running(&mut self, running: Running) {
        if let Some(mut news) = self.news.take() {
            // The parent may have been ended: the guest runs all the same.
            let _ = background::tell_ready(&mut news, running);
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

/// QEMU's own; of a QEMU that was adopted, whether it ended in order.
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
