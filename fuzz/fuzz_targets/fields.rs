//! A record that another program split and decoded: a line for each pair, `key=value`.
//!
//! Parsing must not panic, and no value may become another pair: the record's guest is the one
//! named.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_record::{RecordType, encode_fields, parse_text};

fuzz_target!(|data: &[u8]| {
    let Ok(data) = str::from_utf8(data) else { return };
    let pairs: Vec<_> = data.split('\n').filter_map(|line| line.split_once('=')).collect();
    let get = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
    let Ok(text) = encode_fields(get) else { return };
    for record_type in [RecordType::VIRT_CONTROL, RecordType::VIRT_RESOURCE] {
        if let Ok(Some(record)) = parse_text(record_type, text.as_bytes()) {
            assert_eq!(Some(record.guest.name.as_str()), get("vm").as_deref(), "{text}");
            assert_eq!(record.guest.uuid.to_string(), get("uuid").unwrap_or_default().to_lowercase(), "{text}");
            assert_eq!(Some(record.outcome.as_str()), get("res").as_deref(), "{text}");
        }
    }
});
