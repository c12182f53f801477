//! What to read, before it is opened.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taptrail_trail::Entry;

use crate::SourceError;

/// Entries that are no log's, oldest first; what can't be believed is an error's text.
pub type Rows = Box<dyn Iterator<Item = Result<Entry, String>> + Send>;

/// One thing to read.
pub enum Input {
    /// A file of any shape, compressed or not, or a named pipe.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// Entries of another origin: a ledger's.
    Rows {
        /// Where they come from.
        name: Arc<str>,
        /// How many bytes they are stored in.
        bytes: u64,
        /// The entries.
        rows: Rows,
    },
}

/// The files that `path` means: itself, or a directory's logs and those of all directories in it.
///
/// These are the regular files named as logs are: `NAME.log`, `syslog` or `messages`, with `.N` or
/// `-DATE` of a rotation and the suffix of a compression. Others are left alone, and so are hidden ones
/// and links to directories.
///
/// # Errors
///
/// The directory can't be read or has no logs.
pub fn expand(path: &Path) -> Result<Vec<Input>, SourceError> {
    if path == Path::new("-") {
        return Ok(vec![Input::Stdin]);
    }
    if !path.is_dir() {
        return Ok(vec![Input::File(path.to_owned())]);
    }
    let mut files = Vec::new();
    collect(path, 0, &mut files)?;
    if files.is_empty() {
        return Err(SourceError::NoLogs { path: path.to_owned() });
    }
    files.sort();
    Ok(files.into_iter().map(Input::File).collect())
}

/// How deep directories are gone into.
const MAX_DEPTH: usize = 64;

fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let failed = |source| SourceError::Directory { path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (name, path) = (entry.file_name(), entry.path());
        let hidden = name.as_encoded_bytes().starts_with(b".");
        // A link to a directory may lead in a circle.
        if entry.file_type().map_err(failed)?.is_dir() {
            if !hidden && depth < MAX_DEPTH {
                collect(&path, depth + 1, files)?;
            }
        } else if is_log(&name) && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// Where auditd's log on this host is: `log`, if given, else what auditd.conf(5) says.
pub fn host_log(log: Option<&Path>) -> PathBuf {
    if let Some(log) = log {
        return log.to_owned();
    }
    let conf = fs::read_to_string("/etc/audit/auditd.conf").unwrap_or_default();
    PathBuf::from(log_file(&conf).unwrap_or("/var/log/audit/audit.log"))
}

/// That log with its rotations; empty when there is none.
///
/// # Errors
///
/// Its directory can't be read.
pub fn host_logs(log: Option<&Path>) -> Result<Vec<Input>, SourceError> {
    let log = host_log(log);
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return Ok(Vec::new()) };
    let failed = |source| SourceError::Directory { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if is_rotation(&entry.file_name(), name) && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files.into_iter().map(Input::File).collect())
}

/// `log_file` of an auditd.conf(5).
fn log_file(conf: &str) -> Option<&str> {
    conf.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim();
        (key.trim().eq_ignore_ascii_case("log_file") && value.starts_with('/')).then_some(value)
    })
}

/// Whether `file` is `log`, or one of its rotations.
pub(crate) fn is_rotation(file: &OsStr, log: &OsStr) -> bool {
    let rest = file.as_encoded_bytes().strip_prefix(log.as_encoded_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b".") || rest.starts_with(b"-"))
}

fn is_log(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let ends = |at: usize| name.as_bytes().get(at).is_none_or(|next| matches!(next, b'.' | b'-'));
    let is_named = |log: &&str| name.starts_with(*log) && ends(log.len());
    !name.starts_with('.')
        && (name.match_indices(".log").any(|(at, log)| ends(at + log.len()))
            || ["syslog", "messages"].iter().any(is_named))
}

/// The number of a rotation, `audit.log.2.gz`: the higher, the older. 0 for what is no rotation.
pub(crate) fn rotation(path: &Path) -> u32 {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.rsplit('.').find_map(|part| part.parse().ok()).unwrap_or(0)
}

/// What a log and its rotations have in common: the path of the newest.
pub(crate) fn family(path: &Path) -> Arc<str> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_rotations = |part: &str| part.parse::<u32>().is_ok() || ["gz", "xz", "zst"].contains(&part);
    let mut newest = &*name;
    while let Some((before, last)) = newest.rsplit_once('.')
        && is_rotations(last)
    {
        newest = before;
    }
    path.with_file_name(newest).display().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directorys_logs_are_told_by_their_names() {
        for name in [
            "audit.log",
            "audit.log.1",
            "audit.log.2.gz",
            "libvirtd.log-20261123",
            "audit.log.xz",
            "syslog.1",
            "messages-20261123",
        ] {
            assert!(is_log(OsStr::new(name)), "{name}");
        }
        for name in ["README", "truth.json", ".audit.log", "audit.logic", "log", "auditd.conf", "messages2"] {
            assert!(!is_log(OsStr::new(name)), "{name}");
        }
        assert!(is_rotation(OsStr::new("audit.log.1"), OsStr::new("audit.log")));
        assert!(!is_rotation(OsStr::new("audit.logs"), OsStr::new("audit.log")));
    }

    #[test]
    fn a_log_has_its_name_in_common_with_its_rotations_and_not_with_copies() {
        let families =
            ["d/audit.log", "d/audit.log.1", "d/audit.log.12.gz", "d/audit.log.copy", "d/syslog.1"]
                .map(|name| family(Path::new(name)));
        let expect = ["d/audit.log", "d/audit.log", "d/audit.log", "d/audit.log.copy", "d/syslog"];
        assert_eq!(families.each_ref().map(|family| &**family), expect);
    }

    #[test]
    fn an_older_rotation_has_a_higher_number() {
        let numbers = ["audit.log", "audit.log.1", "audit.log.12.gz"].map(|name| rotation(Path::new(name)));
        assert_eq!(numbers, [0, 1, 12]);
    }

    #[test]
    fn auditds_configuration_says_where_its_log_is() {
        assert_eq!(
            log_file("# log_file = /no\nlog_format = RAW\nlog_file = /srv/a.log\n"),
            Some("/srv/a.log")
        );
        assert_eq!(log_file("log_file = relative\n"), None);
    }
}
