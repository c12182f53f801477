//! The log of a guest in the background: the messages of its supervisor and the output of its QEMU,
//! with times, and limited in size.
//!
//! ```text
//!   QEMU's stdout, stderr ──▶ output, a FIFO ──▶ thread ──▶ log ──▶ log.1 …, by rotation
//!   the supervisor's log messages ───────────────────────────┘
//!   until the guest runs: warnings, and all of QEMU's output, to the caller, too
//! ```
//!
//! How QEMU's output is read is `qemu_output.rs`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use jiff::Timestamp;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::{dup2_stderr, dup2_stdout};
use taptrail_guest::NOFOLLOW;

use crate::qemu_output::{OutputReader, escape_controls, follow, locked, make_fifo, open_fifo, output_path};

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLimits {
    /// Size at which a file is rotated, in bytes.
    pub(crate) size: u64,
    /// The number of files: the current one, and older ones.
    pub(crate) files: u32,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// The log of the guest that this process supervises in the background, once it has one.
pub(crate) fn current() -> Option<&'static Log> {
    LOG.get()
}

/// Starts the log in a guest's directory: from here on standard output and error, which QEMU
/// inherits, go to the log.
pub(crate) fn start(dir: &Path, limits: LogLimits) -> io::Result<()> {
    // The caller gets messages through it; writing to it must not block.
    let caller = File::from(fcntl_dupfd_cloexec(io::stderr(), 3)?);
    fcntl_setfl(&caller, fcntl_getfl(&caller)? | OFlags::NONBLOCK)?;
    let path = output_path(dir);
    make_fifo(&path)?;
    // Opened a second time: QEMU can change the flags of its own open file.
    let output = OutputReader::of(&path)?;
    let fifo = open_fifo(&path, true)?;
    let log_file = LogFile::open(dir.join("log"), limits)?;
    dup2_stdout(&fifo)?;
    dup2_stderr(&fifo)?;
    let log =
        Log { log_file: Mutex::new(log_file), caller: Mutex::new(Some(caller)), output: Mutex::new(output) };
    let log = LOG.get_or_init(|| log);
    follow(&log.output, |line| log.write_qemu(line))
}

/// The guest's log.
#[derive(Debug)]
pub(crate) struct Log {
    log_file: Mutex<LogFile>,
    /// The standard error of the caller, as long as it waits.
    caller: Mutex<Option<File>>,
    output: Mutex<OutputReader>,
}

impl Log {
    /// Writes a message of the supervisor; warnings and errors also to the caller.
    pub(crate) fn write_own(&self, text: &[u8], grave: bool) {
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            locked(&self.log_file).write(b"", line);
        }
        if grave {
            self.forward_to_caller(text);
        }
    }

    /// The path of the log file.
    pub(crate) fn path(&self) -> PathBuf {
        locked(&self.log_file).path.clone()
    }

    /// Ends the forwarding to the caller: the guest runs, or failed to start.
    pub(crate) fn close_caller(&self) {
        locked(&self.caller).take();
    }

    /// Reads the rest of QEMU's output.
    pub(crate) fn drain(&self) {
        locked(&self.output).drain(|line| self.write_qemu(line));
    }

    fn write_qemu(&self, line: &[u8]) {
        // QEMU prints this while its monitor waits for a client; we are connected already.
        if line.ends_with(b",server=on") && contains(line, b"info: QEMU waiting for connection on: ") {
            return;
        }
        locked(&self.log_file).write(b"qemu: ", line);
        self.forward_to_caller(line);
    }

    fn forward_to_caller(&self, text: &[u8]) {
        if let Some(caller) = &mut *locked(&self.caller) {
            // A caller that does not read misses it; it is also in the log.
            let _ = caller.write(&[text.trim_ascii_end(), b"\n"].concat());
        }
    }
}

fn contains(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

/// The log file, with rotation: `log`, then `log.1`, `log.2` and so on, the older the higher.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    limits: LogLimits,
    file: File,
    size: u64,
    /// Bytes deleted by rotations.
    deleted: u64,
}

impl LogFile {
    fn open(path: PathBuf, limits: LogLimits) -> io::Result<Self> {
        let file = Self::file(&path)?;
        let size = file.metadata()?.len();
        let log = Self { path, limits, file, size, deleted: 0 };
        // An earlier supervisor may have kept more.
        let mut number = limits.files.max(1);
        while std::fs::remove_file(log.older(number)).is_ok() {
            number = number.saturating_add(1);
        }
        Ok(log)
    }

