use taptrail_kernel::process::LimitError;

use super::FileKey;
use crate::DurationError;
use crate::run_dir::RunDirError;
use crate::spec::{self, Problem};
use crate::text_error::{self, TextError};

/// What is wrong with a guest's file.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// The text is not TOML.
    #[error("The file is not valid TOML")]
    Malformed(#[source] TomlError),
    /// An unknown key.
    #[error("Key '{0}' is unknown")]
    UnknownKey(String),
    /// A required key is missing.
    #[error("Key '{0}' is missing")]
    NoKey(FileKey),
    /// A value of another kind.
    #[error("'{key}' can't be {found}: {needed} is needed")]
    Kind {
        /// The key whose value is wrong.
        key: FileKey,
        /// The kind of the value.
        found: &'static str,
        /// The kind that the key needs.
        needed: &'static str,
    },
    /// An empty value.
    #[error("'{0}' is empty")]
    Empty(FileKey),
    /// Too many entries.
    #[error("'{key}' has more than {limit} entries")]
    TooMany {
        /// The key whose value is wrong.
        key: FileKey,
        /// How many entries the key takes at most.
        limit: usize,
    },
    /// A NUL, which no program, path or variable can have.
    #[error("NUL characters are not allowed here")]
    Nul,
    /// Not a guest's name.
    #[error(transparent)]
    Name(RunDirError),
    /// The file's own name can't be the guest's.
    #[error("The guest has no name, and the file's own can't be one")]
    NoName,
    /// Not a uuid.
    #[error("'{0}' is not a uuid")]
    Uuid(String),
    /// Not one of the values that the key takes.
    #[error("'{text}' can't be '{key}': {} is needed", spec::either(choices))]
    Choice {
        /// The key whose value is wrong.
        key: FileKey,
        /// The value as it is in the file.
        text: String,
        /// The values that the key takes.
        choices: Vec<&'static str>,
    },
    /// Not a number, or out of its range.
    #[error("'{text}' can't be '{key}': a number from 0 to {max} is needed")]
    Number {
        /// The key whose value is wrong.
        key: FileKey,
        /// The value as it is in the file.
        text: String,
        /// The highest that is taken.
        max: u8,
    },
    /// A relative path: its meaning would depend on the working directory.
    #[error("'{0}' is not an absolute path")]
    RelativePath(String),
    /// Without a `/dev` of its own QEMU sees all devices.
    #[error("'{}' have no meaning where '{}' is false", FileKey::Devices, FileKey::PrivateDev)]
    DevicesUnused,
    /// Not a limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Not a time.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// An invalid interface.
    #[error(transparent)]
    Nic(#[from] Problem),
    /// A check against the host failed.
    #[error("{0}")]
    Refused(String),
}

/// What the TOML parser says, on one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TomlError(pub(super) String);

/// A guest's file that is refused.
pub type FileError = TextError<FileProblem>;

pub(super) type Fault = text_error::Fault<FileProblem>;
