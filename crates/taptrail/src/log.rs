//! The log of a guest in the background: the messages of its supervisor and the output of its QEMU,
//! with times, and limited in size.
//!
//! ```text
//!   QEMU's stdout, stderr ──▶ output, a FIFO ──▶ thread ──▶ log ──▶ log.1, by rotation
//!   the supervisor's log messages ───────────────────────────┘
//!   until the guest runs: warnings, and all of QEMU's output, to the caller, too
//! ```
//!
//! QEMU is not trusted, and the run directory is in memory. So QEMU does not write to a file of
//! ours: its output is read line by line with a rate limit, and dropped bytes are counted. QEMU
//! never waits for us: a FIFO that nobody reads takes what fits and refuses the rest, whether the
//! supervisor hangs or has ended. A supervisor that adopts the guest reads on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use taptrail_guest::NOFOLLOW;
use taptrail_kernel::process::drop_all_capabilities;
use tracing::warn;

use crate::stderr::write_qemu_line;

/// Size at which the log is rotated; one older file is kept.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// Length at which a line of QEMU's is cut.
const MAX_LINE_BYTES: usize = 4096;

/// Rate limit of QEMU's output.
const BURST_BYTES: u64 = 256 << 10;
const BYTES_PER_SECOND: u64 = 16 << 10;

/// Bytes of one read(2), and of a full pipe (pipe(7)).
const READ_BYTES: usize = 16 << 10;
const PIPE_BYTES: usize = 64 << 10;

/// Pause between reads of a QEMU that is over its rate.
const THROTTLE_INTERVAL: Duration = Duration::from_millis(20);

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
    let path = dir.join("output");
    match mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        // An existing FIFO may be open in the QEMU of an earlier supervisor.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
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

/// Forwards to standard error the output of a QEMU that was started in the background, when this
/// process adopts it in the foreground.
pub(crate) fn forward_to_stderr(dir: &Path) -> io::Result<()> {
    let output = match OutputReader::of(&dir.join("output")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        output => &*Box::leak(Box::new(Mutex::new(output?))),
    };
    follow(output, |line| {
        // There is no other place to report an error of this.
        let _ = write_qemu_line(&escape_controls(line));
    })
}

/// Reads QEMU's output in a thread of its own, as long as this process lives.
fn follow(output: &'static Mutex<OutputReader>, say: impl Fn(&[u8]) + Send + 'static) -> io::Result<()> {
    let fifo = locked(output).fifo.try_clone()?;
    let read = move || {
        // This thread needs no capabilities.
        if let Err(error) = drop_all_capabilities() {
            return warn!("QEMU's output is not read: {error}");
        }
        loop {
            let mut fds = [PollFd::new(&fifo, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return warn!("QEMU's output is not read any more: {error}"),
            }
            match locked(output).read(&say) {
                ReadOutcome::Read => {}
                // No output, or output over the rate limit.
                ReadOutcome::Nothing | ReadOutcome::OverRate => thread::sleep(THROTTLE_INTERVAL),
            }
        }
    };
    thread::Builder::new().name("log".to_owned()).spawn(read).map(drop)
}

/// The guest's log. Poisoned locks are used all the same.
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
        let mut output = locked(&self.output);
        // Limited, as a QEMU that runs on may write more and more.
        for _ in 0..PIPE_BYTES / READ_BYTES {
            if output.read(|line| self.write_qemu(line)) != ReadOutcome::Read {
                break;
            }
        }
        output.flush_line(|line| self.write_qemu(line));
        output.report_dropped(|line| self.write_qemu(line));
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn contains(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

/// Opens a FIFO without blocking.
fn open_fifo(path: &Path, write: bool) -> io::Result<File> {
    let flags = NOFOLLOW | OFlags::NONBLOCK.bits().cast_signed();
    let fifo = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
    if fifo.metadata()?.file_type().is_fifo() {
        Ok(fifo)
    } else {
        Err(io::Error::other(format!("{} is no FIFO", path.display())))
    }
}

/// The result of one read of QEMU's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadOutcome {
    Nothing,
    Read,
    /// The output was over the rate limit, and was dropped.
    OverRate,
}

/// Reads QEMU's output, line by line.
#[derive(Debug)]
struct OutputReader {
    fifo: File,
    /// An incomplete line.
    begun: Vec<u8>,
    /// Bytes that are allowed now.
    allowed: u64,
    since: Instant,
    /// Bytes that were dropped, and not yet reported.
    dropped: u64,
}

impl OutputReader {
    fn of(path: &Path) -> io::Result<Self> {
        let fifo = open_fifo(path, false)?;
        Ok(Self { fifo, begun: Vec::new(), allowed: BURST_BYTES, since: Instant::now(), dropped: 0 })
    }

    /// Reads once, without waiting.
    fn read(&mut self, say: impl FnMut(&[u8])) -> ReadOutcome {
        let mut chunk = [0; READ_BYTES];
        match self.fifo.read(&mut chunk) {
            Ok(0) | Err(_) => ReadOutcome::Nothing,
            Ok(count) => self.take(&chunk[..count], self.since.elapsed(), say),
        }
    }

    /// Takes a piece of output; `elapsed` is the time since the allowance was last increased.
    fn take(&mut self, text: &[u8], elapsed: Duration, mut say: impl FnMut(&[u8])) -> ReadOutcome {
        if elapsed >= Duration::from_secs(1) {
            self.allowed = self
                .allowed
                .saturating_add(BYTES_PER_SECOND.saturating_mul(elapsed.as_secs()))
                .min(BURST_BYTES);
            self.since = Instant::now();
        }
        let count = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if count > self.allowed {
            self.dropped = self.dropped.saturating_add(count);
            return ReadOutcome::OverRate;
        }
        self.allowed -= count;
        self.report_dropped(&mut say);
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            let (piece, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |piece| (piece, true));
            let room = MAX_LINE_BYTES - self.begun.len();
            self.begun.extend_from_slice(&piece[..piece.len().min(room)]);
            if ends {
                self.flush_line(&mut say);
            }
        }
        ReadOutcome::Read
    }

    /// Reports the dropped bytes, and discards the incomplete line before them.
    fn report_dropped(&mut self, say: impl FnOnce(&[u8])) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.begun.clear();
            say(format!("(rate limit: {dropped} bytes of QEMU's output dropped)").as_bytes());
        }
    }

    /// Writes the incomplete line.
    fn flush_line(&mut self, mut say: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            say(&std::mem::take(&mut self.begun));
        }
    }
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

