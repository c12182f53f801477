use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{ErrorClass, QmpError, excerpt};
use crate::event::EventQueue;
use crate::message::{Answer, Message};
use crate::wire::{Filled, SendError, Wire};

/// Commands that may go unanswered before the peer is taken for dead.
const MAX_ABANDONED: usize = 64;

/// The command that ends the negotiation with which every connection begins.
const NEGOTIATED: &str = "qmp_capabilities";

/// QEMU's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 7 of 7.2.22.
    pub major: u32,
    /// 2 of 7.2.22.
    pub minor: u32,
    /// 22 of 7.2.22.
    pub micro: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A connection to one QEMU's monitor.
///
/// One command at a time; events that come meanwhile are queued. After a fatal error
/// ([`QmpError::is_fatal`]) every operation but reading queued events fails with
/// [`QmpError::Poisoned`].
#[derive(Debug)]
pub struct Monitor {
    pub(crate) wire: Wire,
    pub(crate) events: EventQueue,
    version: Version,
    next_id: u64,
    /// Commands whose caller stopped waiting, oldest first: a late reply to one is no offence.
    abandoned: VecDeque<u64>,
    poison: Option<String>,
    /// A second greeting came.
    greeted_twice: bool,
}

impl Monitor {
    /// Connects to the socket at `path` and greets.
    ///
    /// # Errors
    /// [`QmpError::Connect`], and those of [`over`](Self::over).
    pub fn connect(path: impl AsRef<Path>, deadline: Instant) -> Result<Self, QmpError> {
        let path = path.as_ref();
        let stream = connect_until(path, deadline)
            .map_err(|source| QmpError::Connect { path: path.to_owned(), source })?;
        Self::over(stream, deadline)
    }

    /// Takes a connected socket; reads QEMU's greeting and leaves negotiation mode.
    ///
    /// # Errors
    /// [`QmpError::TimedOut`] when there is no greeting: the usual reason is another client, as
    /// QEMU's socket serves one at a time. [`QmpError::Unexpected`] when it is another's.
    pub fn over(stream: UnixStream, deadline: Instant) -> Result<Self, QmpError> {
        let begun = Instant::now();
        let version = Version { major: 0, minor: 0, micro: 0 };
        let mut monitor = Self {
            wire: Wire::new(stream),
            events: EventQueue::default(),
            version,
            next_id: 1,
            abandoned: VecDeque::new(),
            poison: None,
            greeted_twice: false,
        };
        let timed_out = || QmpError::TimedOut {
            awaited: "the greeting".to_owned(),
            after: deadline.saturating_duration_since(begun),
        };
        monitor.version = match monitor.next_message(deadline)?.ok_or_else(timed_out)? {
            (Message::Greeting(version), _) => version,
            (_, excerpt) => {
                return Err(QmpError::Unexpected { expected: "a greeting".to_owned(), excerpt });
            }
        };
        let left = || deadline.saturating_duration_since(Instant::now());
        monitor.execute(NEGOTIATED, Value::Null, left())?;
        if monitor.greeted_twice {
            // With the second greeting the negotiation begins anew, unless what ends it came later.
            match monitor.execute(NEGOTIATED, Value::Null, left()) {
                Err(error)
                    if !matches!(error, QmpError::Refused { class: ErrorClass::CommandNotFound, .. }) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(monitor)
    }

    /// QEMU's version, from its greeting.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Events that a full queue lost since the connection was made. Never those on which the
    /// account of a device hangs, such as `DEVICE_DELETED` and `SHUTDOWN`.
    pub fn dropped_events(&self) -> u64 {
        self.events.dropped()
    }

    /// Why the connection is useless, if it is.
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.as_deref()
    }

    /// Sends a command and waits for its reply. `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// See [`QmpError`]; [`QmpError::TimedOut`] leaves open whether the command is carried out.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: impl Serialize,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        self.transact(command, arguments, None, timeout)
    }

    /// A command and its reply; the only place from which a descriptor reaches the wire.
    pub(crate) fn transact(
        &mut self,
        command: &str,
        arguments: impl Serialize,
        descriptor: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        self.check()?;
        let id = self.next_id;
        let line = command_line(command, arguments, id)?;
        self.next_id += 1;
        let timed_out = || QmpError::TimedOut { awaited: command.to_owned(), after: timeout };
        let deadline = deadline_after(timeout);
        match self.wire.send(&line, descriptor, deadline) {
            Ok(()) => {}
            Err(SendError::NothingSent) => return Err(timed_out()),
            Err(SendError::CutShort) => {
                self.poison = Some(format!("QEMU took only a part of {command}"));
                return Err(timed_out());
            }
            Err(SendError::Failed(error)) => return Err(self.poisoned_by(error)),
        }
        match self.answer(command, id, deadline)? {
            Some(Answer::Done(value)) => Ok(value),
            Some(Answer::Refused { class, desc }) => {
                Err(QmpError::Refused { command: command.to_owned(), class, desc })
            }
            None => {
                self.abandoned.push_back(id);
                if self.abandoned.len() > MAX_ABANDONED {
                    let unanswered = self.abandoned.len();
                    return Err(self.poisoned_by(QmpError::Unresponsive { unanswered }));
                }
                Err(timed_out())
            }
        }
    }

