#![allow(clippy::unwrap_used)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recv, send, socket_with,
};
use taptrail_record::BridgeOpen;

use super::client::{AnnounceError, announce_at};
use super::{Broker, BrokerError, Challenge, MAX_VERDICT_BYTES, Verdict};

fn socket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn connected(path: &Path) -> OwnedFd {
    let socket = socket();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

fn message(socket: &OwnedFd) -> Vec<u8> {
    let mut message = [0; 1024];
    let (_, length) = recv(socket, &mut message, RecvFlags::empty()).unwrap();
    message[..length].to_vec()
}

/// A broker that takes turns until the end of the test. The taps that it sees come out.
struct Served {
    dir: tempfile::TempDir,
    stop: mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<Vec<BridgeOpen>>>,
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Broker::listen_at(&dir.path().join("run/socket")).unwrap();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while stopped.try_recv().is_err() {
                let mut fds: Vec<_> =
                    broker.awaited().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
                let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
                broker.turn(|open| {
                    seen.push(open.clone());
                    Ok(())
                });
            }
            seen
        });
        Self { dir, stop, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("run/socket")
    }

    fn seen(mut self) -> Vec<BridgeOpen> {
        self.stop.send(()).unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

// The tests run as root, who could be the helper: but they hold no tap.
// Shows 1.22.
#[test]
fn a_client_without_a_tap_is_told_so_and_nothing_is_recorded() {
    let served = Served::start();
    let refused = announce_at(&served.path(), Duration::from_secs(5)).unwrap_err();
    assert!(matches!(&refused, AnnounceError::Refused(why) if why.contains("no tap")), "{refused}");
    // It serves the next one.
    assert!(announce_at(&served.path(), Duration::from_secs(5)).is_err());
    assert!(served.seen().is_empty());
}

// Shows 1.22.
#[test]
fn what_is_no_answer_ends_the_connection() {
    let served = Served::start();
    for answer in [&b"x"[..], &[0; Challenge::BYTES], &[1; Challenge::BYTES + 1], &[7; 600]] {
        let client = connected(&served.path());
        assert!(Challenge::parse(&message(&client)).is_some());
        send(&client, answer, SendFlags::NOSIGNAL).unwrap();
        assert!(message(&client).starts_with(b"the helper has ended, or sent something else"));
        assert_eq!(message(&client), b"");
    }
    // An answer from before the challenge.
    let client = connected(&served.path());
    send(&client, &[1; Challenge::BYTES], SendFlags::NOSIGNAL).unwrap();
    message(&client);
    assert!(message(&client).starts_with(b"the helper has ended"));
    // The right one, and no tap.
    let client = connected(&served.path());
    let challenge = message(&client);
    send(&client, &challenge, SendFlags::NOSIGNAL).unwrap();
    assert!(message(&client).starts_with(b"the helper holds no tap"));
    assert!(served.seen().is_empty());
}

// Shows 1.22.
#[test]
fn clients_that_say_nothing_end_and_are_few() {
    let served = Served::start();
    let silent: Vec<_> = (0..40).map(|_| connected(&served.path())).collect();
    let welcome = silent.iter().filter(|client| !message(client).is_empty()).count();
    assert_eq!(welcome, 8, "of one user");
    let begun = Instant::now();
    for client in &silent {
        assert_eq!(message(client), b"", "closed");
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    // Their places are free again.
    assert!(!message(&connected(&served.path())).is_empty());
    assert!(served.seen().is_empty());
}

// Shows 1.23.
#[test]
fn a_helper_waits_for_no_broker() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let short = Duration::from_millis(300);
    announce_at(&path, short).unwrap();
    // One that does nothing.
    let listener = socket();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    for at in 0..3 {
        let begun = Instant::now();
        let error = announce_at(&path, short).unwrap_err();
        // Its queue is full after the first.
        match at {
            0 => assert!(matches!(error, AnnounceError::Late), "{error}"),
            _ => assert!(matches!(error, AnnounceError::Crowded), "{error}"),
        }
        assert!((short..Duration::from_secs(2)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
    // One that has ended, and left its socket.
    drop(listener);
    announce_at(&path, short).unwrap();
}

#[test]
fn a_helper_that_finds_the_queue_full_tries_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = socket();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    let first = connected(&path);
    let full = Duration::from_millis(300);
    let begun = Instant::now();
    let broker = std::thread::spawn(move || {
        std::thread::sleep(full);
        drop(accept_with(&listener, SocketFlags::CLOEXEC).unwrap());
        let helper = accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
        let challenge = Challenge::random().unwrap();
        send(&helper, challenge.as_bytes(), SendFlags::NOSIGNAL).unwrap();
        assert_eq!(message(&helper), challenge.as_bytes());
        send(&helper, &Verdict::Recorded.to_bytes(), SendFlags::NOSIGNAL).unwrap();
    });
    announce_at(&path, Duration::from_secs(10)).unwrap();
    assert!(begun.elapsed() >= full, "{:?}", begun.elapsed());
    broker.join().unwrap();
    drop(first);
}

// Shows 1.23.
#[test]
fn a_broker_that_hangs_up_or_speaks_otherwise_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = socket();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 8).unwrap();
    for (says, error) in [
        (None, "refuses the connection"),
        (Some(&b"no"[..]), "refuses the connection"),
        (Some(&[2; Challenge::BYTES]), "refuses the connection"),
    ] {
        let (client, path) = (std::thread::spawn(|| ()), path.clone());
        client.join().unwrap();
        let announced = std::thread::spawn(move || announce_at(&path, Duration::from_secs(5)));
        let peer = accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
        if let Some(says) = says {
            send(&peer, says, SendFlags::NOSIGNAL).unwrap();
        }
        drop(peer);
        let text = announced.join().unwrap().unwrap_err().to_string();
        assert!(text.contains(error) && text.contains("only in the kernel's audit"), "{text}");
    }
}

#[test]
fn a_socket_has_one_broker_and_every_user_may_connect() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let broker = Broker::listen_at(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    assert!(matches!(Broker::listen_at(&path), Err(BrokerError::Taken { .. })));
    drop(broker);
    // What a killed one has left is replaced.
    Broker::listen_at(&path).unwrap();
}

proptest! {
    #[test]
    fn no_message_makes_it_panic(message in proptest::collection::vec(any::<u8>(), 0..600)) {
        let challenge = Challenge::parse(&message);
        prop_assert_eq!(challenge.is_some(), message.len() == Challenge::BYTES && message[0] == 1);
        match Verdict::parse(&message) {
            Verdict::Recorded => prop_assert_eq!(&message[..], b"recorded"),
            Verdict::Refused(why) => prop_assert!(why.chars().count() <= MAX_VERDICT_BYTES),
        }
    }

    #[test]
    fn a_verdict_is_read_as_it_was_written(why in "[a-z ]{9,300}") {
        let refused = Verdict::Refused(why.clone());
        let read = Verdict::parse(&refused.to_bytes());
        prop_assert_eq!(read, Verdict::Refused(why.chars().take(MAX_VERDICT_BYTES).collect()));
        prop_assert_eq!(Verdict::parse(&Verdict::Recorded.to_bytes()), Verdict::Recorded);
    }
}
