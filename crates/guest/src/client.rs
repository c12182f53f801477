//! The API's client: what `taptrail attach`, `detach`, `stop`, `list`, `nics` and `events` call.

use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt};
use taptrail_trail::FindingKind;
use tokio::signal::unix::{SignalKind, signal};
use zlink::tokio::unix;

use crate::api::{ApiError, Event, Nics, OneEvent, OneNic, Status};
use crate::run_dir::{self, RunDirError};

/// How long a supervisor may take to answer what needs no work.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take for what needs some, beyond the time that the guest is given: other
/// requests come first, and a ledger that can't be written is waited for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// How long it may take to end QEMU by force: some seconds until that is killed, and the patience
/// with a ledger then.
const FORCED_STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the last events of a guest that has stopped may take.
const LAST_EVENT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a supervisor of which nothing is heard is asked whether it is there.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(30);

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
    #[error("Supervisor of guest '{guest}'{} does not answer within {} s: nothing was asked of it", pid(.supervisor), STATUS_TIMEOUT.as_secs())]
    Unresponsive {
        /// The guest.
        guest: String,
        /// Its pid, where it can be seen.
        supervisor: Option<u32>,
    },
    /// The supervisor does not come to an end.
    #[error("Supervisor of guest '{guest}'{} has not answered within {} s: what it had not begun is withdrawn, and what it had is not known", pid(.supervisor), .limit.as_secs())]
    TimedOut {
        /// The guest.
        guest: String,
        /// Its pid, where it can be seen.
        supervisor: Option<u32>,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The supervisor's own answer.
    #[error("{}", reason(.0))]
    Answer(ApiError),
    /// No runtime, no client.
    #[error("Client can't be started")]
    Runtime(#[source] io::Error),
}

fn pid(supervisor: &Option<u32>) -> String {
    supervisor.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
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
    /// Did the guest, or its supervisor, not do in time what it was asked for?
    pub fn is_time_out(&self) -> bool {
        matches!(self, Self::Answer(ApiError::TimedOut { .. })) || self.is_unresponsive()
    }

    /// Is there nobody to ask?
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }

    /// Did the supervisor say nothing?
    pub fn is_unresponsive(&self) -> bool {
        matches!(self, Self::Unresponsive { .. } | Self::TimedOut { .. })
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
    run: PathBuf,
    runtime: tokio::runtime::Runtime,
    connection: unix::Connection,
}

impl Client {
    /// Connects to the guest's supervisor.
    pub fn connect(run: &Path, guest: &str) -> Result<Self, ClientError> {
        run_dir::check_name(guest)?;
        let runtime = runtime()?;
        let connection = runtime.block_on(connect(run, guest))?;
        Ok(Self { guest: guest.to_owned(), run: run.to_owned(), runtime, connection })
    }

    /// Hot-plugs an interface.
    pub fn attach(&mut self, spec: &str) -> Result<OneNic, ClientError> {
        self.work(REQUEST_TIMEOUT, async |connection| connection.attach(spec.to_owned()).await)
    }

    /// Hot-unplugs an interface.
    pub fn detach(&mut self, mac: &str, patience: Duration) -> Result<OneNic, ClientError> {
        let timeout = milliseconds(patience);
        self.work(patience.saturating_add(REQUEST_TIMEOUT), async |connection| {
            connection.detach(mac.to_owned(), timeout).await
        })
    }

    /// Takes an interface's devices at once, with the NIC still plugged.
    pub fn revoke(&mut self, mac: &str) -> Result<OneNic, ClientError> {
        self.work(REQUEST_TIMEOUT, async |connection| connection.revoke(mac.to_owned()).await)
    }

    /// Stops the guest; returns when it has ended, with what its supervisor found of devices that somebody may hold
    /// still, in a sentence each.
    pub fn stop(&mut self, patience: Duration, force: bool) -> Result<Vec<String>, ClientError> {
        let timeout = milliseconds(patience);
        let limit = if force { FORCED_STOP_TIMEOUT } else { patience.saturating_add(REQUEST_TIMEOUT) };
        let (run, guest) = (self.run.clone(), self.guest.clone());
        self.work(limit, async |connection| {
            let mut listening = connect(&run, &guest).await.ok();
            let mut events = match &mut listening {
                Some(listening) => listening.monitor().await.ok().map(Box::pin),
                None => None,
            };
            if let Some(events) = &mut events {
                // The first is the state as it is: from there on all is told.
                let _ = events.next().await;
            }
            let mut stop = pin!(connection.stop(timeout, force));
            let mut doubtful = Vec::new();
            loop {
                let next = async {
                    match &mut events {
                        Some(events) => events.next().await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    // The answer comes after the last event.
                    biased;
                    event = next => match event {
                        Some(Ok(Ok(OneEvent { event }))) => doubtful.extend(doubtful_release(event)),
                        _ => events = None,
                    },
                    answer = &mut stop => {
                        let last = async {
                            while let Some(Some(Ok(Ok(OneEvent { event })))) = match &mut events {
                                Some(events) => Some(events.next().await),
                                None => None,
                            } {
                                doubtful.extend(doubtful_release(event));
                            }
                        };
                        // Those that are on their way.
                        if matches!(answer, Ok(Ok(()))) {
                            let _ = tokio::time::timeout(LAST_EVENT_TIMEOUT, last).await;
                        }
                        return answer.map(|answer| answer.map(|()| doubtful));
                    }
                }
            }
        })
    }

    /// What the guest is doing.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        let Self { guest, run, runtime, connection } = self;
        runtime.block_on(status(run, guest, connection))
    }

    /// What interfaces the guest has.
    pub fn nics(&mut self) -> Result<Nics, ClientError> {
        let Self { guest, run, runtime, connection } = self;
        runtime.block_on(async {
            let answer = tokio::time::timeout(STATUS_TIMEOUT, connection.nics()).await;
            answered(guest, answer.map_err(|_| silent(run, guest))?)
        })
    }

    /// Has the supervisor do something that takes its time. One that does not say how it is at once
    /// is asked for nothing: it might do it when nobody wants it any more.
    fn work<T>(
        &mut self,
        limit: Duration,
        call: impl AsyncFnOnce(&mut unix::Connection) -> zlink::Result<Result<T, ApiError>>,
    ) -> Result<T, ClientError> {
        self.status()?;
        let Self { guest, run, runtime, connection } = self;
        let answer = runtime.block_on(async { tokio::time::timeout(limit, call(connection)).await });
        let unfinished = |_| ClientError::TimedOut {
            guest: guest.clone(),
            supervisor: run_dir::supervisor(run, guest),
            limit,
        };
        answered(guest, answer.map_err(unfinished)?)
    }

    /// Gives `take` the guest's state and then all that happens to it, until the guest ends, `take` says that it is
    /// enough, or Ctrl-C comes.
    pub fn events(&mut self, mut take: impl FnMut(Event) -> bool) -> Result<(), ClientError> {
        self.status()?;
        let Self { guest, run, runtime, connection } = self;
        let broken = |source| ClientError::Broken { guest: guest.clone(), source };
        runtime.block_on(async {
            let mut interrupted = signal(SignalKind::interrupt()).map_err(ClientError::Runtime)?;
            let mut events = pin!(connection.monitor().await.map_err(broken)?);
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    _ = interrupted.recv() => return Ok(()),
                    () = tokio::time::sleep(LIVENESS_INTERVAL) => {
                        // That nothing happens, and that nobody is there to tell, are two things.
                        let asked = async { status(run, guest, &mut connect(run, guest).await?).await };
                        match asked.await {
                            Err(error) if error.is_unresponsive() => return Err(error),
                            _ => continue,
                        }
                    }
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
}

/// How each of these guests is, asked all at once.
///
/// # Errors
/// When none can be asked.
pub fn statuses(run: &Path, guests: &[String]) -> Result<Vec<Result<Status, ClientError>>, ClientError> {
    let ask = async |guest: &String| {
        let mut connection = connect(run, guest).await?;
        status(run, guest, &mut connection).await
    };
    Ok(runtime()?.block_on(join_all(guests.iter().map(ask))))
}

fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)
}

async fn connect(run: &Path, guest: &str) -> Result<unix::Connection, ClientError> {
    let socket = run_dir::api_socket(run, guest);
    unix::connect(&socket).await.map_err(|source| {
        let kind = match &source {
            zlink::Error::Io(error) => error.kind(),
            _ => io::ErrorKind::Other,
        };
        let guest = guest.to_owned();
        match kind {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { guest, socket }
            }
            // As many wait to be heard as can.
            io::ErrorKind::WouldBlock => silent(run, &guest),
            _ => ClientError::Unreachable { guest, socket, source },
        }
    })
}

fn doubtful_release(event: Event) -> Option<String> {
    let is_one = event.finding.as_deref() == Some(FindingKind::DoubtfulRelease.as_str());
    event.text.filter(|_| is_one)
}

async fn status(run: &Path, guest: &str, connection: &mut unix::Connection) -> Result<Status, ClientError> {
    let answer = tokio::time::timeout(STATUS_TIMEOUT, connection.status()).await;
    answered(guest, answer.map_err(|_| silent(run, guest))?)
}

fn silent(run: &Path, guest: &str) -> ClientError {
    ClientError::Unresponsive { guest: guest.to_owned(), supervisor: run_dir::supervisor(run, guest) }
}

fn answered<T>(guest: &str, answer: zlink::Result<Result<T, ApiError>>) -> Result<T, ClientError> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ClientError::Answer(error)),
        Err(source) => Err(ClientError::Broken { guest: guest.to_owned(), source }),
    }
}

fn milliseconds(patience: Duration) -> i64 {
    i64::try_from(patience.as_millis()).unwrap_or(i64::MAX)
}
