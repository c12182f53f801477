//! `taptrail run`.

use std::os::fd::RawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context, anyhow};
use taptrail_guest::qemu::CommandLine;
use taptrail_guest::spec::NicSpec;
use taptrail_guest::{
    AdoptOptions, Dirs, Ended, Options, RecoverOptions, RecoveredState, Running, StartError, SuperviseError,
    caller, check_name, environment, supervise,
};
use taptrail_kernel::process::{Credentials, Limit, LimitError, PrivateDev, take_inherited};
use taptrail_record::GuestId;
use tracing::warn;
use uuid::Uuid;

use crate::cli::{Cli, Run};
use crate::output::{Failure, colors};
use crate::{Done, background};

/// Where QEMU is looked for when it is named without a path. PATH is not asked: whoever sets it
/// would choose the program that root runs.
const PROGRAM_DIRS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/libexec", "/bin"];

pub(crate) fn run(cli: &Cli, arguments: &Run, dirs: Dirs) -> Done {
    let options = options(arguments, dirs)?;
    if arguments.background {
        return background::run(cli, arguments);
    }
    supervised(arguments.ready_fd, |ready| {
        if let Some(uuid) = orphan(arguments, &options)? {
            if arguments.uuid.is_some_and(|asked| asked != uuid) {
                return Err(anyhow!("Guest '{}' runs on with another uuid: {uuid}", arguments.name).into());
            }
            warn!("'{}' runs still, and is taken up as it is: this command line is not used", arguments.name);
            let adopt = AdoptOptions {
                name: arguments.name.clone(),
                audit: options.audit,
                dirs: options.dirs.clone(),
                nft: options.nft.clone(),
                allow: options.allow.clone(),
            };
            return Ok(taptrail_guest::adopt(&adopt, arguments.stop_timeout, ready)?);
        }
        supervise(options, arguments.stop_timeout, ready).map_err(failed)
    })
}

/// Settles what an earlier supervisor of this guest left behind; the guest's uuid, if it runs on without one.
fn orphan(arguments: &Run, options: &Options) -> Result<Option<Uuid>, Failure> {
    let recover = RecoverOptions {
        name: Some(arguments.name.clone()),
        audit: options.audit,
        dirs: options.dirs.clone(),
        nft: options.nft.clone(),
    };
    let mut orphan = None;
    for recovered in taptrail_guest::recover(&recover)? {
        if let RecoveredState::Orphaned { .. } = recovered.state? {
            orphan = Some(recovered.guest.uuid);
        }
    }
    Ok(orphan)
}

/// Supervises a guest in this process, and tells its news where they are waited for.
pub(crate) fn supervised(
    ready_fd: Option<RawFd>,
    supervise: impl FnOnce(&mut dyn FnMut(Running)) -> Result<Ended, Failure>,
) -> Done {
    if ready_fd.is_some() {
        // The kernel named this process after /proc/self/exe. Only its name in lists depends on it.
        let _ = rustix::thread::set_name(c"taptrail");
    }
    let news = ready_fd.map(take_inherited).transpose();
    let mut news = news.context("News can't be given to the background's parent")?.map(std::fs::File::from);
    let ended = supervise(&mut |running| {
        if let Some(mut news) = news.take() {
            // The parent may have been ended: the guest runs all the same.
            let _ = background::tell_ready(&mut news, running);
        }
    });
    match ended {
        Ok(ended) => Ok(exit_code(&ended)),
        Err(failure) => {
            if let Some(mut news) = news {
                let _ = background::tell_failure(&mut news, &failure);
            }
            Err(failure)
        }
    }
}

/// The arguments, resolved and validated before anything happens.
fn options(arguments: &Run, dirs: Dirs) -> Result<Options, Failure> {
    check_name(&arguments.name).map_err(Failure::input)?;
    let color = colors(&std::io::stderr());
    let mut nics = Vec::with_capacity(arguments.nic.len());
    for nic in &arguments.nic {
        let spec: NicSpec = nic.parse().map_err(|error: taptrail_guest::spec::SpecError| {
            let rendered = error.render(color);
            Failure::pointing(error, rendered)
        })?;
        nics.push(spec);
    }
    taptrail_guest::spec::check_unique(&nics).map_err(|error| {
        let rendered = error.render(color);
        Failure::pointing(error, rendered)
    })?;
    let mut words = arguments.command.iter().cloned();
    let program = words.next().unwrap_or_default();
    let program = find_program(Path::new(&program)).map_err(Failure::input)?;
    let command = CommandLine::parse(program, words).map_err(Failure::input)?;
    let dev = (!arguments.no_private_dev).then(|| PrivateDev::new(arguments.device.iter().cloned()));
    let dev = dev.transpose().map_err(Failure::input)?;
    if let Some(dev) = &dev {
        command.check_devices(dev).map_err(Failure::input)?;
    }
    let environment = environment(std::env::vars_os(), &arguments.env).map_err(Failure::input)?;
    let limits: Result<Vec<Limit>, LimitError> = arguments.limit.iter().map(|limit| limit.parse()).collect();
    let user = arguments.user.as_deref().map(Credentials::of_user).transpose().map_err(Failure::input)?;
    let allow = allowed(arguments, user.as_ref())?;
    let guest =
        GuestId { name: arguments.name.as_str().into(), uuid: arguments.uuid.unwrap_or_else(Uuid::new_v4) };
    Ok(Options {
        guest,
        nics,
        command,
        user,
        dev,
        environment,
        limits: limits.map_err(Failure::input)?,
        audit: arguments.audit.into(),
        dirs,
        nft: arguments.nft.clone(),
        sandbox: !arguments.no_sandbox,
        hotplug_ports: arguments.hotplug_ports,
        allow,
    })
}

/// Who may call the API. QEMU is not among them: what has taken it over would attach what it likes.
fn allowed(arguments: &Run, qemu: Option<&Credentials>) -> Result<Vec<u32>, Failure> {
    let mut allow = Vec::with_capacity(arguments.allow.len());
    for user in &arguments.allow {
        let uid = caller(user).map_err(Failure::input)?;
        if qemu.is_some_and(|qemu| qemu.uid == uid) {
            return Err(Failure::input(anyhow!(
                "User '{user}' can't be allowed to call: QEMU runs as this user, and would call too"
            )));
        }
        allow.push(uid);
    }
    Ok(allow)
}

fn find_program(program: &Path) -> anyhow::Result<PathBuf> {
    if program.is_absolute() {
        return Ok(program.to_owned());
    }
    if program.components().count() != 1 {
        return Err(anyhow!("QEMU '{}' needs an absolute path or a bare name", program.display()));
    }
    PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.is_file()).ok_or_else(|| {
        anyhow!(
            "QEMU '{}' is not in {}: install it, or give its absolute path",
            program.display(),
            PROGRAM_DIRS.join(", ")
        )
    })
}

fn failed(error: SuperviseError) -> Failure {
    match &error {
        SuperviseError::Start { source, .. } if let StartError::Refused(status) = **source => {
            Failure::from(error_text(status)).with_code(exit_number(status).max(1))
        }
        _ => error.into(),
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

    #[test]
    fn a_program_is_never_looked_for_in_the_working_directory() {
        assert!(find_program(Path::new("./qemu")).is_err());
        assert!(find_program(Path::new("no-such-qemu")).is_err());
        assert_eq!(find_program(Path::new("/opt/q")).unwrap(), Path::new("/opt/q"));
        assert_eq!(find_program(Path::new("env")).unwrap(), Path::new("/usr/bin/env"));
    }
}
