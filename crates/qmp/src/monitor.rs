use std::collections::VecDeque;
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
use crate::version::Version;
use crate::wire::{Filled, SendError, Wire};

/// The number of unanswered commands after which the peer is considered dead.
const MAX_UNANSWERED_COMMANDS: usize = 64;

/// The command that ends the negotiation at the beginning of each connection.
const NEGOTIATE_COMMAND: &str = "qmp_capabilities";

/// A connection to one QEMU's monitor.
///
/// Commands are executed one at a time; events that arrive meanwhile are queued. After a fatal
/// error ([`QmpError::is_fatal`]) every operation except reading queued events fails with
/// [`QmpError::Poisoned`].
#[derive(Debug)]
pub struct Monitor {
    pub(crate) wire: Wire,
    pub(crate) events: EventQueue,
    version: Version,
    next_id: u64,
    /// Ids of commands that timed out, oldest first: a late reply to one of them is not an error.
    abandoned: VecDeque<u64>,
    poison: Option<String>,
    /// Whether a second greeting arrived.
    greeted_twice: bool,
}

impl Monitor {
    /// Connects to the socket at `path`, and negotiates.
    ///
    /// # Errors
    ///
    /// [`QmpError::Connect`], and those of [`from_stream`](Self::from_stream).
    pub fn connect(path: impl AsRef<Path>, deadline: Instant) -> Result<Self, QmpError> {
        let path = path.as_ref();
        let stream = connect_until(path, deadline)
            .map_err(|source| QmpError::Connect { path: path.to_owned(), source })?;
        Self::from_stream(stream, deadline)
    }

    /// A monitor on a connected socket: reads QEMU's greeting and leaves negotiation mode.
    ///
    /// # Errors
    ///
    /// [`QmpError::TimedOut`] if there is no greeting, usually because of another client: QEMU's
    /// socket serves one at a time. [`QmpError::Unexpected`] if the first message is not a
    /// greeting.
    pub fn from_stream(stream: UnixStream, deadline: Instant) -> Result<Self, QmpError> {
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
        monitor.execute(NEGOTIATE_COMMAND, Value::Null, left())?;
        if monitor.greeted_twice {
            // The second greeting restarts the negotiation, unless QEMU sent it before the command
            // arrived.
            match monitor.execute(NEGOTIATE_COMMAND, Value::Null, left()) {
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

    /// The number of events that a full queue has dropped. Events that the state of a device
    /// depends on, such as `DEVICE_DELETED` and `SHUTDOWN`, are never dropped.
    pub fn dropped_events(&self) -> u64 {
        self.events.dropped()
    }

    /// The error that made the connection unusable, if there was one.
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.as_deref()
    }

    /// Sends a command and waits for its reply. `arguments` is an object, or null for none.
    ///
    /// # Errors
    ///
    /// See [`QmpError`]; after [`QmpError::TimedOut`] it is unknown whether QEMU executes the
    /// command.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: impl Serialize,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        self.transact(command, arguments, None, timeout)
    }

    /// Sends a command, with a descriptor if given, and waits for its reply.
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
            Err(SendError::Failed(error)) => return Err(self.poison_with(error)),
        }
        match self.answer(command, id, deadline)? {
            Some(Answer::Done(value)) => Ok(value),
            Some(Answer::Refused { class, desc }) => {
                Err(QmpError::Refused { command: command.to_owned(), class, desc })
            }
            None => {
                self.abandoned.push_back(id);
                if self.abandoned.len() > MAX_UNANSWERED_COMMANDS {
                    let unanswered = self.abandoned.len();
                    return Err(self.poison_with(QmpError::Unresponsive { unanswered }));
                }
                Err(timed_out())
            }
        }
    }

    /// The reply to command `id`; `None` at the deadline.
    fn answer(&mut self, command: &str, id: u64, deadline: Instant) -> Result<Option<Answer>, QmpError> {
        loop {
            let Some((message, excerpt)) = self.next_message(deadline)? else {
                return Ok(None);
            };
            match message {
                Message::Reply { id: Some(got), answer } if got == id => {
                    // QEMU replies in the order of the commands, so no older reply will follow.
                    self.abandoned.clear();
                    return Ok(Some(answer));
                }
                Message::Reply { id: Some(got), .. } if self.take_abandoned(got) => {
                    tracing::debug!(id = got, "QEMU answered a command given up on");
                }
                // QEMU may accept a client in one thread while another still sets up its monitor,
                // and then both send a greeting.
                Message::Greeting(_) if command == NEGOTIATE_COMMAND && !self.greeted_twice => {
                    self.greeted_twice = true
                }
                _ => {
                    let expected = format!("a reply to {command} (id {id})");
                    return Err(self.poison_with(QmpError::Unexpected { expected, excerpt }));
                }
            }
        }
    }

    /// Removes a command from those that timed out; false if it is not one of them.
    fn take_abandoned(&mut self, id: u64) -> bool {
        let at = self.abandoned.iter().position(|&abandoned| abandoned == id);
        at.is_some_and(|at| self.abandoned.remove(at).is_some())
    }

    /// The next message that is not an event, with an excerpt of its line; `None` at the deadline.
    fn next_message(&mut self, deadline: Instant) -> Result<Option<(Message, String)>, QmpError> {
        loop {
            if let Some(message) = self.read_buffered()? {
                return Ok(Some(message));
            }
            let ready = self.wire.wait(deadline, &[]).map_err(|error| self.poison_with(error))?;
            if !ready.stream {
                return Ok(None);
            }
            self.fill()?;
            // A peer that keeps sending must not delay the deadline.
            if Instant::now() >= deadline {
                return self.read_buffered();
            }
        }
    }

    /// Parses the lines that were read, and queues events, up to the first other message.
    fn read_buffered(&mut self) -> Result<Option<(Message, String)>, QmpError> {
        self.parse_lines().map_err(|error| self.poison_with(error))
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

    /// Parses the lines that were read while no command is pending.
    pub(crate) fn read_events(&mut self) -> Result<(), QmpError> {
        while let Some((message, excerpt)) = self.read_buffered()? {
            match message {
                Message::Reply { id: Some(got), .. } if self.take_abandoned(got) => {}
                _ => {
                    let expected = "an event".to_owned();
                    return Err(self.poison_with(QmpError::Unexpected { expected, excerpt }));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn fill(&mut self) -> Result<Filled, QmpError> {
        self.wire.fill().map_err(|error| self.poison_with(error))
    }

    pub(crate) fn check(&self) -> Result<(), QmpError> {
        match &self.poison {
            Some(reason) => Err(QmpError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn poison_with(&mut self, error: QmpError) -> QmpError {
        self.poison.get_or_insert_with(|| error.to_string());
        error
    }
}

/// For poll loops. Call [`Monitor::pending_event`] first: events that were read together with a
/// reply are no longer in the socket.
impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }
}

/// The end of a timeout, which is limited to a year so that it does not overflow.
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

/// Connects to a Unix socket; a blocking connect(2) would wait forever while the listener's backlog
/// is full.
fn connect_until(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(2);
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() < deadline => thread::sleep(CONNECT_RETRY_DELAY),
            Err(Errno::AGAIN) => return Err(Errno::TIMEDOUT.into()),
            Err(error) => return Err(error.into()),
        }
    }
}
