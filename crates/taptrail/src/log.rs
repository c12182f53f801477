//! The log of a guest in the background: the messages of its supervisor and the output of its QEMU,
//! with times, and limited in size.
//!
//! ```text
//!   QEMU's stdout, stderr ──▶ output, a FIFO ──▶ thread ──▶ log ──▶ log.1, by rotation
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

/// Size at which the log is rotated; one older file is kept.
const MAX_LOG_BYTES: u64 = 1 << 20;

static LOG: OnceLock<Log> = OnceLock::new();

/// The log of the guest that this process supervises in the background, once it has one.
pub(crate) fn current() -> Option<&'static Log> {
    LOG.get()
}

/// Starts the log in a guest's directory: from here on standard output and error, which QEMU
/// inherits, go to the log.
pub(crate) fn start(dir: &Path) -> io::Result<()> {
    // The caller gets messages through it; writing to it must not block.
    let caller = File::from(fcntl_dupfd_cloexec(io::stderr(), 3)?);
    fcntl_setfl(&caller, fcntl_getfl(&caller)? | OFlags::NONBLOCK)?;
    let path = output_path(dir);
    make_fifo(&path)?;
    // Opened a second time: QEMU can change the flags of its own open file.
    let output = OutputReader::of(&path)?;
    let fifo = open_fifo(&path, true)?;
    let log_file = LogFile::open(dir.join("log"))?;
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

/// The log file, with rotation to one older file.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    /// Bytes deleted by rotations.
    deleted: u64,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = Self::file(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, deleted: 0 })
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
        if self.size.saturating_add(len(&text)) > MAX_LOG_BYTES {
            self.rotate();
        }
        if self.file.write_all(&text).is_ok() {
            self.size = self.size.saturating_add(len(&text));
        }
    }

    /// Starts a new file; the current one replaces the older.
    fn rotate(&mut self) {
        let mut before = self.path.clone();
        before.as_mut_os_string().push(".1");
        let deleted = std::fs::symlink_metadata(&before).map_or(0, |file| file.len());
        let new = std::fs::rename(&self.path, &before).and_then(|()| Self::file(&self.path));
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

    #[test]
    fn two_files_of_a_bounded_size_are_kept_and_deleted_bytes_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log_file = LogFile::open(path.clone()).unwrap();
        let line = [b'x'; MAX_LINE_BYTES];
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).map_or(0, |file| file.len());
        for _ in 0..4 * MAX_LOG_BYTES / len(&line) {
            log_file.write(b"qemu: ", &line);
            assert!(size("log") <= MAX_LOG_BYTES && size("log.1") <= MAX_LOG_BYTES);
        }
        let first = std::fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
        assert!(first.ends_with("bytes of older output deleted)"), "{first}");
        // A later supervisor appends to it.
        let before = size("log");
        LogFile::open(path).unwrap().write(b"", b"on");
        assert!(size("log") > before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
