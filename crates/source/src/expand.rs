//! Finds the inputs for paths, and for this host's audit log.

use std::path::{Path, PathBuf};

use crate::SourceError;
use crate::deferred::max_open;
use crate::input::Input;
use crate::log_paths::{host_log, is_stdin, list, rotations, sort_key, visit_directories};
use crate::snapshot;

/// The inputs for these paths: files, and the logs in directories and all their subdirectories. The
/// logs of a directory are opened as they were named at one moment. Also returns the errors.
///
/// A directory's logs are the regular files with a log's name: `NAME.log`, `syslog` or `messages`,
/// with `.N` or `-DATE` of a rotation and the suffix of a compression. Other files, hidden files
/// and links to directories are ignored.
pub fn expand(paths: &[PathBuf]) -> (Vec<Input>, Vec<SourceError>) {
    let (mut open_slots, mut failed) = (max_open(), Vec::new());
    // A pipe can be opened only once, to read it.
    let is_file = |path: &&PathBuf| !is_stdin(path) && path.is_file();
    let named: Vec<PathBuf> = paths.iter().filter(is_file).cloned().collect();
    let mut files = snapshot::files(&named, &mut open_slots, &mut failed).into_iter().peekable();
    let mut inputs = Vec::new();
    for path in paths {
        if let Some(file) = files.next_if(|file| file.path() == *path) {
            inputs.push(file);
        } else if is_stdin(path) {
            inputs.push(Input::Stdin);
        } else if path.is_dir() {
            match directory(path, &mut open_slots) {
                Ok(logs) => inputs.extend(logs),
                Err(error) => failed.push(error),
            }
        } else if !named.contains(path) {
            inputs.push(Input::File(path.clone()));
        }
    }
    (inputs, failed)
}

fn directory(path: &Path, open_slots: &mut usize) -> Result<Vec<Input>, SourceError> {
    let mut logs = Vec::new();
    visit_directories(path, 0, &mut |directory| {
        logs.append(&mut snapshot::directory(directory, &|| Ok(list(directory)?.0), open_slots)?);
        Ok(())
    })?;
    if logs.is_empty() {
        return Err(SourceError::NoLogs { path: path.to_owned() });
    }
    logs.sort_by_cached_key(|log| sort_key(log.path()));
    Ok(logs)
}

/// Auditd's log on this host, as [`host_log`] names it, with its rotations, opened as they were
/// named at one moment; empty if there is none.
///
/// # Errors
///
/// Its directory can't be read.
pub fn host_logs(log: Option<&Path>) -> Result<Vec<Input>, SourceError> {
    let log = host_log(log);
    snapshot::directory(&log, &|| rotations(&log), &mut max_open())
}
