use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use taptrail_record::is_visible;

use super::config::{self, ConfigError};
use super::fields::Fields;
use super::machine::{self, VirtioBus};
use super::options::{self, Given, MissingValue};
use super::suggest;

/// A QEMU command line that opens no tap by itself, and does not set what taptrail sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The QEMU to run.
    pub program: PathBuf,
    /// The user's own arguments, unchanged.
    pub args: Vec<OsString>,
    /// The machine type; `None`: QEMU's default.
    pub machine: Option<String>,
    /// The machine has PCI Express by an option (`pcie=on`).
    pub pcie: bool,
    /// The user wants the guest to stay paused (`-S`).
    pub paused: bool,
    /// The user's arguments have -sandbox.
    pub sandbox: bool,
}

/// The command line can't be used. Arguments are counted from 1, the program is none.
#[derive(Debug, thiserror::Error)]
pub enum CommandLineError {
    /// QEMU would open a raw network device by itself.
    #[error(
        "Argument {position} of QEMU, '{argument}', would open {device} that nobody records: use --nic {spec} {}",
        in_place_of(.nic)
    )]
    OpensTap {
        /// The position of the option among QEMU's arguments, from 1.
        position: usize,
        /// The option and its value, shortened.
        argument: String,
        /// What it would open.
        device: &'static str,
        /// What to ask for instead; to be filled in where it has capitals.
        spec: String,
        /// Which argument is the NIC on it, which then goes too.
        nic: Option<usize>,
    },
    /// A configuration file would have QEMU open a raw network device by itself.
    #[error(
        "Section [{group}] in line {line} of QEMU's configuration {path} would open {device} that nobody records: \
         use --nic {spec} in its place",
        path = path.display()
    )]
    ConfigOpensTap {
        /// The path of the configuration file.
        path: PathBuf,
        /// Where the section begins, from 1.
        line: usize,
        /// `netdev`, `net` or `nic`.
        group: String,
        /// What it would open.
        device: &'static str,
        /// What to ask for instead.
        spec: String,
    },
    /// An option that the user sets by an option of taptrail.
    #[error("Argument {position} of QEMU, '{argument}', is taptrail's own to set: use {instead} instead")]
    Reserved {
        /// The position of the option among QEMU's arguments, from 1.
        position: usize,
        /// The option and its value, shortened.
        argument: String,
        /// The option of taptrail's.
        instead: RunOption,
    },
    /// A configuration file would set the guest's name.
    #[error(
        "Argument {position} of QEMU, '{argument}', is taptrail's own to set: \
         use {} for its section [name] instead",
        RunOption::Name
    )]
    ConfigReserved {
        /// The position of the option among QEMU's arguments, from 1.
        position: usize,
        /// The option and the file.
        argument: String,
    },
    /// The last option lacks its value.
    #[error("Argument {position} of QEMU, '{argument}', needs a value")]
    MissingValue {
        /// The position of the option among QEMU's arguments, from 1.
        position: usize,
        /// The option, shortened.
        argument: String,
    },
    /// Whether it opens a tap can't be determined.
    #[error("Argument {position} of QEMU, '{argument}', can't be checked: its JSON is not plain JSON")]
    Json {
        /// The position of the option among QEMU's arguments, from 1.
        position: usize,
        /// The option and its value, shortened.
        argument: String,
        /// Where and why it is not.
        source: serde_json::Error,
    },
    /// Whether it opens a tap can't be determined.
    #[error("Argument {position} of QEMU, '{argument}', can't be checked")]
    Config {
        /// The position of the option among QEMU's arguments, from 1.
        position: usize,
        /// The option and the file.
        argument: String,
        /// What is wrong with the file.
        source: ConfigError,
    },
    /// QEMU would not find it.
    #[error(
        "Argument {position} of QEMU, '{argument}', names {path}, which its own /dev will not have: \
         allow it with --device {path}",
        path = path.display()
    )]
    Hidden {
        /// The position of the option among QEMU's arguments, from 1.
        position: usize,
        /// The option and its value, shortened.
        argument: String,
        /// The path of the device.
        path: PathBuf,
    },
    /// QEMU would open it past the audit.
    #[error(
        "Argument {position} of QEMU, '{argument}', names {path}, a raw network device: use --nic instead",
        path = path.display()
    )]
    Raw {
        /// The position of the option among QEMU's arguments, from 1.
        position: usize,
        /// The option and its value, shortened.
        argument: String,
        /// The path of the device.
        path: PathBuf,
    },
}

