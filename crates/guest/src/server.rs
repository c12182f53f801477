//! The API's server: a thread of its own, one varlink server for each client.
//!
//! A varlink server handles one call at a time; with one for each client, a client waits for
//! another's unplug only in the driver's queue. The thread also turns signals into requests: the
//! first asks the guest to shut down, the second kills QEMU.
//!
//! Where other users may connect, none of them can lock out the others. Each user has a number of
//! connection slots, and root has its own. An idle client is evicted for a new one. Clients that
//! may not call get an error; they are few at a time and have little time.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use taptrail_kernel::process::{drop_all_capabilities, peer_credentials};
use taptrail_record::{GuestId, Requester};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tracing::{debug, info, warn};
use zlink::{ReadyListener, Server};

use crate::callers::Callers;
use crate::request::{Inbox, OnTimeout, Request};
use crate::service::GuestService;
use crate::socket::{Bounded, ConnectionSlot};

/// Connections of one user at a time; root's are reserved for it.
const MAX_ROOT_CLIENTS: usize = 64;
const MAX_CLIENTS_PER_USER: usize = 16;

/// Connections of all users but root.
const MAX_OTHER_CLIENTS: usize = 64;

/// Connections at a time that only get an error (not allowed, or no slot), and the timeout of each.
const MAX_REJECTED_CLIENTS: usize = 8;
const REJECTED_TIMEOUT: Duration = Duration::from_secs(5);

/// How long clients may take to read their last answer when the guest has ended.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The running server. [`end`](Self::end) stops and joins it.
#[derive(Debug)]
pub(crate) struct ApiServer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ApiServer {
    /// Serves the guest's API on `listener` to `callers`, and turns signals into stops that give
    /// the guest `patience`.
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
            // Clients are not trusted: this thread drops all capabilities.
            if let Err(error) = drop_all_capabilities() {
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

    /// Takes no more clients; returns when the connected ones have their answers, or time out.
    pub(crate) fn end(self) {
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            warn!("the API's thread has panicked");
        }
    }
}

/// Each signal requests a stop: the first of any kind gives the guest time, the next does not.
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

/// Data that all clients share.
struct Shared {
    guest: GuestId,
    inbox: Inbox,
    callers: Callers,
}

