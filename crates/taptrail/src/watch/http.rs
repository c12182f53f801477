//! Serves the metrics over HTTP: GET /metrics and nothing else.
//!
//! Runs in the watcher's loop, so that an answer has current values. The number of connections, the
//! size of a request and its time are limited, and nothing blocks. When there are too many
//! connections, the oldest is closed for the newest: idle connections can't lock out a scraper.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 256;

/// Answers that are being written at a time: each has its own text in memory.
const MAX_ANSWERS: usize = 8;

/// Bytes of a request.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// Timeout of a connection, for request and answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The HTTP server.
pub(super) struct Server {
    listener: TcpListener,
    /// The oldest first.
    connections: VecDeque<Connection>,
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Option<Vec<u8>>,
    written: usize,
    deadline: Instant,
}

impl Server {
    pub(super) fn new(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connections: VecDeque::new() })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The descriptors to poll.
    pub(super) fn awaited(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let listener = (self.listener.as_fd(), PollFlags::IN);
        let connections = self.connections.iter().map(|connection| {
            let reads = connection.answer.is_none();
            (connection.stream.as_fd(), if reads { PollFlags::IN } else { PollFlags::OUT })
        });
        std::iter::once(listener).chain(connections)
    }

    /// The next deadline of a connection.
    pub(super) fn next(&self) -> Option<Instant> {
        self.connections.iter().map(|connection| connection.deadline).min()
    }

    /// Accepts, reads and writes all that is possible without blocking. `text` makes the answer.
    pub(super) fn serve_ready(&mut self, mut text: impl FnMut() -> String) {
        // Limited in one turn: there is a log to follow.
        for _ in 0..MAX_CONNECTIONS {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.connections.len() >= MAX_CONNECTIONS {
                let asks = self.connections.iter().position(|connection| connection.answer.is_none());
                self.connections.remove(asks.unwrap_or(0));
            }
            let deadline = Instant::now() + TIMEOUT;
            let (request, answer) = (Vec::new(), None);
            self.connections.push_back(Connection { stream, request, answer, written: 0, deadline });
        }
        let now = Instant::now();
        self.connections
            .retain_mut(|connection| connection.deadline > now && connection.serve_ready(&mut text));
        let answered = |connection: &&Connection| connection.answer.is_some();
        let mut over = self.connections.iter().filter(answered).count().saturating_sub(MAX_ANSWERS);
        self.connections.retain(|connection| {
            let is_over = connection.answer.is_some() && over > 0;
            over -= usize::from(is_over);
            !is_over
        });
    }
}

