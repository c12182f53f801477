//! The API's client: what `taptrail attach`, `detach`, `stop`, `list`, `nics` and `events` call.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::signal::unix::{SignalKind, signal};
use zlink::tokio::unix;

use crate::api::{ApiError, Event, Nics, OneEvent, OneNic, Status};
use crate::run_dir::{self, RunDirError};

/// How long a supervisor may take to answer what needs no work.
const ANSWER: Duration = Duration::from_secs(5);

/// A guest could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The guest's name can't be one.
    #[error(transparent)]
    Name(#[from] RunDirError),
    /// Nobody is behind the socket.
    #[error("Guest '{guest}' isn't running: nobody answers on {socket} (`taptrail list` shows the guests)", socket = socket.display())]
    NotRunning {
        /// The guest.
        guest: String,
        /// Its socket.
        socket: PathBuf,
    },
    /// The socket can't be reached.
    #[error("Supervisor of guest '{guest}' can't be reached on {socket}", socket = socket.display())]
    Unreachable {
        /// The guest.
        guest: String,
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: zlink::Error,
    },
    /// The conversation broke.
    #[error("Supervisor of guest '{guest}' did not answer")]
    Broken {
        /// The guest.
        guest: String,
        /// Why.
        source: zlink::Error,
    },
    /// The supervisor is silent.
    #[error("Supervisor of guest '{guest}' did not answer within {} s", ANSWER.as_secs())]
    Silent {
        /// The guest.
        guest: String,
    },
    /// The supervisor's own answer.
    #[error("{}", reason(.0))]
    Answer(ApiError),
    /// No runtime, no client.
    #[error("Client can't be started")]
    Runtime(#[source] io::Error),
}

fn reason(error: &ApiError) -> String {
    match error {
        ApiError::Refused { reason } | ApiError::Failed { reason } | ApiError::TimedOut { reason } => {
            reason.clone()
        }
        ApiError::Ended => "The guest ended before the request was handled".to_owned(),
        ApiError::Lagged { missed } => {
            format!("{missed} events were missed: they came faster than they were read")
        }
        ApiError::Forbidden { uid } => {
            format!(
                "User {uid} may not ask this of the guest: root, the supervisor's own user and who was given with --allow may"
            )
        }
    }
}

impl ClientError {
    /// Did the guest not do in time what it was asked for?
    pub fn is_time_out(&self) -> bool {
        matches!(self, Self::Answer(ApiError::TimedOut { .. }))
    }
}

#[zlink::proxy("org.taptrail.Guest")]
trait GuestProxy {
    async fn attach(&mut self, nic: String) -> zlink::Result<Result<OneNic, ApiError>>;
    async fn detach(&mut self, mac: String, timeout_ms: i64) -> zlink::Result<Result<OneNic, ApiError>>;
    async fn revoke(&mut self, mac: String) -> zlink::Result<Result<OneNic, ApiError>>;
    async fn stop(&mut self, timeout_ms: i64, force: bool) -> zlink::Result<Result<(), ApiError>>;
    async fn status(&mut self) -> zlink::Result<Result<Status, ApiError>>;
    async fn nics(&mut self) -> zlink::Result<Result<Nics, ApiError>>;
    #[zlink(more)]
    async fn monitor(
        &mut self,
    ) -> zlink::Result<impl Stream<Item = zlink::Result<Result<OneEvent, ApiError>>>>;
}

/// A guest's supervisor, connected.
#[derive(Debug)]
pub struct Client {
    guest: String,
    runtime: tokio::runtime::Runtime,
    connection: unix::Connection,
}

impl Client {
    /// Connects to the guest's supervisor.
    pub fn connect(run: &Path, guest: &str) -> Result<Self, ClientError> {
        run_dir::check_name(guest)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClientError::Runtime)?;
        let socket = run_dir::api_socket(run, guest);
        let connection = runtime.block_on(unix::connect(&socket)).map_err(|source| {
            let guest = guest.to_owned();
            let nobody = |error: &io::Error| {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
            };
            match &source {
                zlink::Error::Io(error) if nobody(error) => ClientError::NotRunning { guest, socket },
                _ => ClientError::Unreachable { guest, socket, source },
            }
        })?;
        Ok(Self { guest: guest.to_owned(), runtime, connection })
    }

    /// Hot-plugs an interface.
    pub fn attach(&mut self, spec: &str) -> Result<OneNic, ClientError> {
        let answer = self.runtime.block_on(self.connection.attach(spec.to_owned()));
        self.answer(answer)
    }

    /// Hot-unplugs an interface.
    pub fn detach(&mut self, mac: &str, patience: Duration) -> Result<OneNic, ClientError> {
        let answer = self.runtime.block_on(self.connection.detach(mac.to_owned(), milliseconds(patience)));
        self.answer(answer)
    }

    /// Takes an interface's devices at once, with the NIC still plugged.
    pub fn revoke(&mut self, mac: &str) -> Result<OneNic, ClientError> {
        let answer = self.runtime.block_on(self.connection.revoke(mac.to_owned()));
        self.answer(answer)
    }

    /// Stops the guest; returns when it has ended.
    pub fn stop(&mut self, patience: Duration, force: bool) -> Result<(), ClientError> {
        let answer = self.runtime.block_on(self.connection.stop(milliseconds(patience), force));
        self.answer(answer)
    }

    /// What the guest is doing.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        let connection = &mut self.connection;
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER, connection.status()).await });
        let answer = answer.map_err(|_| ClientError::Silent { guest: self.guest.clone() })?;
        self.answer(answer)
    }

    /// What interfaces the guest has.
    pub fn nics(&mut self) -> Result<Nics, ClientError> {
        let connection = &mut self.connection;
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER, connection.nics()).await });
        let answer = answer.map_err(|_| ClientError::Silent { guest: self.guest.clone() })?;
        self.answer(answer)
    }

    /// Gives `take` the guest's state and then all that happens to it, until the guest ends, `take` says that it is
    /// enough, or Ctrl-C comes.
    pub fn events(&mut self, mut take: impl FnMut(Event) -> bool) -> Result<(), ClientError> {
        let connection = &mut self.connection;
        let broken = |source| ClientError::Broken { guest: self.guest.clone(), source };
        self.runtime.block_on(async {
            let mut interrupted = signal(SignalKind::interrupt()).map_err(ClientError::Runtime)?;
            let mut events = pin!(connection.monitor().await.map_err(broken)?);
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    _ = interrupted.recv() => return Ok(()),
                };
                match event {
                    Some(Ok(Ok(told))) => {
                        if !take(told.event) {
                            return Ok(());
                        }
                    }
                    None => return Ok(()),
                    Some(Ok(Err(error))) => return Err(ClientError::Answer(error)),
                    Some(Err(source)) => return Err(broken(source)),
                }
            }
        })
    }

    fn answer<T>(&self, answer: zlink::Result<Result<T, ApiError>>) -> Result<T, ClientError> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(ClientError::Answer(error)),
            Err(source) => Err(ClientError::Broken { guest: self.guest.clone(), source }),
        }
    }
}

fn milliseconds(patience: Duration) -> i64 {
    i64::try_from(patience.as_millis()).unwrap_or(i64::MAX)
}