/// A line for a terminal: control characters are escaped, and bytes that are not UTF-8 are
/// replaced.
fn escape_controls(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for one in String::from_utf8_lossy(line).chars() {
        if one.is_control() && one != '\t' { text.extend(one.escape_debug()) } else { text.push(one) }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn output(dir: &Path) -> OutputReader {
        let path = dir.join("output");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        OutputReader::of(&path).unwrap()
    }

    fn lines(output: &mut OutputReader, text: &[u8]) -> Vec<String> {
        let mut said = Vec::new();
        output.take(text, NONE, |line| said.push(String::from_utf8_lossy(line).into_owned()));
        said
    }

    #[test]
    fn a_line_is_logged_when_it_ends_and_a_long_one_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = output(dir.path());
        assert_eq!(lines(&mut output, b"one\ntw"), ["one"]);
        assert_eq!(lines(&mut output, b"o\n\n"), ["two"]);
        for _ in 0..3 {
            assert!(lines(&mut output, &[b'x'; MAX_LINE_BYTES]).is_empty());
        }
        assert_eq!(lines(&mut output, b"y\nz\n"), ["x".repeat(MAX_LINE_BYTES), "z".to_owned()]);
    }

    #[test]
    fn output_over_the_rate_limit_is_counted_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = output(dir.path());
        let mut logged = 0;
        let chunk = [b"line\n".repeat(100), b"half".to_vec()].concat();
        let mut taken = 0;
        while output.take(&chunk, NONE, |_| logged += 1) == ReadOutcome::Read {
            taken += 1;
        }
        assert_eq!(taken, BURST_BYTES / len(&chunk));
        assert_eq!(output.take(&chunk, NONE, |_| logged += 1), ReadOutcome::OverRate);
        let before = logged;
        let mut said = Vec::new();
        output.take(b"on\n", Duration::from_secs(1), |line| said.push(line.to_vec()));
        assert_eq!(logged, before);
        let dropped = format!("(rate limit: {} bytes of QEMU's output dropped)", 2 * chunk.len());
        assert_eq!(said, [dropped.into_bytes(), b"on".to_vec()]);
    }

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

    #[test]
    fn a_line_does_nothing_to_a_terminal() {
        assert_eq!(escape_controls(b"a\tb\x1b]0;x\x07\r\xff\0"), "a\tb\\u{1b}]0;x\\u{7}\\r\u{fffd}\\0");
    }

    #[test]
    fn what_is_no_fifo_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("output"), "").unwrap();
        assert!(OutputReader::of(&dir.path().join("output")).is_err());
    }
}
