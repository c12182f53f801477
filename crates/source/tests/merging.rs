//! Several inputs, one trail: an event in several inputs is reported once, and in order.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use taptrail_source::{Input, NoteKind, ReadOptions, ReadOutcome, expand, host_logs, read, read_lines};
use taptrail_trail::{Content, Entry};

const UUID: &str = "f3607ac8-f517-4952-b61c-b19b40f99661";

/// An open of the interface whose MAC ends with `mac`, as auditd logs it `millis` after the hour.
fn audit(millis: u32, serial: u32, mac: u8) -> String {
    format!(
        "type=VIRT_RESOURCE msg=audit(1795460{:03}.{:03}:{serial}): pid=9 uid=0 auid=0 ses=0 msg='{}'\n",
        millis / 1000,
        millis % 1000,
        text(mac)
    )
}

fn text(mac: u8) -> String {
    format!(
        "virt=kvm resrc=net reason=open vm=\"web1\" uuid={UUID} net=52:54:00:00:00:{mac:02x} path=\"/dev/net/tun\" \
         rdev=0A:C8 exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success"
    )
}

/// The same in syslog, in whole seconds. 1795460000 is 2026-11-23 18:53:20 UTC.
fn syslog(seconds: u32, mac: u8) -> String {
    format!(
        "2026-11-23T18:53:{:02}Z ? audit[9]: VIRT_RESOURCE pid=9 uid=0 msg='{}'\n",
        20 + seconds,
        text(mac)
    )
}

/// The same in libvirtd's own log.
fn libvirtd(millis: u32, mac: u8) -> String {
    let text = text(mac);
    let claim = text.split(" exe=").next().unwrap();
    format!(
        "2026-11-23 18:53:{:02}.{:03}+0000: 77: info : virDomainAuditNetDevice:318 : success=yes {claim}\n",
        20 + millis / 1000,
        millis % 1000
    )
}

