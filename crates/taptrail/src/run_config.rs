//! The configuration of `taptrail run`, from its arguments or from a guest file, checked against
//! the host.
//!
//! One set of rules for both: only the display of errors differs.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use taptrail_guest::file::{self, FileError, GuestFile, GuestRequest, Part};
use taptrail_guest::qemu::{CommandLine, CommandLineError, RunOption};
use taptrail_guest::spec::{NicSpec, SpecError, check_unique};
use taptrail_guest::{Dirs, StartOptions, caller, check_name, environment};
use taptrail_kernel::process::{Credentials, Limit, LimitError, PrivateDev, PrivateDevError};
use taptrail_record::GuestId;
use uuid::Uuid;

use crate::cli::Run;
use crate::libvirt_xml;
use crate::output::{Failure, colors};

/// Where a QEMU without a path is searched. Not in PATH: whoever sets it would choose the program
/// that root runs.
pub(crate) const PROGRAM_DIRS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/libexec", "/bin"];

/// The configuration of a guest.
pub(crate) struct RunConfig {
    pub(crate) request: GuestRequest,
    /// The guest file, into which errors point.
    file: Option<GuestFile>,
}

impl RunConfig {
    /// Reads the configuration from the arguments, or from the file that they name.
    pub(crate) fn new(arguments: &Run) -> Result<Self, Failure> {
        let mut config = match &arguments.file {
            Some(file) => Self::of_file(file)?,
            None => Self { request: of_arguments(arguments)?, file: None },
        };
        if config.request.nft.is_none() {
            config.request.nft.clone_from(&arguments.nft);
        }
        Ok(config)
    }

    /// Reads the configuration from a guest file.
    pub(crate) fn of_file(path: &Path) -> Result<Self, Failure> {
        let text = file::read(path).map_err(Failure::input)?;
        let file = file::parse(&text, path).map_err(pointing_into_file)?;
        Ok(Self { request: file.request.clone(), file: Some(file) })
    }

    pub(crate) fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Checks the whole configuration against the host, before anything is started.
    pub(crate) fn options(&self, dirs: Dirs) -> Result<StartOptions, Failure> {
        options(&self.request, dirs).map_err(|(part, error)| self.wrong(part, error))
    }

    /// The users given by --allow.
    pub(crate) fn allowed(&self) -> Result<Vec<u32>, Failure> {
        allowed(&self.request).map_err(|(part, error)| self.wrong(part, error))
    }

    /// An error about a part of the configuration, shown in the guest file if there is one.
    pub(crate) fn wrong(&self, part: Part, error: anyhow::Error) -> Failure {
        match &self.file {
            Some(file) => {
                let help = in_a_file(&error).map(str::to_owned);
                pointing_into_file(file.wrong(part, format!("{error:#}"), help))
            }
            None => Failure::input(error),
        }
    }
}

/// The hint for a guest file, where a message names an option of the command line instead.
fn in_a_file(error: &anyhow::Error) -> Option<&'static str> {
    let option = match error.downcast_ref::<PrivateDevError>() {
        Some(PrivateDevError::Raw { .. }) => RunOption::Nic,
        _ => error.downcast_ref::<CommandLineError>()?.instead()?,
    };
    match option {
        RunOption::Nic => Some("--nic SPEC is an entry of 'nics' in a guest file"),
        RunOption::Device => Some("--device PATH is an entry of 'devices' in a guest file"),
        RunOption::Name => Some("--name is 'name' in a guest file"),
        RunOption::Uuid => Some("--uuid is 'uuid' in a guest file"),
        RunOption::User => Some("--user is 'user' in a guest file"),
        // How a guest is started is not in its file.
        RunOption::Background => None,
    }
}

fn pointing_into_file(error: FileError) -> Failure {
    let rendered = error.render(colors(&std::io::stderr()));
    Failure::pointing(error, rendered)
}

/// An error in a SPEC, shown in it.
pub(crate) fn pointing_into_spec(error: SpecError) -> Failure {
    let rendered = error.render(colors(&std::io::stderr()));
    Failure::pointing(error, rendered)
}

fn of_arguments(arguments: &Run) -> Result<GuestRequest, Failure> {
    let name = arguments.name.clone().unwrap_or_default();
    check_name(&name).map_err(Failure::input)?;
    let nics: Result<Vec<NicSpec>, SpecError> = arguments.nic.iter().map(|nic| nic.parse()).collect();
    let mut nics = nics.map_err(pointing_into_spec)?;
    nics.extend(libvirt_xml::domain(&arguments.libvirt)?);
    check_unique(&nics).map_err(pointing_into_spec)?;
    let limits: Result<Vec<Limit>, LimitError> = arguments.limit.iter().map(|limit| limit.parse()).collect();
    Ok(GuestRequest {
        name,
        uuid: arguments.uuid,
        nics,
        user: arguments.user.clone(),
        devices: arguments.device.clone(),
        private_dev: !arguments.no_private_dev,
        env: arguments.env.clone(),
        allow: arguments.allow.clone(),
        revoke_unfiltered: arguments.revoke_unfiltered,
        bpf: arguments.bpf,
        limits: limits.map_err(Failure::input)?,
        audit: arguments.audit.into(),
        hotplug_ports: arguments.hotplug_ports,
        sandbox: !arguments.no_sandbox,
        nft: None,
        stop_timeout: arguments.stop_timeout,
        command: arguments.command.clone(),
    })
}

