//! A client's connection with limits: the length of a message, the time for one, and the idle time.
//!
//! The varlink server reads messages of up to 100 MiB, and waits forever for the rest of one and
//! for a client that does not read. Calls are short, and clients are not trusted. Descriptors that
//! a client passes are closed at once: no call takes any, and each is one less for devices.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use zlink::connection::PassedCredentials;
use zlink::connection::socket::{ReadHalf, ReadResult, Socket, WriteHalf};
use zlink::tokio::unix::Stream;

/// The longest call that is read; a SPEC has 4096 bytes at most.
const MAX_CALL_BYTES: usize = 64 * 1024;

/// The timeouts of a client.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    /// To finish sending a message, and to read one.
    message: Duration,
    /// Until its first call is complete.
    first_call: Duration,
    /// Between two calls.
    idle: Duration,
}

const TIMEOUTS: Timeouts = Timeouts {
    message: Duration::from_secs(10),
    first_call: Duration::from_secs(5),
    idle: Duration::from_secs(600),
};

/// How often to check whether a client has hung up.
const HANGUP_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// One of a limited number of connections, shared by the listener and the task that serves the
/// client.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    /// Since when no call is being served.
    idle_since: Cell<Option<Instant>>,
    evicted: Notify,
}

impl ConnectionSlot {
    /// The slot of a new client.
    pub(crate) fn new() -> Self {
        Self { idle_since: Cell::new(Some(Instant::now())), evicted: Notify::new() }
    }

    /// A call is being served.
    pub(crate) fn mark_busy(&self) {
        self.idle_since.set(None);
    }

    /// Since when the client is idle; `None` while a call is being served.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// Closes the connection, which is idle.
    pub(crate) fn evict(&self) {
        self.evicted.notify_one();
    }
}

/// A client's socket, with timeouts.
#[derive(Debug)]
pub(crate) struct Bounded {
    stream: Stream,
    timeouts: Timeouts,
    slot: Rc<ConnectionSlot>,
}

impl Bounded {
    pub(crate) fn new(stream: Stream, slot: Rc<ConnectionSlot>) -> Self {
        Self { stream, timeouts: TIMEOUTS, slot }
    }
}

impl Socket for Bounded {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> (Reader, Writer) {
        let Self { stream, timeouts, slot } = self;
        let (read, write) = stream.split();
        let reader = Reader { half: read, timeouts, slot, unfinished: 0, begun: None, called: false };
        (reader, Writer { half: write, patience: timeouts.message })
    }
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Reader {
    half: <Stream as Socket>::ReadHalf,
    timeouts: Timeouts,
    slot: Rc<ConnectionSlot>,
    /// Bytes of an incomplete message.
    unfinished: usize,
    /// When the incomplete message began.
    begun: Option<Instant>,
    /// Whether the first call has come.
    called: bool,
}

impl Reader {
    /// The deadline for the next bytes of a client that has been idle since `waiting`.
    fn read_deadline(&self, waiting: Instant) -> Instant {
        let first = (!self.called).then_some(waiting + self.timeouts.first_call);
        let message = self.begun.map(|begun| begun + self.timeouts.message);
        first.into_iter().chain(message).min().unwrap_or(waiting + self.timeouts.idle)
    }
}

impl ReadHalf for Reader {
    async fn read(&mut self, buffer: &mut [u8]) -> zlink::Result<ReadResult> {
        let waiting = self.slot.idle_since.get().unwrap_or_else(Instant::now);
        self.slot.idle_since.set(Some(waiting));
        let end = self.read_deadline(waiting);
        let mut read = tokio::select! {
            biased;
            read = timeout_at(end, self.half.read(buffer)) => read.map_err(too_slow)??,
            () = self.slot.evicted.notified() => return Err(failed("another client has its slot now")),
        };
        drop(read.take_fds());
        let new = &buffer[..read.bytes_read()];
        match new.iter().rposition(|byte| *byte == 0) {
            Some(end) => {
                (self.unfinished, self.begun, self.called) = (new.len() - end - 1, None, true);
                self.slot.mark_busy();
            }
            None => self.unfinished += new.len(),
        }
        if self.unfinished > MAX_CALL_BYTES {
            return Err(zlink::Error::BufferOverflow);
        }
        if self.unfinished > 0 {
            self.begun.get_or_insert_with(Instant::now);
        }
        Ok(read)
    }
}

/// Detects that a client has hung up. While a call is served, nothing is read from the client, so
/// the server itself would not notice.
#[derive(Debug)]
pub(crate) struct HungUp(OwnedFd);

impl HungUp {
    /// Watches the client at the other end of this socket.
    pub(crate) fn of(stream: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(stream.try_clone_to_owned()?))
    }

