//! A guest in a file: everything that `taptrail run` takes, in TOML.
//!
//! ```text
//! path ── read ── text ── parse ── GuestFile: what is asked for, and where in the text it stands
//! ```
//!
//! What is wrong is shown in place, with file, line and column: by this module what the text alone
//! shows, by [`GuestFile::wrong`] what only a look at the host does. Nothing is opened, made or asked of the network here.
//! The reference for users is `docs/guest-files.md`.

mod error;
mod key;
mod parse;
mod read;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use taptrail_kernel::process::Limit;
use uuid::Uuid;

pub use self::error::{FileError, FileProblem};
pub use self::key::FileKey;
pub use self::parse::{NICS_LIMIT, parse};
pub use self::read::{FILE_LIMIT, ReadError, read};

use self::error::Fault;
use crate::account::AuditMode;
use crate::spec::NicSpec;

/// What a guest is asked to be, by a command line or a file, before the host is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its name, one that [`check_name`](crate::check_name) takes.
    pub name: String,
    /// Its uuid; made when left out.
    pub uuid: Option<Uuid>,
    /// Its interfaces, which [`check_unique`](crate::spec::check_unique) takes.
    pub nics: Vec<NicSpec>,
    /// As whom QEMU runs.
    pub user: Option<String>,
    /// Devices of the host's that QEMU may open.
    pub devices: Vec<PathBuf>,
    /// QEMU has a `/dev` of its own.
    pub private_dev: bool,
    /// Variables for QEMU, `NAME` or `NAME=VALUE`.
    pub env: Vec<OsString>,
    /// Limits on QEMU.
    pub limits: Vec<Limit>,
    /// What the kernel's audit is asked for.
    pub audit: AuditMode,
    /// Who else may call the guest's API, by name or number.
    pub allow: Vec<String>,
    /// Revoke an interface whose filter was removed and can't be set again.
    pub revoke_unfiltered: bool,
    /// Have the kernel tell last closes by BPF, where it may be asked.
    pub bpf: bool,
    /// Free ports for later hot-plug.
    pub hotplug_ports: u8,
    /// Add QEMU's sandbox.
    pub sandbox: bool,
    /// The nft program, where it is not the system's.
    pub nft: Option<PathBuf>,
    /// How long a signal lets the guest shut down.
    pub stop_timeout: Duration,
    /// QEMU's program and its own arguments; one word at least.
    pub command: Vec<OsString>,
}

/// A part of what is asked for, to which something can be wrong that only the host shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The user.
    User,
    /// One of the devices, counted from 0.
    Device(usize),
    /// One of the variables, counted from 0.
    Variable(usize),
    /// One of those who may call, counted from 0.
    Caller(usize),
    /// The command as a whole.
    Command,
    /// One word of the command, counted from 0, which is the program.
    Word(usize),
}

/// A guest's file, read.
#[derive(Debug, Clone)]
pub struct GuestFile {
    /// What is asked for.
    pub asked: Asked,
    file: String,
    text: String,
    places: Vec<Place>,
}

/// Where a key's value stands, and each of its items.
#[derive(Debug, Clone)]
struct Place {
    key: FileKey,
    value: Range<usize>,
    items: Vec<Range<usize>>,
}

impl GuestFile {
    /// What is wrong with a part of it, shown in place.
    pub fn wrong(&self, part: Part, problem: impl fmt::Display, help: Option<String>) -> FileError {
        let (key, item) = match part {
            Part::User => (FileKey::User, None),
            Part::Device(index) => (FileKey::Devices, Some(index)),
            Part::Variable(index) => (FileKey::Env, Some(index)),
            Part::Caller(index) => (FileKey::Allow, Some(index)),
            Part::Command => (FileKey::Command, None),
            Part::Word(index) => (FileKey::Command, Some(index)),
        };
        let place = self.places.iter().find(|place| place.key == key);
        let span =
            place.map(|place| item.and_then(|index| place.items.get(index)).unwrap_or(&place.value).clone());
        let fault = Fault::new(span.unwrap_or(0..0), FileProblem::Refused(problem.to_string()));
        let fault = match help {
            Some(help) => fault.help(help),
            None => fault,
        };
        FileError::new(&self.file, &self.text, fault)
    }
}