/// An option of `taptrail run` that does what an argument of QEMU would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOption {
    /// `--nic`: QEMU gets the device on record.
    Nic,
    /// `--device`: QEMU sees the device in its own `/dev`.
    Device,
    /// `--name`: the guest's name.
    Name,
    /// `--uuid`: the guest's uuid.
    Uuid,
    /// `--user`: the user that QEMU runs as.
    User,
    /// `--background`: the guest runs on when the command returns.
    Background,
}

impl RunOption {
    /// The option as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nic => "--nic",
            Self::Device => "--device",
            Self::Name => "--name",
            Self::Uuid => "--uuid",
            Self::User => "--user",
            Self::Background => "--background",
        }
    }
}

impl fmt::Display for RunOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl CommandLineError {
    /// The option of `taptrail run` that is to be used instead; `None` where there is none.
    pub fn instead(&self) -> Option<RunOption> {
        match self {
            Self::OpensTap { .. } | Self::ConfigOpensTap { .. } | Self::Raw { .. } => Some(RunOption::Nic),
            Self::Reserved { instead, .. } => Some(*instead),
            Self::ConfigReserved { .. } => Some(RunOption::Name),
            Self::Hidden { .. } => Some(RunOption::Device),
            Self::MissingValue { .. } | Self::Json { .. } | Self::Config { .. } => None,
        }
    }
}

fn in_place_of(nic: &Option<usize>) -> String {
    match nic {
        Some(nic) => format!("in its place and in that of argument {nic}"),
        None => "in its place".to_owned(),
    }
}

impl CommandLine {
    /// Checks the words of a command line; `program` is not looked for.
    ///
    /// `-readconfig` files are read here, and again by QEMU later. QEMU's own default
    /// configuration is not.
    ///
    /// # Errors
    /// See [`CommandLineError`].
    pub fn parse(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, CommandLineError> {
        let args: Vec<OsString> = args.into_iter().collect();
        let given = options::walk(&args).map_err(|MissingValue { position }| {
            let argument = args.last().map(|word| shown(&[word.as_os_str()])).unwrap_or_default();
            CommandLineError::MissingValue { position, argument }
        })?;
        let mut found = CommandLineCheck { nics: nics(&given), ..CommandLineCheck::default() };
        for option in &given {
            found.check_option(option)?;
        }
        let CommandLineCheck { machine, pcie, paused, sandbox, .. } = found;
        Ok(Self { program: program.into(), args, machine, pcie, paused, sandbox })
    }

    /// Whether a NIC can be plugged only into a `pcie-root-port` that is there from the start.
    pub fn needs_ports(&self) -> bool {
        machine::needs_ports(&self.program, self.machine.as_deref())
    }

    /// The bus of the machine's own virtio devices.
    pub fn virtio_bus(&self) -> VirtioBus {
        let machine = self.machine.as_deref().or(machine::default_machine(&self.program));
        VirtioBus::of_machine(machine::architecture(&self.program), machine, self.pcie)
    }
}

/// As a shell would take it.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(self.program.as_os_str()))?;
        self.args.iter().try_for_each(|word| write!(f, " {}", quoted(word)))
    }
}

/// A NIC on the command line, with its position: `-device` or `-net nic`.
struct Nic {
    position: usize,
    legacy: bool,
    fields: Fields,
}

fn nics(given: &[Given<'_>]) -> Vec<Nic> {
    let nic = |option: &Given<'_>| {
        let legacy = option.name == "net";
        let implied = match option.name {
            "device" => "driver",
            "net" => "type",
            _ => return None,
        };
        let fields = Fields::parse(&option.value.to_string_lossy(), implied).ok()?;
        let is_nic = if legacy { fields.get("type") == Some("nic") } else { fields.get("netdev").is_some() };
        is_nic.then_some(Nic { position: option.position, legacy, fields })
    };
    given.iter().filter_map(nic).collect()
}

#[derive(Default)]
struct CommandLineCheck {
    nics: Vec<Nic>,
    machine: Option<String>,
    pcie: bool,
    paused: bool,
    sandbox: bool,
}

impl CommandLineCheck {
    fn check_option(&mut self, option: &Given<'_>) -> Result<(), CommandLineError> {
        let text = option.value.to_string_lossy();
        match option.name {
            "netdev" | "net" | "nic" => self.check_backend(option, &text)?,
            "set" => check_set(option, &text)?,
            "readconfig" => self.check_config(option)?,
            "name" => return Err(reserved(option, RunOption::Name)),
            "uuid" => return Err(reserved(option, RunOption::Uuid)),
            "daemonize" => return Err(reserved(option, RunOption::Background)),
            "runas" => return Err(reserved(option, RunOption::User)),
            "run-with" if fields(&text, "").get("user").is_some() => {
                return Err(reserved(option, RunOption::User));
            }
            "machine" | "M" => self.set_machine(&fields(&text, "type")),
            "sandbox" => self.sandbox = true,
            "S" => self.paused = true,
            _ => {}
        }
        Ok(())
    }

