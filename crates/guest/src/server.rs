//! The API's server: a thread of its own, one varlink server for each client.
//!
//! A varlink server handles one call at a time; with one for each client nobody waits for
//! another's unplug but in the driver's queue. The thread turns the process's signals into
//! requests, too: the first asks the guest to shut down, the second ends it.
//!
//! Where others may reach the socket, those who may not call are told so, and keep nobody out: they are few at a time
//! and have little time.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use taptrail_kernel::process::{peer_credentials, renounce};
use taptrail_record::{GuestId, Requester};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tracing::{debug, info, warn};
use zlink::{ReadyListener, Server};

use crate::callers::Callers;
use crate::request::{Inbox, OnTimeout, Request};
use crate::service::GuestService;
use crate::socket::Bounded;

/// Clients at once; more are turned away.
const CLIENTS: usize = 64;

/// As many at once who may not call, and for how long; it takes no longer to be told so.
const STRANGERS: usize = 8;
const STRANGERS_TIME: Duration = Duration::from_secs(5);

/// How long clients may take to fetch their last answer when the guest has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// The running server; stopped and waited for on [`end`](Self::end).
#[derive(Debug)]
pub(crate) struct ApiServer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ApiServer {
    /// Serves the guest's API on `listener` to `callers`, and turns signals into stops that give the guest
    /// `patience`.
    pub(crate) fn start(
        listener: UnixListener,
        guest: GuestId,
        inbox: Inbox,
        callers: Callers,
        patience: Duration,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (up, is_up) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("api".to_owned()).spawn(move || {
            // Who calls is a stranger: what handles them has no rights, but the process's user's own.
            if let Err(error) = renounce() {
                let _ = up.send(Err(error));
                return;
            }
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
                        serve(listener, Shared { guest, inbox, callers }, stopped).await;
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

/// What all clients share.
struct Shared {
    guest: GuestId,
    inbox: Inbox,
    callers: Callers,
}

async fn serve(listener: tokio::net::UnixListener, shared: Shared, mut stopped: oneshot::Receiver<()>) {
    let shared = Rc::new(shared);
    let (mut clients, mut strangers) = (JoinSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = clients.join_next() => {}
            Some(_) = strangers.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(stream, &shared, &mut clients, &mut strangers),
                Err(error) => {
                    // Out of descriptors, say: it may pass.
                    warn!("a client could not connect: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    drop(listener);
    drop(strangers);
    let all = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, all).await.is_err() {
        debug!("a client stayed connected after the guest's end");
    }
}

/// Serves who has connected, unless there are too many of its kind.
fn admit(stream: UnixStream, shared: &Rc<Shared>, clients: &mut JoinSet<()>, strangers: &mut JoinSet<()>) {
    let requester = match peer_credentials(stream.as_fd()) {
        Ok(peer) => {
            Requester { uid: peer.uid, auid: peer.login_uid.unwrap_or(Requester::UNSET), pid: peer.pid }
        }
        Err(error) => return warn!("a client can't be identified: {error}"),
    };
    if shared.callers.may(requester.uid) {
        if clients.len() >= CLIENTS {
            return warn!("{CLIENTS} clients are connected already: one more was turned away");
        }
        clients.spawn_local(client(stream, Rc::clone(shared), requester));
    } else if strangers.len() < STRANGERS {
        debug!("user {} may not call", requester.uid);
        let client = client(stream, Rc::clone(shared), requester);
        strangers.spawn_local(async {
            let _ = tokio::time::timeout(STRANGERS_TIME, client).await;
        });
    }
}

async fn client(stream: UnixStream, shared: Rc<Shared>, requester: Requester) {
    let served = async {
        let service = GuestService::new(
            shared.guest.clone(),
            shared.inbox.clone(),
            shared.callers.clone(),
            requester,
            stream.as_fd(),
        )?;
        let stream = Bounded::new(zlink::tokio::unix::Stream::try_from(stream)?);
        Server::new(ReadyListener::new(stream), service).run().await
    };
    if let Err(error) = served.await {
        debug!("a client's connection ended: {error}");
    }
}