struct MergedRead {
    /// Serial number, last byte of the MAC, and the kind of an entry that is not a record.
    entries: Vec<(Option<u32>, u8, &'static str)>,
    outcome: ReadOutcome,
}

fn merge(logs: &[String]) -> MergedRead {
    let dir = tempfile::tempdir().unwrap();
    let files = logs.iter().enumerate().map(|(number, log)| {
        let path: PathBuf = dir.path().join(format!("{number}.log"));
        std::fs::write(&path, log).unwrap();
        Input::File(path)
    });
    let mut entries = Vec::new();
    let outcome = read(files.collect(), ReadOptions::default(), &mut |entry| {
        if !matches!(entry.content, Content::Gap(_)) {
            entries.push(summary(entry));
        }
        ControlFlow::Continue(())
    });
    MergedRead { entries, outcome }
}

fn summary(entry: &Entry) -> (Option<u32>, u8, &'static str) {
    let (mac, what) = match &entry.content {
        Content::Record(record) => (record.event.mac(), ""),
        Content::Unsent(fragment) => (fragment.mac, "unsent"),
        Content::Missing(fragment) => (fragment.mac, "missing"),
        other => panic!("{other:?}"),
    };
    (entry.serial, mac.unwrap().0[5], what)
}

#[test]
fn logs_are_merged_by_time_whatever_their_order_on_the_command_line() {
    let late = audit(3000, 12, 3) + &audit(5000, 14, 5);
    let early = audit(1000, 10, 1) + &audit(4000, 13, 4);
    let merged = merge(&[late, early, audit(2000, 11, 2)]);
    assert_eq!(merged.entries.iter().map(|entry| entry.1).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

// Shows 10.20.
#[test]
fn entries_of_one_moment_are_ordered_by_serial_number() {
    let some = audit(1000, 11, 2) + &audit(1000, 14, 5) + &audit(2000, 15, 6);
    let others = audit(1000, 10, 1) + &audit(1000, 12, 3) + &audit(1000, 13, 4);
    for logs in [[some.clone(), others.clone()], [others, some]] {
        let merged = merge(&logs);
        assert_eq!(merged.entries.iter().map(|entry| entry.1).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }
    // An entry without a serial number comes after one with it.
    for logs in [[libvirtd(1000, 1), audit(1000, 10, 1)], [audit(1000, 10, 1), libvirtd(1000, 1)]] {
        assert_eq!(merge(&logs).entries, [(Some(10), 1, "")]);
    }
}

#[test]
fn a_serial_number_in_several_copies_is_one_event() {
    let log = audit(1000, 10, 1) + &audit(1000, 11, 1) + &audit(2000, 12, 1);
    let merged = merge(&[log.clone(), log.clone(), log]);
    assert_eq!(merged.entries, [(Some(10), 1, ""), (Some(11), 1, ""), (Some(12), 1, "")]);
    assert_eq!(merged.outcome.input.duplicates, 6);
}

#[test]
fn one_serial_number_of_two_hosts_is_two_events() {
    let of = |host: &str| format!("node={host} {}", audit(1000, 10, 1));
    let merged = merge(&[of("h1") + &of("h2") + &of("h2")]);
    assert_eq!((merged.entries.len(), merged.outcome.input.duplicates), (2, 1));
    let merged = merge(&[of("h1") + &of("h2"), of("h2")]);
    assert_eq!((merged.entries.len(), merged.outcome.input.duplicates), (2, 1));
}

#[test]
fn two_opens_alike_within_one_log_are_two() {
    let merged = merge(&[syslog(1, 1) + &syslog(1, 1), audit(1000, 10, 1) + &audit(1000, 11, 1)]);
    assert_eq!(merged.entries, [(Some(10), 1, ""), (Some(11), 1, "")]);
    let merged = merge(&[syslog(1, 1) + &syslog(1, 1)]);
    assert_eq!(
        (merged.entries.len(), merged.outcome.input.duplicates),
        (1, 1),
        "nothing shows that it is not a copy"
    );
}

#[test]
fn whole_second_entries_come_after_more_exact_ones() {
    let merged = merge(&[syslog(1, 1) + &syslog(2, 2), audit(1700, 10, 1)]);
    assert_eq!(merged.entries, [(Some(10), 1, ""), (None, 2, "")]);
}

#[test]
fn a_claim_of_another_moment_is_another_event() {
    let merged = merge(&[libvirtd(1000, 1), audit(1003, 10, 1), libvirtd(9000, 1)]);
    // The audit log's line is the one that is cited.
    assert_eq!(merged.entries, [(Some(10), 1, ""), (None, 1, "")]);
    assert_eq!(merged.outcome.input.duplicates, 1);
}

#[test]
fn what_an_audit_log_that_covers_its_time_lacks_was_not_sent() {
    let log = audit(1000, 10, 1) + &audit(30_000, 20, 3);
    let own = libvirtd(1002, 1) + &libvirtd(5000, 2) + &libvirtd(30_001, 3);
    let merged = merge(&[log, own.clone()]);
    let unsent: Vec<_> = merged.entries.iter().filter(|entry| entry.2 == "unsent").collect();
    assert_eq!(unsent, [&(None, 2, "unsent")]);
    // Before the log begins and after it ends, nothing is known.
    let merged = merge(&[audit(4000, 10, 9) + &audit(4500, 11, 9), own]);
    assert!(merged.entries.iter().all(|entry| entry.2.is_empty()), "{:?}", merged.entries);
}

#[test]
fn a_log_that_is_cut_while_it_is_read_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let log: String = (0..100_000).map(|serial| audit(serial, serial, 1)).collect();
    std::fs::write(&path, &log).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let outcome = read(vec![Input::File(path)], ReadOptions::default(), &mut |_| {
        file.set_len(0).unwrap();
        ControlFlow::Continue(())
    });
    assert!(outcome.input.bytes < log.len() as u64);
    let [error] = &outcome.failed[..] else { panic!("{:?}", outcome.failed) };
    assert!(error.to_string().contains("can't be read on"), "{error}");
}

// Shows 10.28.
#[test]
fn a_log_that_goes_back_in_time_is_put_in_order() {
    let merged = merge(&[audit(200_000, 90, 1) + &audit(1000, 10, 2)]);
    assert_eq!(merged.entries, [(Some(10), 2, ""), (Some(90), 1, "")]);
    let merged = merge(&[syslog(30, 1) + &syslog(1, 2).replace("18:53", "18:50")]);
    assert_eq!(merged.entries, [(None, 2, ""), (None, 1, "")]);
    assert_eq!(
        merged.outcome.notes.iter().map(|note| note.kind).collect::<Vec<_>>(),
        [NoteKind::Unauthenticated, NoteKind::BackInTime { line: 2 }, NoteKind::Unnumbered]
    );
}

/// A row of a ledger.
fn row(millis: i64, serial: u32, mac: u8) -> Entry {
    let text = text(mac);
    let record = taptrail_record::parse_text(taptrail_record::RecordType::VIRT_RESOURCE, text.as_bytes());
    let begin: Timestamp = "2026-11-23T18:53:20Z".parse().unwrap();
    Entry {
        host: "?".into(),
        time: begin + SignedDuration::from_millis(millis),
        serial: Some(serial),
        writer: None,
        credentials: None,
        source: "rows".into(),
        line: 1,
        content: Content::Record(record.unwrap().unwrap()),
        text: None,
        copies: Vec::new(),
        unauthenticated: false,
    }
}

#[test]
fn rows_are_merged_with_logs_and_what_the_log_lacks_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    std::fs::write(&path, audit(1000, 10, 1) + &audit(9000, 12, 3)).unwrap();
    let rows = vec![
        Ok(row(1004, 10, 1)),
        Ok(row(3000, 11, 2)),
        Err("row 3 is none".to_owned()),
        Ok(row(9003, 12, 3)),
    ];
    let rows = Input::Rows { name: "rows".into(), bytes: 0, rows: Box::new(rows.into_iter()) };
    let mut entries = Vec::new();
    let outcome = read(vec![rows, Input::File(path)], ReadOptions::default(), &mut |entry| {
        entries.push(summary(entry));
        ControlFlow::Continue(())
    });
    assert_eq!(entries, [(Some(10), 1, ""), (Some(11), 2, ""), (Some(11), 2, "missing"), (Some(12), 3, "")]);
    assert_eq!((outcome.input.duplicates, outcome.input.unreadable), (2, 1));
}

// Shows 10.41.
#[test]
fn rows_alone_lack_nothing_between_their_numbers() {
    let rows = Input::Rows {
        name: "rows".into(),
        bytes: 0,
        rows: Box::new([5, 90, 300].map(|serial| Ok(row(i64::from(serial) * 1000, serial, 1))).into_iter()),
    };
    let mut entries = Vec::new();
    let outcome = read(vec![rows], ReadOptions::default(), &mut |entry| {
        entries.push(summary(entry));
        ControlFlow::Continue(())
    });
    assert_eq!(entries.iter().map(|entry| entry.0).collect::<Vec<_>>(), [Some(5), Some(90), Some(300)]);
    assert!(outcome.input.coverage[0].gaps.is_empty());
}

// Shows 10.38.
#[test]
fn lines_without_a_host_are_of_the_one_that_others_of_their_directory_name() {
    let log = audit(1000, 10, 1);
    let named = |host: &str| log.replace("type=", &format!("node={host} type="));
    let merged = merge(&[log.clone(), named("h1")]);
    assert_eq!((merged.entries.len(), merged.outcome.input.duplicates), (1, 1));
    assert_eq!(merged.outcome.input.coverage.iter().map(|of| &*of.host).collect::<Vec<_>>(), ["h1"]);
    assert!(merged.outcome.notes.is_empty());
    let merged = merge(&[syslog(0, 1) + &syslog(1, 2).replace("audit[1]", "kernel"), log.clone()]);
    assert_eq!(merged.outcome.input.coverage.len(), 1);
    // With several names, the host is unknown.
    let merged = merge(&[log.clone(), named("h1"), named("h2")]);
    assert_eq!(merged.entries.len(), 3);
    assert_eq!(
        merged.outcome.notes.iter().map(|note| note.kind).collect::<Vec<_>>(),
        [NoteKind::HostUnknown]
    );
    // If the second name comes too late, reading is refused.
    let late = named("h1").repeat(1000) + &named("h2");
    let merged = merge(&[log, late]);
    assert!(matches!(merged.outcome.refused, Some(taptrail_source::SourceError::SeveralNames { .. })));
}

#[test]
fn a_log_split_anywhere_reads_like_the_whole() {
    let folder =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/libvirt/libvirt-9.0/06-hotplug/audit.log");
    let whole = std::fs::read_to_string(folder).unwrap();
    let serials = |logs: &[String]| {
        let dir = tempfile::tempdir().unwrap();
        let files = logs.iter().enumerate().map(|(number, log)| {
            let path = dir.path().join(format!("audit.log.{number}"));
            std::fs::write(&path, log).unwrap();
            Input::File(path)
        });
        let mut serials = Vec::new();
        read(files.collect(), ReadOptions::default(), &mut |entry| {
            serials.push((entry.serial, entry.time, entry.content.clone()));
            ControlFlow::Continue(())
        });
        serials
    };
    let expect = serials(std::slice::from_ref(&whole));
    assert!(expect.len() > 20);
    for (at, _) in whole.match_indices('\n') {
        let (first, second) = whole.split_at(at + 1);
        // The later part first: older rotations have higher numbers.
        assert_eq!(serials(&[second.to_owned(), first.to_owned()]), expect, "split at {at}");
    }
}

#[test]
fn a_sink_that_breaks_off_ends_the_reading() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    std::fs::write(&path, audit(1000, 10, 1) + &audit(2000, 11, 1)).unwrap();
    let mut taken = 0;
    read(vec![Input::File(path)], ReadOptions::default(), &mut |_| {
        taken += 1;
        ControlFlow::Break(())
    });
    assert_eq!(taken, 1);
}

/// The same in syslog, as the kernel's message, which any user can forge.
fn kernel(seconds: u32, serial: u32, mac: u8) -> String {
    format!(
        "2026-11-23T18:53:{:02}Z h kernel: audit: type=2501 audit(1795460{seconds:03}.000:{serial}): pid=9 uid=0 auid=0 \
         ses=0 msg='{}'\n",
        20 + seconds,
        text(mac)
    )
}

// Shows 10.49.
#[test]
fn text_that_any_user_can_write_does_not_replace_an_audit_logs_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // Slightly earlier, and of another interface.
    let forged = kernel(1, 11, 66) + &kernel(4, 14, 4);
    for (syslog, expect) in
        [(forged.as_str(), vec![(1, false), (2, false), (4, true)]), ("", vec![(1, false), (2, false)])]
    {
        std::fs::write(
            path("audit.log"),
            audit(1100, 11, 1).replace("type", "node=h type")
                + &audit(2000, 12, 2).replace("type", "node=h type"),
        )
        .unwrap();
        std::fs::write(path("syslog"), syslog).unwrap();
        let mut entries = Vec::new();
        read(expand(&[dir.path().to_owned()]).0, ReadOptions::default(), &mut |entry| {
            if let Content::Record(record) = &entry.content {
                entries.push((record.event.mac().unwrap().0[5], entry.unauthenticated));
            }
            ControlFlow::Continue(())
        });
        assert_eq!(entries, expect);
    }
}

