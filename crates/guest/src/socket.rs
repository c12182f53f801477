//! A client's connection with bounds: how long a message may be, and how long a client may take for one.
//!
//! The varlink server reads a message of up to 100 MiB, and waits without end for the rest of one and for a client that
//! does not read. Calls are short, and clients may be strangers. Descriptors that come along are closed at once: no
//! call takes any, and each is one less for devices.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use zlink::connection::PassedCredentials;
use zlink::connection::socket::{ReadHalf, ReadResult, Socket, WriteHalf};
use zlink::tokio::unix::Stream;

/// The longest call that is read; a SPEC has 4096 bytes at most.
const LONGEST: usize = 64 * 1024;

/// How long a client may take to send one message, once begun, and to read one.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client's socket.
#[derive(Debug)]
pub(crate) struct Bounded {
    stream: Stream,
    patience: Duration,
}

impl Bounded {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, patience: PATIENCE }
    }
}

impl Socket for Bounded {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> (Reader, Writer) {
        let patience = self.patience;
        let (read, write) = self.stream.split();
        (Reader { half: read, patience, unfinished: 0, begun: None }, Writer { half: write, patience })
    }
}

/// What comes from the client.
#[derive(Debug)]
pub(crate) struct Reader {
    half: <Stream as Socket>::ReadHalf,
    patience: Duration,
    /// How much there is of a message whose end has not come.
    unfinished: usize,
    /// Since when.
    begun: Option<Instant>,
}

impl ReadHalf for Reader {
    async fn read(&mut self, buffer: &mut [u8]) -> zlink::Result<ReadResult> {
        let reading = self.half.read(buffer);
        let mut read = match self.begun {
            Some(begun) => timeout_at(begun + self.patience, reading).await.map_err(too_slow)??,
            None => reading.await?,
        };
        drop(read.take_fds());
        let new = &buffer[..read.bytes_read()];
        match new.iter().rposition(|byte| *byte == 0) {
            Some(end) => (self.unfinished, self.begun) = (new.len() - end - 1, None),
            None => self.unfinished += new.len(),
        }
        if self.unfinished > LONGEST {
            return Err(zlink::Error::BufferOverflow);
        }
        if self.unfinished > 0 {
            self.begun.get_or_insert_with(Instant::now);
        }
        Ok(read)
    }
}

/// What goes to the client.
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
    zlink::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the client was too slow"))
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

    fn pair() -> (UnixStream, Reader, Writer) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let stream = Stream::try_from(ours).unwrap();
        let (reader, writer) = Bounded { stream, patience: Duration::from_millis(50) }.split();
        (theirs, reader, writer)
    }

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
            assert!(all <= LONGEST);
            drop((reader, writer));
            sender.join().unwrap();
        });
    }

    #[test]
    fn many_short_messages_are_no_long_one() {
        run(async {
            let (mut theirs, mut reader, _writer) = pair();
            let mut buffer = [0; 4096];
            for _ in 0..2 * LONGEST / 4096 {
                theirs.write_all(&[b'x'; 4095]).unwrap();
                theirs.write_all(&[0]).unwrap();
                let mut all = 0;
                while all < 4096 {
                    all += reader.read(&mut buffer).await.unwrap().bytes_read();
                }
            }
        });
    }

    #[test]
    fn who_begins_a_message_ends_it_in_time_and_who_begins_none_may_wait() {
        run(async {
            let (mut theirs, mut reader, _writer) = pair();
            let waited = timeout(Duration::from_millis(200), reader.read(&mut [0; 8])).await;
            assert!(waited.is_err(), "an idle client is not cut off");
            theirs.write_all(b"x").unwrap();
            reader.read(&mut [0; 8]).await.unwrap();
            let error = reader.read(&mut [0; 8]).await.unwrap_err();
            assert!(error.to_string().contains("too slow"), "{error}");
        });
    }

    #[test]
    fn who_does_not_read_is_not_waited_for() {
        run(async {
            let (_theirs, _reader, mut writer) = pair();
            let none: [std::os::fd::BorrowedFd<'_>; 0] = [];
            let error = writer.write(&vec![b'x'; 16 << 20], &none, None).await.unwrap_err();
            assert!(error.to_string().contains("too slow"), "{error}");
        });
    }

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
            // Its last copy is gone: the other end hears so.
            assert_eq!(std::io::Read::read(&mut &ours, &mut [0; 1]).unwrap(), 0);
        });
    }
}
