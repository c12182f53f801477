//! The requests of clients to a guest's driver, and the queue between them.
//!
//! The server enqueues, and the one driver dequeues. A request is accepted or refused at once. An
//! accepted one always gets a reply, if only a dropped reply channel ("ended before it was
//! handled").

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use taptrail_record::{MacAddr, Requester};
use tokio::sync::oneshot;
use tracing::info;

use crate::events::{EventPublisher, Subscription};
use crate::socket::HungUp;
use crate::spec::{NicSpec, SpecChange};
use crate::state::{GuestState, InterfaceInfo, Snapshot};

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing was done: the request does not fit the guest, or its current state.
    #[error("{0}")]
    Refused(String),
    /// The driver tried it, failed, and rolled back as far as the text says.
    #[error("{0}")]
    Failed(String),
    /// The guest did not answer in time; it keeps its devices.
    #[error("{0}")]
    TimedOut(String),
}

/// The reply channel to one client.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    answer: oneshot::Sender<Result<T, Failure>>,
    client: Arc<HungUp>,
}

impl<T> Reply<T> {
    /// A reply channel to this client, and its receiving end.
    pub(crate) fn new(client: Arc<HungUp>) -> (Self, oneshot::Receiver<Result<T, Failure>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { answer, client }, receiver)
    }

    /// Sends the answer; returns it when the receiving end is gone.
    pub(crate) fn send(self, answer: Result<T, Failure>) -> Result<(), Result<T, Failure>> {
        self.answer.send(answer)
    }

    /// Whether the client still waits. This looks at the connection itself: the server's thread may
    /// not have noticed the hang-up yet.
    fn has_waiting_client(&self) -> bool {
        !self.answer.is_closed() && !self.client.has_hung_up()
    }
}

/// What to do when a guest does not answer a stop in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnTimeout {
    /// Report a timeout and leave the guest running.
    GiveUp,
    Force,
}

/// A request to the driver, from a client or a signal.
#[derive(Debug)]
pub(crate) enum Request {
    /// Hot-plug an interface.
    Attach {
        /// What to open and how.
        spec: Box<NicSpec>,
        /// The client; `None` for a signal.
        requester: Option<Requester>,
        /// The interface that was attached.
        reply: Reply<InterfaceInfo>,
    },
    /// Hot-unplug an interface.
    Detach {
        mac: MacAddr,
        /// How long the guest may take to comply.
        patience: Duration,
        /// The client; `None` for a signal.
        requester: Option<Requester>,
        /// The interface that was released.
        reply: Reply<InterfaceInfo>,
    },
    /// Take an interface's devices at once, with the NIC still plugged.
    Revoke {
        mac: MacAddr,
        /// The client; `None` for a signal.
        requester: Option<Requester>,
        /// The interface that was released.
        reply: Reply<InterfaceInfo>,
    },
    /// Change settings of an interface while its guest runs.
    Update {
        mac: MacAddr,
        /// The keys and their new values.
        change: Box<SpecChange>,
        /// The client; `None` for a signal.
        requester: Option<Requester>,
        /// The interface that was changed.
        reply: Reply<InterfaceInfo>,
    },
    /// Stop the guest.
    Stop {
        /// How long the guest may take to comply.
        patience: Duration,
        /// What to do when it takes longer.
        then: OnTimeout,
        /// The client; `None` for a signal.
        requester: Option<Requester>,
        /// Gets its answer when QEMU has ended; `None` for a signal.
        reply: Option<Reply<()>>,
    },
}

impl Request {
    /// Whether it is a stop, which comes before all other requests.
    pub(crate) fn is_stop(&self) -> bool {
        matches!(self, Self::Stop { .. })
    }

    /// Whether it is a revocation, which does not wait for the guest.
    pub(crate) fn is_revocation(&self) -> bool {
        matches!(self, Self::Revoke { .. })
    }

    /// Whether its client still waits for it. A client that gave up assumes that the request was
    /// not carried out.
    fn has_waiting_client(&self) -> bool {
        match self {
            Self::Attach { reply, .. }
            | Self::Detach { reply, .. }
            | Self::Revoke { reply, .. }
            | Self::Update { reply, .. } => reply.has_waiting_client(),
            Self::Stop { reply, .. } => reply.as_ref().is_none_or(Reply::has_waiting_client),
        }
    }

    /// Whether it comes from root or from a signal.
    fn is_from_root(&self) -> bool {
        let (Self::Attach { requester, .. }
        | Self::Detach { requester, .. }
        | Self::Revoke { requester, .. }
        | Self::Update { requester, .. }
        | Self::Stop { requester, .. }) = self;
        requester.is_none_or(|requester| requester.uid == 0)
    }
}

/// Queued requests; more are refused: the driver is stuck, or a client floods it.
const QUEUE_LIMIT: usize = 64;

/// Places in the queue that only root's requests get.
const ROOT_RESERVED: usize = 16;

#[derive(Debug)]
struct Queue {
    requests: VecDeque<Request>,
    closed: bool,
}