#[test]
fn a_compressed_copy_beside_its_log_is_named_and_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let pack = |name: &str, text: &str| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        std::fs::write(path(name), packed.finish().unwrap()).unwrap();
    };
    std::fs::write(path("audit.log"), audit(3000, 13, 3)).unwrap();
    pack("audit.log.gz", &audit(1000, 11, 1));
    std::fs::write(path("audit.log.1"), audit(2000, 12, 2)).unwrap();
    pack("audit.log.1.gz", &audit(2000, 12, 2));
    let mut macs = Vec::new();
    let outcome = read(expand(&[dir.path().to_owned()]).0, ReadOptions::default(), &mut |entry| {
        macs.push(summary(entry).1);
        ControlFlow::Continue(())
    });
    assert_eq!((macs, outcome.input.duplicates), (vec![1, 2, 3], 0));
    let copies: Vec<_> = outcome.notes.iter().filter(|note| note.kind == NoteKind::PackedCopy).collect();
    let [copy] = copies[..] else { panic!("{copies:?}") };
    assert_eq!(PathBuf::from(&*copy.source), path("audit.log.1.gz"));
    assert!(
        copy.to_string().contains(&format!("copy of {} beside it", path("audit.log.1").display())),
        "{copy}"
    );
}

/// Opens a log, rotates it and then reads it. Returns the last bytes of the MACs, and the outcome.
fn read_rotated(name: &str, line: fn(u32) -> String, packed: bool) -> (Vec<u8>, ReadOutcome) {
    let dir = tempfile::tempdir().unwrap();
    let path = |rotation: u32| match rotation {
        0 => dir.path().join(name),
        _ => dir.path().join(format!("{name}.{rotation}")),
    };
    for rotation in 0..=12 {
        std::fs::write(path(rotation), line(12 - rotation)).unwrap();
    }
    let inputs = match name {
        "audit.log" => host_logs(Some(&path(0))).unwrap(),
        _ => expand(&[dir.path().to_owned()]).0,
    };
    for rotation in (0..=12).rev() {
        std::fs::rename(path(rotation), path(rotation + 1)).unwrap();
    }
    std::fs::write(path(0), line(13)).unwrap();
    if packed {
        // No file has the name or the inode of the original.
        std::fs::rename(path(1), dir.path().join("packed")).unwrap();
        std::fs::write(dir.path().join(format!("{name}.1.gz")), "").unwrap();
        std::fs::remove_file(dir.path().join("packed")).unwrap();
    }
    let (mut macs, options) = (Vec::new(), ReadOptions::default());
    let outcome = read(inputs, options, &mut |entry| {
        macs.push(summary(entry).1);
        ControlFlow::Continue(())
    });
    // Lines that are shown as proof come from the file that was read under that name.
    let shown = |rotation| {
        let name = path(rotation);
        let identity = *outcome.identities.get(name.to_str().unwrap()).unwrap();
        let mut lines = BTreeMap::from([(1, None)]);
        read_lines(&name, Some(identity), &mut lines).map(|()| lines.remove(&1).unwrap().unwrap())
    };
    assert_eq!(shown(4).unwrap(), line(8).trim_end().as_bytes());
    assert_eq!(shown(0).is_err(), packed, "{:?}", shown(0));
    (macs, outcome)
}

