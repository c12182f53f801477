//! A monitor whose peer breaks the protocol, on purpose or because it hangs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic, its helpers too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Value, json};
use taptrail_qmp::{
    ErrorClass, MAX_LINE_BYTES, MAX_QUEUED_EVENTS, Monitor, NetdevTap, QmpError, Version, Waited,
};

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#;
const SHORT_TIMEOUT: Duration = Duration::from_millis(80);
const LONG_TIMEOUT: Duration = Duration::from_secs(20);

fn short_deadline() -> Instant {
    Instant::now() + SHORT_TIMEOUT
}

fn long_deadline() -> Instant {
    Instant::now() + LONG_TIMEOUT
}

/// The peer's end of the connection, with the actions of a script.
struct Peer {
    reader: BufReader<UnixStream>,
}

impl Peer {
    /// Sends a line; errors are ignored, so that the script continues after the client has gone.
    fn send_line(&mut self, text: &str) {
        let _ = self.reader.get_mut().write_all(format!("{text}\r\n").as_bytes());
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// The next command; null after the client has gone.
    fn receive_command(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    fn acknowledge(&mut self) -> Value {
        let command = self.receive_command();
        self.send_line(&json!({ "return": {}, "id": command["id"] }).to_string());
        command
    }

    /// Waits until the client has gone.
    fn stay_silent(mut self) {
        let _ = self.reader.read_to_end(&mut Vec::new());
    }
}

/// A stream for a monitor, and a thread that plays the peer from the beginning.
fn scripted(script: impl FnOnce(Peer) + Send + 'static) -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, thread::spawn(|| script(Peer { reader: BufReader::new(theirs) })))
}

/// The same, after a valid greeting.
fn greeted(script: impl FnOnce(Peer) + Send + 'static) -> Monitor {
    let (stream, _) = scripted(|mut peer| {
        peer.send_line(GREETING);
        peer.acknowledge();
        script(peer);
    });
    Monitor::from_stream(stream, long_deadline()).unwrap()
}

#[test]
fn a_valid_greeting_has_the_version() {
    let mut monitor = greeted(|mut peer| {
        let command = peer.acknowledge();
        assert_eq!(command["execute"], "cont");
        assert_eq!(command.get("arguments"), None);
        peer.stay_silent();
    });
    assert_eq!(monitor.version(), Version { major: 7, minor: 2, micro: 22 });
    assert!(monitor.version() < Version { major: 10, minor: 0, micro: 0 });
    monitor.cont(LONG_TIMEOUT).unwrap();
    assert_eq!(monitor.poisoned(), None);
}

#[test]
fn a_second_greeting_restarts_the_negotiation() {
    const REFUSED: &str =
        r#"{"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete"}"#;
    for (before, refused) in [(true, true), (true, false), (false, false)] {
        let (stream, _) = scripted(move |mut peer| {
            peer.send_line(GREETING);
            if before {
                peer.send_line(GREETING);
            }
            let first = peer.receive_command();
            assert_eq!(first["execute"], "qmp_capabilities");
            if !before {
                peer.send_line(GREETING);
            }
            peer.send_line(&json!({ "return": {}, "id": first["id"] }).to_string());
            let second = peer.receive_command();
            assert_eq!(second["execute"], "qmp_capabilities");
            if refused {
                peer.send_line(&format!(r#"{{"error": {REFUSED}, "id": {}}}"#, second["id"]));
            } else {
                peer.send_line(&json!({ "return": {}, "id": second["id"] }).to_string());
            }
            assert_eq!(peer.acknowledge()["execute"], "cont");
            peer.stay_silent();
        });
        let mut monitor = Monitor::from_stream(stream, long_deadline()).unwrap();
        monitor.cont(LONG_TIMEOUT).unwrap();
    }
}

#[test]
fn a_third_greeting_and_one_between_commands_break_the_protocol() {
    let (stream, _) = scripted(|mut peer| {
        for _ in 0..3 {
            peer.send_line(GREETING);
        }
        peer.stay_silent();
    });
    assert!(matches!(Monitor::from_stream(stream, long_deadline()), Err(QmpError::Unexpected { .. })));
    let mut monitor = greeted(|mut peer| {
        peer.receive_command();
        peer.send_line(GREETING);
        peer.stay_silent();
    });
    assert!(matches!(monitor.cont(LONG_TIMEOUT), Err(QmpError::Unexpected { .. })));
    assert!(monitor.poisoned().is_some());
}

#[test]
fn what_is_not_a_greeting_is_refused() {
    for (line, unexpected) in [
        (r#"{"return": {}}"#, true),
        (r#"{"QMP": {}}"#, true),
        (r#"{"QMP": {"version": {"qemu": {"micro": -1, "minor": 2, "major": 7}}}}"#, true),
        ("SSH-2.0-OpenSSH_9.2", false),
    ] {
        let (stream, _) = scripted(move |mut peer| peer.send_line(line));
        let error = Monitor::from_stream(stream, long_deadline()).unwrap_err();
        assert_eq!(matches!(error, QmpError::Unexpected { .. }), unexpected, "{error}");
        assert_eq!(matches!(error, QmpError::Garbage { .. }), !unexpected, "{error}");
    }
}

#[test]
fn silence_instead_of_a_greeting_times_out() {
    let (stream, _) = scripted(Peer::stay_silent);
    let begun = Instant::now();
    let error = Monitor::from_stream(stream, short_deadline()).unwrap_err();
    assert!(matches!(&error, QmpError::TimedOut { awaited, .. } if awaited == "the greeting"), "{error}");
    assert!(begun.elapsed() >= SHORT_TIMEOUT && begun.elapsed() < LONG_TIMEOUT);
}

#[test]
fn a_greeting_in_drops_does_not_stretch_the_deadline() {
    let (stream, _) = scripted(|mut peer| {
        for byte in GREETING.as_bytes() {
            peer.send_raw(&[*byte]);
            thread::sleep(Duration::from_millis(10));
        }
    });
    let begun = Instant::now();
    assert!(matches!(Monitor::from_stream(stream, short_deadline()), Err(QmpError::TimedOut { .. })));
    assert!(begun.elapsed() < LONG_TIMEOUT, "{:?}", begun.elapsed());
}

#[test]
fn an_end_in_the_middle_of_a_line_is_an_end() {
    let mut monitor = greeted(|mut peer| {
        peer.receive_command();
        peer.send_raw(br#"{"return": {"status": "#);
    });
    assert!(matches!(monitor.query_status(LONG_TIMEOUT), Err(QmpError::Closed)));
    let after = monitor.query_status(LONG_TIMEOUT).unwrap_err();
    assert!(
        matches!(&after, QmpError::Poisoned { reason } if reason == "QEMU closed its monitor"),
        "{after}"
    );
    assert!(after.is_fatal());
}

// Shows 5.18.
#[test]
fn garbage_poisons_and_is_shown_harmless() {
    let mut monitor = greeted(|mut peer| {
        peer.receive_command();
        peer.send_line("\u{1b}[31mSegmentation fault");
        peer.stay_silent();
    });
    let error = monitor.cont(LONG_TIMEOUT).unwrap_err();
    assert_eq!(error.to_string(), r"QEMU's monitor sent invalid JSON: '\x1b[31mSegmentation fault\r'");
    assert!(monitor.poisoned().is_some());
}

// Shows 5.18.
#[test]
fn a_line_of_a_hundred_megabytes_is_cut_at_the_limit() {
    let mut monitor = greeted(|mut peer| {
        peer.receive_command();
        for _ in 0..100 {
            peer.send_raw(&vec![b'a'; 1_000_000]);
        }
        peer.send_line("");
    });
    let error = monitor.cont(LONG_TIMEOUT).unwrap_err();
    assert!(matches!(error, QmpError::Oversized { limit: MAX_LINE_BYTES }), "{error}");
    assert!(matches!(monitor.pending_event(), Err(QmpError::Poisoned { .. })));
}

#[test]
fn json_nested_without_end_is_garbage() {
    let mut monitor = greeted(|mut peer| {
        peer.receive_command();
        peer.send_line(&"[".repeat(MAX_LINE_BYTES / 2));
    });
    assert!(matches!(monitor.cont(LONG_TIMEOUT), Err(QmpError::Garbage { .. })));
}

#[test]
fn a_reply_to_another_command_is_refused() {
    for reply in
        [r#"{"return": {}, "id": 99}"#, r#"{"return": {}, "id": "2"}"#, r#"{"return": {}}"#, GREETING]
    {
        let mut monitor = greeted(move |mut peer| {
            peer.receive_command();
            peer.send_line(reply);
            peer.stay_silent();
        });
        let error = monitor.cont(LONG_TIMEOUT).unwrap_err();
        assert!(matches!(error, QmpError::Unexpected { .. }), "{error}");
        assert!(monitor.poisoned().is_some());
    }
}

#[test]
fn a_reply_nobody_asked_for_is_refused() {
    let mut monitor = greeted(|mut peer| {
        peer.send_line(r#"{"return": {}, "id": 2}"#);
        peer.stay_silent();
    });
    assert!(matches!(monitor.wait_event(long_deadline(), &[], |_| true), Err(QmpError::Unexpected { .. })));
}

#[test]
fn a_late_reply_is_passed_over() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut monitor = greeted(move |mut peer| {
        let slow = peer.receive_command();
        wait.recv().unwrap();
        peer.send_line(&json!({ "return": {}, "id": slow["id"] }).to_string());
        let next = peer.receive_command();
        let status = json!({ "status": "paused", "running": false });
        peer.send_line(&json!({ "return": status, "id": next["id"] }).to_string());
        peer.stay_silent();
    });
    let error = monitor.cont(SHORT_TIMEOUT).unwrap_err();
    assert!(matches!(&error, QmpError::TimedOut { awaited, .. } if awaited == "cont"), "{error}");
    assert!(error.leaves_outcome_open() && !error.is_fatal());
    go.send(()).unwrap();
    assert_eq!(monitor.query_status(LONG_TIMEOUT).unwrap().status, "paused");
}

#[test]
fn a_late_reply_among_events_is_passed_over_too() {
    let mut monitor = greeted(|mut peer| {
        let slow = peer.receive_command();
        thread::sleep(SHORT_TIMEOUT * 2);
        peer.send_line(&json!({ "return": {}, "id": slow["id"] }).to_string());
        peer.send_line(r#"{"event": "STOP"}"#);
        peer.stay_silent();
    });
    assert!(matches!(monitor.cont(SHORT_TIMEOUT), Err(QmpError::TimedOut { .. })));
    let waited = monitor.wait_event(long_deadline(), &[], |event| event.name == "STOP").unwrap();
    assert!(matches!(waited, Waited::Event(_)));
}

#[test]
fn one_reply_forgives_one_command_only() {
    let mut monitor = greeted(|mut peer| {
        let slow = peer.receive_command();
        let next = peer.receive_command();
        for id in [&slow["id"], &slow["id"], &next["id"]] {
            peer.send_line(&json!({ "return": {}, "id": id }).to_string());
        }
        peer.stay_silent();
    });
    assert!(matches!(monitor.cont(SHORT_TIMEOUT), Err(QmpError::TimedOut { .. })));
    assert!(matches!(monitor.cont(LONG_TIMEOUT), Err(QmpError::Unexpected { .. })));
}

#[test]
fn a_peer_that_answers_nothing_is_given_up_on() {
    let mut monitor = greeted(Peer::stay_silent);
    let end = (0..1000).find_map(|_| match monitor.cont(Duration::ZERO) {
        Err(QmpError::TimedOut { .. }) => None,
        other => Some(other),
    });
    assert!(matches!(end, Some(Err(QmpError::Unresponsive { unanswered: 65 }))), "{end:?}");
}

#[test]
fn a_peer_that_reads_nothing_times_out_and_is_lost() {
    let (ends, end) = mpsc::channel::<()>();
    let mut monitor = greeted(move |peer| {
        // Until the other end of the channel is dropped.
        let _ = end.recv();
        drop(peer);
    });
    let big = json!({ "text": "x".repeat(8 << 20) });
    let begun = Instant::now();
    assert!(matches!(monitor.execute("big", &big, SHORT_TIMEOUT), Err(QmpError::TimedOut { .. })));
    assert!(begun.elapsed() < LONG_TIMEOUT);
    // The peer has a part of the line: the next command would only continue it.
    assert!(matches!(monitor.cont(LONG_TIMEOUT), Err(QmpError::Poisoned { .. })));
    drop(ends);
}

#[test]
fn a_refusal_leaves_the_connection_in_order() {
    let mut monitor = greeted(|mut peer| {
        let command = peer.receive_command();
        let error = json!({ "class": "DeviceNotFound", "desc": "Device 'n0' not found\u{7}" });
        peer.send_line(&json!({ "id": command["id"], "error": error }).to_string());
        peer.acknowledge();
        peer.stay_silent();
    });
    let error = monitor.netdev_del("n0", LONG_TIMEOUT).unwrap_err();
    assert_eq!(error.to_string(), r"QEMU refused netdev_del: Device 'n0' not found\u{7}");
    assert!(matches!(&error, QmpError::Refused { class: ErrorClass::DeviceNotFound, .. }));
    assert!(!error.is_fatal() && !error.leaves_outcome_open());
    monitor.cont(LONG_TIMEOUT).unwrap();
}

// Shows 5.18.
#[test]
fn a_flood_of_events_does_not_stretch_the_deadline() {
    let mut monitor = greeted(|mut peer| {
        peer.receive_command();
        let flood = r#"{"event": "RTC_CHANGE", "data": {"offset": 1}}"#.to_owned() + "\n";
        let flood = flood.repeat(1000);
        while peer.reader.get_mut().write_all(flood.as_bytes()).is_ok() {}
    });
    let begun = Instant::now();
    assert!(matches!(monitor.cont(SHORT_TIMEOUT), Err(QmpError::TimedOut { .. })));
    assert!(begun.elapsed() < LONG_TIMEOUT, "{:?}", begun.elapsed());
    assert!(monitor.dropped_events() > 0);
    // Nor does it block a reader that doesn't wait, or one with a pending interrupt.
    assert!(monitor.pending_event().unwrap().is_some());
    let wake = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
    let waited = monitor.wait_event(long_deadline(), &[wake.as_fd()], |event| event.name == "NEVER").unwrap();
    assert_eq!(waited, Waited::Interrupted(0));
}

#[test]
fn events_before_a_reply_are_kept_in_order_unknown_ones_too() {
    let mut monitor = greeted(|mut peer| {
        let command = peer.receive_command();
        for event in ["STOP", "FROM_THE_FUTURE", "RESUME"] {
            peer.send_line(&json!({ "event": event, "data": { "of": event } }).to_string());
        }
        peer.send_line(&json!({ "return": {}, "id": command["id"] }).to_string());
        peer.stay_silent();
    });
    monitor.cont(LONG_TIMEOUT).unwrap();
    let Waited::Event(event) =
        monitor.wait_event(short_deadline(), &[], |event| event.name == "FROM_THE_FUTURE").unwrap()
    else {
        panic!("not there");
    };
    assert_eq!(event.text("of"), Some("FROM_THE_FUTURE"));
    assert_eq!(monitor.pending_event().unwrap().unwrap().name, "STOP");
    assert_eq!(monitor.pending_event().unwrap().unwrap().name, "RESUME");
    assert_eq!(monitor.pending_event().unwrap(), None);
    assert_eq!(monitor.wait_event(short_deadline(), &[], |_| true).unwrap(), Waited::TimedOut);
}

#[test]
fn a_flood_of_important_events_poisons_and_drops_none_that_was_queued() {
    let mut monitor = greeted(|mut peer| {
        for _ in 0..=MAX_QUEUED_EVENTS {
            peer.send_line(r#"{"event": "DEVICE_DELETED", "data": {"device": "nic0"}}"#);
        }
        peer.stay_silent();
    });
    let error = monitor.wait_event(long_deadline(), &[], |event| event.name == "SHUTDOWN").unwrap_err();
    assert!(matches!(error, QmpError::Flooded), "{error}");
    let kept = (0..).map_while(|_| monitor.pending_event().ok().flatten()).count();
    assert!(kept >= MAX_QUEUED_EVENTS);
}

#[test]
fn the_last_events_outlive_the_connection() {
    let mut monitor = greeted(|mut peer| {
        peer.acknowledge();
        peer.send_line(r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}"#);
    });
    monitor.quit(LONG_TIMEOUT).unwrap();
    let error = monitor.wait_event(long_deadline(), &[], |_| false).unwrap_err();
    assert!(matches!(error, QmpError::Closed), "{error}");
    assert_eq!(monitor.pending_event().unwrap().unwrap().text("reason"), Some("host-qmp-quit"));
    assert!(matches!(monitor.pending_event(), Err(QmpError::Poisoned { .. })));
}

#[test]
fn an_interrupt_says_more_than_an_end() {
    let mut monitor = greeted(drop);
    thread::sleep(SHORT_TIMEOUT);
    let wake = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
    let quiet = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let interrupts = [quiet.as_fd(), wake.as_fd()];
    assert_eq!(monitor.wait_event(long_deadline(), &interrupts, |_| true).unwrap(), Waited::Interrupted(1));
    assert!(matches!(
        monitor.wait_event(long_deadline(), &[quiet.as_fd()], |_| true),
        Err(QmpError::Closed | QmpError::Poisoned { .. })
    ));
}

#[test]
fn quitting_before_the_reply_is_quitting() {
    let mut monitor = greeted(|mut peer| drop(peer.receive_command()));
    monitor.quit(LONG_TIMEOUT).unwrap();
}

#[test]
fn a_status_of_another_shape_poisons() {
    let mut monitor = greeted(|mut peer| {
        peer.acknowledge();
        peer.stay_silent();
    });
    assert!(matches!(monitor.query_status(LONG_TIMEOUT), Err(QmpError::Unexpected { .. })));
    assert!(monitor.poisoned().is_some());
}

#[test]
fn arguments_that_cannot_be_sent_are_not() {
    let mut monitor = greeted(Peer::stay_silent);
    let tap = |fds: &[&str], vhost_fds: &[&str]| NetdevTap {
        id: "n0".to_owned(),
        fds: fds.iter().map(ToString::to_string).collect(),
        vhost_fds: vhost_fds.iter().map(ToString::to_string).collect(),
        send_buffer: None,
    };
    for tap in [
        tap(&[], &[]),
        tap(&["a"], &["v", "w"]),
        tap(&["a", "b"], &["v"]),
        tap(&["a:b"], &[]),
        tap(&["7"], &[]),
    ] {
        let error = monitor.netdev_add(&tap, LONG_TIMEOUT).unwrap_err();
        assert!(matches!(error, QmpError::BadArguments { .. }), "{error}");
        assert!(!error.is_fatal() && !error.leaves_outcome_open());
    }
    for name in ["", "7", "a:b", "a b", "é", "-", &"a".repeat(256)] {
        assert!(matches!(monitor.closefd(name, LONG_TIMEOUT), Err(QmpError::BadArguments { .. })), "{name}");
    }
    assert!(matches!(monitor.execute("cont", 7, LONG_TIMEOUT), Err(QmpError::BadArguments { .. })));
}

#[test]
fn a_netdev_always_has_an_explicit_vhost_option() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut monitor = greeted(move |mut peer| {
        for _ in 0..3 {
            sender.send(peer.acknowledge()["arguments"].clone()).unwrap();
        }
    });
    let names = |prefix: &str, count: usize| (0..count).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    for (queues, vhost) in [(1, false), (1, true), (2, true)] {
        let vhost_fds = names("v", if vhost { queues } else { 0 });
        let tap = NetdevTap { id: "n0".to_owned(), fds: names("t", queues), vhost_fds, send_buffer: None };
        monitor.netdev_add(&tap, LONG_TIMEOUT).unwrap();
    }
    assert_eq!(receiver.recv().unwrap(), json!({ "type": "tap", "id": "n0", "fd": "t0", "vhost": false }));
    assert_eq!(
        receiver.recv().unwrap(),
        json!({ "type": "tap", "id": "n0", "fd": "t0", "vhost": true, "vhostfd": "v0", "vhostforce": true })
    );
    assert_eq!(
        receiver.recv().unwrap(),
        json!({ "type": "tap", "id": "n0", "fds": "t0:t1", "vhost": true, "vhostfds": "v0:v1", "vhostforce": true })
    );
}

#[test]
fn a_missing_socket_and_a_busy_one_have_different_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("monitor");
    let error = Monitor::connect(&path, long_deadline()).unwrap_err();
    assert!(
        matches!(&error, QmpError::Connect { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );

    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let begun = Instant::now();
    let error = Monitor::connect(&path, short_deadline()).unwrap_err();
    assert!(
        matches!(&error, QmpError::Connect { source, .. } if source.kind() == std::io::ErrorKind::TimedOut),
        "{error}"
    );
    assert!(begun.elapsed() < LONG_TIMEOUT);
}
