//! The API's server: a thread of its own, one varlink server for each client.
//!
//! A varlink server handles one call at a time; with one for each client nobody waits for
//! another's unplug but in the driver's queue. The thread turns the process's signals into
//! requests, too: the first asks the guest to shut down, the second ends it.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use taptrail_kernel::process::peer_credentials;
use taptrail_record::{GuestId, MacAddr, MacAddrError, Requester};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tracing::{debug, info, warn};
use zlink::{ReadyListener, Server};

use crate::api::{ApiError, Nic, Nics, OneNic, Status, time};
use crate::request::{Failure, Inbox, OnTimeout, Reply, Request};
use crate::spec::NicSpec;

/// Clients at once; more are turned away.
const CLIENTS: usize = 64;

/// How long clients may take to fetch their last answer when the guest has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// Longest time-out that a client may ask for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The running server; stopped and waited for on [`end`](Self::end).
#[derive(Debug)]
pub(crate) struct ApiServer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ApiServer {
    /// Serves the guest's API on `listener`, and turns signals into stops that give the guest
    /// `patience`.
    pub(crate) fn start(
        listener: UnixListener,
        guest: GuestId,
        inbox: Inbox,
        patience: Duration,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (up, is_up) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("api".to_owned()).spawn(move || {
            let set = LocalSet::new();
            set.block_on(&runtime, async move {
                let listening = tokio::net::UnixListener::from_std(listener).and_then(|listener| {
                    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
                    let patience = Rc::new(Cell::new(patience));
                    for kind in signals {
                        tokio::task::spawn_local(stop_on(signal(kind)?, inbox.clone(), Rc::clone(&patience)));
                    }
                    Ok(listener)
                });
                match listening {
                    Ok(listener) => {
                        let _ = up.send(Ok(()));
                        serve(listener, guest, inbox, stopped).await;
                    }
                    Err(error) => {
                        let _ = up.send(Err(error));
                    }
                }
            });
        })?;
        match is_up.recv() {
            Ok(result) => result?,
            Err(_) => return Err(io::Error::other("The API's thread ended")),
        }
        Ok(Self { stop, thread })
    }

    /// Takes no more clients; returns when those there are have their answers.
    pub(crate) fn end(self) {
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            warn!("the API's thread has panicked");
        }
    }
}

/// Each signal is a stop: the first of any kind gives the guest time, the next does not.
async fn stop_on(mut signal: tokio::signal::unix::Signal, inbox: Inbox, shared: Rc<Cell<Duration>>) {
    while signal.recv().await.is_some() {
        let patience = shared.replace(Duration::ZERO);
        info!(
            "signal: {}",
            if patience.is_zero() { "QEMU is ended" } else { "the guest is stopped; once more ends QEMU" }
        );
        let stop = Request::Stop { patience, then: OnTimeout::Force, requester: None, reply: None };
        if let Err(error) = inbox.send(stop) {
            if inbox.is_closed() {
                return;
            }
            warn!("{error}");
        }
    }
}

