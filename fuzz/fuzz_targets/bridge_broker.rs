//! What the bridge helper and its broker send each other, and the records of taps: no panic; what is
//! read as a record is written and read again as the same; no other reader takes it for a guest's.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use taptrail_bridge_helper::broker::{Challenge, Verdict};
use taptrail_record::{BridgeClose, BridgeOpen, RecordType, parse_text};

fuzz_target!(|bytes: &[u8]| {
    assert!(Challenge::parse(bytes).is_none() || bytes.first() == Some(&1));
    if Verdict::parse(bytes) == Verdict::Recorded {
        assert_eq!(bytes, b"recorded");
    }
    let kind = RecordType::VIRT_RESOURCE;
    let exe = Path::new("/usr/bin/taptrail");
    let record = |reason: &[u8]| [b"virt=kvm resrc=net reason=", reason, b" ", bytes].concat();
    for text in [bytes.to_vec(), record(b"bridge-open"), record(b"bridge-close")] {
        if let Ok(Some(open)) = BridgeOpen::parse(kind, &text) {
            assert_eq!(parse_text(kind, &text), Ok(None));
            // Names that are not UTF-8 were replaced; a long text is not written.
            if let Ok(written) = open.text(exe) {
                let again = BridgeOpen::parse(kind, written.as_bytes()).expect("what was written");
                assert_eq!(again.map(|again| again.requester), Some(open.requester));
            }
        }
        if let Ok(Some(close)) = BridgeClose::parse(kind, &text)
            && let Ok(written) = close.text(exe)
        {
            let again = BridgeClose::parse(kind, written.as_bytes()).expect("what was written");
            assert_eq!(again.map(|again| again.last_seen), Some(close.last_seen));
        }
    }
});
