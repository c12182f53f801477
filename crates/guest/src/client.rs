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

/// Timeout of calls that the server answers by itself.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of calls that the driver carries out, in addition to the guest's own timeout: other
/// requests may come first, and the driver waits for a ledger that can't be written.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Timeout of a forced stop: some seconds until QEMU is killed, and then the wait for the ledger.
const FORCED_STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout for the last events of a guest that has stopped.
const LAST_EVENT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a supervisor that sends no events is checked to be alive.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(30);

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The guest's name is invalid.
    #[error(transparent)]
    Name(#[from] RunDirError),
    /// Nobody serves the socket.
    #[error("Guest '{guest}' isn't running: nobody answers on {socket} (`taptrail list` shows the guests)", socket = socket.display())]
    NotRunning {
        /// The guest's name.
        guest: String,
        /// The path of its supervisor's socket.
        socket: PathBuf,
    },
    /// The socket can't be reached.
    #[error("Supervisor of guest '{guest}' can't be reached on {socket}", socket = socket.display())]
    Unreachable {
        /// The guest's name.
        guest: String,
        /// The path of its supervisor's socket.
        socket: PathBuf,
        /// The error beneath it, which says why.
        source: zlink::Error,
    },
    /// The connection broke.
    #[error("Supervisor of guest '{guest}' did not answer")]
    Broken {
        /// The guest's name.
        guest: String,
        /// The error beneath it, which says why.
        source: zlink::Error,
    },
    /// The supervisor does not answer.
    #[error("Supervisor of guest '{guest}'{} does not answer within {} s: the request was not sent", pid(.supervisor), STATUS_TIMEOUT.as_secs())]
    Unresponsive {
        /// The guest's name.
        guest: String,
        /// Its pid, if its lock file has one.
        supervisor: Option<u32>,
    },
    /// The supervisor did not finish the request in time.
    #[error("Supervisor of guest '{guest}'{} has not answered within {} s: the request is withdrawn if it was not begun; otherwise its outcome is not known", pid(.supervisor), .limit.as_secs())]
    TimedOut {
        /// The guest's name.
        guest: String,
        /// Its pid, if its lock file has one.
        supervisor: Option<u32>,
        /// How long the client waited.
        limit: Duration,
    },
    /// The supervisor answered with an error.
    #[error("{}", reason(.0))]
    Answer(ApiError),
    /// The async runtime can't be started.
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
    /// Whether the guest or its supervisor did not carry out the request in time.
    pub fn is_time_out(&self) -> bool {
        matches!(self, Self::Answer(ApiError::TimedOut { .. })) || self.is_unresponsive()
    }

    /// Whether nobody serves the guest here.
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }

    /// Whether the supervisor did not answer.
    pub fn is_unresponsive(&self) -> bool {
        matches!(self, Self::Unresponsive { .. } | Self::TimedOut { .. })
    }
}

#[zlink::proxy("org.taptrail.Guest")]
trait GuestProxy {
    async fn attach(&mut self, nic: String) -> zlink::Result<Result<OneNic, ApiError>>;
    async fn detach(&mut self, mac: String, timeout_ms: i64) -> zlink::Result<Result<OneNic, ApiError>>;
    async fn revoke(&mut self, mac: String) -> zlink::Result<Result<OneNic, ApiError>>;
    async fn set_filter(&mut self, mac: String, filter: String) -> zlink::Result<Result<OneNic, ApiError>>;
    async fn update(&mut self, mac: String, settings: String) -> zlink::Result<Result<OneNic, ApiError>>;
    async fn stop(&mut self, timeout_ms: i64, force: bool) -> zlink::Result<Result<(), ApiError>>;
    async fn status(&mut self) -> zlink::Result<Result<Status, ApiError>>;
    async fn nics(&mut self) -> zlink::Result<Result<Nics, ApiError>>;
    #[zlink(more)]
    async fn monitor(
        &mut self,
    ) -> zlink::Result<impl Stream<Item = zlink::Result<Result<OneEvent, ApiError>>>>;
}

/// A connection to a guest's supervisor.
#[derive(Debug)]
pub struct Client {
    guest: String,
    run: PathBuf,
    runtime: tokio::runtime::Runtime,
    connection: unix::Connection,
}

impl Client {
    /// Connects to the guest's supervisor.
    ///
    /// # Errors
    ///
    /// The name is no guest's, nobody serves the socket, or it can't be reached.
    pub fn connect(run: &Path, guest: &str) -> Result<Self, ClientError> {
        run_dir::check_name(guest)?;
        let runtime = runtime()?;
        let connection = runtime.block_on(connect(run, guest))?;
        Ok(Self { guest: guest.to_owned(), run: run.to_owned(), runtime, connection })
    }

    /// Hot-plugs an interface.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unresponsive`] if the supervisor does not answer: the request was not sent.
    /// [`ClientError::TimedOut`] and [`ClientError::Broken`] leave open whether it was carried out.
    /// The supervisor's own error, if it refused or failed.
    pub fn attach(&mut self, spec: &str) -> Result<OneNic, ClientError> {
        self.run_request(REQUEST_TIMEOUT, async |connection| connection.attach(spec.to_owned()).await)
    }

