//! Lines that real programs wrote.

use bstr::ByteSlice as _;
use taptrail_record::{DeviceKind, Event, Outcome};
use taptrail_trail::Content;

use super::{exported, line, lines, logs, moment, parsed};
use crate::parsed_line::{LineTime, LogProgram, ParsedLine};
use crate::shape::{Export, Unreadable, first_time};

/// Journals made by systemd 252's `systemd-journal-remote` from records of `01-bridge-tap` and from
/// messages of programs, as printed by `journalctl`. One record has a guest's name of 5,000 bytes.
const JSON: &[u8] = include_bytes!("../testdata/journal.json");
const EXPORT: &[u8] = include_bytes!("../testdata/journal.export");
const SHORT: &[u8] = include_bytes!("../testdata/journal.short");

fn bridge() -> Vec<ParsedLine> {
    let mut logs = logs("audit.log").into_iter();
    let (_, log) = logs.find(|(path, _)| path.ends_with("libvirt-9.0/01-bridge-tap/audit.log")).unwrap();
    parsed(&log)
}

/// A record as it is read from that journal.
fn of_journal(found: &ParsedLine, program: LogProgram) -> ParsedLine {
    let boot = Some(0xa0a1_a2a3_a4a5_a6a7_a8a9_aaab_acad_aeaf);
    ParsedLine { host: Some("host1".into()), program, boot, ..found.clone() }
}

#[test]
fn lines_from_bug_reports_are_read_as_they_were_there() {
    let log =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/libvirt/wild.log")).unwrap();
    let lines: Vec<_> = lines(&log).map(line).map(Result::unwrap).collect();
    assert_eq!(lines.len(), 6);

    let journal = lines[0].as_ref().unwrap();
    assert!(matches!(journal.when, LineTime::Yearless(_)));
    assert_eq!((journal.host.as_deref(), journal.writer), (Some("host1"), Some(385_946)));
    assert_eq!(moment(journal.when).to_string(), "2026-05-12T12:48:00Z");
    let Content::Record(record) = &journal.content else { panic!("{journal:?}") };
    assert_eq!((record.guest.name.as_str(), record.outcome), ("rhel-10-beta", Outcome::Success));
    assert!(matches!(record.event, Event::Start { .. }));

    assert_eq!(lines[1], None, "a USB device");

    for (found, kind) in [(&lines[2], DeviceKind::Tun), (&lines[3], DeviceKind::VhostNet)] {
        let found = found.as_ref().unwrap();
        let Content::Unsent(fragment) = &found.content else { panic!("{found:?}") };
        assert_eq!(fragment.name.as_deref(), Some("instance-000003b1"));
        assert_eq!(fragment.mac.unwrap().to_string(), "fa:16:3e:b9:9b:ec");
        assert_eq!(fragment.device.as_ref().unwrap().kind, kind);
        assert_eq!((found.writer, found.serial), (None, None));
    }
    assert_eq!(moment(lines[2].as_ref().unwrap().when).to_string(), "2014-01-20T19:08:38.578Z");

    let interpreted = lines[4].as_ref().unwrap();
    assert_eq!((interpreted.serial, interpreted.writer), (Some(6471), Some(1265)));
    assert_eq!(moment(interpreted.when).to_string(), "2014-08-05T17:01:05.891Z");
    let Content::Record(record) = &interpreted.content else { panic!("{interpreted:?}") };
    assert_eq!(record.guest.name, "vm1");
    assert!(matches!(record.event, Event::GuestStart { vm_pid: Some(22527), .. }));

    let Content::Foreign { exe } = &lines[5].as_ref().unwrap().content else { panic!("{:?}", lines[5]) };
    assert_eq!(exe, "/usr/bin/dockerd-current");
}

/// Both formats of the sample, entry by entry.
fn entries() -> [Vec<Option<Result<ParsedLine, Unreadable>>>; 2] {
    let json = lines(JSON).map(|object| line(object).transpose()).collect();
    let mut by_line: Vec<_> = exported(EXPORT, 100);
    let mut export = Vec::new();
    for (number, text) in (1..).zip(EXPORT.split(|&byte| byte == b'\n')) {
        if text.starts_with(b"__CURSOR=") {
            let parsed = by_line.iter().position(|(line, _)| *line == number);
            let parsed = parsed.map(|at| by_line.remove(at).1);
            export.push(parsed.filter(|parsed| *parsed != Err(Unreadable::Unknown)));
        }
    }
    assert_eq!(by_line, []);
    [json, export]
}

