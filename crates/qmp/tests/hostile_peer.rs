//! A monitor at the other end of which somebody breaks the protocol, on purpose or hung.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic, its helpers too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Value, json};
use taptrail_qmp::{ErrorClass, MAX_LINE, MAX_QUEUED_EVENTS, Monitor, NetdevTap, QmpError, Version, Waited};

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#;
const BLINK: Duration = Duration::from_millis(80);
const LONG: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + BLINK
}

fn later() -> Instant {
    Instant::now() + LONG
}

/// A peer's end of the line, with what a script may do there.
struct Peer {
    reader: BufReader<UnixStream>,
}

impl Peer {
    /// Fails when the other side has gone: the script goes on, what it says is lost.
    fn say(&mut self, text: &str) {
        let _ = self.reader.get_mut().write_all(format!("{text}\r\n").as_bytes());
    }

    fn say_raw(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// The next command; null when the other side has gone.
    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    fn obey(&mut self) -> Value {
        let command = self.hear();
        self.say(&json!({ "return": {}, "id": command["id"] }).to_string());
        command
    }

    /// Stays until the other side has gone.
    fn fall_silent(mut self) {
        let _ = self.reader.read_to_end(&mut Vec::new());
    }
}

/// Both ends: a stream for a monitor, and a thread that acts the peer from the very beginning.
fn scripted(script: impl FnOnce(Peer) + Send + 'static) -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, thread::spawn(|| script(Peer { reader: BufReader::new(theirs) })))
}

/// The same, after a greeting in good order.
fn greeted(script: impl FnOnce(Peer) + Send + 'static) -> Monitor {
    let (stream, _) = scripted(|mut peer| {
        peer.say(GREETING);
        peer.obey();
        script(peer);
    });
    Monitor::over(stream, later()).unwrap()
}

#[test]
fn a_greeting_in_good_order_tells_the_version() {
    let mut monitor = greeted(|mut peer| {
        let command = peer.obey();
        assert_eq!(command["execute"], "cont");
        assert_eq!(command.get("arguments"), None);
        peer.fall_silent();
    });
    assert_eq!(monitor.version(), Version { major: 7, minor: 2, micro: 22 });
    assert!(monitor.version() < Version { major: 10, minor: 0, micro: 0 });
    monitor.cont(LONG).unwrap();
    assert_eq!(monitor.poisoned(), None);
}

#[test]
fn a_second_greeting_begins_the_negotiation_anew() {
    const REFUSED: &str =
        r#"{"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete"}"#;
    for (before, refused) in [(true, true), (true, false), (false, false)] {
        let (stream, _) = scripted(move |mut peer| {
            peer.say(GREETING);
            if before {
                peer.say(GREETING);
            }
            let first = peer.hear();
            assert_eq!(first["execute"], "qmp_capabilities");
            if !before {
                peer.say(GREETING);
            }
            peer.say(&json!({ "return": {}, "id": first["id"] }).to_string());
            let second = peer.hear();
            assert_eq!(second["execute"], "qmp_capabilities");
            if refused {
                peer.say(&format!(r#"{{"error": {REFUSED}, "id": {}}}"#, second["id"]));
            } else {
                peer.say(&json!({ "return": {}, "id": second["id"] }).to_string());
            }
            assert_eq!(peer.obey()["execute"], "cont");
            peer.fall_silent();
        });
        let mut monitor = Monitor::over(stream, later()).unwrap();
        monitor.cont(LONG).unwrap();
    }
}

#[test]
fn a_third_greeting_and_one_between_commands_break_the_protocol() {
    let (stream, _) = scripted(|mut peer| {
        for _ in 0..3 {
            peer.say(GREETING);
        }
        peer.fall_silent();
    });
    assert!(matches!(Monitor::over(stream, later()), Err(QmpError::Unexpected { .. })));
    let mut monitor = greeted(|mut peer| {
        peer.hear();
        peer.say(GREETING);
        peer.fall_silent();
    });
    assert!(matches!(monitor.cont(LONG), Err(QmpError::Unexpected { .. })));
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
        let (stream, _) = scripted(move |mut peer| peer.say(line));
        let error = Monitor::over(stream, later()).unwrap_err();
        assert_eq!(matches!(error, QmpError::Unexpected { .. }), unexpected, "{error}");
        assert_eq!(matches!(error, QmpError::Garbage { .. }), !unexpected, "{error}");
    }
}

#[test]
fn silence_instead_of_a_greeting_times_out() {
    let (stream, _) = scripted(Peer::fall_silent);
    let begun = Instant::now();
    let error = Monitor::over(stream, soon()).unwrap_err();
    assert!(matches!(&error, QmpError::TimedOut { awaited, .. } if awaited == "the greeting"), "{error}");
    assert!(begun.elapsed() >= BLINK && begun.elapsed() < LONG);
}

#[test]
fn a_greeting_in_drops_does_not_stretch_the_deadline() {
    let (stream, _) = scripted(|mut peer| {
        for byte in GREETING.as_bytes() {
            peer.say_raw(&[*byte]);
            thread::sleep(Duration::from_millis(10));
        }
    });
    let begun = Instant::now();
    assert!(matches!(Monitor::over(stream, soon()), Err(QmpError::TimedOut { .. })));
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
}

#[test]
fn an_end_in_the_middle_of_a_line_is_an_end() {
    let mut monitor = greeted(|mut peer| {
        peer.hear();
        peer.say_raw(br#"{"return": {"status": "#);
    });
    assert!(matches!(monitor.query_status(LONG), Err(QmpError::Closed)));
    let after = monitor.query_status(LONG).unwrap_err();
    assert!(
        matches!(&after, QmpError::Poisoned { reason } if reason == "QEMU closed its monitor"),
        "{after}"
    );
    assert!(after.is_fatal());
}

#[test]
fn garbage_poisons_and_is_shown_harmless() {
    let mut monitor = greeted(|mut peer| {
        peer.hear();
        peer.say("\u{1b}[31mSegmentation fault");
        peer.fall_silent();
    });
    let error = monitor.cont(LONG).unwrap_err();
    assert_eq!(error.to_string(), r"QEMU's monitor sent invalid JSON: '\x1b[31mSegmentation fault\r'");
    assert!(monitor.poisoned().is_some());
}

#[test]
fn a_line_of_a_hundred_megabytes_is_cut_at_the_limit() {
    let mut monitor = greeted(|mut peer| {
        peer.hear();
        for _ in 0..100 {
            peer.say_raw(&vec![b'a'; 1_000_000]);
        }
        peer.say("");
    });
    let error = monitor.cont(LONG).unwrap_err();
    assert!(matches!(error, QmpError::Oversized { limit: MAX_LINE }), "{error}");
    assert!(matches!(monitor.pending_event(), Err(QmpError::Poisoned { .. })));
}

#[test]
fn json_nested_without_end_is_garbage() {
    let mut monitor = greeted(|mut peer| {
        peer.hear();
        peer.say(&"[".repeat(MAX_LINE / 2));
    });
    assert!(matches!(monitor.cont(LONG), Err(QmpError::Garbage { .. })));
}

#[test]
fn a_reply_to_another_command_is_refused() {
    for reply in
        [r#"{"return": {}, "id": 99}"#, r#"{"return": {}, "id": "2"}"#, r#"{"return": {}}"#, GREETING]
    {
        let mut monitor = greeted(move |mut peer| {
            peer.hear();
            peer.say(reply);
            peer.fall_silent();
        });
        let error = monitor.cont(LONG).unwrap_err();
        assert!(matches!(error, QmpError::Unexpected { .. }), "{error}");
        assert!(monitor.poisoned().is_some());
    }
}

#[test]
fn a_reply_nobody_asked_for_is_refused() {
    let mut monitor = greeted(|mut peer| {
        peer.say(r#"{"return": {}, "id": 2}"#);
        peer.fall_silent();
    });
    assert!(matches!(monitor.wait_event(later(), &[], |_| true), Err(QmpError::Unexpected { .. })));
}

#[test]
fn a_late_reply_is_passed_over() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut monitor = greeted(move |mut peer| {
        let slow = peer.hear();
        wait.recv().unwrap();
        peer.say(&json!({ "return": {}, "id": slow["id"] }).to_string());
        let next = peer.hear();
        let status = json!({ "status": "paused", "running": false });
        peer.say(&json!({ "return": status, "id": next["id"] }).to_string());
        peer.fall_silent();
    });
    let error = monitor.cont(BLINK).unwrap_err();
    assert!(matches!(&error, QmpError::TimedOut { awaited, .. } if awaited == "cont"), "{error}");
    assert!(error.leaves_outcome_open() && !error.is_fatal());
    go.send(()).unwrap();
    assert_eq!(monitor.query_status(LONG).unwrap().status, "paused");
}

#[test]
fn a_late_reply_among_events_is_passed_over_too() {
    let mut monitor = greeted(|mut peer| {
        let slow = peer.hear();
        thread::sleep(BLINK * 2);
        peer.say(&json!({ "return": {}, "id": slow["id"] }).to_string());
        peer.say(r#"{"event": "STOP"}"#);
        peer.fall_silent();
    });
    assert!(matches!(monitor.cont(BLINK), Err(QmpError::TimedOut { .. })));
    let waited = monitor.wait_event(later(), &[], |event| event.name == "STOP").unwrap();
    assert!(matches!(waited, Waited::Event(_)));
}

#[test]
fn one_reply_forgives_one_command_only() {
    let mut monitor = greeted(|mut peer| {
        let slow = peer.hear();
        let next = peer.hear();
        for id in [&slow["id"], &slow["id"], &next["id"]] {
            peer.say(&json!({ "return": {}, "id": id }).to_string());
        }
        peer.fall_silent();
    });
    assert!(matches!(monitor.cont(BLINK), Err(QmpError::TimedOut { .. })));
    assert!(matches!(monitor.cont(LONG), Err(QmpError::Unexpected { .. })));
}

#[test]
fn a_peer_that_answers_nothing_is_given_up_on() {
    let mut monitor = greeted(Peer::fall_silent);
    let end = (0..1000).find_map(|_| match monitor.cont(Duration::ZERO) {
        Err(QmpError::TimedOut { .. }) => None,
        other => Some(other),
    });
    assert!(matches!(end, Some(Err(QmpError::Unresponsive { unanswered: 65 }))), "{end:?}");
}

#[test]
fn a_peer_that_reads_nothing_times_out_and_is_lost() {
    let mut monitor = greeted(|peer| {
        thread::sleep(BLINK * 10);
        drop(peer);
    });
    let big = json!({ "text": "x".repeat(8 << 20) });
    let begun = Instant::now();
    assert!(matches!(monitor.execute("big", &big, BLINK), Err(QmpError::TimedOut { .. })));
    assert!(begun.elapsed() < LONG);
    // A part of the line is with the peer: the next would only continue it.
    assert!(matches!(monitor.cont(LONG), Err(QmpError::Poisoned { .. })));
}

#[test]
fn a_refusal_leaves_the_connection_in_order() {
    let mut monitor = greeted(|mut peer| {
        let command = peer.hear();
        let error = json!({ "class": "DeviceNotFound", "desc": "Device 'n0' not found\u{7}" });
        peer.say(&json!({ "id": command["id"], "error": error }).to_string());
        peer.obey();
        peer.fall_silent();
    });
    let error = monitor.netdev_del("n0", LONG).unwrap_err();
    assert_eq!(error.to_string(), r"QEMU refused netdev_del: Device 'n0' not found\u{7}");
    assert!(matches!(&error, QmpError::Refused { class: ErrorClass::DeviceNotFound, .. }));
    assert!(!error.is_fatal() && !error.leaves_outcome_open());
    monitor.cont(LONG).unwrap();
}

#[test]
fn a_flood_of_events_does_not_stretch_the_deadline() {
    let mut monitor = greeted(|mut peer| {
        peer.hear();
        let flood = r#"{"event": "RTC_CHANGE", "data": {"offset": 1}}"#.to_owned() + "\n";
        let flood = flood.repeat(1000);
        while peer.reader.get_mut().write_all(flood.as_bytes()).is_ok() {}
    });
    let begun = Instant::now();
    assert!(matches!(monitor.cont(BLINK), Err(QmpError::TimedOut { .. })));
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    assert!(monitor.dropped_events() > 0);
    // Nor can it hold a reader that doesn't wait, or one whose interrupt is there.
    assert!(monitor.pending_event().unwrap().is_some());
    let wake = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
    let waited = monitor.wait_event(later(), &[wake.as_fd()], |event| event.name == "NEVER").unwrap();
    assert_eq!(waited, Waited::Interrupted(0));
}

#[test]
fn events_before_a_reply_are_kept_in_order_unknown_ones_too() {
    let mut monitor = greeted(|mut peer| {
        let command = peer.hear();
        for event in ["STOP", "FROM_THE_FUTURE", "RESUME"] {
            peer.say(&json!({ "event": event, "data": { "of": event } }).to_string());
        }
        peer.say(&json!({ "return": {}, "id": command["id"] }).to_string());
        peer.fall_silent();
    });
    monitor.cont(LONG).unwrap();
    let Waited::Event(event) =
        monitor.wait_event(soon(), &[], |event| event.name == "FROM_THE_FUTURE").unwrap()
    else {
        panic!("not there");
    };
    assert_eq!(event.text("of"), Some("FROM_THE_FUTURE"));
    assert_eq!(monitor.pending_event().unwrap().unwrap().name, "STOP");
    assert_eq!(monitor.pending_event().unwrap().unwrap().name, "RESUME");
    assert_eq!(monitor.pending_event().unwrap(), None);
    assert_eq!(monitor.wait_event(soon(), &[], |_| true).unwrap(), Waited::TimedOut);
}

#[test]
fn a_flood_of_precious_events_poisons_and_loses_none_that_was_kept() {
    let mut monitor = greeted(|mut peer| {
        for _ in 0..=MAX_QUEUED_EVENTS {
            peer.say(r#"{"event": "DEVICE_DELETED", "data": {"device": "nic0"}}"#);
        }
        peer.fall_silent();
    });
    let error = monitor.wait_event(later(), &[], |event| event.name == "SHUTDOWN").unwrap_err();
    assert!(matches!(error, QmpError::Flooded), "{error}");
    let kept = (0..).map_while(|_| monitor.pending_event().ok().flatten()).count();
    assert!(kept >= MAX_QUEUED_EVENTS);
}

#[test]
fn the_last_events_outlive_the_connection() {
    let mut monitor = greeted(|mut peer| {
        peer.obey();
        peer.say(r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}"#);
    });
    monitor.quit(LONG).unwrap();
    let error = monitor.wait_event(later(), &[], |_| false).unwrap_err();
    assert!(matches!(error, QmpError::Closed), "{error}");
    assert_eq!(monitor.pending_event().unwrap().unwrap().text("reason"), Some("host-qmp-quit"));
    assert!(matches!(monitor.pending_event(), Err(QmpError::Poisoned { .. })));
}

#[test]
fn an_interrupt_says_more_than_an_end() {
    let mut monitor = greeted(drop);
    thread::sleep(BLINK);
    let wake = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
    let quiet = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let interrupts = [quiet.as_fd(), wake.as_fd()];
    assert_eq!(monitor.wait_event(later(), &interrupts, |_| true).unwrap(), Waited::Interrupted(1));
    assert!(matches!(
        monitor.wait_event(later(), &[quiet.as_fd()], |_| true),
        Err(QmpError::Closed | QmpError::Poisoned { .. })
    ));
}

#[test]
fn quitting_before_the_reply_is_quitting() {
    let mut monitor = greeted(|mut peer| drop(peer.hear()));
    monitor.quit(LONG).unwrap();
}

#[test]
fn a_status_of_another_shape_poisons() {
    let mut monitor = greeted(|mut peer| {
        peer.obey();
        peer.fall_silent();
    });
    assert!(matches!(monitor.query_status(LONG), Err(QmpError::Unexpected { .. })));
    assert!(monitor.poisoned().is_some());
}

#[test]
fn arguments_that_cannot_be_sent_are_not() {
    let mut monitor = greeted(Peer::fall_silent);
    let tap = |fds: &[&str], vhost_fds: &[&str]| NetdevTap {
        id: "n0".to_owned(),
        fds: fds.iter().map(ToString::to_string).collect(),
        vhost_fds: vhost_fds.iter().map(ToString::to_string).collect(),
    };
    for tap in [
        tap(&[], &[]),
        tap(&["a"], &["v", "w"]),
        tap(&["a", "b"], &["v"]),
        tap(&["a:b"], &[]),
        tap(&["7"], &[]),
    ] {
        let error = monitor.netdev_add(&tap, LONG).unwrap_err();
        assert!(matches!(error, QmpError::BadArguments { .. }), "{error}");
        assert!(!error.is_fatal() && !error.leaves_outcome_open());
    }
    for name in ["", "7", "a:b", "a b", "é", "-", &"a".repeat(256)] {
        assert!(matches!(monitor.closefd(name, LONG), Err(QmpError::BadArguments { .. })), "{name}");
    }
    assert!(matches!(monitor.execute("cont", 7, LONG), Err(QmpError::BadArguments { .. })));
}

#[test]
fn a_backend_says_aloud_whether_it_has_vhost() {
    let (tell, told) = std::sync::mpsc::channel();
    let mut monitor = greeted(move |mut peer| {
        for _ in 0..3 {
            tell.send(peer.obey()["arguments"].clone()).unwrap();
        }
    });
    let names = |prefix: &str, count: usize| (0..count).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    for (queues, vhost) in [(1, false), (1, true), (2, true)] {
        let vhost_fds = names("v", if vhost { queues } else { 0 });
        let tap = NetdevTap { id: "n0".to_owned(), fds: names("t", queues), vhost_fds };
        monitor.netdev_add(&tap, LONG).unwrap();
    }
    assert_eq!(told.recv().unwrap(), json!({ "type": "tap", "id": "n0", "fd": "t0", "vhost": false }));
    assert_eq!(
        told.recv().unwrap(),
        json!({ "type": "tap", "id": "n0", "fd": "t0", "vhost": true, "vhostfd": "v0", "vhostforce": true })
    );
    assert_eq!(
        told.recv().unwrap(),
        json!({ "type": "tap", "id": "n0", "fds": "t0:t1", "vhost": true, "vhostfds": "v0:v1", "vhostforce": true })
    );
}

#[test]
fn a_socket_nobody_serves_is_told_from_one_that_is_busy() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("monitor");
    let error = Monitor::connect(&path, later()).unwrap_err();
    assert!(
        matches!(&error, QmpError::Connect { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );

    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let begun = Instant::now();
    let error = Monitor::connect(&path, soon()).unwrap_err();
    assert!(
        matches!(&error, QmpError::Connect { source, .. } if source.kind() == std::io::ErrorKind::TimedOut),
        "{error}"
    );
    assert!(begun.elapsed() < LONG);
}
