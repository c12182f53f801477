use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::error::QmpError;
use crate::event::Event;
use crate::monitor::Monitor;
use crate::wire::Filled;

/// Reads of the socket in one [`Monitor::pending_event`]: a peer that writes faster than it is
/// read can't hold its reader.
const MAX_READS: usize = 16;

/// How a [`Monitor::wait_event`] ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Waited {
    /// The filter said yes to this one; it is no longer in the queue.
    Event(Event),
    /// The deadline passed.
    TimedOut,
    /// The interrupt of this index is readable (or gone).
    Interrupted(usize),
}

impl Monitor {
    /// The oldest event, of those queued or there to read; never waits.
    ///
    /// Queued events stay readable after a fatal error, so a `SHUTDOWN` that came before QEMU's
    /// end is not lost with it.
    ///
    /// # Errors
    /// When nothing is queued: [`QmpError::Closed`] at QEMU's end, others as for every operation.
    pub fn pending_event(&mut self) -> Result<Option<Event>, QmpError> {
        let read = self.read_available();
        match self.events.pop() {
            Some(event) => Ok(Some(event)),
            None => read.map(|()| None),
        }
    }

    /// Waits for an event that `filter` says yes to; others stay queued in their order, and may be
    /// shown to it again.
    ///
    /// An interrupt is any descriptor that becomes readable: a pidfd of QEMU, a wake-up eventfd.
    /// An event that is already there wins over an interrupt, and an interrupt over the end of
    /// the connection: when QEMU dies, its pidfd says more than its socket.
    ///
    /// # Errors
    /// [`QmpError::Closed`] at QEMU's end; others as for every operation.
    pub fn wait_event(
        &mut self,
        deadline: Instant,
        interrupts: &[BorrowedFd<'_>],
        mut filter: impl FnMut(&Event) -> bool,
    ) -> Result<Waited, QmpError> {
        let mut read = self.check().and_then(|()| self.read_events());
        loop {
            if let Some(event) = self.events.take(&mut filter) {
                return Ok(Waited::Event(event));
            }
            if let Err(error) = read {
                // Nothing more will come from the stream, but the others may have their say.
                let ready = self.wire.wait(Instant::now(), interrupts)?;
                return ready.other.map(Waited::Interrupted).ok_or(error);
            }
            let ready = self.wire.wait(deadline, interrupts).map_err(|error| self.poisoned_by(error))?;
            if ready.stream {
                read = self.fill().and_then(|_| self.read_events());
                if let Some(event) = self.events.take(&mut filter) {
                    return Ok(Waited::Event(event));
                }
            }
            if let Some(at) = ready.other {
                return Ok(Waited::Interrupted(at));
            }
            if read.is_ok() && Instant::now() >= deadline {
                return Ok(Waited::TimedOut);
            }
        }
    }

    fn read_available(&mut self) -> Result<(), QmpError> {
        self.check()?;
        self.read_events()?;
        for _ in 0..MAX_READS {
            if self.fill()? == Filled::Nothing {
                break;
            }
            self.read_events()?;
        }
        Ok(())
    }
}
