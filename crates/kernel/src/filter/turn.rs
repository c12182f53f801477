//! Runs of nft, one at a time.
//!
//! nft starts over whenever somebody else changes the rules while it works. When many guests start at
//! once, their filters hinder each other until the time limit of one run is over, though one after the
//! other they would take seconds.

use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The longest time that one waits for its turn. Then it goes on without.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// After that, how long nobody is waited for: whoever has the lock may never release it.
const NO_WAIT: Duration = Duration::from_secs(300);
/// The time between two attempts, at first and at most.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(32));

/// A file that is locked by whoever runs nft.
#[derive(Debug)]
pub struct NftTurns {
    file: File,
    /// Until when it is not waited for.
    no_wait_until: Mutex<Option<Instant>>,
}

/// A turn, which ends with this value.
#[derive(Debug)]
pub(super) struct Turn<'a>(Option<&'a File>);

impl NftTurns {
    /// By this file, which only processes that take turns should be able to open.
    pub fn new(file: File) -> Self {
        Self { file, no_wait_until: Mutex::new(None) }
    }

    /// Waits until no other process has locked the file, but not for ever.
    pub(super) fn wait(&self) -> Turn<'_> {
        self.wait_for(LONGEST_WAIT)
    }

    fn wait_for(&self, longest: Duration) -> Turn<'_> {
        let mut no_wait_until = self.no_wait_until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let waits = no_wait_until.is_none_or(|until| until <= now);
        if lock(&self.file, if waits { now + longest } else { now }) {
            *no_wait_until = None;
            return Turn(Some(&self.file));
        }
        if waits {
            *no_wait_until = Some(Instant::now() + NO_WAIT);
        }
        tracing::debug!("running nft without its lock");
        Turn(None)
    }
}

impl Turn<'_> {
    /// A turn that nobody has to wait for.
    pub(super) fn free() -> Self {
        Self(None)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            // Does not fail for a file that this process has locked.
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

/// Locks the file, if that is possible before the deadline.
fn lock(file: &File, deadline: Instant) -> bool {
    let (mut interval, longest) = INTERVALS;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return true,
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => thread::sleep(interval),
            Err(_) => return false,
        }
        interval = (interval * 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_its_turn_when_the_other_has_had_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let turns = || NftTurns::new(file.reopen().unwrap());
        let (one, other) = (turns(), turns());
        let turn = one.wait();
        assert!(turn.0.is_some());
        let waits = thread::spawn(move || other.wait().0.is_some());
        thread::sleep(Duration::from_millis(20));
        assert!(!waits.is_finished());
        drop(turn);
        assert!(waits.join().unwrap());
    }

    #[test]
    fn whoever_never_ends_its_turn_is_waited_for_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let turns = || NftTurns::new(file.reopen().unwrap());
        let (stuck, other) = (turns(), turns());
        let turn = stuck.wait();
        assert!(other.wait_for(Duration::from_millis(5)).0.is_none());
        // For an hour, or not at all.
        assert!(other.wait_for(Duration::from_secs(3600)).0.is_none());
        drop(turn);
        assert!(other.wait_for(Duration::ZERO).0.is_some());
    }
}
