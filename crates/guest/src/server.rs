//! The API's server: a thread of its own, one varlink server for each client.
//!
//! A varlink server handles one call at a time; with one for each client nobody waits for
//! another's unplug but in the driver's queue. The thread turns the process's signals into
//! requests, too: the first asks the guest to shut down, the second ends it.
//!
//! Where others may reach the socket, nobody keeps anybody out. Each user has so many places, and root its own. Who asks
//! for nothing makes room for who comes; those who may not call are told so, are few at a time and have little time.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use taptrail_kernel::process::{peer_credentials, renounce};
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
use crate::socket::{Bounded, Place};

/// Clients of one user at once; root has more, and they are kept for it.
const ROOTS: usize = 64;
const EACH: usize = 16;

/// Clients of all users but root.
const OTHERS: usize = 64;

/// So many at once who may not call, and for how long; it takes no longer to be told so.
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
    let mut places = Places::default();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = clients.join_next() => {}
            Some(_) = strangers.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(stream, &shared, &mut places, &mut clients, &mut strangers),
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

/// Who is connected, of those who may call.
#[derive(Debug, Default)]
struct Places(Vec<(u32, Rc<Place>)>);

impl Places {
    /// A place for one more client of this user; none where all are taken by clients whose calls are being served.
    fn take(&mut self, uid: u32) -> Option<Rc<Place>> {
        // Whose client has gone is held by us alone.
        self.0.retain(|(_, place)| Rc::strong_count(place) > 1);
        let count = |mine: &dyn Fn(u32) -> bool| self.0.iter().filter(|(user, _)| mine(*user)).count();
        let own = |user: u32| user == uid;
        let other = |user: u32| user != 0;
        if count(&own) >= if uid == 0 { ROOTS } else { EACH } {
            self.vacate(own)?;
        } else if uid != 0 && count(&other) >= OTHERS {
            self.vacate(other)?;
        }
        let place = Rc::new(Place::new());
        self.0.push((uid, Rc::clone(&place)));
        Some(place)
    }

    /// Who of these users has asked for nothing for the longest time has to go.
    fn vacate(&mut self, whose: impl Fn(u32) -> bool) -> Option<()> {
        let idle = self.0.iter().enumerate().filter(|(_, (user, _))| whose(*user));
        let idle = idle.filter_map(|(index, (_, place))| Some((place.waiting()?, index)));
        let (_, index) = idle.min()?;
        self.0.swap_remove(index).1.vacate();
        Some(())
    }
}

/// Serves who has connected, unless there are too many of its kind.
fn admit(
    stream: UnixStream,
    shared: &Rc<Shared>,
    places: &mut Places,
    clients: &mut JoinSet<()>,
    strangers: &mut JoinSet<()>,
) {
    let requester = match peer_credentials(stream.as_fd()) {
        Ok(peer) => {
            Requester { uid: peer.uid, auid: peer.login_uid.unwrap_or(Requester::UNSET), pid: peer.pid }
        }
        Err(error) => return warn!("a client can't be identified: {error}"),
    };
    if shared.callers.may(requester.uid) {
        match places.take(requester.uid) {
            Some(place) => drop(clients.spawn_local(client(stream, place, Rc::clone(shared), requester))),
            None => briefly(strangers, turn_away(stream, requester.uid)),
        }
    } else {
        debug!("user {} may not call", requester.uid);
        briefly(strangers, client(stream, Rc::new(Place::new()), Rc::clone(shared), requester));
    }
}

/// Serves who gets nothing, for a short time, and unless there are too many of them.
fn briefly(strangers: &mut JoinSet<()>, served: impl Future<Output = ()> + 'static) {
    if strangers.len() < STRANGERS {
        strangers.spawn_local(async {
            let _ = tokio::time::timeout(STRANGERS_TIME, served).await;
        });
    }
}

/// Says that there is no place, to whatever will be asked.
async fn turn_away(mut stream: UnixStream, uid: u32) {
    debug!("all places of user {uid}'s clients are taken: one more is turned away");
    let reason = format!("Too many clients of user {uid} are being served: try again when one is done");
    let mut answer = serde_json::json!({
        "error": "org.taptrail.Guest.Refused",
        "parameters": { "reason": reason },
    })
    .to_string()
    .into_bytes();
    answer.push(0);
    // A call that finds nobody to read it would be all that the client hears of.
    if stream.write_all(&answer).await.is_ok() {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

async fn client(stream: UnixStream, place: Rc<Place>, shared: Rc<Shared>, requester: Requester) {
    let served = async {
        let service = GuestService::new(
            shared.guest.clone(),
            shared.inbox.clone(),
            shared.callers.clone(),
            requester,
            stream.as_fd(),
        )?;
        let stream = Bounded::new(zlink::tokio::unix::Stream::try_from(stream)?, place);
        Server::new(ReadyListener::new(stream), service).run().await
    };
    if let Err(error) = served.await {
        debug!("a client's connection ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients of this user's, as many as there are places for, whose calls are all being served.
    fn busy(places: &mut Places, uid: u32) -> Vec<Rc<Place>> {
        let call = |place: Rc<Place>| {
            place.called();
            place
        };
        std::iter::from_fn(|| places.take(uid).map(call)).collect()
    }

    #[test]
    fn nobody_but_root_has_roots_places() {
        let mut places = Places::default();
        let mut others: Vec<_> = (1..=4).map(|uid| busy(&mut places, uid)).collect();
        assert!(others.iter().all(|taken| taken.len() == EACH));
        assert!(places.take(5).is_none(), "{OTHERS} are taken");
        assert_eq!(busy(&mut places, 0).len(), ROOTS);
        others.pop();
        assert_eq!(busy(&mut places, 5).len(), EACH, "who has gone keeps no place");
    }

    #[test]
    fn who_asks_for_nothing_makes_room_for_who_comes() {
        let mut places = Places::default();
        let mut served = busy(&mut places, 1);
        drop(served.pop());
        let _idle = places.take(1).unwrap();
        let comes = places.take(1).unwrap();
        comes.called();
        assert!(places.take(1).is_none());
        assert_eq!(places.0.len(), EACH);
    }
}
