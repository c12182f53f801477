//! Opens a set of log files as they were named at one moment, although a rotation may rename them
//! meanwhile.
//!
//! A rotation gives each file the name of the next older one. A program that lists the names and
//! opens them later reads one file twice and misses another. So the names are listed, all files
//! opened, and the names listed again, until nothing has changed between the two lists. From then
//! on a file is identified by its descriptor, whatever its name.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::SourceError;
use crate::deferred::{FileIdentity, FromStart};
use crate::input::{Input, SnapshotFile};
use crate::open::Packing;

/// How often names are listed while rotations change them.
const MAX_LISTINGS: u32 = 100;

/// Pause between two attempts: a rotation of some thousand files takes a while.
const LISTING_PAUSE: Duration = Duration::from_millis(2);

/// A snapshot of some names, in their order.
struct Snapshot {
    inputs: Vec<Input>,
    /// Names of files that were opened in an earlier attempt and have none of these names any more.
    moved: Vec<PathBuf>,
}

/// Opens the files that have these names at one moment. A file that can't be opened becomes an
/// `Input::File`: reading it reports the error. `open_slots`: how many files may be kept open.
fn take(
    names: &dyn Fn() -> Result<Vec<PathBuf>, SourceError>,
    of: &Path,
    open_slots: &mut usize,
) -> Result<Snapshot, SourceError> {
    let mut seen: HashMap<FileIdentity, PathBuf> = HashMap::new();
    for attempt in 0..MAX_LISTINGS {
        if attempt > 0 {
            thread::sleep(LISTING_PAUSE);
        }
        let listed = names()?;
        let mut left = *open_slots;
        let opened: Vec<_> = listed.iter().map(|path| SnapshotFile::open(path, &mut left)).collect();
        let files = || opened.iter().filter_map(|file| file.as_ref().ok());
        seen.extend(files().map(|file| (file.identity, file.path().to_owned())));
        // Two equal listings: nothing was renamed between the last file opened and the first one
        // checked again.
        let same = |(path, file): (&PathBuf, &io::Result<SnapshotFile>)| match file {
            Ok(file) => fs::metadata(path).is_ok_and(|about| FileIdentity::of(&about) == file.identity),
            // It may have been renamed after it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => !path.exists(),
            Err(_) => true,
        };
        if names()? == listed && listed.iter().zip(&opened).all(same) {
            *open_slots = left;
            for file in files() {
                seen.remove(&file.identity);
            }
            let inputs = listed.into_iter().zip(opened);
            let inputs = inputs.map(|(path, file)| file.map_or(Input::File(path), Input::Opened)).collect();
            return Ok(Snapshot { inputs, moved: seen.into_values().collect() });
        }
    }
    Err(SourceError::Rotated { path: of.to_owned() })
}

/// The logs of a directory that `names` lists. Each file counts once, even with several names.
pub(crate) fn directory(
    directory: &Path,
    names: &dyn Fn() -> Result<Vec<PathBuf>, SourceError>,
    open_slots: &mut usize,
) -> Result<Vec<Input>, SourceError> {
    // Files removed meanwhile were beyond the number of rotations kept.
    let mut inputs = take(names, directory, open_slots)?.inputs;
    // If a file has several names, prefer one that is not a symbolic link.
    let mut names: HashMap<FileIdentity, (PathBuf, bool)> = HashMap::new();
    for file in inputs.iter().filter_map(snapshot_file) {
        let is_link = fs::symlink_metadata(file.path()).is_ok_and(|about| about.is_symlink());
        match names.get(&file.identity) {
            Some((_, false)) => {}
            Some(_) if is_link => {}
            _ => {
                names.insert(file.identity, (file.path().to_owned(), is_link));
            }
        }
    }
    let is_named =
        |file: &SnapshotFile| names.get(&file.identity).is_some_and(|(path, _)| path == file.path());
    inputs.retain(|input| snapshot_file(input).is_none_or(is_named));
    let copies: HashSet<PathBuf> = inputs.iter().filter_map(|input| packed_copy(input, &inputs)).collect();
    inputs.retain(|input| snapshot_file(input).is_none_or(|file| !copies.contains(file.path())));
    for input in &mut inputs {
        if let Input::Opened(file) = input {
            let is_its = |copy: &&PathBuf| copy.with_extension("") == file.path();
            file.packed_copies = copies.iter().filter(is_its).cloned().collect();
            file.packed_copies.sort();
        }
    }
    Ok(inputs)
}

