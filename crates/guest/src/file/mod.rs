//! A guest in a file: everything that `taptrail run` takes, in TOML.
//!
//! ```text
//! path ── read ── text ── parse ── GuestFile: what is asked for, and where in the text it stands
//! ```
//!
//! Errors are shown with file, line and column: this module finds those in the text, and
//! [`GuestFile::wrong`] shows those that the caller finds on the host. This module opens no device
//! and makes no link. The reference for users is `docs/guest-files.md`.

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

pub use self::error::{FileError, FileProblem, TomlError};
pub use self::key::FileKey;
pub use self::parse::{NICS_LIMIT, parse};
pub use self::read::{FILE_LIMIT, ReadError, read};

use self::error::Fault;
use crate::account::AuditMode;
use crate::spec::NicSpec;

/// The configuration of a guest, from a command line or a file, not yet checked against the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRequest {
    /// Its name, one that [`check_name`](crate::check_name) takes.
    pub name: String,
    /// Its uuid; made when left out.
    pub uuid: Option<Uuid>,
    /// Its interfaces, which [`check_unique`](crate::spec::check_unique) takes.
    pub nics: Vec<NicSpec>,
    /// The user that QEMU runs as.
    pub user: Option<String>,
    /// Devices of the host's that QEMU may open.
    pub devices: Vec<PathBuf>,
    /// QEMU has a `/dev` of its own.
    pub private_dev: bool,
    /// Variables for QEMU, `NAME` or `NAME=VALUE`.
    pub env: Vec<OsString>,
    /// Limits on QEMU.
    pub limits: Vec<Limit>,
    /// Whether records go to the kernel's audit.
    pub audit: AuditMode,
    /// Users who may call the guest's API, besides root and our own, by name or number.
    pub allow: Vec<String>,
    /// Revoke an interface whose filter was lost and can't be set again.
    pub revoke_unfiltered: bool,
    /// Have the kernel report last closes by BPF, if possible.
    pub bpf: bool,
    /// Free ports for later hot-plug.
    pub hotplug_ports: u8,
    /// Add QEMU's sandbox.
    pub sandbox: bool,
    /// Path of the nft program; `None` for the system's.
    pub nft: Option<PathBuf>,
    /// How long the guest may take to shut down after a signal.
    pub stop_timeout: Duration,
    /// QEMU's program and its own arguments; one word at least.
    pub command: Vec<OsString>,
}

/// A part of the configuration, for an error that only a check against the host finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The user that QEMU runs as.
    User,
    /// One of the devices, counted from 0.
    Device(usize),
    /// One of the variables, counted from 0.
    Variable(usize),
    /// One of the users who may call, counted from 0.
    Caller(usize),
    /// The command as a whole.
    Command,
    /// One word of the command, counted from 0, which is the program.
    Word(usize),
}

/// A guest's file, read.
#[derive(Debug, Clone)]
pub struct GuestFile {
    /// The configuration that the file asks for.
    pub request: GuestRequest,
    file: String,
    text: String,
    places: Vec<ValueSpan>,
}

/// Where the value of a key and each of its items stand in the text.
#[derive(Debug, Clone)]
struct ValueSpan {
    key: FileKey,
    value: Range<usize>,
    items: Vec<Range<usize>>,
}

impl GuestFile {
    /// An error about a part of the configuration, shown in place.
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