/// The queue, shared by the driver and the API's server.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    shared: Arc<Shared>,
    events: EventPublisher,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// An eventfd that is readable while a request waits.
    wake: OwnedFd,
    snapshot: Mutex<Snapshot>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// An empty queue.
    pub(crate) fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let queue = Queue { requests: VecDeque::new(), closed: false };
        let snapshot = Snapshot {
            state: GuestState::Starting,
            pid: None,
            since: None,
            interfaces: Vec::new(),
            reason: None,
        };
        let shared = Shared { queue: Mutex::new(queue), wake, snapshot: Mutex::new(snapshot) };
        Ok(Self { shared: Arc::new(shared), events: EventPublisher::new() })
    }

    /// Enqueues a request, or refuses it.
    pub(crate) fn send(&self, request: Request) -> Result<(), Failure> {
        let mut queue = self.shared.queue();
        if queue.closed {
            return Err(Failure::Refused("The guest has stopped".to_owned()));
        }
        let limit = if request.is_from_root() { QUEUE_LIMIT } else { QUEUE_LIMIT - ROOT_RESERVED };
        if queue.requests.len() >= limit {
            return Err(Failure::Refused(format!(
                "{limit} requests wait already: try again when some are done"
            )));
        }
        queue.requests.push_back(request);
        // Fails only when the counter is full, and then the driver is awake anyway.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        Ok(())
    }

    /// The guest's current state, as the driver published it last.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.shared.snapshot().clone()
    }

    /// Changes the guest's published state, and emits an event for each change.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.shared.snapshot();
        let before = snapshot.clone();
        change(&mut snapshot);
        self.events.emit_changes(&before, &snapshot);
    }

    /// The publisher of the guest's events.
    pub(crate) fn events(&self) -> &EventPublisher {
        &self.events
    }

    /// The guest's current state, the sequence number of the last event that led to it, and a
    /// subscription to those that follow; `None` once the stream is closed.
    pub(crate) fn subscribe(&self) -> (Snapshot, u64, Option<Subscription>) {
        let snapshot = self.shared.snapshot();
        let (last, subscription) = self.events.subscribe();
        (snapshot.clone(), last, subscription)
    }

    /// Readable when a request waits.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    /// Dequeues the next request if `may_take` accepts it; stops come first, then revocations.
    /// Requests whose client has left are dropped.
    pub(crate) fn next(&self, may_take: impl Fn(&Request) -> bool) -> Option<Request> {
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        let mut queue = self.shared.queue();
        loop {
            let first = |urgent: fn(&Request) -> bool| queue.requests.iter().position(urgent);
            let index = first(Request::is_stop).or_else(|| first(Request::is_revocation)).unwrap_or(0);
            let request = queue.requests.get(index)?;
            if !request.has_waiting_client() {
                info!("a client left before its request was begun: it is not carried out");
                queue.requests.remove(index);
            } else if may_take(request) {
                return queue.requests.remove(index);
            } else {
                return None;
            }
        }
    }

    /// Whether the queue is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.queue().closed
    }

    /// Refuses all further requests, drops those in the queue, and closes the event stream.
    pub(crate) fn close(&self) {
        self.events.close();
        let mut queue = self.shared.queue();
        queue.closed = true;
        queue.requests.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn stop(then: OnTimeout) -> Request {
        Request::Stop { patience: Duration::ZERO, then, requester: None, reply: None }
    }

    type Answer = oneshot::Receiver<Result<InterfaceInfo, Failure>>;

    /// A request of this user, with the client's receiving end and connection.
    fn detach(uid: u32) -> (Request, Answer, UnixStream) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (reply, answer) = Reply::new(Arc::new(HungUp::of(ours.as_fd()).unwrap()));
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
        let requester = Some(Requester { uid, auid: Requester::UNSET, pid: 1 });
        (Request::Detach { mac, patience: Duration::ZERO, requester, reply }, answer, theirs)
    }

    // Shows 5.16.
    #[test]
    fn a_stop_is_taken_before_what_waited_longer() {
        let inbox = Inbox::new().unwrap();
        let (request, _answer, _client) = detach(0);
        inbox.send(request).unwrap();
        inbox.send(stop(OnTimeout::Force)).unwrap();
        assert!(matches!(inbox.next(|_| true), Some(Request::Stop { .. })));
        assert!(matches!(inbox.next(|_| true), Some(Request::Detach { .. })));
        assert!(inbox.next(|_| true).is_none());
    }

    // Shows 5.16.
    #[test]
    fn what_waits_when_the_guest_ends_is_answered_by_the_end_of_its_reply() {
        let inbox = Inbox::new().unwrap();
        let (request, mut answer, _client) = detach(0);
        inbox.send(request).unwrap();
        inbox.close();
        assert!(answer.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(matches!(inbox.send(stop(OnTimeout::Force)), Err(Failure::Refused(_))));
    }

    // Shows 5.39.
    #[test]
    fn what_nobody_waits_for_any_more_is_not_taken() {
        let inbox = Inbox::new().unwrap();
        let (unheard, answer, _stays) = detach(0);
        inbox.send(unheard).unwrap();
        let (gone, _unread, client) = detach(0);
        inbox.send(gone).unwrap();
        let (awaited, _answer, _client) = detach(7);
        inbox.send(awaited).unwrap();
        drop((answer, client));
        let Some(Request::Detach { requester, .. }) = inbox.next(|_| true) else { panic!("none is taken") };
        assert_eq!(requester.map(|requester| requester.uid), Some(7));
        assert!(inbox.next(|_| true).is_none());
    }

    // Shows 5.16.
    #[test]
    fn a_flood_is_refused_and_leaves_room_for_root() {
        let inbox = Inbox::new().unwrap();
        let mut clients = Vec::new();
        let mut send = |uid| {
            let (request, answer, client) = detach(uid);
            clients.push((answer, client));
            inbox.send(request)
        };
        let taken = (0..QUEUE_LIMIT).take_while(|_| send(7).is_ok()).count();
        assert_eq!(taken, QUEUE_LIMIT - ROOT_RESERVED);
        assert!((0..ROOT_RESERVED).all(|_| send(0).is_ok()));
        assert!(send(0).is_err());
    }
}
