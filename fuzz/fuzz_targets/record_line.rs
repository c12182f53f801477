//! Lines of an audit log, from any writer.
//!
//! The parser must not panic, and must agree with the writer: an accepted record that is written
//! and parsed again is the same. So is one without its tail. One that is printed by `ausearch -i`,
//! which decodes every name, is the same or is refused.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use taptrail_record::{
    Abend, Denial, Fragment, KernelOpen, Line, Outcome, PathRecord, Record, RecordType, Syscall, foreign,
    parse_claim, parse_interpreted, parse_resource, parse_text,
};

fuzz_target!(|data: &[u8]| {
    let mut opened = None;
    for line in data.split(|&byte| byte == b'\n') {
        let Ok(line) = Line::parse(line) else {
            any_text(line);
            continue;
        };
        opened = Syscall::of(&line).or(opened);
        if let (Some(syscall), Some(path)) = (&opened, PathRecord::of(&line)) {
            let open = KernelOpen::join(syscall, &path);
            assert!(open.is_none_or(|open| open.pid == syscall.pid && open.device.rdev == Some(path.rdev)));
        }
        if let Some(abend) = Abend::parse(line.pairs) {
            assert!(!abend.comm.is_empty() || !abend.is_hypervisor() || !abend.exe.is_empty());
        }
        if let Some(denial) = Denial::parse(line.pairs) {
            assert_ne!(denial.device.kind, taptrail_record::DeviceKind::Unknown);
        }
        any_text(line.text.unwrap_or_default());
        if let Ok(Some(record)) = line.record() {
            assert_eq!(foreign(record.record_type(), line.text.unwrap_or_default()), None);
            believed(&record);
        }
    }
});

/// No text may cause a panic.
fn any_text(text: &[u8]) {
    for record_type in [RecordType::VIRT_CONTROL, RecordType::VIRT_RESOURCE] {
        for record in [parse_text(record_type, text), parse_interpreted(record_type, text)] {
            if let Ok(Some(record)) = record {
                assert_eq!(record.record_type(), record_type);
            }
        }
        let _ = foreign(record_type, text);
        // A record is of a network device or of another resource.
        let is_other = matches!(parse_resource(record_type, text), Ok(Some(_)));
        assert!(!is_other || matches!(parse_text(record_type, text), Ok(None)));
    }
    let _ = parse_resource(RecordType::VIRT_MACHINE_ID, text);
    let _ = (Abend::parse(text), Denial::parse(text));
    for outcome in [Outcome::Success, Outcome::Failed] {
        if let Ok(Some(record)) = parse_claim(text, outcome) {
            assert_eq!(record.outcome, outcome);
        }
    }
    let _ = Fragment::of(text);
}

fn believed(record: &Record) {
    let Ok(text) = record.text(Path::new("/usr/bin/taptrail")) else { return };
    let record_type = record.record_type();
    assert_eq!(parse_text(record_type, text.as_bytes()).as_ref(), Ok(&Some(record.clone())), "{text}");

    let claim = text.split_once(" exe=").map_or(text.as_str(), |(claim, _)| claim);
    let mut parsed = parse_claim(claim.as_bytes(), record.outcome);
    // If nothing else is encoded, a name in hex may also be a literal name.
    if let (RecordType::VIRT_CONTROL, Ok(Some(parsed))) = (record_type, &mut parsed)
        && claim.contains(&format!(" vm={} ", parsed.guest.name))
    {
        parsed.guest.name.clone_from(&record.guest.name);
    }
    assert_eq!(parsed.as_ref(), Ok(&Some(record.clone())), "{text}");

    let left = Fragment::of(&text.as_bytes()[..text.len() / 2]);
    assert!(left.uuid.is_none_or(|uuid| uuid == record.guest.uuid), "{text}");
    assert!(left.name.is_none_or(|name| name == record.guest.name), "{text}");

    if let Ok(read) = parse_interpreted(record_type, &interpreted(&text)) {
        assert_eq!(read.as_ref(), Some(record), "{text}");
    }
}

/// Our text as `ausearch -i` prints it. No blank is within quotes.
fn interpreted(text: &str) -> Vec<u8> {
    let decoded = text.split(' ').map(|word| {
        let Some((key, value)) = word.split_once('=') else { return word.as_bytes().to_vec() };
        let value = match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
            // ausearch does not know this key.
            _ if key == "dev" => value.as_bytes().to_vec(),
            Some(quoted) => quoted.as_bytes().to_vec(),
            None if matches!(key, "vm" | "path" | "exe") => {
                let digits =
                    value.as_bytes().chunks_exact(2).map(|pair| str::from_utf8(pair).unwrap_or_default());
                digits.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_default()).collect()
            }
            None => value.as_bytes().to_vec(),
        };
        [key.as_bytes(), b"=", &value].concat()
    });
    decoded.collect::<Vec<_>>().join(b" ".as_slice())
}
