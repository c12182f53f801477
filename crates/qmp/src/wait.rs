use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::error::QmpError;
use crate::event::Event;
use crate::monitor::Monitor;
use crate::wire::Filled;

/// The largest number of reads in one [`Monitor::pending_event`], so that a peer that writes faster
/// than it is read can't block its reader.
const MAX_READS_PER_CALL: usize = 16;

/// The result of [`Monitor::wait_event`].
#[derive(Debug, Clone, PartialEq)]
pub enum Waited {
    /// The filter selected this event; it is no longer in the queue.
    Event(Event),
    /// The deadline passed.
    TimedOut,
    /// The interrupt with this index is readable or closed.
    Interrupted(usize),
}

impl Monitor {
    /// The oldest event that is queued or can be read; never blocks.
    ///
    /// Queued events can be read after a fatal error, so a `SHUTDOWN` before QEMU's end is not
    /// lost.
    ///
    /// # Errors
    ///
    /// If nothing is queued: [`QmpError::Closed`] after QEMU's end, others as for every operation.
    pub fn pending_event(&mut self) -> Result<Option<Event>, QmpError> {
        let read = self.read_available();
        match self.events.pop() {
            Some(event) => Ok(Some(event)),
            None => read.map(|()| None),
        }
    }

    /// Waits for an event that `filter` selects; others stay queued in their order, and may be
    /// passed to `filter` again.
    ///
    /// An interrupt is any descriptor that becomes readable: a pidfd of QEMU, an eventfd for
    /// wake-ups. An available event takes precedence over an interrupt, and an interrupt over the
    /// end of the connection: when QEMU exits, its pidfd gives more information than its socket.
    ///
    /// # Errors
    ///
    /// [`QmpError::Closed`] after QEMU's end; others as for every operation.
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
                // The stream has ended, but an interrupt takes precedence over its error.
                let ready = self.wire.wait(Instant::now(), interrupts)?;
                return ready.other.map(Waited::Interrupted).ok_or(error);
            }
            let ready = self.wire.wait(deadline, interrupts).map_err(|error| self.poison_with(error))?;
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
        for _ in 0..MAX_READS_PER_CALL {
            if self.fill()? == Filled::Nothing {
                break;
            }
            self.read_events()?;
        }
        Ok(())
    }
}
