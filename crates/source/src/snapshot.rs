//! The files of a trail as they were at one moment, though a rotation renames them meanwhile.
//!
//! A rotation gives each file the name of the next older one. Whoever lists the names and opens them later reads one
//! file twice and another not at all. So the names are listed, all files opened, and the names listed again, until
//! nothing has changed between the two lists; from then on a file is what was opened, whatever becomes of its name.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::SourceError;
use crate::input::Input;
use crate::kept::{FileIdentity, FromStart, Kept};
use crate::open::Packing;

/// How often names are listed anew when a rotation changes them meanwhile.
const TRIES: u32 = 100;

/// How long is waited before that: a rotation of some thousand files takes a moment.
const PAUSE: Duration = Duration::from_millis(2);

/// A file that was opened as its name was listed, so that it is read whatever is called so later.
#[derive(Debug)]
pub struct KeptFile {
    path: PathBuf,
    identity: FileIdentity,
    pub(crate) kept: Kept,
}

impl KeptFile {
    /// Its name when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether these are its first bytes.
    pub fn begins_with(&self, bytes: &[u8]) -> bool {
        let mut front = vec![0; bytes.len()];
        self.kept.get().and_then(|file| file.read_exact_at(&mut front, 0)).is_ok() && front == bytes
    }

    /// It, and what its name stood for where that is no file that can be opened.
    fn open(path: &Path, room: &mut usize) -> io::Result<Self> {
        // What is a pipe by now is not waited for.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut kept = Kept::Open(file);
        match room.checked_sub(1) {
            Some(left) => *room = left,
            None => kept.close(path)?,
        }
        Ok(Self { path: path.to_owned(), identity: FileIdentity::of(&about), kept })
    }
}

/// A snapshot of some names, in their order.
struct Snapshot {
    inputs: Vec<Input>,
    /// Names of what was opened first and is none of these any more.
    moved: Vec<PathBuf>,
}

/// Opens what these names stand for at one moment; where one can't be opened, whoever reads it says why. `room` is how
/// many files may be kept open.
fn take(
    names: &dyn Fn() -> Result<Vec<PathBuf>, SourceError>,
    of: &Path,
    room: &mut usize,
) -> Result<Snapshot, SourceError> {
    let mut seen: HashMap<FileIdentity, PathBuf> = HashMap::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            thread::sleep(PAUSE);
        }
        let listed = names()?;
        let mut left = *room;
        let opened: Vec<_> = listed.iter().map(|path| KeptFile::open(path, &mut left)).collect();
        let files = || opened.iter().filter_map(|file| file.as_ref().ok());
        seen.extend(files().map(|file| (file.identity, file.path.clone())));
        // Twice the same: nothing was renamed between the last file opened and the first looked at again.
        let same = |(path, file): (&PathBuf, &io::Result<KeptFile>)| match file {
            Ok(file) => fs::metadata(path).is_ok_and(|about| FileIdentity::of(&about) == file.identity),
            // It may have been renamed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => !path.exists(),
            Err(_) => true,
        };
        if names()? == listed && listed.iter().zip(&opened).all(same) {
            *room = left;
            for file in files() {
                seen.remove(&file.identity);
            }
            let inputs = listed.into_iter().zip(opened);
            let inputs = inputs.map(|(path, file)| file.map_or(Input::File(path), Input::Kept)).collect();
            return Ok(Snapshot { inputs, moved: seen.into_values().collect() });
        }
    }
    Err(SourceError::Rotated { path: of.to_owned() })
}

/// The logs of a directory that `names` lists: each once, though it has several names.
pub(crate) fn directory(
    directory: &Path,
    names: &dyn Fn() -> Result<Vec<PathBuf>, SourceError>,
    room: &mut usize,
) -> Result<Vec<Input>, SourceError> {
    // What was removed meanwhile was older than is kept.
    let mut inputs = take(names, directory, room)?.inputs;
    // Of a file and links to it, the file has the name that says what it is.
    let mut names: HashMap<FileIdentity, (PathBuf, bool)> = HashMap::new();
    for file in inputs.iter().filter_map(kept) {
        let is_link = fs::symlink_metadata(&file.path).is_ok_and(|about| about.is_symlink());
        match names.get(&file.identity) {
            Some((_, false)) => {}
            Some(_) if is_link => {}
            _ => {
                names.insert(file.identity, (file.path.clone(), is_link));
            }
        }
    }
    let is_named = |file: &KeptFile| names.get(&file.identity).is_some_and(|(path, _)| *path == file.path);
    inputs.retain(|input| kept(input).is_none_or(is_named));
    let copies: HashSet<PathBuf> = inputs.iter().filter_map(|input| packed_copy(input, &inputs)).collect();
    inputs.retain(|input| kept(input).is_none_or(|file| !copies.contains(&file.path)));
    Ok(inputs)
}

fn kept(input: &Input) -> Option<&KeptFile> {
    match input {
        Input::Kept(file) => Some(file),
        _ => None,
    }
}

