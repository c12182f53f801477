use std::fmt;
use std::ops::Range;

use taptrail_kernel::process::LimitError;

use super::FileKey;
use crate::DurationError;
use crate::run_dir::RunDirError;
use crate::spec::pointer::{Pointer, characters_before, printable};
use crate::spec::{self, Problem};

/// What is wrong with a guest's file.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// Not TOML.
    #[error("The file is not valid TOML")]
    Malformed(String),
    /// An unknown key.
    #[error("Key '{0}' is unknown")]
    UnknownKey(String),
    /// A required key is missing.
    #[error("Key '{0}' is missing")]
    NoKey(FileKey),
    /// A value of another kind.
    #[error("'{key}' can't be {found}: {needed} is needed")]
    Kind {
        /// The key.
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
        /// The key.
        key: FileKey,
        /// The limit.
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
        /// The key.
        key: FileKey,
        /// The value.
        text: String,
        /// The values that the key takes.
        choices: Vec<&'static str>,
    },
    /// Not a number, or out of its range.
    #[error("'{text}' can't be '{key}': a number from 0 to {max} is needed")]
    Number {
        /// The key.
        key: FileKey,
        /// The value.
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

/// A problem, and where in the text it is.
#[derive(Debug)]
pub(super) struct Fault {
    span: Range<usize>,
    problem: Box<FileProblem>,
    beside: Option<Range<usize>>,
    help: Option<String>,
}

impl Fault {
    pub(super) fn new(span: Range<usize>, problem: impl Into<FileProblem>) -> Self {
        Self { span, problem: Box::new(problem.into()), beside: None, help: None }
    }

    pub(super) fn beside(self, beside: Range<usize>) -> Self {
        Self { beside: Some(beside), ..self }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// A guest's file that is refused: one line by `Display`, with the text by [`FileError::render`].
#[derive(Debug)]
pub struct FileError {
    /// The file's name as it was given.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub problem: Box<FileProblem>,
    /// What to write instead.
    pub help: Option<String>,
    picture: Box<Picture>,
}

/// The data of [`FileError::render`].
#[derive(Debug)]
struct Picture {
    text: String,
    span: Range<usize>,
    beside: Option<Range<usize>>,
}

impl FileError {
    pub(super) fn new(file: &str, text: &str, fault: Fault) -> Self {
        let Fault { span, problem, beside, help } = fault;
        let before = &text[..text.floor_char_boundary(span.start)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: characters_before(&before[line_start..], before.len()) + 1,
            problem,
            help,
            picture: Box::new(Picture { text: text.to_owned(), span, beside }),
        }
    }

    /// The problem and the file's lines with a pointer into them; coloured for a terminal.
    pub fn render(&self, color: bool) -> String {
        let label = match &*self.problem {
            FileProblem::Malformed(why) => Some(why.as_str()),
            _ => None,
        };
        Pointer {
            title: &printable(&self.problem.to_string()),
            origin: Some(&self.file),
            text: &self.picture.text,
            span: self.picture.span.clone(),
            label,
            beside: self.picture.beside.clone(),
            help: self.help.as_deref(),
        }
        .render(color)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = printable(&self.problem.to_string());
        write!(f, "{}:{}:{}: {problem}", printable(&self.file), self.line, self.column)?;
        if let FileProblem::Malformed(why) = &*self.problem {
            write!(f, ": {}", printable(why))?;
        }
        match &self.help {
            Some(help) => write!(f, "; {}", printable(help)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FileError {}
