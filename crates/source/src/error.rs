use std::io;
use std::path::PathBuf;

/// Why an input can't be read. An unreadable line is no error: it is counted, its place is kept,
/// and reading goes on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The input can't be opened.
    #[error("{path} can't be opened")]
    Open {
        /// The input.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A directory's names can't be read.
    #[error("Directory {path} can't be read")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A directory contains no logs.
    #[error("Directory {path} has no logs: no file in it is named like 'audit.log' or 'audit.log.1'")]
    NoLogs {
        /// The directory.
        path: PathBuf,
    },
    /// The log was rotated while its files were opened: the names changed too often, or a file lost
    /// its name before it could be opened.
    #[error(
        "{path} was rotated while being read, so what it had is not read: read again, and name the directory for all \
         rotations"
    )]
    Rotated {
        /// The log's path.
        path: PathBuf,
    },
    /// A read of the input failed, or its bytes can't be decompressed.
    #[error("{name} can't be read on from byte {at}")]
    Read {
        /// The input.
        name: String,
        /// Bytes read before the error, decompressed.
        at: u64,
        /// The error.
        source: io::Error,
    },
    /// The input's lines are too far out of order to be sorted.
    #[error(
        "{name}:{line} is older than what was read thousands of records before, so the rest of {name} is not read: \
         give logs that were joined as the files that they were, or sort them by time"
    )]
    Disorder {
        /// The input.
        name: String,
        /// The first line that can't be sorted.
        line: u64,
    },
    /// Records assigned to one host are from two.
    #[error(
        "{first} and {second} can't be of one host '{host}': {why}. Give the logs of \
         each host as files of their own, and name the hosts by --assume-host NAME=PATH; or have auditd write node= \
         (name_format in auditd.conf)"
    )]
    TwoHosts {
        /// The host that both were assigned to.
        host: String,
        /// An earlier line, as FILE:LINE.
        first: String,
        /// The line that can't be from the same host, as FILE:LINE.
        second: String,
        /// The contradiction.
        why: &'static str,
    },
    /// Two directories, each taken for a host, contain the same records.
    #[error(
        "{first} and {second} are the same record, so directories '{one}' and '{other}' are of one host: say so by \
         --assume-host NAME=PATH for both, or by --assume-host NAME"
    )]
    OneHost {
        /// The first directory's host.
        one: String,
        /// The second's.
        other: String,
        /// A line in the first, as FILE:LINE.
        first: String,
        /// The same record in the second, as FILE:LINE.
        second: String,
    },
    /// An input is compressed or encoded in an unsupported format.
    #[error("{name} is {format}, which is not read: give it by '{command} {name} | taptrail … -'")]
    Packed {
        /// The input.
        name: String,
        /// The format, e.g. "packed by bzip2".
        format: &'static str,
        /// The command that decodes it to standard output.
        command: &'static str,
    },
    /// An input's lines name no host, and other inputs in its directory name several.
    #[error(
        "The lines of {name} name no host, and other logs in its directory name '{one}' and '{other}': say whose they \
         are by --assume-host NAME=PATH"
    )]
    SeveralNames {
        /// The input.
        name: String,
        /// The host that its lines were assigned to.
        one: String,
        /// Another host in the directory.
        other: String,
    },
    /// systemd's binary journal: only systemd's own library reads it.
    #[error(
        "{name} is a binary journal: read it by 'journalctl --file {name} -o export _TRANSPORT=audit | taptrail trail -'"
    )]
    BinaryJournal {
        /// The input.
        name: String,
    },
}
