//! The log of a guest in the background: what its supervisor and its QEMU say, with times, and
//! within bounds.
//!
//! ```text
//!   QEMU's stdout, stderr ──▶ output, a FIFO ──▶ thread ──▶ log ──▶ log.1, by rotation
//!   the supervisor's log messages ───────────────────────────┘
//!   until the guest runs: warnings, and all of QEMU's, to who started it, too
//! ```
//!
//! QEMU is a stranger, and the run directory is memory. So QEMU has no file of ours: what it writes
//! is taken line by line, as much of it as is sensible, and what is too much is counted. Nor does
//! it ever wait for us: a FIFO that nobody empties takes what fits and refuses the rest, whether
//! its supervisor hangs or has ended. Who takes the guest up reads on.

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

use crate::stderr::say_qemu;

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

/// Begins the log in a guest's directory: from here on standard output and error are QEMU's, by way
/// of the log.
pub(crate) fn start(dir: &Path) -> io::Result<()> {
    // Who started us hears through it; it must not hold us up.
    let caller = File::from(fcntl_dupfd_cloexec(io::stderr(), 3)?);
    fcntl_setfl(&caller, fcntl_getfl(&caller)? | OFlags::NONBLOCK)?;
    let path = dir.join("output");
    match mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        // One that an earlier supervisor's QEMU has open is read on.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Opened anew: the flags of what QEMU has are QEMU's to change.
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

/// Passes on to standard error what a QEMU says that was started in the background, where this
/// process has taken it up in the foreground.
pub(crate) fn forward_to_stderr(dir: &Path) -> io::Result<()> {
    let output = match OutputReader::of(&dir.join("output")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        output => &*Box::leak(Box::new(Mutex::new(output?))),
    };
    follow(output, |line| {
        // Nobody is left to tell when this fails.
        let _ = say_qemu(&escape_controls(line));
    })
}

/// Reads what QEMU says, in a thread of its own, as long as this process lives.
fn follow(output: &'static Mutex<OutputReader>, say: impl Fn(&[u8]) + Send + 'static) -> io::Result<()> {
    let fifo = locked(output).fifo.try_clone()?;
    let read = move || {
        // What QEMU says is read without any right.
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
                // Nobody writes any more, or more than is taken.
                ReadOutcome::Nothing | ReadOutcome::OverRate => thread::sleep(THROTTLE_INTERVAL),
            }
        }
    };
    thread::Builder::new().name("log".to_owned()).spawn(read).map(drop)
}

/// The guest's log. A lock that a panic left is as good as any.
#[derive(Debug)]
pub(crate) struct Log {
    log_file: Mutex<LogFile>,
    /// Who started us, as long as it waits.
    caller: Mutex<Option<File>>,
    output: Mutex<OutputReader>,
}

impl Log {
    /// Writes what the supervisor says itself; to who started it, too, if that is grave.
    pub(crate) fn write_own(&self, text: &[u8], grave: bool) {
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            locked(&self.log_file).write(b"", line);
        }
        if grave {
            self.forward_to_caller(text);
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        locked(&self.log_file).path.clone()
    }

    /// The guest runs, or never will: who started us goes.
    pub(crate) fn close_caller(&self) {
        locked(&self.caller).take();
    }

    /// Takes what QEMU has said last and nobody has read yet.
    pub(crate) fn drain(&self) {
        let mut output = locked(&self.output);
        // A QEMU that runs on may say more and more.
        for _ in 0..PIPE_BYTES / READ_BYTES {
            if output.read(|line| self.write_qemu(line)) != ReadOutcome::Read {
                break;
            }
        }
        output.flush_line(|line| self.write_qemu(line));
        output.tell_dropped(|line| self.write_qemu(line));
    }

    fn write_qemu(&self, line: &[u8]) {
        // As it says when its monitor waits for us, who are there already.
        if line.ends_with(b",server=on") && contains(line, b"info: QEMU waiting for connection on: ") {
            return;
        }
        locked(&self.log_file).write(b"qemu: ", line);
        self.forward_to_caller(line);
    }

