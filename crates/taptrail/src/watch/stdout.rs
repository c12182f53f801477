//! Writes events to standard output without blocking the watcher, whether its reader is slow or
//! gone.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::warn;

/// Lines that are queued for the reader.
const MAX_QUEUED_LINES: usize = 4096;

/// How long to wait at the end until the queue is written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Lines for standard output, written by a thread.
pub(super) struct Lines {
    lines: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
    state: Arc<State>,
    json: bool,
}

#[derive(Default)]
struct State {
    /// Lines that were dropped since the last that was written.
    missed: AtomicU64,
    /// The reader has closed the pipe.
    gone: AtomicBool,
    done: AtomicBool,
}

impl Lines {
    /// For lines of JSON or of text.
    pub(super) fn new(json: bool) -> io::Result<Self> {
        Self::to(io::stdout(), json)
    }

    fn to(out: impl Write + Send + 'static, json: bool) -> io::Result<Self> {
        let state = Arc::new(State::default());
        let (lines, waiting) = sync_channel(MAX_QUEUED_LINES);
        let shared = Arc::clone(&state);
        let write = move || {
            if let Err(error) = write(out, &waiting, &shared, json) {
                shared.gone.store(true, Ordering::Release);
                if error.kind() != io::ErrorKind::BrokenPipe {
                    warn!("Standard output can't be written; no more events are printed: {error}");
                }
            }
            shared.done.store(true, Ordering::Release);
        };
        let writer = std::thread::Builder::new().name("stdout".to_owned()).spawn(write)?;
        Ok(Self { lines: Some(lines), writer: Some(writer), state, json })
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether the reader has closed the pipe.
    pub(super) fn is_gone(&self) -> bool {
        self.state.gone.load(Ordering::Acquire)
    }

    /// Queues one line; returns whether there was room for it.
    pub(super) fn send(&self, line: String) -> bool {
        let Some(lines) = &self.lines else { return false };
        match lines.try_send(line) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.state.missed.fetch_add(1, Ordering::Relaxed);
                false
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        drop(self.lines.take());
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        while !self.state.done.load(Ordering::Acquire) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // A writer that is blocked by its reader ends with the process.
        if self.state.done.load(Ordering::Acquire)
            && let Some(writer) = self.writer.take()
        {
            // A panic of the writer is ignored.
            let _ = writer.join();
        }
    }
}

fn write(mut out: impl Write, lines: &Receiver<String>, state: &State, json: bool) -> io::Result<()> {
    while let Ok(line) = lines.recv() {
        let missed = state.missed.swap(0, Ordering::Relaxed);
        if missed > 0 && json {
            writeln!(out, "{{\"kind\":\"missed\",\"count\":{missed}}}")?;
        } else if missed > 0 {
            writeln!(out, "{missed} lines were dropped: this reader was too slow")?;
        }
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead as _, BufReader};

    use super::*;

    // Shows 13.30.
    #[test]
    fn a_slow_reader_gets_the_number_of_lost_lines_and_blocks_nobody() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let lines = Lines::to(File::from(write), true).unwrap();
        let line = "x".repeat(1024);
        let queued = (0..10_000).filter(|_| lines.send(line.clone())).count();
        assert!((MAX_QUEUED_LINES..10_000).contains(&queued), "{queued}");
        let reader = std::thread::spawn(move || {
            BufReader::new(File::from(read)).lines().map(Result::unwrap).collect::<Vec<_>>()
        });
        while !lines.send("last".to_owned()) {}
        drop(lines);
        let all = reader.join().unwrap();
        for line in all.iter().filter(|line| line.starts_with('{')) {
            crate::contract::assert_valid("watch", &serde_json::from_str(line).unwrap());
        }
        let missed: usize = all
            .iter()
            .filter_map(|line| {
                line.strip_prefix("{\"kind\":\"missed\",\"count\":")?.strip_suffix('}')?.parse::<usize>().ok()
            })
            .sum();
        assert!(missed >= 10_000 - queued, "{missed} of {}", 10_000 - queued);
        assert_eq!(all.last().unwrap(), "last");
        assert_eq!(all.iter().filter(|read| **read == line).count(), queued);
    }

    #[test]
    fn a_reader_that_is_gone_is_noticed() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        drop(read);
        let lines = Lines::to(File::from(write), false).unwrap();
        while !lines.is_gone() {
            lines.send("x".to_owned());
            std::thread::yield_now();
        }
    }
}
