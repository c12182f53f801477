//! The output of a QEMU in the background: a FIFO, read line by line in a thread.
//!
//! QEMU is not trusted, and the run directory is in memory. So QEMU does not write to a file of
//! ours: its output is read with a rate limit, and dropped bytes are counted. QEMU never waits for
//! us: a FIFO that nobody reads takes what fits and refuses the rest, whether the supervisor hangs
//! or has ended. A supervisor that adopts the guest reads on. Where the lines go is the caller's to
//! say.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;
use taptrail_guest::NOFOLLOW;
use taptrail_kernel::process::drop_all_capabilities;
use tracing::warn;

/// Length at which a line of QEMU's is cut.
pub(crate) const MAX_LINE_BYTES: usize = 4096;

/// Rate limit of QEMU's output.
const BURST_BYTES: u64 = 256 << 10;
const BYTES_PER_SECOND: u64 = 16 << 10;

/// Bytes of one read(2), and of a full pipe (pipe(7)).
const READ_BYTES: usize = 16 << 10;
const PIPE_BYTES: usize = 64 << 10;

/// Pause between reads of a QEMU that is over its rate.
const THROTTLE_INTERVAL: Duration = Duration::from_millis(20);

/// The FIFO in a guest's directory.
pub(crate) fn output_path(dir: &Path) -> PathBuf {
    dir.join("output")
}

/// Makes the FIFO, unless it exists.
pub(crate) fn make_fifo(path: &Path) -> io::Result<()> {
    match mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        // An existing FIFO may be open in the QEMU of an earlier supervisor.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads QEMU's output in a thread of its own, as long as this process lives.
pub(crate) fn follow(
    output: &'static Mutex<OutputReader>,
    say: impl Fn(&[u8]) + Send + 'static,
) -> io::Result<()> {
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

/// A poisoned lock is used all the same.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a FIFO without blocking.
pub(crate) fn open_fifo(path: &Path, write: bool) -> io::Result<File> {
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
pub(crate) struct OutputReader {
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
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let fifo = open_fifo(path, false)?;
        Ok(Self { fifo, begun: Vec::new(), allowed: BURST_BYTES, since: Instant::now(), dropped: 0 })
    }

    /// Reads the rest of the output, without waiting.
    pub(crate) fn drain(&mut self, mut say: impl FnMut(&[u8])) {
        // Limited, as a QEMU that runs on may write more and more.
        for _ in 0..PIPE_BYTES / READ_BYTES {
            if self.read(&mut say) != ReadOutcome::Read {
                break;
            }
        }
        self.flush_line(&mut say);
        self.report_dropped(&mut say);
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

/// A line for a terminal: control characters are escaped, and bytes that are not UTF-8 are
/// replaced.
pub(crate) fn escape_controls(line: &[u8]) -> String {
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
        assert_eq!(taken, BURST_BYTES / u64::try_from(chunk.len()).unwrap());
        assert_eq!(output.take(&chunk, NONE, |_| logged += 1), ReadOutcome::OverRate);
        let before = logged;
        let mut said = Vec::new();
        output.take(b"on\n", Duration::from_secs(1), |line| said.push(line.to_vec()));
        assert_eq!(logged, before);
        let dropped = format!("(rate limit: {} bytes of QEMU's output dropped)", 2 * chunk.len());
        assert_eq!(said, [dropped.into_bytes(), b"on".to_vec()]);
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