    fn check_backend(&self, option: &Given<'_>, text: &str) -> Result<(), CommandLineError> {
        let fields = Fields::parse(text, "type").map_err(|source| CommandLineError::Json {
            position: option.position,
            argument: option.shown(),
            source,
        })?;
        let Some(device) = opened_device(&fields) else { return Ok(()) };
        let on_it = |nic: &&Nic| match option.name {
            "netdev" => !nic.legacy && nic.fields.get("netdev") == fields.get("id"),
            "net" => nic.legacy,
            _ => false,
        };
        let nic = self.nics.iter().find(on_it);
        Err(CommandLineError::OpensTap {
            position: option.position,
            argument: option.shown(),
            device,
            spec: suggest::spec(&fields, nic.map(|nic| &nic.fields)),
            nic: nic.map(|nic| nic.position),
        })
    }

    fn check_config(&mut self, option: &Given<'_>) -> Result<(), CommandLineError> {
        let path = Path::new(option.value);
        let sections = config::read(path).map_err(|source| CommandLineError::Config {
            position: option.position,
            argument: option.shown(),
            source,
        })?;
        for section in sections {
            match section.group.as_str() {
                "netdev" | "net" | "nic" if let Some(device) = opened_device(&section.fields) => {
                    return Err(CommandLineError::ConfigOpensTap {
                        path: path.to_owned(),
                        line: section.line,
                        group: section.group,
                        device,
                        spec: suggest::spec(&section.fields, None),
                    });
                }
                "name" => {
                    return Err(CommandLineError::ConfigReserved {
                        position: option.position,
                        argument: option.shown(),
                    });
                }
                "machine" => self.set_machine(&section.fields),
                "sandbox" => self.sandbox = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// Later options add to earlier ones: one without a type keeps the type.
    fn set_machine(&mut self, fields: &Fields) {
        if let Some(machine) = fields.get("type") {
            self.machine = Some(machine.to_owned());
        }
        if let Some(pcie) = fields.get("pcie") {
            self.pcie = matches!(pcie, "on" | "yes" | "true" | "y");
        }
    }
}

/// `-set GROUP.ID.NAME=VALUE` changes the value of another option.
fn check_set(option: &Given<'_>, text: &str) -> Result<(), CommandLineError> {
    let mut parts = text.splitn(3, '.');
    let (group, _id, assignment) = (parts.next(), parts.next(), parts.next());
    let is_backend = matches!(group, Some("netdev" | "net" | "nic"));
    let Some((name, value)) = assignment.and_then(|assignment| assignment.split_once('=')) else {
        return Ok(());
    };
    let mut fields = Fields::default();
    fields.push(name, value);
    let Some(device) = opened_device(&fields).filter(|_| is_backend) else { return Ok(()) };
    Err(CommandLineError::OpensTap {
        position: option.position,
        argument: option.shown(),
        device,
        spec: suggest::spec(&fields, None),
        nic: None,
    })
}

/// What a backend would open. Not only of the last type: whichever wins in this version of QEMU.
fn opened_device(fields: &Fields) -> Option<&'static str> {
    fields.all("type").find_map(|kind| match kind {
        "tap" | "bridge" => Some("a tap"),
        "vhost-vdpa" => Some("a vDPA device"),
        _ => None,
    })
}

fn fields(text: &str, implied: &str) -> Fields {
    Fields::parse(text, implied).unwrap_or_default()
}

fn reserved(option: &Given<'_>, instead: RunOption) -> CommandLineError {
    CommandLineError::Reserved { position: option.position, argument: option.shown(), instead }
}

impl Given<'_> {
    fn shown(&self) -> String {
        let option = OsString::from(format!("-{}", self.name));
        if self.value.is_empty() { shown(&[&option]) } else { shown(&[&option, self.value]) }
    }
}

/// Arguments, shortened for a message.
pub(super) fn shown(words: &[&OsStr]) -> String {
    const LIMIT: usize = 120;
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let mut text = String::new();
    for c in words.join(" ").chars() {
        if text.len() > LIMIT {
            text.push('…');
            break;
        }
        if is_visible(c) { text.push(c) } else { text.extend(c.escape_default()) }
    }
    text
}

fn quoted(word: &OsStr) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./,:=+@%".contains(c);
    let word = word.to_string_lossy();
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
