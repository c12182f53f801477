//! Reads one input in several threads, and returns its batches in order.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::feed::{Feed, Piece};
use crate::scan::{Batch, Scanner, Scanning};
use crate::shape::Entries;

/// Maximum number of batches read ahead.
const MAX_BATCHES_AHEAD: u64 = 8;

/// Bytes per read of multi-line entries.
const READ_BYTES: usize = 128 * 1024;

/// An input's batches, in the order of its lines. Its threads read on until it is dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    shared: Arc<Shared>,
    next: u64,
}

impl Stream {
    /// Begins to read lines.
    pub(crate) fn of_lines(feed: Feed, scanning: Scanning) -> io::Result<Self> {
        let work =
            Arc::new((feed, Scanner::new().with_resources(scanning.resources).with_text(scanning.keep_text)));
        Self::start(scanning.threads.get(), move || {
            let work = Arc::clone(&work);
            move |shared: &Shared| {
                let (feed, scanner) = &*work;
                let mut piece = Piece::default();
                while let Some(number) = feed.fill(&mut piece)? {
                    if !shared.put(number, scanner.scan(&piece)) {
                        break;
                    }
                }
                Ok(())
            }
        })
    }

    /// Begins to read multi-line entries, in one thread.
    pub(crate) fn of_entries(mut bytes: Box<dyn Read + Send>, mut entries: Entries) -> io::Result<Self> {
        let mut read = Some(move |shared: &Shared| {
            let (mut buffer, mut lines) = (vec![0; READ_BYTES], 0);
            for number in 0.. {
                let read = match bytes.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                    Err(error) => return Err(error),
                    Ok(0) => {
                        let mut batch = Batch { before: Some(0), ..Batch::default() };
                        entries
                            .finish(&mut |line, result| batch.push(line.saturating_sub(1), result.map(Some)));
                        shared.put(number, batch);
                        break;
                    }
                    Ok(read) => read,
                };
                let mut batch = Batch { before: Some(0), bytes: read as u64, ..Batch::default() };
                entries.push(&buffer[..read], &mut |line, result| {
                    batch.push(line.saturating_sub(1), result.map(Some))
                });
                batch.lines = entries.lines() - lines;
                lines = entries.lines();
                if !shared.put(number, batch) {
                    break;
                }
            }
            Ok(())
        });
        Self::start(1, move || {
            let read = read.take();
            move |shared: &Shared| read.map_or(Ok(()), |read| read(shared))
        })
    }

    fn start<W>(threads: usize, mut worker: impl FnMut() -> W) -> io::Result<Self>
    where
        W: FnOnce(&Shared) -> io::Result<()> + Send + 'static,
    {
        let state = Mutex::new(State { active_readers: threads, ..State::default() });
        let shared = Arc::new(Shared { state, ..Shared::default() });
        for started in 0..threads {
            let (of, work) = (ActiveReader(Arc::clone(&shared)), worker());
            let spawned = std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
                if let Err(error) = work(&of.0) {
                    of.0.lock().failed.get_or_insert(error);
                    // Nobody takes what comes after it: the other readers must not wait for room.
                    of.0.room.notify_all();
                }
            });
            match spawned {
                Ok(_) => {}
                // Fewer threads suffice. The one that did not start has already decremented the
                // count.
                Err(_) if started > 0 => {
                    shared.lock().active_readers -= threads - started - 1;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { shared, next: 0 })
    }

    /// The next batch; `None` at the end.
    ///
    /// # Errors
    ///
    /// The input can't be read further. All batches before the error were returned.
    pub(crate) fn next(&mut self) -> Option<io::Result<Batch>> {
        let mut state = self.shared.lock();
        loop {
            if let Some(batch) = state.done.remove(&self.next) {
                self.next += 1;
                state.wanted = self.next;
                if state.waiting_readers > 0 {
                    self.shared.room.notify_all();
                }
                return Some(Ok(batch));
            }
            if state.active_readers == 0 {
                // After a piece that could not be read, later pieces are dropped.
                state.done.clear();
                return state.failed.take().map(Err);
            }
            state.consumer_waits = true;
            state = wait(&self.shared.ready, state);
            state.consumer_waits = false;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The threads end by themselves; one that reads from a pipe may block for ever.
        self.shared.lock().dropped = true;
        self.shared.room.notify_all();
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The wanted batch is ready, or a reader has ended.
    ready: Condvar,
    /// There is room for another batch, or the stream was dropped.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    done: BTreeMap<u64, Batch>,
    /// Number of the batch that is returned next.
    wanted: u64,
    /// Number of threads that read.
    active_readers: usize,
    /// Whether the consumer waits for a batch, and how many readers wait for room: the condition
    /// variables are notified only if a thread waits.
    consumer_waits: bool,
    waiting_readers: usize,
    failed: Option<io::Error>,
    dropped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent even if a thread panicked: batches are inserted as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a batch once there is room for it; `false` if the stream was dropped, or another reader
    /// has failed.
    fn put(&self, number: u64, batch: Batch) -> bool {
        let mut state = self.lock();
        while number >= state.wanted + MAX_BATCHES_AHEAD && !state.is_over() {
            state.waiting_readers += 1;
            state = wait(&self.room, state);
            state.waiting_readers -= 1;
        }
        state.done.insert(number, batch);
        if state.consumer_waits && number == state.wanted {
            self.ready.notify_one();
        }
        !state.is_over()
    }
}

impl State {
    /// Whether no further batch is needed.
    fn is_over(&self) -> bool {
        self.dropped || self.failed.is_some()
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}

/// Decrements the count of readers when a thread ends, even by a panic.
struct ActiveReader(Arc<Shared>);

impl Drop for ActiveReader {
    fn drop(&mut self) {
        self.0.lock().active_readers -= 1;
        self.0.ready.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_fails_leaves_no_other_waiting() {
        let mut readers = 0;
        let mut stream = Stream::start(2, move || {
            readers += 1;
            let fails = readers == 1;
            move |shared: &Shared| {
                if !fails {
                    // More than there is room for: the first batch is never there.
                    let mut numbers = 1..MAX_BATCHES_AHEAD * 4;
                    while numbers.next().is_some_and(|number| shared.put(number, Batch::default())) {}
                    return Ok(());
                }
                // The other one waits for room by now, or is about to.
                std::thread::sleep(std::time::Duration::from_millis(50));
                Err(io::Error::other("the disk is damaged"))
            }
        })
        .unwrap();
        assert!(stream.next().is_some_and(|batch| batch.is_err()));
        assert!(stream.next().is_none());
    }
}
