//! Programs that take turns.
//!
//! nft starts over whenever somebody else changes the rules while it works. When many guests start at
//! once, their filters hinder each other until the time limit of one run is over, though one after the
//! other they would take seconds.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The longest time that one waits for its turn. Then it goes on without.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The time between two attempts.
const INTERVAL: Duration = Duration::from_millis(2);

/// A turn, which ends with this value.
#[derive(Debug)]
pub(super) struct Turn<'a>(Option<&'a File>);

impl<'a> Turn<'a> {
    /// Waits until no other process has locked the file. Without a file there is nothing to wait for.
    pub(super) fn wait(lock: Option<&'a File>) -> Self {
        Self(lock.filter(|lock| is_locked(lock, Instant::now() + LONGEST_WAIT)))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.0 {
            // Does not fail for a file that this process has locked.
            let _ = flock(lock, FlockOperation::Unlock);
        }
    }
}

fn is_locked(lock: &File, deadline: Instant) -> bool {
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return true,
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => thread::sleep(INTERVAL),
            Err(error) => {
                tracing::debug!(%error, "nft is run out of turn");
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_its_turn_when_the_other_has_had_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, other) = (file.reopen().unwrap(), file.reopen().unwrap());
        let turn = Turn::wait(Some(&one));
        assert!(!is_locked(&other, Instant::now() + 3 * INTERVAL));
        let waits = thread::spawn(move || is_locked(&other, Instant::now() + LONGEST_WAIT));
        thread::sleep(3 * INTERVAL);
        assert!(!waits.is_finished());
        drop(turn);
        assert!(waits.join().unwrap());
    }
}
