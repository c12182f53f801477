//! The process that reads an interface's frames, `taptrail learn-addresses`: it has a packet socket
//! as its standard input, a socket to the supervisor as its standard output, and no right to
//! anything else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use taptrail_kernel::filter::Attachment;
use taptrail_kernel::packet::receive_frame;
use taptrail_kernel::process::sandbox_to_stdio;

use super::{FrameReader, Sighting};

/// A frame with a DHCP message fits: a server sends what an Ethernet frame can have.
const FRAME_BYTES: usize = 2048;

/// How long the same sighting is not sent again: a server may repeat its answer.
const REPEAT_AFTER: Duration = Duration::from_secs(5);
/// Sightings of which repetitions are noticed.
const REMEMBERED: usize = 8;

/// Reads frames until the supervisor has gone. A tap sends what its guest receives; a macvtap
/// receives it. Locks this process down first: it must not be used
/// for anything else.
///
/// # Errors
///
/// It can't be locked down, or the packet socket fails.
pub fn learn_addresses(reader: &FrameReader, attachment: Attachment) -> io::Result<()> {
    sandbox_to_stdio()?;
    // From here on nothing is allocated: the process may ask for no memory.
    let (frames, supervisor) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let mut buffer = [0; FRAME_BYTES];
    let mut recent = Recent::default();
    loop {
        let mut waits = [PollFd::new(&frames, PollFlags::IN), PollFd::new(&supervisor, PollFlags::empty())];
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !waits[1].revents().is_empty() {
            return Ok(());
        }
        let received = match receive_frame(frames, &mut buffer) {
            Ok(Some(received)) => received,
            Ok(None) => continue,
            // The link went down, and may come up again.
            Err(error) if error.raw_os_error() == Some(Errno::NETDOWN.raw_os_error()) => continue,
            Err(error) => return Err(error),
        };
        let to_guest = received.outgoing == (attachment == Attachment::Tap);
        let Some(sighting) = buffer.get(..received.length).and_then(|frame| reader.read(frame, to_guest))
        else {
            continue;
        };
        if recent.is_new(sighting) && report(supervisor.as_fd(), sighting) {
            recent.remember(sighting);
        }
    }
}

/// Sends a sighting; returns whether the supervisor takes any now. A flood is not queued.
fn report(supervisor: BorrowedFd<'_>, sighting: Sighting) -> bool {
    send(supervisor, &sighting.to_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
}

/// The last sightings of some addresses, one of each.
#[derive(Debug, Default)]
struct Recent {
    sent: [Option<(Sighting, Instant)>; REMEMBERED],
    next: usize,
}

impl Recent {
    /// Whether it is not what was sent of the address last, some seconds ago.
    fn is_new(&self, sighting: Sighting) -> bool {
        let is_same = |(known, at): &(Sighting, Instant)| *known == sighting && at.elapsed() < REPEAT_AFTER;
        !self.sent.iter().flatten().any(is_same)
    }

    fn remember(&mut self, sighting: Sighting) {
        let is_its = |(known, _): &(Sighting, Instant)| known.address() == sighting.address();
        let place = self.sent.iter().position(|sent| sent.as_ref().is_some_and(is_its));
        let place = place.unwrap_or_else(|| {
            self.next = (self.next + 1) % REMEMBERED;
            self.next
        });
        self.sent[place] = Some((sighting, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_answer_is_sent_once_and_an_address_that_was_released_again() {
        let address = [192, 0, 2, 5].into();
        let lease = Sighting::Lease { address, server: [192, 0, 2, 1].into(), seconds: Some(60) };
        let release = Sighting::Release { address };
        let mut recent = Recent::default();
        let mut sent = Vec::new();
        for sighting in [lease, lease, release, release, lease] {
            if recent.is_new(sighting) {
                recent.remember(sighting);
                sent.push(sighting);
            }
        }
        assert_eq!(sent, [lease, release, lease]);
        for last in 0..100 {
            recent.remember(Sighting::Release { address: [192, 0, 2, last].into() });
        }
        assert!(recent.is_new(lease));
    }
}
