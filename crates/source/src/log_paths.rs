//! Which files are logs, by their names: those of a directory, and this host's audit log with its
//! rotations. Opens none of them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::SourceError;

/// Whether the path stands for standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// The paths of the files that [`expand`](crate::expand) finds for a path now; none for standard
/// input.
///
/// # Errors
///
/// A directory can't be read.
pub fn log_paths(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    if is_stdin(path) {
        return Ok(Vec::new());
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut names = Vec::new();
    visit_directories(path, 0, &mut |directory| {
        names.append(&mut list(directory)?.0);
        Ok(())
    })?;
    Ok(names)
}

/// Maximum depth of subdirectories.
const MAX_DEPTH: usize = 64;

/// Visits a directory and its subdirectories.
pub(crate) fn visit_directories(
    directory: &Path,
    depth: usize,
    visit: &mut dyn FnMut(&Path) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    visit(directory)?;
    if depth < MAX_DEPTH {
        for within in list(directory)?.1 {
            visit_directories(&within, depth + 1, visit)?;
        }
    }
    Ok(())
}

/// The logs in a directory, the newest rotation of each first, and the subdirectories.
pub(crate) fn list(directory: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), SourceError> {
    let failed = |source| SourceError::Directory { path: directory.to_owned(), source };
    let (mut logs, mut directories) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (name, path) = (entry.file_name(), entry.path());
        let hidden = name.as_encoded_bytes().starts_with(b".");
        // Links to directories are not followed: they may form a cycle.
        if entry.file_type().map_err(failed)?.is_dir() {
            if !hidden {
                directories.push(path);
            }
        } else if is_log(&name) && path.is_file() {
            logs.push(path);
        }
    }
    logs.sort_by_cached_key(|log| sort_key(log));
    Ok((logs, directories))
}

/// Sort key of logs: the rotations of each together, newest first.
pub(crate) fn sort_key(path: &Path) -> (PathBuf, u32, PathBuf) {
    (PathBuf::from(&*family(path)), rotation(path), path.to_owned())
}

/// The path of auditd's log on this host: `log`, if given, else as configured in auditd.conf(5).
pub fn host_log(log: Option<&Path>) -> PathBuf {
    if let Some(log) = log {
        return log.to_owned();
    }
    let conf = fs::read_to_string("/etc/audit/auditd.conf").unwrap_or_default();
    PathBuf::from(log_file(&conf).unwrap_or("/var/log/audit/audit.log"))
}

/// The current paths of the log that [`host_log`] names, and of its rotations.
///
/// # Errors
///
/// The log's directory can't be read.
pub fn host_log_paths(log: Option<&Path>) -> Result<Vec<PathBuf>, SourceError> {
    rotations(&host_log(log))
}

pub(crate) fn rotations(log: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let Some(name) = log.file_name() else { return Ok(Vec::new()) };
    let dir = log.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |source| SourceError::Directory { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let file = log.with_file_name(entry.file_name());
        if is_rotation(&entry.file_name(), name) && file.is_file() {
            files.push(file);
        }
    }
    files.sort_by_cached_key(|file| sort_key(file));
    Ok(files)
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

/// Whether a file in a directory is a log, by its name.
pub(crate) fn is_log(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let ends = |at: usize| name.as_bytes().get(at).is_none_or(|next| matches!(next, b'.' | b'-'));
    let is_named = |log: &&str| name.starts_with(*log) && ends(log.len());
    !name.starts_with('.')
        && (name.match_indices(".log").any(|(at, log)| ends(at + log.len()))
            || ["syslog", "messages"].iter().any(is_named))
}

/// The number of a rotation, e.g. 2 of `audit.log.2.gz`: the higher, the older. 0 if the name has
/// none.
pub(crate) fn rotation(path: &Path) -> u32 {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.rsplit('.').find_map(|part| part.parse().ok()).unwrap_or(0)
}

/// The path that a log and its rotations share: that of the newest.
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
    fn logs_in_a_directory_are_recognized_by_their_names() {
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
    fn rotations_are_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let of_log = ["audit.log", "audit.log.1", "audit.log.2.gz", "audit.log.10", "audit.log.11"];
        let all = [&of_log[..], &["syslog.2", "syslog.10"]].concat();
        all.iter().rev().for_each(|name| fs::write(path(name), "").unwrap());
        fs::write(path("audit.logs"), "").unwrap();
        assert_eq!(host_log_paths(Some(&path("audit.log"))).unwrap(), of_log.map(path));
        assert_eq!(log_paths(dir.path()).unwrap(), all.into_iter().map(path).collect::<Vec<_>>());
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