/// The files that were named one by one, in their order. What a rotation moved away from these names before it was
/// opened by one of them is not read.
pub(crate) fn files(names: &[PathBuf], room: &mut usize, failed: &mut Vec<SourceError>) -> Vec<Input> {
    let Some(first) = names.first() else { return Vec::new() };
    match take(&|| Ok(names.to_vec()), first, room) {
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

/// The name of an input if it is a packed copy of another, or what there is of one so far: who packs a rotation removes
/// what it was packed from when that is done.
fn packed_copy(input: &Input, inputs: &[Input]) -> Option<PathBuf> {
    let packed = kept(input)?;
    if !["gz", "xz", "zst"].iter().any(|suffix| packed.path.extension().is_some_and(|of| of == *suffix)) {
        return None;
    }
    let plain = packed.path.with_extension("");
    let plain = inputs.iter().filter_map(kept).find(|file| file.path == plain)?;
    is_beginning(packed, plain).unwrap_or(false).then(|| packed.path.clone())
}

/// Whether what is packed, as far as it goes, is how the other file begins.
fn is_beginning(packed: &KeptFile, plain: &KeptFile) -> io::Result<bool> {
    let (from, of) = (packed.kept.get()?, plain.kept.get()?);
    let mut front = [0; 16];
    let read = from.read_at(&mut front, 0)?;
    let packing = Packing::of(&front[..read], "").map_err(io::Error::other)?;
    let mut bytes = packing.open(Box::new(FromStart::of(&*from)))?;
    let (mut piece, mut other, mut at) = (vec![0; 64 * 1024], vec![0; 64 * 1024], 0);
    loop {
        let read = match bytes.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(read) => read,
            // It ends where it was written to last: errors of reading the file have the system's number.
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
    use crate::input::names;

    /// `audit.log` with so many rotations; each has its number as its text, the newest 0.
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

    /// Each rotation gets the name of the next older one; a new log has this text.
    fn rotate(dir: &Path, text: &str) {
        let rotations = (0..).take_while(|number| name(dir, *number).exists()).count();
        for number in (0..u32::try_from(rotations).unwrap()).rev() {
            fs::rename(name(dir, number), name(dir, number + 1)).unwrap();
        }
        fs::write(name(dir, 0), text).unwrap();
    }

    fn text(input: &Input) -> String {
        let mut text = String::new();
        let file = kept(input).unwrap().kept.get().unwrap();
        FromStart::of(&*file).read_to_string(&mut text).unwrap();
        text
    }

    fn texts(inputs: &[Input]) -> Vec<String> {
        inputs.iter().map(text).collect()
    }

    #[test]
    fn a_rotation_before_during_and_after_the_listing_loses_none_and_repeats_none() {
        // Before the files are opened, between that and the second look, and both.
        for turns in [&[1][..], &[2], &[1, 2], &[1, 2, 3, 4, 5]] {
            let dir = logs(12);
            let dir = dir.path();
            let calls = Cell::new(0);
            let list = || {
                let listed = names(dir)?;
                calls.set(calls.get() + 1);
                if turns.contains(&calls.get()) {
                    rotate(dir, &format!("new {}", calls.get()));
                }
                Ok(listed)
            };
            let (mut room, files) = (100, 13 + turns.len());
            let inputs = directory(dir, &list, &mut room).unwrap();
            assert_eq!(room, 100 - files);
            rotate(dir, "later");
            let new = turns.iter().rev().map(|turn| format!("new {turn}"));
            let expect: Vec<_> = new.chain((0..=12).map(|number| number.to_string())).collect();
            assert_eq!(texts(&inputs), expect, "{turns:?}");
        }
    }

    #[test]
    fn what_may_not_be_kept_open_is_found_again_by_what_it_is() {
        let dir = logs(5);
        let mut room = 2;
        let inputs = directory(dir.path(), &|| names(dir.path()), &mut room).unwrap();
        assert_eq!((room, inputs.iter().filter(|input| kept(input).unwrap().kept.is_open()).count()), (0, 2));
        rotate(dir.path(), "later");
        fs::remove_file(name(dir.path(), 6)).unwrap();
        assert_eq!(texts(&inputs[..5]), ["0", "1", "2", "3", "4"]);
        let gone = kept(&inputs[5]).unwrap().kept.get().err().unwrap();
        assert!(gone.to_string().contains("rotated while being read"), "{gone}");
    }

    #[test]
    fn names_that_never_rest_are_an_error_and_no_answer() {
        let dir = logs(1);
        let list = || {
            let listed = names(dir.path())?;
            fs::remove_file(name(dir.path(), 1)).unwrap();
            fs::write(name(dir.path(), 1), "").unwrap();
            Ok(listed)
        };
        let error = directory(dir.path(), &list, &mut 10).err().unwrap();
        assert!(error.to_string().contains("was rotated while being read"), "{error}");
    }

    #[test]
    fn a_file_that_was_named_and_has_another_name_by_now_is_told() {
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
        let inputs = directory(dir.path(), &|| names(dir.path()), &mut 10).unwrap();
        let paths: Vec<_> = inputs.iter().map(Input::path).collect();
        assert_eq!(paths, [name(dir.path(), 0), name(dir.path(), 1), name(dir.path(), 2)]);
    }

    /// The names that are left of a rotation that has `plain`, and is packed from `packed`, of which so much is
    /// written.
    fn left(plain: &[u8], packed: &[u8], part: f64) -> Vec<PathBuf> {
        let dir = tempfile::tempdir().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(packed).unwrap();
        let bytes = gzip.finish().unwrap();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let end = (bytes.len() as f64 * part) as usize;
        fs::write(dir.path().join("syslog.1"), plain).unwrap();
        fs::write(dir.path().join("syslog.1.gz"), &bytes[..end]).unwrap();
        let inputs = directory(dir.path(), &|| names(dir.path()), &mut 10).unwrap();
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
