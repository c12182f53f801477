use std::io;
use std::path::{Path, PathBuf};

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
        "No answer, as directories '{one}' and '{other}' have the logs of one host: {first} and {second} are the same \
         record. Leave one of them out, or say that they are one host's: {}",
        assumed(&[first, second])
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
    #[error(
        "{name} is {format}, which is not read: unpack it beside, or name - too and say whose it is: '{command} {name} | \
         taptrail … --assume-host HOST=- … -'"
    )]
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

/// The options that give the directories of these lines (FILE:LINE) one host's name.
fn assumed(lines: &[&String]) -> String {
    let option = |line: &&String| {
        let file = line.rsplit_once(':').map_or(line.as_str(), |(file, _)| file);
        let directory = Path::new(file).parent().filter(|path| !path.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).display().to_string();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
        if directory.bytes().all(is_plain) {
            format!("--assume-host NAME={directory}")
        } else {
            format!("--assume-host NAME='{}'", directory.replace('\'', "'\\''"))
        }
    };
    lines.iter().map(option).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_of_one_host_are_named_as_a_shell_takes_them() {
        let error = |first: &str, second: &str| SourceError::OneHost {
            one: "a".into(),
            other: "b".into(),
            first: first.into(),
            second: second.into(),
        };
        let text = error("logs/a/audit.log:3", "logs/it's b/audit.log:3").to_string();
        let options = r"--assume-host NAME=logs/a --assume-host NAME='logs/it'\''s b'";
        assert!(text.ends_with(options), "{text}");
        let text = error("audit.log:1", "b/audit.log:1").to_string();
        assert!(text.ends_with("--assume-host NAME=. --assume-host NAME=b"), "{text}");
    }
}
