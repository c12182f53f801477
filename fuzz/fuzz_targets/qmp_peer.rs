//! Any bytes from the other end of a QEMU monitor: no panic, no hang, bounded memory, and no
//! success once the connection is poisoned.

#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use taptrail_qmp::{MAX_QUEUED_EVENTS, Monitor};

const GREETING: &[u8] = b"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}}}}\n{\"return\": {}, \"id\": 1}\n";

/// Bytes that a socket buffers without a reader.
const MAX_INPUT_BYTES: usize = 100_000;

fuzz_target!(|input: (bool, Vec<u8>)| {
    let (greet, bytes) = input;
    if bytes.len() > MAX_INPUT_BYTES {
        return;
    }
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return };
    if greet && theirs.write_all(GREETING).is_err() {
        return;
    }
    if theirs.write_all(&bytes).is_err() || theirs.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let second = Duration::from_secs(1);
    let begun = Instant::now();
    if let Ok(mut monitor) = Monitor::from_stream(ours, begun + second) {
        let _ = monitor.wait_event(begun + second, &[], |event| event.name == "SHUTDOWN");
        for _ in 0..3 {
            let poisoned = monitor.poisoned().is_some();
            let answered = monitor.query_status(second).is_ok();
            assert!(!(poisoned && answered));
        }
        let queued = std::iter::from_fn(|| monitor.pending_event().ok().flatten()).count();
        assert!(queued <= MAX_QUEUED_EVENTS + 1);
    }
    assert!(begun.elapsed() < second, "the peer had sent everything");
});