    /// The path of an older file; of the log itself for 0.
    fn older(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone();
        if number > 0 {
            path.as_mut_os_string().push(format!(".{number}"));
        }
        path
    }

    fn file(path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(NOFOLLOW).open(path)
    }

    /// Writes a line, whatever bytes it has. A line that can't be written is lost: the supervisor
    /// goes on without its log.
    fn write(&mut self, prefix: &[u8], line: &[u8]) {
        let mut text = format!("{:.3}  ", Timestamp::now()).into_bytes();
        text.extend_from_slice(prefix);
        text.extend_from_slice(escape_controls(line).as_bytes());
        text.push(b'\n');
        if self.size.saturating_add(len(&text)) > self.limits.size {
            self.rotate();
        }
        if self.file.write_all(&text).is_ok() {
            self.size = self.size.saturating_add(len(&text));
        }
    }

    /// Starts a new file; each older one takes the next number, and the oldest goes.
    fn rotate(&mut self) {
        let last = self.limits.files.saturating_sub(1);
        let deleted = std::fs::symlink_metadata(self.older(last)).map_or(0, |file| file.len());
        for number in (1..last).rev() {
            // A file that is not there yet.
            let _ = std::fs::rename(self.older(number), self.older(number + 1));
        }
        let moved = match last {
            0 => std::fs::remove_file(&self.path),
            _ => std::fs::rename(&self.path, self.older(1)),
        };
        let new = moved.and_then(|()| Self::file(&self.path));
        match new {
            Ok(file) => (self.file, self.size) = (file, 0),
            // If the file can't be renamed it is emptied: the limit matters more than old lines.
            Err(_) if self.file.set_len(0).is_ok() => self.size = 0,
            Err(_) => {}
        }
        self.deleted = self.deleted.saturating_add(deleted);
        if self.deleted > 0 {
            let line = format!(
                "{:.3}  (rotation: {} bytes of older output deleted)\n",
                Timestamp::now(),
                self.deleted
            );
            if self.file.write_all(line.as_bytes()).is_ok() {
                self.size = self.size.saturating_add(len(line.as_bytes()));
            }
        }
    }
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu_output::MAX_LINE_BYTES;

    const SIZE: u64 = 64 << 10;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn size(dir: &Path, name: &str) -> u64 {
        std::fs::metadata(dir.join(name)).map_or(0, |file| file.len())
    }

    fn first_line(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap().lines().next().unwrap().to_owned()
    }

    #[test]
    fn files_of_a_bounded_size_and_number_are_kept_and_deleted_bytes_are_reported() {
        let line = [b'x'; MAX_LINE_BYTES];
        for (files, expected) in
            [(1, &["log"][..]), (2, &["log", "log.1"]), (4, &["log", "log.1", "log.2", "log.3"])]
        {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let limits = LogLimits { size: SIZE, files };
            let mut log_file = LogFile::open(path.clone(), limits).unwrap();
            for _ in 0..6 * SIZE / len(&line) {
                log_file.write(b"qemu: ", &line);
                assert!(names(dir.path()).iter().all(|name| size(dir.path(), name) <= SIZE));
            }
            assert_eq!(names(dir.path()), expected);
            let first = first_line(&path);
            assert!(first.ends_with("bytes of older output deleted)"), "{first}");
            // A later supervisor appends to it.
            let before = size(dir.path(), "log");
            LogFile::open(path, limits).unwrap().write(b"", b"on");
            assert!(size(dir.path(), "log") > before);
            assert_eq!(names(dir.path()), expected);
        }
    }

    #[test]
    fn older_files_are_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { size: 60, files: 3 };
        let mut log_file = LogFile::open(dir.path().join("log"), limits).unwrap();
        for word in ["first", "second", "third"] {
            log_file.write(b"", format!("{word} {}", "x".repeat(20)).as_bytes());
        }
        for (name, word) in [("log.2", "first"), ("log.1", "second"), ("log", "third")] {
            let line = first_line(&dir.path().join(name));
            assert!(line.contains(word), "{name}: {line}");
        }
        // A later supervisor that keeps fewer deletes the others.
        LogFile::open(dir.path().join("log"), LogLimits { size: 60, files: 1 }).unwrap();
        assert_eq!(names(dir.path()), ["log"]);
    }
}