    fn forward_to_caller(&self, text: &[u8]) {
        if let Some(caller) = &mut *locked(&self.caller) {
            // One that does not read misses it, and finds it in the log.
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

/// Opens a FIFO in a way in which nobody waits for anybody.
fn open_fifo(path: &Path, write: bool) -> io::Result<File> {
    let flags = NOFOLLOW | OFlags::NONBLOCK.bits().cast_signed();
    let fifo = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
    if fifo.metadata()?.file_type().is_fifo() {
        Ok(fifo)
    } else {
        Err(io::Error::other(format!("{} is no FIFO", path.display())))
    }
}

/// How much of QEMU's output was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadOutcome {
    Nothing,
    Read,
    /// More than QEMU may say: it is not kept.
    OverRate,
}

/// What QEMU says, line by line.
#[derive(Debug)]
struct OutputReader {
    fifo: File,
    /// A line without its end.
    begun: Vec<u8>,
    /// How much it may say now.
    allowed: u64,
    since: Instant,
    /// How much it has said in excess, and has not been told.
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

    /// Takes what QEMU said; `elapsed` since the last time that something was allowed.
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
        self.tell_dropped(&mut say);
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

    /// Says how much was dropped, and with it the line that was begun before.
    fn tell_dropped(&mut self, say: impl FnOnce(&[u8])) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.begun.clear();
            say(format!("(rate limit: {dropped} bytes of QEMU's output dropped)").as_bytes());
        }
    }

    /// Says a line that has no end.
    fn flush_line(&mut self, mut say: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            say(&std::mem::take(&mut self.begun));
        }
    }
}

/// The file, and the one before it.
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

    /// Writes a line, whatever bytes it has. What can't be written is lost: the supervisor goes on
    /// without its log.
    fn write(&mut self, whose: &[u8], line: &[u8]) {
        let mut whole = format!("{:.3}  ", Timestamp::now()).into_bytes();
        whole.extend_from_slice(whose);
        whole.extend_from_slice(escape_controls(line).as_bytes());
        whole.push(b'\n');
        if self.size.saturating_add(len(&whole)) > MAX_LOG_BYTES {
            self.rotate();
        }
        if self.file.write_all(&whole).is_ok() {
            self.size = self.size.saturating_add(len(&whole));
        }
    }

    /// Begins a new file, and keeps this one in place of the older.
    fn rotate(&mut self) {
        let mut before = self.path.clone();
        before.as_mut_os_string().push(".1");
        let deleted = std::fs::symlink_metadata(&before).map_or(0, |file| file.len());
        let anew = std::fs::rename(&self.path, &before).and_then(|()| Self::file(&self.path));
        match anew {
            Ok(file) => (self.file, self.size) = (file, 0),
            // Better no older lines than no bound.
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

/// A line for a terminal: control characters are escaped, and what is no text is replaced.
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
    fn a_line_is_told_when_it_ends_and_a_long_one_is_cut() {
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
    fn what_is_too_much_is_counted_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = output(dir.path());
        let mut told = 0;
        let chunk = [b"line\n".repeat(100), b"half".to_vec()].concat();
        let mut taken = 0;
        while output.take(&chunk, NONE, |_| told += 1) == ReadOutcome::Read {
            taken += 1;
        }
        assert_eq!(taken, BURST_BYTES / len(&chunk));
        assert_eq!(output.take(&chunk, NONE, |_| told += 1), ReadOutcome::OverRate);
        let before = told;
        let mut said = Vec::new();
        output.take(b"on\n", Duration::from_secs(1), |line| said.push(line.to_vec()));
        assert_eq!(told, before);
        let dropped = format!("(rate limit: {} bytes of QEMU's output dropped)", 2 * chunk.len());
        assert_eq!(said, [dropped.into_bytes(), b"on".to_vec()]);
    }

    #[test]
    fn two_files_of_a_bounded_size_are_kept_and_what_is_gone_is_told() {
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
        // Who comes later goes on with it.
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
