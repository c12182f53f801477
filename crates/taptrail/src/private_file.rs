//! A file that is complete or not there, and that its owner alone can read.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;

/// A file in the making. It takes its name when it is complete; before that a crash leaves nothing
/// (`O_TMPFILE` in open(2)), or, where the file system has no such files, a hidden one.
#[derive(Debug)]
pub(crate) struct PrivateFile {
    file: File,
    directory: OwnedFd,
    name: OsString,
    /// The name that it has meanwhile.
    other_name: OsString,
    has_other_name: bool,
}

impl PrivateFile {
    /// Begins a file that will be at `path`.
    ///
    /// # Errors
    ///
    /// There is no such directory, or it can't be written to; or `path` is no regular file.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(about) if about.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(about) if !about.is_file() && !about.is_symlink() => {
                return Err(io::Error::other("it is no regular file: use - and redirect standard output"));
            }
            _ => {}
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let directory =
            openat(CWD, &directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut other_name = OsString::from(".");
        other_name.push(&name);
        other_name.push(format!(".{}.part", std::process::id()));
        let mode = Mode::RUSR | Mode::WUSR;
        let (file, has_other_name) =
            match openat(&directory, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
                Ok(file) => (file, false),
                // The file system, or the kernel, has no files without a name.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    (openat(&directory, &other_name, flags, mode)?, true)
                }
                Err(error) => return Err(error.into()),
            };
        Ok(Self { file: file.into(), directory, name, other_name, has_other_name })
    }

    /// Gives the file its name, in place of a file that has it.
    ///
    /// # Errors
    ///
    /// The file can't be written to the disk, or can't get its name.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.has_other_name {
            // A link can't replace a file; a rename can.
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(CWD, &unnamed, &self.directory, &self.other_name, AtFlags::SYMLINK_FOLLOW)?;
            self.has_other_name = true;
        }
        renameat(&self.directory, &self.other_name, &self.directory, &self.name)?;
        self.has_other_name = false;
        Ok(())
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if self.has_other_name {
            // It is only a file too many.
            let _ = unlinkat(&self.directory, &self.other_name, AtFlags::empty());
        }
    }
}

impl Write for PrivateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_once_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.html");
        let mut file = PrivateFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert!(names(directory.path()).is_empty());
        fs::write(&path, "older").unwrap();
        let mut file = PrivateFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"older");
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(names(directory.path()), ["report.html"]);
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("report.html"), directory.path().join("other"));
        fs::write(&other, "kept").unwrap();
        symlink(&other, &path).unwrap();
        let mut file = PrivateFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"kept");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        assert!(PrivateFile::create(directory.path()).is_err());
        assert!(PrivateFile::create(Path::new("/dev/null")).is_err());
        assert!(PrivateFile::create(&directory.path().join("none/report.html")).is_err());
    }
}
