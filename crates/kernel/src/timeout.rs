//! Timeouts as the kernel takes them.

use std::time::Duration;

use rustix::event::Timespec;

/// A timeout for poll(2); `None`, which is no timeout, if it is longer than a `time_t` can hold.
pub fn poll_timeout(timeout: Duration) -> Option<Timespec> {
    Timespec::try_from(timeout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_keeps_its_nanoseconds() {
        let timeout = poll_timeout(Duration::new(3, 7)).unwrap();
        assert_eq!((timeout.tv_sec, timeout.tv_nsec), (3, 7));
        assert!(poll_timeout(Duration::MAX).is_none());
    }
}
