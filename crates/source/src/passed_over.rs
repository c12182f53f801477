//! What a search of directories passes over: logs without a log's name, and directories without a
//! log beside directories with some. Whoever collected the files may have thought them read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bstr::ByteSlice as _;

use crate::hosts::is_log_directory;
use crate::log_paths::{is_log, is_stdin, log_paths, visit_directories};
use crate::open::Opened;
use crate::outcome::{Note, NoteKind};
use crate::shape;

/// Files without a log's name that are examined: a directory may be any.
const MAX_FILES_EXAMINED: usize = 10_000;

/// Lines of a file that are examined.
const MAX_LINES_EXAMINED: usize = 200;

/// Notes about what [`expand`](crate::expand) passes over in these paths' directories. A path that
/// is a file is read, whatever its name. What can't be read has no note: `expand` reports it.
pub fn passed_over(paths: &[PathBuf]) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut left = MAX_FILES_EXAMINED;
    for path in paths.iter().filter(|path| !is_stdin(path) && path.is_dir()) {
        // What can't be listed is reported by `expand`.
        let _ = visit_directories(path, 0, &mut |directory| {
            for file in other_files(directory) {
                // A file that is named is read, and one that was examined may be a big directory's.
                if left == 0 {
                    break;
                }
                left -= 1;
                if !paths.contains(&file) && has_audit_lines(&file) {
                    notes.push(note(&file, NoteKind::NotNamedAsLog));
                }
            }
            Ok(())
        });
        // Not those with a log that is named, or whose log is noted.
        let known: Vec<_> = notes.iter().map(|note| PathBuf::from(&*note.source)).collect();
        let has_known = |directory: &Path| {
            paths.iter().chain(&known).any(|file| file != path && file.starts_with(directory))
        };
        let without = without_logs(path).into_iter().filter(|directory| !has_known(directory));
        notes.extend(without.map(|directory| note(&directory, NoteKind::NoLogs)));
    }
    notes.sort_by(|one, other| one.source.cmp(&other.source));
    notes
}

fn note(path: &Path, kind: NoteKind) -> Note {
    Note { source: Arc::from(path.display().to_string()), kind }
}

/// The regular files in a directory that have no log's name, in the order of their names.
fn other_files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let is_other = |name: &std::ffi::OsStr| !is_log(name) && !name.as_encoded_bytes().starts_with(b".");
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| is_other(&entry.file_name()))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

/// Whether a file begins with lines of a log that has audit records.
fn has_audit_lines(path: &Path) -> bool {
    let Ok(Opened { head, .. }) = Opened::file(path) else { return false };
    let named = ["audit(", "_AUDIT_TYPE", "\"_TRANSPORT\"", "_TRANSPORT=audit", "VIRT_RESOURCE", "virt=kvm"];
    named.iter().any(|text| head.contains_str(text))
        && head
            .split(|&byte| byte == b'\n')
            .take(MAX_LINES_EXAMINED)
            .any(|line| shape::first_time(line).is_some())
}

/// The directories within this one that have no log, if several others beside them have logs: each
/// is likely to be a host's.
fn without_logs(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let is_host = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        entry.file_type().is_ok_and(|kind| kind.is_dir())
            && !name.as_encoded_bytes().starts_with(b".")
            && !is_log_directory(&name)
    };
    let paths = entries.flatten().filter(is_host).map(|entry| entry.path());
    // A directory that can't be searched is an error of its own.
    let (mut without, with): (Vec<_>, Vec<_>) =
        paths.partition(|path| log_paths(path).is_ok_and(|logs| logs.is_empty()));
    without.sort();
    if with.len() > 1 { without } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "type=VIRT_CONTROL msg=audit(1795460022.944:2592): pid=1 uid=0\n";

    /// The names and kinds of notes about a directory with these files; an empty text is a
    /// directory.
    fn noted(files: &[(&str, &str)], named: &[&str]) -> Vec<(String, NoteKind)> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            if text.is_empty() {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }
        let mut paths = vec![dir.path().to_owned()];
        paths.extend(named.iter().map(|name| dir.path().join(name)));
        let name =
            |note: Note| Path::new(&*note.source).strip_prefix(dir.path()).unwrap().display().to_string();
        passed_over(&paths).into_iter().map(|note| (name(note.clone()), note.kind)).collect()
    }

    #[test]
    fn a_log_without_a_logs_name_is_noted_unless_it_is_named() {
        let export = "__REALTIME_TIMESTAMP=1795460022944000\n_TRANSPORT=audit\nMESSAGE=x\n\n";
        let files = [
            ("audit.log", LINE),
            ("saved/ausearch.txt", LINE),
            ("saved/journal.export", export),
            ("saved/.hidden", LINE),
            ("README", "Records look like msg=audit(1795460022.944:2592)\n"),
            ("auditd.conf", "log_file = /var/log/audit/audit.log\n"),
        ];
        let not_named = |name: &str| (name.to_owned(), NoteKind::NotNamedAsLog);
        let (text, journal) = (not_named("saved/ausearch.txt"), not_named("saved/journal.export"));
        assert_eq!(noted(&files, &[]), [text, journal.clone()]);
        assert_eq!(noted(&files, &["saved/ausearch.txt"]), [journal]);
    }

    #[test]
    fn a_directory_without_logs_is_noted_beside_several_with_logs() {
        let files = [
            ("h1/audit.log", LINE),
            ("h2/log/audit.log", LINE),
            ("h3", ""),
            ("h4/README", "text"),
            ("h5/saved.txt", LINE),
        ];
        let none = |name: &str| (name.to_owned(), NoteKind::NoLogs);
        let unnamed = ("h5/saved.txt".to_owned(), NoteKind::NotNamedAsLog);
        assert_eq!(noted(&files, &[]), [none("h3"), none("h4"), unnamed]);
        assert_eq!(noted(&files, &["h5/saved.txt"]), [none("h3"), none("h4")]);
        // One host's directories.
        assert_eq!(noted(&[("audit/audit.log", LINE), ("libvirt/a.log", LINE), ("private", "")], &[]), []);
    }
}
