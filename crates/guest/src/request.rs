//! What clients ask of a guest's driver, and the queue between them.
//!
//! The queue is the only way in: anybody may enqueue, one driver takes out. A request is accepted
//! or refused at once; an accepted one is always answered, if only by its reply's end ("ended
//! before it was handled").

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use taptrail_record::{CloseDoubt, MacAddr, Reason, Requester};
use tokio::sync::oneshot;
use tracing::info;

use crate::events::{Events, Listener};
use crate::socket::HungUp;
use crate::spec::NicSpec;

/// How a request ended when not well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing was done: the request does not fit the guest, or not now.
    #[error("{0}")]
    Refused(String),
    /// It was tried, failed and was rolled back as far as the text says.
    #[error("{0}")]
    Failed(String),
    /// The guest did not answer in time; nothing was taken from it.
    #[error("{0}")]
    TimedOut(String),
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    answer: oneshot::Sender<Result<T, Failure>>,
    client: Arc<HungUp>,
}

impl<T> Reply<T> {
    /// The way to this client, and where its answer comes.
    pub(crate) fn new(client: Arc<HungUp>) -> (Self, oneshot::Receiver<Result<T, Failure>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { answer, client }, receiver)
    }

    /// Answers; gives the answer back when nobody waits for it any more.
    pub(crate) fn send(self, answer: Result<T, Failure>) -> Result<(), Result<T, Failure>> {
        self.answer.send(answer)
    }

    /// Does anybody wait for it? The connection itself is asked: who serves it may have been asleep
    /// as we were.
    fn has_waiting_client(&self) -> bool {
        !self.answer.is_closed() && !self.client.is_so()
    }
}

/// What to do when a guest does not answer a stop in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnTimeout {
    /// Say so and leave the guest running.
    GiveUp,
    /// End QEMU.
    Force,
}

/// One request.
#[derive(Debug)]
pub(crate) enum Request {
    /// Hot-plug an interface.
    Attach {
        /// What to open and how.
        spec: Box<NicSpec>,
        /// Who asks.
        requester: Option<Requester>,
        /// The new interface.
        reply: Reply<InterfaceInfo>,
    },
    /// Hot-unplug an interface.
    Detach {
        /// Which.
        mac: MacAddr,
        /// How long the guest may take.
        patience: Duration,
        /// Who asks.
        requester: Option<Requester>,
        /// What was released.
        reply: Reply<InterfaceInfo>,
    },
    /// Take an interface's devices at once, with the NIC still plugged.
    Revoke {
        /// Which.
        mac: MacAddr,
        /// Who asks.
        requester: Option<Requester>,
        /// What was released.
        reply: Reply<InterfaceInfo>,
    },
    /// Stop the guest.
    Stop {
        /// How long the guest may take.
        patience: Duration,
        /// And then?
        then: OnTimeout,
        /// Who asks.
        requester: Option<Requester>,
        /// Answered when QEMU is gone; `None` when nobody waits.
        reply: Option<Reply<()>>,
    },
}

impl Request {
    /// Is it a stop, which comes before all?
    pub(crate) fn is_stop(&self) -> bool {
        matches!(self, Self::Stop { .. })
    }

    /// Is it a revocation, which waits for no guest?
    pub(crate) fn is_revocation(&self) -> bool {
        matches!(self, Self::Revoke { .. })
    }

    /// Does who asked still wait for it? Who has given up has been told that nothing was done.
    fn has_waiting_client(&self) -> bool {
        match self {
            Self::Attach { reply, .. } | Self::Detach { reply, .. } | Self::Revoke { reply, .. } => {
                reply.has_waiting_client()
            }
            Self::Stop { reply, .. } => reply.as_ref().is_none_or(Reply::has_waiting_client),
        }
    }

    /// Is it root's, or our own?
    fn is_from_root(&self) -> bool {
        let (Self::Attach { requester, .. }
        | Self::Detach { requester, .. }
        | Self::Revoke { requester, .. }
        | Self::Stop { requester, .. }) = self;
        requester.is_none_or(|requester| requester.uid == 0)
    }
}

/// An interface of a guest, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterfaceInfo {
    /// What names it.
    pub(crate) mac: MacAddr,
    /// Its SPEC as it came to be: with the MAC and id chosen.
    pub(crate) spec: NicSpec,
    /// The host interface behind it.
    pub(crate) ifname: String,
    /// `held`, `unplugging`, `revoked` or `kept`.
    pub(crate) state: &'static str,
    /// When QEMU was seen to hold it.
    pub(crate) since: jiff::Timestamp,
    /// Its devices, one for each open(2).
    pub(crate) devices: Vec<HeldDevice>,
}