    /// Hot-unplugs an interface.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn detach(&mut self, mac: &str, patience: Duration) -> Result<OneNic, ClientError> {
        let timeout = milliseconds(patience);
        self.run_request(patience.saturating_add(REQUEST_TIMEOUT), async |connection| {
            connection.detach(mac.to_owned(), timeout).await
        })
    }

    /// Revokes an interface's devices at once, with the NIC still plugged.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn revoke(&mut self, mac: &str) -> Result<OneNic, ClientError> {
        self.run_request(REQUEST_TIMEOUT, async |connection| connection.revoke(mac.to_owned()).await)
    }

    /// Changes an interface's filter; `none` removes it.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn set_filter(&mut self, mac: &str, filter: &str) -> Result<OneNic, ClientError> {
        self.run_request(REQUEST_TIMEOUT, async |connection| {
            connection.set_filter(mac.to_owned(), filter.to_owned()).await
        })
    }

    /// Changes settings of an interface: keys and values of a SPEC, `vlan=7,link=up`.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn update(&mut self, mac: &str, settings: &str) -> Result<OneNic, ClientError> {
        self.run_request(REQUEST_TIMEOUT, async |connection| {
            connection.update(mac.to_owned(), settings.to_owned()).await
        })
    }

    /// Stops the guest; returns when it has ended, with the text of each finding about a device
    /// that somebody may still hold.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn stop(&mut self, patience: Duration, force: bool) -> Result<Vec<String>, ClientError> {
        let timeout = milliseconds(patience);
        let limit = if force { FORCED_STOP_TIMEOUT } else { patience.saturating_add(REQUEST_TIMEOUT) };
        let (run, guest) = (self.run.clone(), self.guest.clone());
        self.run_request(limit, async |connection| {
            let mut listening = connect(&run, &guest).await.ok();
            let mut events = match &mut listening {
                Some(listening) => listening.monitor().await.ok().map(Box::pin),
                None => None,
            };
            if let Some(events) = &mut events {
                // The first event is the current state: the stream is complete from there on.
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
                        // The events that are still in the stream.
                        if matches!(answer, Ok(Ok(()))) {
                            let _ = tokio::time::timeout(LAST_EVENT_TIMEOUT, last).await;
                        }
                        return answer.map(|answer| answer.map(|()| doubtful));
                    }
                }
            }
        })
    }

    /// The guest's state.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unresponsive`] and [`ClientError::Broken`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        let Self { guest, run, runtime, connection } = self;
        runtime.block_on(status(run, guest, connection))
    }

    /// The guest's interfaces.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unresponsive`] and [`ClientError::Broken`].
    pub fn nics(&mut self) -> Result<Nics, ClientError> {
        let Self { guest, run, runtime, connection } = self;
        runtime.block_on(async {
            let answer = tokio::time::timeout(STATUS_TIMEOUT, connection.nics()).await;
            into_result(guest, answer.map_err(|_| unresponsive(run, guest))?)
        })
    }

    /// Calls a method that the driver carries out. If the supervisor does not answer `Status`
    /// first, it is not called: it might carry out the request when the client has given up.
    fn run_request<T>(
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
        into_result(guest, answer.map_err(unfinished)?)
    }

    /// Passes the guest's state and then its events to `take`, until the guest ends, `take` returns
    /// false, or Ctrl-C comes.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unresponsive`] before the first event, [`ClientError::Broken`] later; the
    /// signal can't be awaited.
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
                        // There may be no events, or nobody to send them.
                        let asked = async { status(run, guest, &mut connect(run, guest).await?).await };
                        match asked.await {
                            Err(error) if error.is_unresponsive() => return Err(error),
                            _ => continue,
                        }
                    }
                };
                match event {
                    Some(Ok(Ok(event_reply))) => {
                        if !take(event_reply.event) {
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

/// The status of each of these guests; all are queried at the same time.
///
/// # Errors
/// When the client can't be started.
pub fn statuses(run: &Path, guests: &[String]) -> Result<Vec<Result<Status, ClientError>>, ClientError> {
    let once = async |guest: &String| {
        let mut connection = connect(run, guest).await?;
        status(run, guest, &mut connection).await
    };
    let ask = async |guest: &String| match once(guest).await {
        // The connection of a supervisor that ends just now breaks: asked again, it is not there.
        Err(ClientError::Broken { .. }) => once(guest).await,
        answer => answer,
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
            // The socket's backlog is full.
            io::ErrorKind::WouldBlock => unresponsive(run, &guest),
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
    into_result(guest, answer.map_err(|_| unresponsive(run, guest))?)
}

fn unresponsive(run: &Path, guest: &str) -> ClientError {
    ClientError::Unresponsive { guest: guest.to_owned(), supervisor: run_dir::supervisor(run, guest) }
}

fn into_result<T>(guest: &str, answer: zlink::Result<Result<T, ApiError>>) -> Result<T, ClientError> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ClientError::Answer(error)),
        Err(source) => Err(ClientError::Broken { guest: guest.to_owned(), source }),
    }
}

fn milliseconds(patience: Duration) -> i64 {
    i64::try_from(patience.as_millis()).unwrap_or(i64::MAX)
}