/// Converts the configuration into the options of a start; an error names the part that is invalid.
fn options(request: &GuestRequest, dirs: Dirs) -> Result<StartOptions, (Part, anyhow::Error)> {
    let mut words = request.command.iter().cloned();
    let program = words.next().unwrap_or_default();
    let program = find_program(Path::new(&program)).map_err(|error| (Part::Word(0), error))?;
    let in_command = |error: CommandLineError| (part_of_command(&error), error.into());
    let command = CommandLine::parse(program, words).map_err(in_command)?;
    for (index, device) in request.devices.iter().enumerate() {
        PrivateDev::new([device.clone()]).map_err(|error| (Part::Device(index), error.into()))?;
    }
    let dev = request.private_dev.then(|| PrivateDev::new(request.devices.iter().cloned()));
    let dev = dev.transpose().map_err(|error| (Part::Command, error.into()))?;
    if let Some(dev) = &dev {
        command.check_devices(dev).map_err(in_command)?;
    }
    for (index, variable) in request.env.iter().enumerate() {
        let one = environment(std::env::vars_os(), std::slice::from_ref(variable));
        one.map_err(|error| (Part::Variable(index), error.into()))?;
    }
    let environment =
        environment(std::env::vars_os(), &request.env).map_err(|error| (Part::Command, error.into()))?;
    let user = request.user.as_deref().map(Credentials::of_user).transpose();
    let user = user.map_err(|error| (Part::User, error.into()))?;
    let allow = allowed(request)?;
    Ok(StartOptions {
        guest: GuestId {
            name: request.name.as_str().into(),
            uuid: request.uuid.unwrap_or_else(Uuid::new_v4),
        },
        nics: request.nics.clone(),
        command,
        user,
        dev,
        environment,
        limits: request.limits.clone(),
        audit: request.audit,
        dirs,
        nft: request.nft.clone(),
        sandbox: request.sandbox,
        hotplug_ports: request.hotplug_ports,
        allow,
        revoke_unfiltered: request.revoke_unfiltered,
        bpf: request.bpf,
    })
}

/// The uids of --allow. QEMU's own user is refused: a QEMU that was taken over could attach
/// interfaces.
fn allowed(request: &GuestRequest) -> Result<Vec<u32>, (Part, anyhow::Error)> {
    let qemu = request.user.as_deref().and_then(|user| Credentials::of_user(user).ok());
    let one = |(index, user): (usize, &String)| {
        let uid = caller(user).map_err(|error| (Part::Caller(index), error.into()))?;
        if qemu.as_ref().is_some_and(|qemu| qemu.uid == uid) {
            let text =
                format!("User '{user}' can't be allowed to call: QEMU runs as this user, and would call too");
            return Err((Part::Caller(index), anyhow!(text)));
        }
        Ok(uid)
    };
    request.allow.iter().enumerate().map(one).collect()
}

/// The word that an error of the command line is about: the program is word 0, and QEMU's arguments
/// are counted from 1.
fn part_of_command(error: &CommandLineError) -> Part {
    match error {
        CommandLineError::OpensTap { position, .. }
        | CommandLineError::Reserved { position, .. }
        | CommandLineError::ConfigReserved { position, .. }
        | CommandLineError::MissingValue { position, .. }
        | CommandLineError::Json { position, .. }
        | CommandLineError::Config { position, .. }
        | CommandLineError::Hidden { position, .. }
        | CommandLineError::Raw { position, .. } => Part::Word(*position),
        CommandLineError::ConfigOpensTap { .. } => Part::Command,
    }
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use taptrail_record::DeviceKind;

    use super::*;

    #[test]
    fn the_hint_for_a_guest_file_is_that_of_the_error_whatever_its_text_has() {
        let hint = |words: &[&str]| {
            let words = words.iter().map(OsString::from);
            in_a_file(&CommandLine::parse("qemu", words).expect_err("no QEMU's").into())
        };
        assert_eq!(hint(&["--name"]), None, "its value is missing");
        assert_eq!(hint(&["-daemonize"]), None);
        assert_eq!(hint(&["-uuid", "--nic"]), Some("--uuid is 'uuid' in a guest file"));
        assert_eq!(hint(&["-netdev", "tap"]), Some("--nic SPEC is an entry of 'nics' in a guest file"));
        let raw = PrivateDevError::Raw { path: "/dev/net/tun".into(), kind: DeviceKind::Tun };
        assert_eq!(in_a_file(&raw.into()), Some("--nic SPEC is an entry of 'nics' in a guest file"));
    }

    #[test]
    fn a_program_is_never_looked_for_in_the_working_directory() {
        assert!(find_program(Path::new("./qemu")).is_err());
        assert!(find_program(Path::new("no-such-qemu")).is_err());
        assert_eq!(find_program(Path::new("/opt/q")).unwrap(), Path::new("/opt/q"));
        assert_eq!(find_program(Path::new("env")).unwrap(), Path::new("/usr/bin/env"));
    }
}
