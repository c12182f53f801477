//! What holds for every record: it reads back as it was written, whatever its names are, and no
//! bytes from outside upset the reader.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use taptrail_record::{
    Device, Event, GuestId, Line, MacAddr, Outcome, ParseError, Rdev, Reason, Record, RecordType, Requester,
    parse_text,
};

/// Names of every sort: plain, hex-like, imitating pairs and quotes, non-ASCII, with control bytes.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,20}",
        "([0-9A-F]{2}){1,8}",
        Just("x'res=failed'".to_owned()),
        Just("v'uuid=0".to_owned()),
        Just("x uuid=00000000-0000-0000-0000-000000000000 res=failed".to_owned()),
        Just("\" res=failed net=00:00:00:00:00:00".to_owned()),
        Just("(null)".to_owned()),
        Just("?".to_owned()),
        "(vm|net|res|uuid|op| |'|\"|=|\u{1d}|\n|é){0,20}",
        any::<String>(),
    ]
}

fn rdev() -> impl Strategy<Value = Option<Rdev>> {
    prop_oneof![
        Just(None),
        Just(Some(Rdev::TUN)),
        Just(Some(Rdev::VHOST_NET)),
        any::<(u32, u32)>().prop_map(|(major, minor)| Some(Rdev { major, minor })),
    ]
}

fn device() -> impl Strategy<Value = Device> {
    let path = prop_oneof![
        Just("/dev/net/tun".to_owned()),
        Just("/dev/vhost-net".to_owned()),
        Just("macvtap0".to_owned()),
        "/dev/tap[0-9]{1,4}",
        name(),
    ];
    (path, rdev(), proptest::option::of(name())).prop_map(|(path, rdev, dev)| Device::new(path, rdev, dev))
}

fn event() -> impl Strategy<Value = Event> {
    let mac = any::<[u8; 6]>().prop_map(MacAddr);
    let number = proptest::option::of(any::<u32>());
    let pid = proptest::option::of(1..=u32::MAX);
    let reason = "[a-z0-9_-]{1,20}".prop_map(|word| word.parse::<Reason>().unwrap());
    (0..8, mac, device(), number.clone(), number, pid, (reason, any::<bool>())).prop_map(
        |(which, mac, device, queue, fds, vm_pid, (reason, forced))| match which {
            0 => Event::Open { mac, device, queue },
            1 => Event::Close { mac, device, queue },
            2 => Event::Keep { mac, device, queue, vm_pid },
            3 => Event::Start { mac, vm_pid, fds },
            4 => Event::Attach { mac, vm_pid, fds },
            5 => Event::Detach { mac, vm_pid, fds, forced },
            6 => Event::GuestStart { reason, vm_pid },
            _ => Event::GuestStop { reason, vm_pid },
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    let requester = proptest::option::of(any::<(u32, u32, u32)>().prop_map(|(uid, auid, pid)| Requester {
        uid,
        auid,
        pid,
    }));
    let errno = proptest::option::of(0..4096_i32);
    (name(), any::<u128>(), event(), any::<bool>(), requester, errno).prop_map(
        |(name, uuid, event, success, requester, errno)| Record {
            guest: GuestId { name, uuid: uuid::Uuid::from_u128(uuid) },
            event,
            outcome: if success { Outcome::Success } else { Outcome::Failed },
            requester,
            errno,
        },
    )
}

const EXE: &str = "/usr/bin/taptrail";

proptest! {
    #[test]
    fn every_record_reads_back_as_it_was_written(record in record()) {
        let text = record.text(Path::new(EXE)).unwrap();
        prop_assert!(text.bytes().all(|b| (0x20..=0x7E).contains(&b)), "{text:?}");
        prop_assert_eq!(parse_text(record.record_type(), text.as_bytes()), Ok(Some(record)));
    }

    #[test]
    fn every_record_reads_back_from_auditds_line(record in record(), node in any::<bool>(), enriched in any::<bool>()) {
        let text = record.text(Path::new(EXE)).unwrap();
        let line = format!(
            "{}type={} msg=audit(1795460022.944:2588): pid=1 uid=0 auid=4294967295 ses=4294967295 msg='{text}'{}\n",
            if node { "node=h1 " } else { "" },
            record.record_type(),
            if enriched { "\u{1d}UID=\"root\" AUID=\"o'brien\"" } else { "" },
        );
        prop_assert_eq!(Line::parse(line.as_bytes()).unwrap().record(), Ok(Some(record)));
    }

    #[test]
    fn a_cut_record_is_never_believed(record in record(), at in any::<prop::sample::Index>()) {
        let text = record.text(Path::new(EXE)).unwrap();
        let cut = &text.as_bytes()[..at.index(text.len())];
        // Cut before its first telling pair, it may be anybody's; after that it is an error.
        prop_assert!(matches!(parse_text(record.record_type(), cut), Ok(None) | Err(_)));
        if cut.len() > "virt=kvm resrc=net ".len() {
            prop_assert_eq!(parse_text(record.record_type(), cut), Err(ParseError::Truncated));
        }
    }

    #[test]
    fn no_bytes_upset_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_text(RecordType::VIRT_CONTROL, &bytes);
        let _ = parse_text(RecordType::VIRT_RESOURCE, &bytes);
        let _ = Line::parse(&bytes).and_then(|line| line.record());
    }

    #[test]
    fn no_damage_to_a_line_upsets_the_reader(
        record in record(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let text = record.text(Path::new(EXE)).unwrap();
        let mut line = format!("type={} msg=audit(1.000:1): pid=1 msg='{text}'", record.record_type()).into_bytes();
        for (at, byte) in damage {
            let at = at.index(line.len());
            line[at] = byte;
        }
        let _ = Line::parse(&line).and_then(|line| line.record());
    }
}
