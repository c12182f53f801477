//! Reads several objects at once, and passes on what they have in the order in which they were
//! given.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::LakeError;

/// Rows that are handed over at a time.
const BATCH: usize = 1024;

/// Batches of one item that wait to be passed on.
const WAITING: usize = 2;

/// What a thread sends of one item.
pub(crate) struct Sender<'a, R> {
    to: &'a SyncSender<Result<Vec<R>, LakeError>>,
    batch: Vec<R>,
}

/// Nobody takes any more.
pub(crate) struct Stopped;

impl<R> Sender<'_, R> {
    /// Sends a row.
    pub(crate) fn send(&mut self, row: R) -> Result<(), Stopped> {
        self.batch.push(row);
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.to.send(Ok(std::mem::take(&mut self.batch))).map_err(|_| Stopped)
    }
}

/// Why reading an item ends early.
pub(crate) enum Ended {
    /// Nobody takes any more.
    Stopped,
    /// It can't be read.
    Failed(LakeError),
}

impl From<Stopped> for Ended {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<LakeError> for Ended {
    fn from(error: LakeError) -> Self {
        Self::Failed(error)
    }
}

/// Reads the items on so many threads, and passes on what they have in the items' order. Of each
/// item that is being read, some thousand rows are in memory.
pub(crate) fn in_order<T: Sync, R: Send, E: From<LakeError>>(
    threads: usize,
    items: &[T],
    read: impl Fn(&T, &mut Sender<'_, R>) -> Result<(), Ended> + Sync,
    take: &mut impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let channel = |_: &T| {
        let (to, from) = sync_channel(WAITING);
        (Mutex::new(Some(to)), from)
    };
    // A sender is of the thread that reads its item: if that ends, whoever waits for the item knows.
    let (senders, receivers): (Vec<_>, Vec<Receiver<_>>) = items.iter().map(channel).unzip();
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let to = senders.get(at).and_then(|to| to.lock().unwrap_or_else(PoisonError::into_inner).take());
            let (Some(item), Some(to)) = (items.get(at), to) else { return };
            let mut sender = Sender { to: &to, batch: Vec::new() };
            let ended = read(item, &mut sender).and_then(|()| Ok(sender.flush()?));
            let is_over = match ended {
                Ok(()) => to.send(Ok(Vec::new())).is_err(),
                Err(Ended::Failed(error)) => to.send(Err(error)).is_err(),
                Err(Ended::Stopped) => true,
            };
            if is_over {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(work);
        }
        // Dropped as soon as something fails: then the threads end.
        for of_item in receivers {
            loop {
                match of_item.recv() {
                    // The end of the item; or its thread has ended, which passes on its panic.
                    Ok(Ok(rows)) if rows.is_empty() => break,
                    Err(_) => break,
                    Ok(Ok(rows)) => rows.into_iter().try_for_each(&mut *take)?,
                    Ok(Err(error)) => return Err(error.into()),
                }
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn damaged() -> LakeError {
        LakeError::damaged(&Arc::from("x"), "it is damaged")
    }

    #[test]
    fn rows_come_in_the_items_order() {
        let items: Vec<usize> = (0..50).collect();
        let mut taken = Vec::new();
        let read = |item: &usize, to: &mut Sender<'_, usize>| {
            // Every third has several batches; some take longer.
            let rows = if item.is_multiple_of(3) { 5000 } else { item % 2 };
            thread::sleep(std::time::Duration::from_micros((item % 5 * 200) as u64));
            Ok((0..rows).try_for_each(|row| to.send(item * 10_000 + row))?)
        };
        in_order::<_, _, LakeError>(4, &items, read, &mut |row| {
            taken.push(row);
            Ok(())
        })
        .unwrap();
        assert_eq!(
            taken.len(),
            17 * 5000 + items.iter().filter(|item| !item.is_multiple_of(3) && *item % 2 == 1).count()
        );
        assert!(taken.is_sorted());
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on() {
        let items: Vec<usize> = (0..100).collect();
        let read = |item: &usize, to: &mut Sender<'_, usize>| {
            assert_ne!(*item, 7, "as planned");
            Ok((0..10_000).try_for_each(|row| to.send(row))?)
        };
        let _ = in_order::<_, _, LakeError>(3, &items, read, &mut |_| Ok(()));
    }

    #[test]
    fn an_error_comes_after_the_rows_before_it_and_ends_all() {
        let items: Vec<usize> = (0..1000).collect();
        let read = |item: &usize, to: &mut Sender<'_, usize>| {
            to.send(*item)?;
            if *item == 7 { Err(Ended::Failed(damaged())) } else { Ok(()) }
        };
        let mut taken = Vec::new();
        let failed = in_order::<_, _, LakeError>(3, &items, read, &mut |row| {
            taken.push(row);
            Ok(())
        });
        assert!(matches!(failed, Err(LakeError::Damaged { .. })));
        assert_eq!(taken, (0..7).collect::<Vec<_>>());
        // And that of whoever takes.
        let endless = |_: &usize, to: &mut Sender<'_, usize>| loop {
            to.send(1)?;
        };
        let mut count = 0;
        let failed = in_order::<_, _, LakeError>(3, &items, endless, &mut |_| {
            count += 1;
            if count < 10_000 { Ok(()) } else { Err(damaged()) }
        });
        assert!(failed.is_err());
        in_order::<usize, usize, LakeError>(3, &[], endless, &mut |_| Ok(())).unwrap();
    }
}
