//! One input, read by several threads, told in its order.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::feed::{Feed, Piece};
use crate::scan::{Batch, Scanner};
use crate::shape::Entries;

/// How many batches may be read and not yet told.
const AHEAD: u64 = 8;

/// How many bytes of entries that are no lines are read at once.
const READ: usize = 128 * 1024;

/// An input's batches, in the order of its lines. Reading goes on in threads of its own until it is
/// dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    shared: Arc<Shared>,
    next: u64,
}

impl Stream {
    /// Begins to read lines, by so many threads.
    pub(crate) fn of_lines(feed: Feed, threads: usize) -> io::Result<Self> {
        let work = Arc::new((feed, Scanner::new()));
        Self::start(threads, move || {
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

    /// Begins to read entries that are no lines.
    pub(crate) fn of_entries(mut bytes: Box<dyn Read + Send>, mut entries: Entries) -> io::Result<Self> {
        let mut read = Some(move |shared: &Shared| {
            let (mut buffer, mut lines) = (vec![0; READ], 0);
            for number in 0.. {
                let read = match bytes.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                    Err(error) => return Err(error),
                    Ok(0) => {
                        let mut batch = Batch { before: Some(0), ..Batch::default() };
                        entries.finish(&mut |line, told| batch.push(line.saturating_sub(1), told.map(Some)));
                        shared.put(number, batch);
                        break;
                    }
                    Ok(read) => read,
                };
                let mut batch = Batch { before: Some(0), bytes: read as u64, ..Batch::default() };
                entries.push(&buffer[..read], &mut |line, told| {
                    batch.push(line.saturating_sub(1), told.map(Some))
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
        let state = Mutex::new(State { reading: threads, ..State::default() });
        let shared = Arc::new(Shared { state, ..Shared::default() });
        for started in 0..threads {
            let (of, work) = (Ended(Arc::clone(&shared)), worker());
            let spawned = std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
                if let Err(error) = work(&of.0) {
                    of.0.lock().failed.get_or_insert(error);
                }
            });
            match spawned {
                Ok(_) => {}
                // Fewer will do. The one that did not start has counted itself out.
                Err(_) if started > 0 => {
                    shared.lock().reading -= threads - started - 1;
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
    /// The input can't be read on. What was read before it was given before.
    pub(crate) fn next(&mut self) -> Option<io::Result<Batch>> {
        let mut state = self.shared.lock();
        loop {
            if let Some(batch) = state.done.remove(&self.next) {
                self.next += 1;
                state.wanted = self.next;
                if state.full > 0 {
                    self.shared.room.notify_all();
                }
                return Some(Ok(batch));
            }
            if state.reading == 0 {
                // A piece that could not be read leaves a gap, and those behind it are not told.
                state.done.clear();
                return state.failed.take().map(Err);
            }
            state.empty = true;
            state = wait(&self.shared.ready, state);
            state.empty = false;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The threads end by themselves; one that waits for a pipe may do so for ever.
        self.shared.lock().dropped = true;
        self.shared.room.notify_all();
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A batch is there that is wanted, or nobody reads any more.
    ready: Condvar,
    /// There is room for another batch, or nobody wants one any more.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    done: BTreeMap<u64, Batch>,
    /// The batch that is told next.
    wanted: u64,
    /// How many threads read.
    reading: usize,
    /// Whether the teller waits for a batch, and how many readers wait for room: who is not waited for
    /// needs no system call.
    empty: bool,
    full: usize,
    failed: Option<io::Error>,
    dropped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left a state that holds still: batches are put in whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch once there is room for it; `false` when nobody wants it any more.
    fn put(&self, number: u64, batch: Batch) -> bool {
        let mut state = self.lock();
        while number >= state.wanted + AHEAD && !state.dropped {
            state.full += 1;
            state = wait(&self.room, state);
            state.full -= 1;
        }
        state.done.insert(number, batch);
        if state.empty && number == state.wanted {
            self.ready.notify_one();
        }
        !state.dropped
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}

/// Counts a thread out when it ends, however it does.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().reading -= 1;
        self.0.ready.notify_one();
    }
}