impl Connection {
    /// Reads and writes; returns whether there is more to do.
    fn serve_ready(&mut self, text: &mut dyn FnMut() -> String) -> bool {
        if self.answer.is_none() {
            match self.read() {
                Ok(true) => self.answer = Some(answer(&self.request, text)),
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
        self.write().unwrap_or(false)
    }

    /// Reads; returns whether the request is complete, or too long.
    fn read(&mut self) -> io::Result<bool> {
        let mut piece = [0; 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.request.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let end = self.request.windows(4).any(|window| window == b"\r\n\r\n");
            if end || self.request.len() > MAX_REQUEST_BYTES {
                return Ok(true);
            }
        }
    }

    /// Writes; returns whether there is more to write.
    fn write(&mut self) -> io::Result<bool> {
        let answer = self.answer.as_deref().unwrap_or_default();
        while self.written < answer.len() {
            match self.stream.write(&answer[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Closing it with unread bytes would reset it, and the answer would be lost.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        Ok(false)
    }
}

/// The answer to a request; only its first line counts.
fn answer(request: &[u8], text: &mut dyn FnMut() -> String) -> Vec<u8> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let (method, path, version) = (words.next(), words.next(), words.next());
    let path = path.map(|path| path.split('?').next().unwrap_or_default());
    let whole = request.len() <= MAX_REQUEST_BYTES
        && version.is_some_and(|version| version.starts_with("HTTP/1."))
        && words.next().is_none();
    let (status, body) = match (method, path) {
        _ if !whole => ("400 Bad Request", "Not a request for /metrics\n".to_owned()),
        (Some("GET" | "HEAD"), Some("/metrics")) => ("200 OK", text()),
        (Some("GET" | "HEAD"), _) => ("404 Not Found", "There is only /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "There is only GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let body = if method == Some("HEAD") { String::new() } else { body };
    (head + &body).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server's answer to this request.
    fn ask(request: &[u8]) -> String {
        let mut server = Server::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut client = TcpStream::connect(server.address().unwrap()).unwrap();
        client.write_all(request).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut received = Vec::new();
        loop {
            server.serve_ready(|| "taptrail_guests 3\n".to_owned());
            match client.read_to_end(&mut received) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Ok(_) | Err(_) => break,
            }
        }
        assert!(server.connections.is_empty());
        String::from_utf8(received).unwrap()
    }

    #[test]
    fn the_numbers_are_at_metrics_and_nothing_is_elsewhere() {
        let received = ask(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(
            received.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
            "{received}"
        );
        assert!(
            received.contains("Content-Length: 18\r\n") && received.ends_with("\r\n\r\ntaptrail_guests 3\n"),
            "{received}"
        );
        assert!(ask(b"HEAD /metrics HTTP/1.0\r\n\r\n").ends_with("\r\n\r\n"));
        assert!(ask(b"GET /metrics?x=1 HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
        for (request, status) in [
            (b"GET / HTTP/1.1\r\n\r\n".as_slice(), "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"GET /metrics\r\n\r\n", "400"),
            (b"\x16\x03\x01\x02\r\n\r\n", "400"),
            (&[b'x'; 9000], "400"),
        ] {
            assert_eq!(ask(request).split(' ').nth(1), Some(status), "{request:?}");
        }
    }

    /// Runs the server until it has `count` connections.
    fn until(server: &mut Server, count: usize) {
        while server.connections.len() != count {
            server.serve_ready(String::new);
        }
    }

    // Shows 13.30.
    #[test]
    fn who_is_silent_keeps_nobody_out() {
        let mut server = Server::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.address().unwrap();
        let mut silent = Vec::new();
        for count in 1..=MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).unwrap());
            until(&mut server, count);
        }
        // The newest is accepted and served, and the oldest is closed for it.
        let mut scraper = TcpStream::connect(address).unwrap();
        scraper.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        scraper.set_nonblocking(true).unwrap();
        let mut received = Vec::new();
        while received.is_empty() {
            server.serve_ready(|| "taptrail_guests 3\n".to_owned());
            let _ = scraper.read_to_end(&mut received);
        }
        assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert_eq!(silent[0].read(&mut [0]).unwrap(), 0, "it is closed");
        silent[1].set_nonblocking(true).unwrap();
        assert_eq!(silent[1].read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        // The others are closed when their time is up.
        assert!(server.next().unwrap() <= Instant::now() + TIMEOUT);
        server.connections.iter_mut().for_each(|connection| connection.deadline = Instant::now());
        server.serve_ready(String::new);
        assert!(server.connections.is_empty());
    }

    #[test]
    fn who_asks_and_does_not_read_holds_a_few_answers() {
        let mut server = Server::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.address().unwrap();
        // More than the kernel buffers for one connection.
        let text = || "x".repeat(16 << 20);
        let mut askers = Vec::new();
        for _ in 0..MAX_ANSWERS + 3 {
            let mut asker = TcpStream::connect(address).unwrap();
            asker.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            askers.push(asker);
            let last = askers.last().unwrap().local_addr().unwrap();
            let is_answered = |server: &Server| {
                server.connections.back().is_some_and(|of| {
                    of.answer.is_some() && of.stream.peer_addr().is_ok_and(|peer| peer == last)
                })
            };
            while !is_answered(&server) {
                server.serve_ready(text);
            }
            assert!(server.connections.len() <= MAX_ANSWERS);
        }
        assert_eq!(server.connections.len(), MAX_ANSWERS);
    }
}