// Shows 10.48.
#[test]
fn a_log_that_is_rotated_once_its_files_are_opened_is_read_whole() {
    let audit = |number: u32| audit(number * 1000, number + 1, u8::try_from(number).unwrap());
    let syslog = |number: u32| syslog(number, u8::try_from(number).unwrap());
    for packed in [false, true] {
        for (name, line) in [("audit.log", audit as fn(u32) -> String), ("syslog", syslog)] {
            let (macs, outcome) = read_rotated(name, line, packed);
            assert_eq!(macs, Vec::from_iter(0..=12), "{name} {packed}");
            assert!(outcome.failed.is_empty() && outcome.input.duplicates == 0, "{name} {packed}");
        }
    }
}

/// A line of no guest.
fn other(seconds: u32, serial: u32) -> String {
    format!("type=USER_LOGIN msg=audit(1795460{seconds:03}.000:{serial}): pid=1 uid=0 auid=0 ses=0 msg='x'\n")
}

// Pieces of a log that were read separately can be joined by these numbers.
#[test]
fn each_log_has_the_range_of_its_serial_numbers() {
    let logs = [
        other(0, 100) + &audit(1000, 101, 1) + &other(2, 103) + &other(2, 102),
        other(3, 104) + &other(900, 5),
        audit(1500, 101, 1),
        syslog(1, 1),
    ];
    let ranges = |log: &String| {
        let ranges = merge(std::slice::from_ref(log)).outcome.serials;
        ranges.iter().map(|range| (range.first, range.last, range.all_events)).collect::<Vec<_>>()
    };
    assert_eq!(ranges(&logs[0]), [(100, 103, true)]);
    assert_eq!(ranges(&logs[1]), [(104, 5, true)]);
    assert_eq!(ranges(&logs[2]), [(101, 101, false)], "a selection");
    assert_eq!(ranges(&logs[3]), [], "a log without numbers");
    // Two hosts in one log, each with its own.
    let node = |host: &str, line: String| format!("node={host} {line}");
    let both = node("a", other(0, 7)) + &node("b", other(0, 900)) + &node("a", other(1, 8));
    let outcome = merge(&[both]).outcome;
    let of: Vec<_> = outcome.serials.iter().map(|range| (&*range.host, range.first, range.last)).collect();
    assert_eq!(of, [("a", 7, 8), ("b", 900, 900)]);
    let journal = "{\"__REALTIME_TIMESTAMP\":\"1795460022001000\",\"_TRANSPORT\":\"audit\",\"_AUDIT_TYPE\":\"2501\",\
                   \"_AUDIT_ID\":\"77\",\"MESSAGE\":\"VIRT_RESOURCE pid=9 uid=0 msg='";
    let journal = format!("{journal}{}'\"}}\n", text(1).replace('"', "\\\""));
    assert_eq!(ranges(&journal), [(77, 77, false)], "a journal");
}
