//! What `taptrail run` is asked for, by its arguments or by a guest file, held against the host.
//!
//! One set of rules for both: only how a fault is shown differs.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use taptrail_guest::file::{self, Asked, FileError, GuestFile, Part};
use taptrail_guest::qemu::{CommandLine, CommandLineError};
use taptrail_guest::spec::{NicSpec, SpecError, check_unique};
use taptrail_guest::{Dirs, Options, caller, check_name, environment};
use taptrail_kernel::process::{Credentials, Limit, LimitError, PrivateDev};
use taptrail_record::GuestId;
use uuid::Uuid;

use crate::cli::Run;
use crate::output::{Failure, colors};

/// Where QEMU is looked for when it is named without a path. PATH is not asked: whoever sets it
/// would choose the program that root runs.
const PROGRAM_DIRS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/libexec", "/bin"];

/// A guest that is asked for.
pub(crate) struct Request {
    pub(crate) asked: Asked,
    /// Where faults are shown.
    file: Option<GuestFile>,
}

impl Request {
    /// What the arguments ask for, or the file that they name.
    pub(crate) fn new(arguments: &Run) -> Result<Self, Failure> {
        let mut request = match &arguments.file {
            Some(file) => Self::of_file(file)?,
            None => Self { asked: of_arguments(arguments)?, file: None },
        };
        if request.asked.nft.is_none() {
            request.asked.nft.clone_from(&arguments.nft);
        }
        Ok(request)
    }

    /// What a guest file asks for.
    pub(crate) fn of_file(path: &Path) -> Result<Self, Failure> {
        let text = file::read(path).map_err(Failure::input)?;
        let file = file::parse(&text, path).map_err(pointing_into_file)?;
        Ok(Self { asked: file.asked.clone(), file: Some(file) })
    }

    pub(crate) fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// All of it, validated before anything happens.
    pub(crate) fn options(&self, dirs: Dirs) -> Result<Options, Failure> {
        options(&self.asked, dirs).map_err(|(part, error)| self.wrong(part, error))
    }

    /// Who else may call the guest's API.
    pub(crate) fn allowed(&self) -> Result<Vec<u32>, Failure> {
        allowed(&self.asked).map_err(|(part, error)| self.wrong(part, error))
    }

    /// A fault, shown where it was asked for.
    pub(crate) fn wrong(&self, part: Part, error: anyhow::Error) -> Failure {
        match &self.file {
            Some(file) => pointing_into_file(file.wrong(part, format!("{error:#}"), in_a_file(&error))),
            None => Failure::input(error),
        }
    }
}

/// Messages name options of the command line; how a file says the same.
fn in_a_file(error: &anyhow::Error) -> Option<String> {
    let text = format!("{error:#}");
    let said = [
        ("--nic", "--nic SPEC is an entry of 'nics' in a guest file"),
        ("--device", "--device PATH is an entry of 'devices' in a guest file"),
        ("--name", "--name is 'name' in a guest file"),
        ("--uuid", "--uuid is 'uuid' in a guest file"),
        ("--user", "--user is 'user' in a guest file"),
    ];
    said.iter().find(|(option, _)| text.contains(option)).map(|(_, help)| (*help).to_owned())
}

fn pointing_into_file(error: FileError) -> Failure {
    let rendered = error.render(colors(&std::io::stderr()));
    Failure::pointing(error, rendered)
}

fn pointing_into_spec(error: SpecError) -> Failure {
    let rendered = error.render(colors(&std::io::stderr()));
    Failure::pointing(error, rendered)
}

fn of_arguments(arguments: &Run) -> Result<Asked, Failure> {
    let name = arguments.name.clone().unwrap_or_default();
    check_name(&name).map_err(Failure::input)?;
    let nics: Result<Vec<NicSpec>, SpecError> = arguments.nic.iter().map(|nic| nic.parse()).collect();
    let nics = nics.map_err(pointing_into_spec)?;
    check_unique(&nics).map_err(pointing_into_spec)?;
    let limits: Result<Vec<Limit>, LimitError> = arguments.limit.iter().map(|limit| limit.parse()).collect();
    Ok(Asked {
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

/// What is asked for as the guest is started with it, or which part of it can't be.
fn options(asked: &Asked, dirs: Dirs) -> Result<Options, (Part, anyhow::Error)> {
    let mut words = asked.command.iter().cloned();
    let program = words.next().unwrap_or_default();
    let program = find_program(Path::new(&program)).map_err(|error| (Part::Word(0), error))?;
    let in_command = |error: CommandLineError| (part_of_command(&error), error.into());
    let command = CommandLine::parse(program, words).map_err(in_command)?;
    for (index, device) in asked.devices.iter().enumerate() {
        PrivateDev::new([device.clone()]).map_err(|error| (Part::Device(index), error.into()))?;
    }
    let dev = asked.private_dev.then(|| PrivateDev::new(asked.devices.iter().cloned()));
    let dev = dev.transpose().map_err(|error| (Part::Command, error.into()))?;
    if let Some(dev) = &dev {
        command.check_devices(dev).map_err(in_command)?;
    }
    for (index, variable) in asked.env.iter().enumerate() {
        let one = environment(std::env::vars_os(), std::slice::from_ref(variable));
        one.map_err(|error| (Part::Variable(index), error.into()))?;
    }
    let environment =
        environment(std::env::vars_os(), &asked.env).map_err(|error| (Part::Command, error.into()))?;
    let user = asked.user.as_deref().map(Credentials::of_user).transpose();
    let user = user.map_err(|error| (Part::User, error.into()))?;
    let allow = allowed(asked)?;
    Ok(Options {
        guest: GuestId { name: asked.name.as_str().into(), uuid: asked.uuid.unwrap_or_else(Uuid::new_v4) },
        nics: asked.nics.clone(),
        command,
        user,
        dev,
        environment,
        limits: asked.limits.clone(),
        audit: asked.audit,
        dirs,
        nft: asked.nft.clone(),
        sandbox: asked.sandbox,
        hotplug_ports: asked.hotplug_ports,
        allow,
        revoke_unfiltered: asked.revoke_unfiltered,
        bpf: asked.bpf,
    })
}

/// Who may call the API. QEMU is not among them: what has taken it over would attach what it likes.
fn allowed(asked: &Asked) -> Result<Vec<u32>, (Part, anyhow::Error)> {
    let qemu = asked.user.as_deref().and_then(|user| Credentials::of_user(user).ok());
    let one = |(index, user): (usize, &String)| {
        let uid = caller(user).map_err(|error| (Part::Caller(index), error.into()))?;
        if qemu.as_ref().is_some_and(|qemu| qemu.uid == uid) {
            let text =
                format!("User '{user}' can't be allowed to call: QEMU runs as this user, and would call too");
            return Err((Part::Caller(index), anyhow!(text)));
        }
        Ok(uid)
    };
    asked.allow.iter().enumerate().map(one).collect()
}

/// The word that a fault of the command line is about: QEMU's arguments are counted from 1, and the program is word 0.
fn part_of_command(error: &CommandLineError) -> Part {
    match error {
        CommandLineError::OpensTap { position, .. }
        | CommandLineError::Reserved { position, .. }
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
    use super::*;

    #[test]
    fn a_program_is_never_looked_for_in_the_working_directory() {
        assert!(find_program(Path::new("./qemu")).is_err());
        assert!(find_program(Path::new("no-such-qemu")).is_err());
        assert_eq!(find_program(Path::new("/opt/q")).unwrap(), Path::new("/opt/q"));
        assert_eq!(find_program(Path::new("env")).unwrap(), Path::new("/usr/bin/env"));
    }
}