impl InterfaceInfo {
    /// Does QEMU have vhost-net for it?
    pub(crate) fn vhost(&self) -> bool {
        self.devices.iter().any(|held| held.device.kind == taptrail_record::DeviceKind::VhostNet)
    }
}

/// One device that QEMU holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldDevice {
    /// What it is.
    pub(crate) device: taptrail_record::Device,
    /// Which queue, from 0.
    pub(crate) queue: u32,
    /// Its descriptor's number in QEMU.
    pub(crate) qemu_fd: Option<i32>,
    /// Of a released one: why that is no proof.
    pub(crate) doubt: Option<CloseDoubt>,
}

/// What anybody may know of a guest without asking its driver.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// `starting`, `running`, `paused`, `stopping` or `stopped`.
    pub(crate) state: &'static str,
    /// QEMU's pid.
    pub(crate) pid: Option<u32>,
    /// When QEMU began to run the guest.
    pub(crate) since: Option<jiff::Timestamp>,
    /// Its interfaces.
    pub(crate) interfaces: Vec<InterfaceInfo>,
    /// Why it has stopped, once it has.
    pub(crate) reason: Option<Reason>,
}

/// Requests beyond this many are refused: the driver is stuck, or somebody floods it.
const QUEUE_LIMIT: usize = 64;

/// So many of them are kept for root.
const ROOT_RESERVED: usize = 16;

#[derive(Debug)]
struct Queue {
    requests: VecDeque<Request>,
    closed: bool,
}

/// The queue, shared between the driver and whoever asks.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    shared: Arc<(Mutex<Queue>, OwnedFd, Mutex<Snapshot>)>,
    events: Events,
}

impl Inbox {
    /// An empty queue.
    pub(crate) fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let queue = Queue { requests: VecDeque::new(), closed: false };
        let snapshot =
            Snapshot { state: "starting", pid: None, since: None, interfaces: Vec::new(), reason: None };
        let shared = Arc::new((Mutex::new(queue), wake, Mutex::new(snapshot)));
        Ok(Self { shared, events: Events::new() })
    }

    /// Enqueues a request, or gives it back with the reason why not.
    pub(crate) fn send(&self, request: Request) -> Result<(), Failure> {
        let mut queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        let _ = rustix::io::write(&self.shared.1, &1u64.to_ne_bytes());
        Ok(())
    }

    /// What the guest is like now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.shared.2.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what the guest is like, and tells who listens.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.shared.2.lock().unwrap_or_else(PoisonError::into_inner);
        let before = snapshot.clone();
        change(&mut snapshot);
        self.events.tell_changes(&before, &snapshot);
    }

    /// Where what happens to the guest is told.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// What the guest is like now, the number of the last event that led there, and the events that follow; `None` when
    /// none will.
    pub(crate) fn listen(&self) -> (Snapshot, u64, Option<Listener>) {
        let snapshot = self.shared.2.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, listener) = self.events.listen();
        (snapshot.clone(), last, listener)
    }

    /// Readable when a request waits.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.1.as_fd()
    }

    /// The next request, if `may_take` says that it may be taken now; a stop comes before all, then
    /// a revocation. What nobody waits for any more is not taken.
    pub(crate) fn next(&self, may_take: impl Fn(&Request) -> bool) -> Option<Request> {
        let _ = rustix::io::read(&self.shared.1, &mut [0; 8]);
        let mut queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Does nobody take requests any more?
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Refuses all further requests; those that wait end unanswered, and so do the events.
    pub(crate) fn close(&self) {
        self.events.end();
        let mut queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// A request of this user's, and what the user has of it: where the answer comes, and a
    /// connection.
    fn detach(uid: u32) -> (Request, Answer, UnixStream) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (reply, answer) = Reply::new(Arc::new(HungUp::of(ours.as_fd()).unwrap()));
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
        let requester = Some(Requester { uid, auid: Requester::UNSET, pid: 1 });
        (Request::Detach { mac, patience: Duration::ZERO, requester, reply }, answer, theirs)
    }

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

    #[test]
    fn what_waits_when_the_guest_ends_is_answered_by_the_end_of_its_reply() {
        let inbox = Inbox::new().unwrap();
        let (request, mut answer, _client) = detach(0);
        inbox.send(request).unwrap();
        inbox.close();
        assert!(answer.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(matches!(inbox.send(stop(OnTimeout::Force)), Err(Failure::Refused(_))));
    }

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