    /// Whether the client has hung up.
    pub(crate) fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_err() || fds[0].revents().contains(PollFlags::HUP)
    }

    /// Waits until the client has hung up; notices it within a second.
    pub(crate) async fn wait(&self) {
        while !self.has_hung_up() {
            tokio::time::sleep(HANGUP_POLL_INTERVAL).await;
        }
    }
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Writer {
    half: <Stream as Socket>::WriteHalf,
    patience: Duration,
}

impl WriteHalf for Writer {
    async fn write(
        &mut self,
        buffer: &[u8],
        fds: &[impl AsFd],
        credentials: Option<&PassedCredentials>,
    ) -> zlink::Result<()> {
        timeout(self.patience, self.half.write(buffer, fds, credentials)).await.map_err(too_slow)?
    }
}

fn too_slow(_: tokio::time::error::Elapsed) -> zlink::Error {
    failed("the client was too slow")
}

fn failed(why: &'static str) -> zlink::Error {
    zlink::Error::Io(io::Error::new(io::ErrorKind::TimedOut, why))
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test)
    }

    /// A timeout that must not be reached.
    const NEVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(50);
    const MESSAGES: Timeouts = Timeouts { message: SOON, first_call: NEVER, idle: NEVER };

    fn pair() -> (UnixStream, Reader, Writer) {
        let (theirs, (reader, writer), _) = timed(MESSAGES);
        (theirs, reader, writer)
    }

    fn timed(timeouts: Timeouts) -> (UnixStream, (Reader, Writer), Rc<ConnectionSlot>) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (stream, slot) = (Stream::try_from(ours).unwrap(), Rc::new(ConnectionSlot::new()));
        (theirs, Bounded { stream, timeouts, slot: Rc::clone(&slot) }.split(), slot)
    }

    // Shows 5.33.
    #[test]
    fn a_message_without_an_end_is_cut_off() {
        run(async {
            let (mut theirs, mut reader, writer) = pair();
            let sender = std::thread::spawn(move || while theirs.write_all(&[b'x'; 4096]).is_ok() {});
            let mut buffer = [0; 4096];
            let mut all = 0;
            let error = loop {
                match reader.read(&mut buffer).await {
                    Ok(read) => all += read.bytes_read(),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, zlink::Error::BufferOverflow), "{error}");
            assert!(all <= MAX_CALL_BYTES);
            drop((reader, writer));
            sender.join().unwrap();
        });
    }

    #[test]
    fn many_short_messages_are_no_long_one() {
        run(async {
            let (mut theirs, mut reader, _writer) = pair();
            let mut buffer = [0; 4096];
            for _ in 0..2 * MAX_CALL_BYTES / 4096 {
                theirs.write_all(&[b'x'; 4095]).unwrap();
                theirs.write_all(&[0]).unwrap();
                let mut all = 0;
                while all < 4096 {
                    all += reader.read(&mut buffer).await.unwrap().bytes_read();
                }
            }
        });
    }

    // Shows 5.33.
    #[test]
    fn who_begins_a_message_ends_it_in_time() {
        run(async {
            let (mut theirs, mut reader, _writer) = pair();
            theirs.write_all(b"x").unwrap();
            reader.read(&mut [0; 8]).await.unwrap();
            let error = reader.read(&mut [0; 8]).await.unwrap_err();
            assert!(error.to_string().contains("too slow"), "{error}");
        });
    }

    // Shows 5.33.
    #[test]
    fn who_calls_nobody_is_cut_off_soon_and_who_has_called_later() {
        run(async {
            let timeouts = Timeouts { message: NEVER, first_call: SOON, idle: NEVER };
            let (mut theirs, (mut reader, _writer), _) = timed(timeouts);
            let error = reader.read(&mut [0; 8]).await.unwrap_err();
            assert!(error.to_string().contains("too slow"), "{error}");
            // Bytes of an incomplete call do not extend the deadline.
            theirs.write_all(b"x").unwrap();
            let (mut theirs, (mut reader, _writer), _) = timed(timeouts);
            theirs.write_all(b"x").unwrap();
            reader.read(&mut [0; 8]).await.unwrap();
            assert!(reader.read(&mut [0; 8]).await.is_err());

            let timeouts = Timeouts { first_call: NEVER, idle: SOON, ..timeouts };
            let (mut theirs, (mut reader, _writer), slot) = timed(timeouts);
            theirs.write_all(b"x\0").unwrap();
            reader.read(&mut [0; 8]).await.unwrap();
            assert!(slot.idle_since().is_none(), "its call is served");
            let error = reader.read(&mut [0; 8]).await.unwrap_err();
            assert!(error.to_string().contains("too slow"), "{error}");
        });
    }

    // Shows 5.39.
    #[test]
    fn who_asks_for_nothing_makes_room() {
        run(async {
            let (mut theirs, (mut reader, _writer), slot) =
                timed(Timeouts { message: NEVER, first_call: NEVER, idle: NEVER });
            assert!(slot.idle_since().is_some());
            theirs.write_all(b"x\0").unwrap();
            reader.read(&mut [0; 8]).await.unwrap();
            assert!(slot.idle_since().is_none());
            slot.evict();
            let error = reader.read(&mut [0; 8]).await.unwrap_err();
            assert!(error.to_string().contains("another client"), "{error}");
        });
    }

    #[test]
    fn a_client_that_has_gone_is_noticed_and_one_that_only_listens_is_not_taken_for_gone() {
        run(async {
            let (mut theirs, ours) = UnixStream::pair().unwrap();
            let hung_up = HungUp::of(ours.as_fd()).unwrap();
            assert!(!hung_up.has_hung_up());
            theirs.write_all(b"more").unwrap();
            assert!(!hung_up.has_hung_up());
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(!hung_up.has_hung_up());
            drop(theirs);
            timeout(NEVER, hung_up.wait()).await.unwrap();
        });
    }

    // Shows 5.33.
    #[test]
    fn who_does_not_read_is_not_waited_for() {
        run(async {
            let (_theirs, _reader, mut writer) = pair();
            let none: [std::os::fd::BorrowedFd<'_>; 0] = [];
            let error = writer.write(&vec![b'x'; 16 << 20], &none, None).await.unwrap_err();
            assert!(error.to_string().contains("too slow"), "{error}");
        });
    }

    // Shows 5.33.
    #[test]
    fn descriptors_that_come_along_are_closed() {
        run(async {
            let (theirs, mut reader, _writer) = pair();
            let (ours, watched) = UnixStream::pair().unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
            let fds = [watched.as_fd()];
            assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
            #[allow(clippy::disallowed_methods)] // The client that this test plays.
            rustix::net::sendmsg(
                &theirs,
                &[IoSlice::new(b"x")],
                &mut control,
                rustix::net::SendFlags::empty(),
            )
            .unwrap();
            drop(watched);
            let read = reader.read(&mut [0; 8]).await.unwrap();
            assert!(read.fds().is_empty());
            // The last copy of `watched` is closed: the other end reads EOF.
            assert_eq!(std::io::Read::read(&mut &ours, &mut [0; 1]).unwrap(), 0);
        });
    }
}