fn snapshot_file(input: &Input) -> Option<&SnapshotFile> {
    match input {
        Input::Opened(file) => Some(file),
        _ => None,
    }
}

/// The files with these names, in their order. If a rotation moved a file away from these names
/// after the first attempt, it is reported as an error.
pub(crate) fn files(names: &[PathBuf], open_slots: &mut usize, failed: &mut Vec<SourceError>) -> Vec<Input> {
    let Some(first) = names.first() else { return Vec::new() };
    match take(&|| Ok(names.to_vec()), first, open_slots) {
        Ok(Snapshot { inputs, moved }) => {
            failed.extend(moved.into_iter().map(|path| SourceError::Rotated { path }));
            inputs
        }
        Err(error) => {
            failed.push(error);
            Vec::new()
        }
    }
}

/// The path of an input if it is a compressed copy of another input, complete or not: a compressor
/// removes the original file only when it is done.
fn packed_copy(input: &Input, inputs: &[Input]) -> Option<PathBuf> {
    let packed = snapshot_file(input)?;
    if !["gz", "xz", "zst"].iter().any(|suffix| packed.path().extension().is_some_and(|of| of == *suffix)) {
        return None;
    }
    let plain = packed.path().with_extension("");
    let plain = inputs.iter().filter_map(snapshot_file).find(|file| file.path() == plain)?;
    is_beginning(packed, plain).unwrap_or(false).then(|| packed.path().to_owned())
}

