use std::io;
use std::path::PathBuf;

/// Why an input can't be read at all. A line that can't be believed is no error: it is counted and
/// located, and reading goes on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The input can't be opened.
    #[error("{path} can't be opened")]
    Open {
        /// The input.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory's names can't be read.
    #[error("Directory {path} can't be read")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory has no logs.
    #[error("Directory {path} has no logs: no file in it is named like 'audit.log' or 'audit.log.1'")]
    NoLogs {
        /// The directory.
        path: PathBuf,
    },
    /// The names of a log's files change faster than they can be opened, or one of them has another name by now.
    #[error(
        "{path} was rotated while being read, so what it had is not read: read again, and name the directory for all \
         rotations"
    )]
    Rotated {
        /// The name.
        path: PathBuf,
    },
    /// The input stopped giving bytes, or they can't be decompressed.
    #[error("{name} can't be read on from byte {at}")]
    Read {
        /// The input.
        name: String,
        /// How many bytes of it were read before, decompressed.
        at: u64,
        /// Why.
        source: io::Error,
    },
    /// The input's lines are too far out of order to be put in order.
    #[error(
        "{name}:{line} is older than what was read thousands of records before, so the rest of {name} is not read: \
         give logs that were joined as the files that they were, or sort them by time"
    )]
    Disorder {
        /// The input.
        name: String,
        /// The first line that can't be put in order.
        line: u64,
    },
    /// Records that seem to be of one host are of two.
    #[error(
        "{first} and {second} can't be of one host '{host}': {why}. Give the logs of \
         each host as files of their own, and name the hosts by --assume-host NAME=PATH; or have auditd write node= \
         (name_format in auditd.conf)"
    )]
    TwoHosts {
        /// What both are said to be of.
        host: String,
        /// An earlier line, as FILE:LINE.
        first: String,
        /// The line that can't be of the same host.
        second: String,
        /// What shows that.
        why: &'static str,
    },
    /// Two directories, each taken for a host, have the same records.
    #[error(
        "{first} and {second} are the same record, so directories '{one}' and '{other}' are of one host: say so by \
         --assume-host NAME=PATH for both, or by --assume-host NAME"
    )]
    OneHost {
        /// The first directory's host.
        one: String,
        /// The second's.
        other: String,
        /// A line of the first, as FILE:LINE.
        first: String,
        /// The same record in the second.
        second: String,
    },
    /// An input is packed or encoded in a way that is not read.
    #[error("{name} is {what}, which is not read: give it by '{way} {name} | taptrail … -'")]
    Packed {
        /// The input.
        name: String,
        /// How.
        what: &'static str,
        /// The command that unpacks it.
        way: &'static str,
    },
    /// An input's lines name no host, and those of other inputs in its directory name several.
    #[error(
        "The lines of {name} name no host, and other logs in its directory tell of '{one}' and '{other}': say whose they \
         are by --assume-host NAME=PATH"
    )]
    SeveralNames {
        /// The input.
        name: String,
        /// The host that its lines were taken for.
        one: String,
        /// Another.
        other: String,
    },
    /// systemd's binary journal, which only its own library reads.
    #[error(
        "{name} is a binary journal: read it by 'journalctl --file {name} -o export _TRANSPORT=audit | taptrail trail -'"
    )]
    BinaryJournal {
        /// The input.
        name: String,
    },
}