async fn serve(
    listener: tokio::net::UnixListener,
    guest: GuestId,
    inbox: Inbox,
    mut stopped: oneshot::Receiver<()>,
) {
    let guest = Rc::new(guest);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = clients.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if clients.len() < CLIENTS => {
                    clients.spawn_local(client(stream, Rc::clone(&guest), inbox.clone()));
                }
                Ok(_) => warn!("{CLIENTS} clients are connected already: one more was turned away"),
                Err(error) => {
                    // Out of descriptors, say: it may pass.
                    warn!("a client could not connect: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    drop(listener);
    let all = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, all).await.is_err() {
        debug!("a client stayed connected after the guest's end");
    }
}

async fn client(stream: UnixStream, guest: Rc<GuestId>, inbox: Inbox) {
    let peer = match peer_credentials(stream.as_fd()) {
        Ok(peer) => peer,
        Err(error) => {
            warn!("a client can't be identified: {error}");
            return;
        }
    };
    let requester =
        Requester { uid: peer.uid, auid: peer.login_uid.unwrap_or(Requester::UNSET), pid: peer.pid };
    let allowed = peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw();
    let service = GuestService { guest, inbox, requester, allowed };
    let stream = match zlink::tokio::unix::Stream::try_from(stream) {
        Ok(stream) => stream,
        Err(error) => {
            warn!("a client can't be served: {error}");
            return;
        }
    };
    if let Err(error) = Server::new(ReadyListener::new(stream), service).run().await {
        debug!("a client's connection ended: {error}");
    }
}

/// The API as one client sees it.
#[derive(Debug)]
struct GuestService {
    guest: Rc<GuestId>,
    inbox: Inbox,
    requester: Requester,
    allowed: bool,
}

#[zlink::service(
    interface = "org.taptrail.Guest",
    vendor = "taptrail",
    product = "taptrail",
    version = env!("CARGO_PKG_VERSION"),
    url = env!("CARGO_PKG_REPOSITORY"),
    types = [Nic, crate::api::Device]
)]
impl GuestService {
    async fn attach(&self, nic: String) -> Result<OneNic, ApiError> {
        self.permit()?;
        let spec: NicSpec = nic
            .parse()
            .map_err(|error: crate::spec::SpecError| ApiError::Refused { reason: error.to_string() })?;
        let requester = Some(self.requester);
        let info = self.ask(|reply| Request::Attach { spec: Box::new(spec), requester, reply }).await?;
        Ok(OneNic { nic: info.into() })
    }

    async fn detach(&self, mac: String, timeout_ms: i64) -> Result<OneNic, ApiError> {
        self.permit()?;
        let mac = address(&mac)?;
        let patience = patience(timeout_ms)?;
        let requester = Some(self.requester);
        let info = self.ask(|reply| Request::Detach { mac, patience, requester, reply }).await?;
        Ok(OneNic { nic: info.into() })
    }

    async fn revoke(&self, mac: String) -> Result<OneNic, ApiError> {
        self.permit()?;
        let mac = address(&mac)?;
        let requester = Some(self.requester);
        let info = self.ask(|reply| Request::Revoke { mac, requester, reply }).await?;
        Ok(OneNic { nic: info.into() })
    }

    async fn stop(&self, timeout_ms: i64, force: bool) -> Result<(), ApiError> {
        self.permit()?;
        let patience = if force { Duration::ZERO } else { patience(timeout_ms)? };
        let then = if force { OnTimeout::Force } else { OnTimeout::GiveUp };
        let requester = Some(self.requester);
        self.ask(|reply| Request::Stop { patience, then, requester, reply: Some(reply) }).await
    }

    async fn status(&self) -> Result<Status, ApiError> {
        self.permit()?;
        let snapshot = self.inbox.snapshot();
        Ok(Status {
            name: self.guest.name.to_string(),
            uuid: self.guest.uuid.to_string(),
            state: snapshot.state.to_owned(),
            pid: snapshot.pid.map(i64::from),
            supervisor_pid: i64::from(std::process::id()),
            since: snapshot.since.map(time),
            nics: i64::try_from(snapshot.interfaces.len()).unwrap_or(i64::MAX),
        })
    }

    async fn nics(&self) -> Result<Nics, ApiError> {
        self.permit()?;
        Ok(self.inbox.snapshot().into())
    }
}

impl GuestService {
    fn permit(&self) -> Result<(), ApiError> {
        if self.allowed { Ok(()) } else { Err(ApiError::Forbidden { uid: i64::from(self.requester.uid) }) }
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel::<Result<T, Failure>>();
        self.inbox.send(request(reply))?;
        match answer.await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(ApiError::Ended),
        }
    }
}

fn address(mac: &str) -> Result<MacAddr, ApiError> {
    mac.parse().map_err(|error: MacAddrError| ApiError::Refused { reason: error.to_string() })
}

fn patience(timeout_ms: i64) -> Result<Duration, ApiError> {
    let refused =
        || ApiError::Refused { reason: format!("{timeout_ms} ms can't be waited for: 0 to a day can") };
    let patience = u64::try_from(timeout_ms).map(Duration::from_millis).map_err(|_| refused())?;
    if patience > LONGEST { Err(refused()) } else { Ok(patience) }
}