#[test]
fn a_real_journal_gives_the_records_that_it_was_made_of() {
    let bridge = bridge();
    for (format, entries) in ["json", "export"].into_iter().zip(entries()) {
        assert_eq!(entries.len(), 14, "{format}");
        let records: Vec<_> = entries[..6].iter().map(|entry| entry.clone().unwrap().unwrap()).collect();
        assert_eq!(bridge.len(), records.len());
        for (expect, got) in bridge.iter().zip(&records) {
            assert_eq!(got, &of_journal(expect, LogProgram::Journald), "{format}");
        }
    }
}

#[test]
fn what_journalctl_withholds_is_a_record_cut_off() {
    let [json, export] = entries();
    let (json, export) = (json[6].clone().unwrap().unwrap(), export[6].clone().unwrap().unwrap());
    let Content::Record(whole) = &export.content else { panic!("{export:?}") };
    assert_eq!(whole.guest.name.len(), 5000);
    let Content::Truncated(cut) = &json.content else { panic!("{json:?}") };
    assert_eq!((cut.name.as_deref(), cut.uuid), (None, Some(whole.guest.uuid)));
    assert_eq!((cut.mac, cut.device.as_ref()), (whole.event.mac(), whole.event.device()));
    assert_eq!((json.when, json.serial, json.writer), (export.when, export.serial, Some(26265)));
}

#[test]
fn a_real_journal_is_believed_where_its_own_fields_say_who_wrote() {
    let bridge = bridge();
    for entries in entries() {
        let dispatched = entries[7].clone().unwrap().unwrap();
        assert_eq!(dispatched, of_journal(&bridge[0], LogProgram::Dispatcher));
        assert_eq!(entries[8], None, "logger said that it is audispd");
        assert_eq!(entries[9], None, "two messages in one entry: the writer is not known");

        let manager = entries[10].clone().unwrap().unwrap();
        assert_eq!((&manager.content, manager.writer), (&bridge[0].content, Some(4711)));
        assert_eq!(moment(manager.when).to_string(), "2026-11-23T19:00:00.003Z");
        assert_eq!(entries[11], None, "a user's libvirtd");
        let unsent = entries[12].clone().unwrap().unwrap();
        assert!(matches!(unsent.content, Content::Unsent(_)), "{unsent:?}");
        let stderr = entries[13].clone().unwrap().unwrap();
        assert_eq!(stderr.content, bridge[0].content);
        assert_eq!(moment(stderr.when).to_string(), "2026-11-23T18:52:59.652Z");
    }
}

#[test]
fn a_real_journals_text_gives_its_records() {
    let bridge = bridge();
    let found = parsed(SHORT);
    for (expect, got) in bridge.iter().zip(&found) {
        assert_eq!((&expect.content, expect.writer), (&got.content, got.writer));
        assert!(matches!(got.when, LineTime::Yearless(_)));
    }
    // Text that journalctl prints as "[334B blob data]" is lost, and so are the fields that show
    // who wrote an entry.
    assert_eq!(found.len(), bridge.len() + 1 + 4);
}

#[test]
fn the_first_time_is_found_in_any_shape() {
    let expect = moment(bridge()[0].when);
    for log in [JSON, EXPORT, SHORT] {
        let first = lines(log).find_map(first_time).map(moment).unwrap();
        assert_eq!(first.as_second(), expect.as_second());
    }
    assert!(Export::is_begun_by(EXPORT) && !Export::is_begun_by(JSON) && !Export::is_begun_by(SHORT));
    for (_, log) in logs("libvirtd.log").into_iter().chain(logs("audit.log")) {
        let first = first_time(&log[..log.find_byte(b'\n').unwrap()]).map(moment).unwrap();
        assert!(first.to_string().starts_with("2026-11-"), "{first}");
    }
    for (line, time) in [
        ("type=SYSCALL msg=audit(1795460308.832:3184): arch=c000003e", "2026-11-23T18:58:28.832Z"),
        ("node=h type=CWD msg=audit(11/23/26 18:58:28.832:3184) : cwd=/", "2026-11-23T18:58:28.832Z"),
        ("audispd: type=CWD msg=audit(1795460308.832:3184): cwd=/", "2026-11-23T18:58:28.832Z"),
        ("Nov 23 18:58:28 h sshd[1]: no record", "2026-11-23T18:58:28Z"),
        ("2026-11-23 18:58:28.829+0000: 1: info : hostname: vm", "2026-11-23T18:58:28.829Z"),
    ] {
        assert_eq!(first_time(line.as_bytes()).map(moment).unwrap().to_string(), time, "{line}");
    }
    for line in
        ["", "----", "type=CWD", "type=CWD msg=audit(", "type=CWD msg=audit(x:1): y", "{", "{}", "hello"]
    {
        assert_eq!(first_time(line.as_bytes()), None, "{line}");
    }
}