/// Whether the compressed file, as far as it goes, equals the beginning of the other.
fn is_beginning(packed: &SnapshotFile, plain: &SnapshotFile) -> io::Result<bool> {
    let (from, of) = (packed.deferred.get()?, plain.deferred.get()?);
    let mut front = [0; 16];
    let read = from.read_at(&mut front, 0)?;
    let packing = Packing::of(&front[..read], "").map_err(io::Error::other)?;
    let mut bytes = packing.open(Box::new(FromStart::of(&*from)))?;
    let (mut piece, mut other, mut at) = (vec![0; 64 * 1024], vec![0; 64 * 1024], 0);
    loop {
        let read = match bytes.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(read) => read,
            // It ends where the compressor last wrote. Errors of reading the file have an errno.
            Err(error) => return if error.raw_os_error().is_some() { Err(error) } else { Ok(true) },
        };
        match of.read_exact_at(&mut other[..read], at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        if piece[..read] != other[..read] {
            return Ok(false);
        }
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use tempfile::TempDir;

    use super::*;
    use crate::log_paths::log_paths;

    /// `audit.log` with rotations. Each file's text is its number, the newest is 0.
    fn logs(rotations: u32) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=rotations {
            fs::write(name(dir.path(), number), number.to_string()).unwrap();
        }
        dir
    }

    fn name(dir: &Path, rotation: u32) -> PathBuf {
        dir.join(if rotation == 0 { "audit.log".to_owned() } else { format!("audit.log.{rotation}") })
    }

    /// Renames each rotation to the next older one; the new log has this text.
    fn rotate(dir: &Path, text: &str) {
        let rotations = (0..).take_while(|number| name(dir, *number).exists()).count();
        for number in (0..u32::try_from(rotations).unwrap()).rev() {
            fs::rename(name(dir, number), name(dir, number + 1)).unwrap();
        }
        fs::write(name(dir, 0), text).unwrap();
    }

    fn text(input: &Input) -> String {
        let mut text = String::new();
        let file = snapshot_file(input).unwrap().deferred.get().unwrap();
        FromStart::of(&*file).read_to_string(&mut text).unwrap();
        text
    }

    fn texts(inputs: &[Input]) -> Vec<String> {
        inputs.iter().map(text).collect()
    }

    #[test]
    fn a_rotation_before_during_and_after_the_listing_loses_none_and_repeats_none() {
        // Before the files are opened, between that and the second listing, and both.
        for turns in [&[1][..], &[2], &[1, 2], &[1, 2, 3, 4, 5]] {
            let dir = logs(12);
            let dir = dir.path();
            let calls = Cell::new(0);
            let list = || {
                let listed = log_paths(dir)?;
                calls.set(calls.get() + 1);
                if turns.contains(&calls.get()) {
                    rotate(dir, &format!("new {}", calls.get()));
                }
                Ok(listed)
            };
            let (mut open_slots, files) = (100, 13 + turns.len());
            let inputs = directory(dir, &list, &mut open_slots).unwrap();
            assert_eq!(open_slots, 100 - files);
            rotate(dir, "later");
            let new = turns.iter().rev().map(|turn| format!("new {turn}"));
            let expect: Vec<_> = new.chain((0..=12).map(|number| number.to_string())).collect();
            assert_eq!(texts(&inputs), expect, "{turns:?}");
        }
    }

    #[test]
    fn files_beyond_the_open_limit_are_reopened_by_their_identity() {
        let dir = logs(5);
        let mut open_slots = 2;
        let inputs = directory(dir.path(), &|| log_paths(dir.path()), &mut open_slots).unwrap();
        assert_eq!(
            (
                open_slots,
                inputs.iter().filter(|input| snapshot_file(input).unwrap().deferred.is_open()).count()
            ),
            (0, 2)
        );
        rotate(dir.path(), "later");
        fs::remove_file(name(dir.path(), 6)).unwrap();
        assert_eq!(texts(&inputs[..5]), ["0", "1", "2", "3", "4"]);
        let gone = snapshot_file(&inputs[5]).unwrap().deferred.get().err().unwrap();
        assert!(gone.to_string().contains("rotated while being read"), "{gone}");
    }

    #[test]
    fn names_that_keep_changing_are_an_error() {
        let dir = logs(1);
        let list = || {
            let listed = log_paths(dir.path())?;
            fs::remove_file(name(dir.path(), 1)).unwrap();
            fs::write(name(dir.path(), 1), "").unwrap();
            Ok(listed)
        };
        let error = directory(dir.path(), &list, &mut 10).err().unwrap();
        assert!(error.to_string().contains("was rotated while being read"), "{error}");
    }

    #[test]
    fn a_named_file_that_was_renamed_meanwhile_is_reported() {
        let dir = logs(2);
        let named: Vec<_> = (0..3).map(|number| name(dir.path(), number)).collect();
        let calls = Cell::new(0);
        let list = || {
            calls.set(calls.get() + 1);
            if calls.get() == 2 {
                rotate(dir.path(), "new");
            }
            Ok(named.clone())
        };
        let Snapshot { inputs, moved } = take(&list, dir.path(), &mut 10).unwrap();
        assert_eq!(texts(&inputs), ["new", "0", "1"]);
        assert_eq!(moved, [name(dir.path(), 2)]);
    }

    #[test]
    fn a_file_with_several_names_is_one() {
        let dir = logs(2);
        std::os::unix::fs::symlink("audit.log.2", dir.path().join("a.log")).unwrap();
        fs::hard_link(name(dir.path(), 0), dir.path().join("z.log")).unwrap();
        let inputs = directory(dir.path(), &|| log_paths(dir.path()), &mut 10).unwrap();
        let paths: Vec<_> = inputs.iter().map(Input::path).collect();
        assert_eq!(paths, [name(dir.path(), 0), name(dir.path(), 1), name(dir.path(), 2)]);
    }

    /// The names in the snapshot while `syslog.1` with text `plain` is compressed. The `.gz` file
    /// contains the first `part` of the compressed text `packed`.
    fn left(plain: &[u8], packed: &[u8], part: f64) -> Vec<PathBuf> {
        let dir = tempfile::tempdir().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(packed).unwrap();
        let bytes = gzip.finish().unwrap();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let end = (bytes.len() as f64 * part) as usize;
        fs::write(dir.path().join("syslog.1"), plain).unwrap();
        fs::write(dir.path().join("syslog.1.gz"), &bytes[..end]).unwrap();
        let inputs = directory(dir.path(), &|| log_paths(dir.path()), &mut 10).unwrap();
        inputs.iter().map(|input| input.path().file_name().unwrap().into()).collect()
    }

    #[test]
    fn a_rotation_that_is_being_packed_is_read_once() {
        let numbers: String = (0..200_000).map(|number| format!("{number}\n")).collect();
        let text = numbers.as_bytes();
        for part in [0.0, 0.00001, 0.5, 1.0] {
            assert_eq!(left(text, text, part), [PathBuf::from("syslog.1")], "{part}");
        }
        let both = ["syslog.1", "syslog.1.gz"].map(PathBuf::from);
        assert_eq!(left(text, &numbers.replace("199999", "other").into_bytes(), 1.0), both);
        assert_eq!(left(&text[..text.len() - 1], text, 1.0), both);
        assert_eq!(left(b"", text, 1.0), both);
    }
}