    /// The answer to command `id`; `None` at the deadline.
    fn answer(&mut self, command: &str, id: u64, deadline: Instant) -> Result<Option<Answer>, QmpError> {
        loop {
            let Some((message, excerpt)) = self.next_message(deadline)? else {
                return Ok(None);
            };
            match message {
                Message::Reply { id: Some(got), answer } if got == id => {
                    // Replies come in the order of the commands, so older ones have no more to come.
                    self.abandoned.clear();
                    return Ok(Some(answer));
                }
                Message::Reply { id: Some(got), .. } if self.forgive(got) => {
                    tracing::debug!(id = got, "QEMU answered a command given up on");
                }
                // QEMU may take a client with one thread while another still prepares its monitor,
                // and then both greet.
                Message::Greeting(_) if command == NEGOTIATED && !self.greeted_twice => {
                    self.greeted_twice = true
                }
                _ => {
                    let expected = format!("a reply to {command} (id {id})");
                    return Err(self.poisoned_by(QmpError::Unexpected { expected, excerpt }));
                }
            }
        }
    }

    fn forgive(&mut self, id: u64) -> bool {
        let at = self.abandoned.iter().position(|&abandoned| abandoned == id);
        at.is_some_and(|at| self.abandoned.remove(at).is_some())
    }

    /// The next message that is no event, with an excerpt of its line; `None` at the deadline.
    fn next_message(&mut self, deadline: Instant) -> Result<Option<(Message, String)>, QmpError> {
        loop {
            if let Some(message) = self.read_buffered()? {
                return Ok(Some(message));
            }
            let ready = self.wire.wait(deadline, &[]).map_err(|error| self.poisoned_by(error))?;
            if !ready.stream {
                return Ok(None);
            }
            self.fill()?;
            // A peer that never stops talking is no reason to overrun.
            if Instant::now() >= deadline {
                return self.read_buffered();
            }
        }
    }

    /// Goes through the lines that were read: events into the queue, up to what is none.
    fn read_buffered(&mut self) -> Result<Option<(Message, String)>, QmpError> {
        self.parse_lines().map_err(|error| self.poisoned_by(error))
    }

    fn parse_lines(&mut self) -> Result<Option<(Message, String)>, QmpError> {
        while let Some(line) = self.wire.line()? {
            match Message::parse(line)? {
                Message::Event(event) => self.events.push(event, line.len())?,
                other => return Ok(Some((other, excerpt(line)))),
            }
        }
        Ok(None)
    }

    /// Goes through the lines that were read while no command is waiting.
    pub(crate) fn read_events(&mut self) -> Result<(), QmpError> {
        while let Some((message, excerpt)) = self.read_buffered()? {
            match message {
                Message::Reply { id: Some(got), .. } if self.forgive(got) => {}
                _ => {
                    let expected = "an event".to_owned();
                    return Err(self.poisoned_by(QmpError::Unexpected { expected, excerpt }));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn fill(&mut self) -> Result<Filled, QmpError> {
        self.wire.fill().map_err(|error| self.poisoned_by(error))
    }

    pub(crate) fn check(&self) -> Result<(), QmpError> {
        match &self.poison {
            Some(reason) => Err(QmpError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn poisoned_by(&mut self, error: QmpError) -> QmpError {
        self.poison.get_or_insert_with(|| error.to_string());
        error
    }
}

/// For poll loops. Look at [`Monitor::pending_event`] first: what was read along with a reply is no
/// longer in the socket.
impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }
}

/// A timeout beyond the clock's end is as good as a year.
fn deadline_after(timeout: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    Instant::now() + timeout.min(YEAR)
}

fn command_line(command: &str, arguments: impl Serialize, id: u64) -> Result<Vec<u8>, QmpError> {
    let wrong = |why: String| QmpError::BadArguments { command: command.to_owned(), why };
    let mut request = Map::new();
    request.insert("execute".to_owned(), command.into());
    match serde_json::to_value(arguments).map_err(|error| wrong(error.to_string()))? {
        Value::Null => {}
        object @ Value::Object(_) => {
            request.insert("arguments".to_owned(), object);
        }
        _ => return Err(wrong("an object is needed".to_owned())),
    }
    request.insert("id".to_owned(), id.into());
    let mut line = Value::Object(request).to_string().into_bytes();
    line.push(b'\n');
    Ok(line)
}

/// `connect(2)` on a Unix socket waits without end while the listener's backlog is full.
fn connect_until(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    const PAUSE: Duration = Duration::from_millis(2);
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() < deadline => thread::sleep(PAUSE),
            Err(Errno::AGAIN) => return Err(Errno::TIMEDOUT.into()),
            Err(error) => return Err(error.into()),
        }
    }
}