async fn serve(listener: tokio::net::UnixListener, shared: Shared, mut stopped: oneshot::Receiver<()>) {
    let shared = Rc::new(shared);
    let (mut clients, mut rejected) = (JoinSet::new(), JoinSet::new());
    let mut slots = ConnectionSlots::default();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = clients.join_next() => {}
            Some(_) = rejected.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(stream, &shared, &mut slots, &mut clients, &mut rejected),
                Err(error) => {
                    // For example out of descriptors, which may pass.
                    warn!("a client could not connect: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    drop(listener);
    drop(rejected);
    let all = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ANSWER_TIMEOUT, all).await.is_err() {
        debug!("a client stayed connected after the guest's end");
    }
}

/// The connections of allowed clients, by user.
#[derive(Debug, Default)]
struct ConnectionSlots(Vec<(u32, Rc<ConnectionSlot>)>);

impl ConnectionSlots {
    /// Allocates a slot to one more client of this user, evicting an idle one if necessary; `None`
    /// where all are busy.
    fn allocate(&mut self, uid: u32) -> Option<Rc<ConnectionSlot>> {
        // A slot whose client has disconnected is referenced only here.
        self.0.retain(|(_, slot)| Rc::strong_count(slot) > 1);
        let count = |mine: &dyn Fn(u32) -> bool| self.0.iter().filter(|(user, _)| mine(*user)).count();
        let own = |user: u32| user == uid;
        let other = |user: u32| user != 0;
        if count(&own) >= if uid == 0 { MAX_ROOT_CLIENTS } else { MAX_CLIENTS_PER_USER } {
            self.evict_longest_idle(own)?;
        } else if uid != 0 && count(&other) >= MAX_OTHER_CLIENTS {
            self.evict_longest_idle(other)?;
        }
        let slot = Rc::new(ConnectionSlot::new());
        self.0.push((uid, Rc::clone(&slot)));
        Some(slot)
    }

    /// Closes the longest idle connection of the users that `whose` accepts.
    fn evict_longest_idle(&mut self, whose: impl Fn(u32) -> bool) -> Option<()> {
        let idle = self.0.iter().enumerate().filter(|(_, (user, _))| whose(*user));
        let idle = idle.filter_map(|(index, (_, slot))| Some((slot.idle_since()?, index)));
        let (_, index) = idle.min()?;
        self.0.swap_remove(index).1.evict();
        Some(())
    }
}

/// Serves a new client, unless there are too many of its kind.
fn admit(
    stream: UnixStream,
    shared: &Rc<Shared>,
    slots: &mut ConnectionSlots,
    clients: &mut JoinSet<()>,
    rejected: &mut JoinSet<()>,
) {
    let requester = match peer_credentials(stream.as_fd()) {
        Ok(peer) => {
            Requester { uid: peer.uid, auid: peer.login_uid.unwrap_or(Requester::UNSET), pid: peer.pid }
        }
        Err(error) => return warn!("a client can't be identified: {error}"),
    };
    if shared.callers.is_allowed(requester.uid) {
        match slots.allocate(requester.uid) {
            Some(slot) => drop(clients.spawn_local(client(stream, slot, Rc::clone(shared), requester))),
            None => serve_briefly(rejected, reject(stream, requester.uid)),
        }
    } else {
        debug!("user {} may not call", requester.uid);
        serve_briefly(rejected, client(stream, Rc::new(ConnectionSlot::new()), Rc::clone(shared), requester));
    }
}

/// Serves a rejected client for a short time, unless there are too many of them.
fn serve_briefly(rejected: &mut JoinSet<()>, served: impl Future<Output = ()> + 'static) {
    if rejected.len() < MAX_REJECTED_CLIENTS {
        rejected.spawn_local(async {
            let _ = tokio::time::timeout(REJECTED_TIMEOUT, served).await;
        });
    }
}

/// Answers the first call with an error: there is no slot.
async fn reject(mut stream: UnixStream, uid: u32) {
    debug!("all connection slots of user {uid} are taken: one more client is rejected");
    let reason = format!("Too many clients of user {uid} are being served: try again when one is done");
    let mut answer = serde_json::json!({
        "error": "org.taptrail.Guest.Refused",
        "parameters": { "reason": reason },
    })
    .to_string()
    .into_bytes();
    answer.push(0);
    // Reading the call avoids a reset, which could hide the answer from the client.
    if stream.write_all(&answer).await.is_ok() {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

async fn client(stream: UnixStream, slot: Rc<ConnectionSlot>, shared: Rc<Shared>, requester: Requester) {
    let served = async {
        let service = GuestService::new(
            shared.guest.clone(),
            shared.inbox.clone(),
            shared.callers.clone(),
            requester,
            stream.as_fd(),
        )?;
        let stream = Bounded::new(zlink::tokio::unix::Stream::try_from(stream)?, slot);
        Server::new(ReadyListener::new(stream), service).run().await
    };
    if let Err(error) = served.await {
        debug!("a client's connection ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many busy clients of this user as there are slots.
    fn busy(slots: &mut ConnectionSlots, uid: u32) -> Vec<Rc<ConnectionSlot>> {
        let call = |slot: Rc<ConnectionSlot>| {
            slot.mark_busy();
            slot
        };
        std::iter::from_fn(|| slots.allocate(uid).map(call)).collect()
    }

    #[test]
    fn nobody_but_root_has_roots_places() {
        let mut slots = ConnectionSlots::default();
        let mut others: Vec<_> = (1..=4).map(|uid| busy(&mut slots, uid)).collect();
        assert!(others.iter().all(|taken| taken.len() == MAX_CLIENTS_PER_USER));
        assert!(slots.allocate(5).is_none(), "{MAX_OTHER_CLIENTS} are taken");
        assert_eq!(busy(&mut slots, 0).len(), MAX_ROOT_CLIENTS);
        others.pop();
        assert_eq!(busy(&mut slots, 5).len(), MAX_CLIENTS_PER_USER, "who has gone keeps no slot");
    }

    #[test]
    fn who_asks_for_nothing_makes_room_for_who_comes() {
        let mut slots = ConnectionSlots::default();
        let mut served = busy(&mut slots, 1);
        drop(served.pop());
        let _idle = slots.allocate(1).unwrap();
        let comes = slots.allocate(1).unwrap();
        comes.mark_busy();
        assert!(slots.allocate(1).is_none());
        assert_eq!(slots.0.len(), MAX_CLIENTS_PER_USER);
    }
}
