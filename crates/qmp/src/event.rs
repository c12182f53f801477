use std::collections::VecDeque;
use std::time::SystemTime;

use serde_json::Value;

use crate::error::QmpError;

/// The largest number of queued events.
pub const MAX_QUEUED_EVENTS: usize = 1024;

/// The largest total size, in bytes, of the lines of queued events. Parsed, they may take tens of
/// times as much memory.
pub const MAX_QUEUED_BYTES: usize = 1 << 20;

/// Events that are never dropped: QEMU sends each once, and the state of interfaces and guest
/// depends on them.
const NEVER_DROPPED: [&str; 6] = [
    "DEVICE_DELETED",
    "DEVICE_UNPLUG_GUEST_ERROR",
    "MEM_UNPLUG_ERROR",
    "GUEST_PANICKED",
    "POWERDOWN",
    "SHUTDOWN",
];

/// An asynchronous event of QEMU's. Names are not checked: newer versions have more.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `DEVICE_DELETED`, `SHUTDOWN`, … (QEMU's `qapi/*.json`).
    pub name: String,
    /// Its data; null if it has none.
    pub data: Value,
    /// Its time by QEMU's clock; `None` if QEMU sent no valid one.
    pub time: Option<SystemTime>,
}

impl Event {
    /// A string of its data, such as `device` of `DEVICE_DELETED` or `reason` of `SHUTDOWN`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str()
    }

    fn is_never_dropped(&self) -> bool {
        NEVER_DROPPED.contains(&self.name.as_str())
    }
}

/// Events in the order of their arrival, bounded in number and size.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    events: VecDeque<(Event, usize)>,
    bytes: usize,
    dropped: u64,
}

impl EventQueue {
    /// Adds an event whose line has `bytes` bytes. A full queue drops its oldest event that may be
    /// dropped; if there is none, that is a protocol error.
    pub(crate) fn push(&mut self, event: Event, bytes: usize) -> Result<(), QmpError> {
        self.events.push_back((event, bytes));
        self.bytes += bytes;
        while self.events.len() > MAX_QUEUED_EVENTS || self.bytes > MAX_QUEUED_BYTES {
            let Some(at) = self.events.iter().position(|(event, _)| !event.is_never_dropped()) else {
                return Err(QmpError::Flooded);
            };
            self.remove(at);
            self.dropped += 1;
        }
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.remove(0)
    }

    /// Removes the oldest event for which `wanted` is true.
    pub(crate) fn take(&mut self, mut wanted: impl FnMut(&Event) -> bool) -> Option<Event> {
        let at = self.events.iter().position(|(event, _)| wanted(event))?;
        self.remove(at)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn remove(&mut self, at: usize) -> Option<Event> {
        let (event, bytes) = self.events.remove(at)?;
        self.bytes -= bytes;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str) -> Event {
        Event { name: name.to_owned(), data: Value::Null, time: None }
    }

    #[test]
    fn a_full_queue_drops_its_oldest_and_never_an_important_event() {
        let mut queue = EventQueue::default();
        queue.push(event("DEVICE_DELETED"), 10).unwrap();
        for n in 0..MAX_QUEUED_EVENTS + 5 {
            queue.push(event(&format!("NEW_{n}")), 10).unwrap();
        }
        assert_eq!(queue.dropped(), 6);
        assert_eq!(queue.pop(), Some(event("DEVICE_DELETED")));
        assert_eq!(queue.pop(), Some(event("NEW_6")));
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_too() {
        let mut queue = EventQueue::default();
        for _ in 0..3 {
            queue.push(event("BIG"), MAX_QUEUED_BYTES / 2).unwrap();
        }
        assert_eq!((queue.events.len(), queue.dropped()), (2, 1));
    }

    #[test]
    fn a_flood_of_important_events_is_an_error() {
        let mut queue = EventQueue::default();
        let end = (0..=MAX_QUEUED_EVENTS).try_for_each(|_| queue.push(event("SHUTDOWN"), 1));
        assert!(matches!(end, Err(QmpError::Flooded)));
    }

    #[test]
    fn the_oldest_wanted_event_is_taken_and_the_others_stay() {
        let mut queue = EventQueue::default();
        for name in ["A", "B", "C", "B"] {
            queue.push(event(name), 1).unwrap();
        }
        assert!(queue.take(|event| event.name == "D").is_none());
        assert!(queue.take(|event| event.name == "B").is_some());
        let left: Vec<String> = std::iter::from_fn(|| queue.pop()).map(|event| event.name).collect();
        assert_eq!(left, ["A", "C", "B"]);
    }
}
