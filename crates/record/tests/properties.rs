//! Properties of every record: it parses to what was written, whatever its names are, and no bytes
//! from outside make the parser panic.

#![allow(clippy::unwrap_used)]

use std::path::Path;

mod strategies;

use proptest::prelude::*;
use taptrail_record::{
    Fragment, KernelOpen, Line, Outcome, ParseError, PathRecord, RecordType, Syscall, foreign, parse_claim,
    parse_interpreted, parse_text,
};

use strategies::{EXE, record};

proptest! {
    // Shows 3.15.
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
        // Cut before the pair with its kind, it may be another program's record; behind that it is
        // an error.
        prop_assert!(matches!(parse_text(record.record_type(), cut), Ok(None) | Err(_)));
        if cut.len() > "virt=kvm resrc=net ".len() {
            prop_assert_eq!(parse_text(record.record_type(), cut), Err(ParseError::Truncated));
        }
    }

    #[test]
    fn a_claim_without_its_tail_says_the_same(record in record()) {
        let text = record.text(Path::new(EXE)).unwrap();
        let claim = &text[..text.rfind(" exe=").unwrap()];
        let mut parsed = parse_claim(claim.as_bytes(), record.outcome).unwrap().unwrap();
        // If no other value is encoded, a name in hex may be literal.
        let hex: String = record.guest.name.bytes().map(|byte| format!("{byte:02X}")).collect();
        if record.record_type() == RecordType::VIRT_CONTROL && parsed.guest.name == hex {
            parsed.guest.name.clone_from(&record.guest.name);
        }
        prop_assert_eq!(parsed, record.clone());
        prop_assert_eq!(parse_claim(text.as_bytes(), record.outcome), Ok(Some(record.clone())));
        let other = if record.outcome == Outcome::Success { Outcome::Failed } else { Outcome::Success };
        prop_assert!(parse_claim(text.as_bytes(), other).is_err());
        prop_assert_eq!(foreign(record.record_type(), text.as_bytes()), None);
    }

    #[test]
    fn what_is_left_of_a_cut_record_names_nothing_else(record in record(), at in any::<prop::sample::Index>()) {
        let text = record.text(Path::new(EXE)).unwrap();
        let left = Fragment::of(&text.as_bytes()[..at.index(text.len() + 1)]);
        prop_assert!(left.uuid.is_none_or(|uuid| uuid == record.guest.uuid));
        prop_assert!(left.mac.is_none_or(|mac| Some(mac) == record.event.mac()));
        prop_assert!(left.device.is_none_or(|device| device.path == record.event.device().unwrap().path));
        prop_assert!(left.name.is_none_or(|name| name == record.guest.name));
    }

    // Shows 9.7.
    #[test]
    fn no_bytes_upset_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for record_type in [RecordType::VIRT_CONTROL, RecordType::VIRT_RESOURCE] {
            let _ = parse_text(record_type, &bytes);
            let _ = parse_interpreted(record_type, &bytes);
            let _ = foreign(record_type, &bytes);
        }
        let _ = parse_claim(&bytes, Outcome::Failed);
        let _ = Fragment::of(&bytes);
        let _ = Line::parse(&bytes).and_then(|line| line.record());
    }

    #[test]
    fn no_damage_to_the_kernels_lines_upsets_the_reader(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut lines = [
            *b"type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=257 success=yes exit=3 ppid=1 pid=2 exe=\"/a\"",
            *b"type=PATH msg=audit(1.000:1): item=0 name=\"/dev/net/tun\" mode=020666 rdev=0a:c8 nametype=NORMAL    ",
        ];
        for (at, byte) in damage {
            let at = at.index(lines[0].len() * 2);
            lines.as_flattened_mut()[at] = byte;
        }
        let [syscall, path] = lines.each_ref().map(|line| Line::parse(line));
        if let (Ok(syscall), Ok(path)) = (syscall, path)
            && let (Some(syscall), Some(path)) = (Syscall::of(&syscall), PathRecord::of(&path))
        {
            let _ = KernelOpen::join(&syscall, &path);
        }
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
