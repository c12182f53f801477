//! Entries keep the lines that they were read from, if that is asked for.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use taptrail_source::{Input, ReadOptions, read};
use taptrail_trail::{Content, Entry, GapReason};

const UUID: &str = "f3607ac8-f517-4952-b61c-b19b40f99661";

fn entries(paths: &[PathBuf], keep_text: bool) -> Vec<Entry> {
    let inputs = paths.iter().cloned().map(Input::File).collect();
    let options = ReadOptions { keep_text, ..ReadOptions::default() };
    let mut entries = Vec::new();
    let outcome = read(inputs, options, &mut |entry| {
        entries.push(entry.clone());
        ControlFlow::Continue(())
    });
    assert!(outcome.failed.is_empty() && outcome.refused.is_none(), "{:?}", outcome.failed);
    entries
}

fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn entries_of(log: &[u8]) -> Vec<Entry> {
    let dir = tempfile::tempdir().unwrap();
    entries(&[file(dir.path(), "audit.log", log)], true)
}

fn record(serial: u32, name: &str) -> String {
    format!(
        "type=VIRT_CONTROL msg=audit(1795460022.{serial:03}:{serial}): pid=26265 uid=0 auid=4294967295 ses=4294967295 \
         msg='virt=kvm op=start reason=booted vm={name} uuid={UUID} vm-pid=27323 exe=\"/usr/sbin/libvirtd\" \
         hostname=? addr=? terminal=? res=success'"
    )
}

/// The logs of real libvirts.
fn real_logs() -> Vec<PathBuf> {
    let mut logs = Vec::new();
    let mut dirs = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data"))];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                dirs.push(path);
            } else if name.ends_with(".log") {
                logs.push(path);
            }
        }
    }
    logs
}

#[test]
fn each_entry_of_real_logs_has_its_own_line() {
    let (mut lines, mut opens) = (0_u32, 0_u32);
    for path in real_logs() {
        let bytes = std::fs::read(&path).unwrap();
        let all: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
        for entry in entries(std::slice::from_ref(&path), true) {
            let line = all[usize::try_from(entry.line).unwrap() - 1];
            let Some(text) = entry.text else {
                // Only what follows from no line has none.
                assert!(matches!(entry.content, Content::Gap(_)), "{}: {:?}", path.display(), entry.content);
                continue;
            };
            // A gap before a kernel's open has the lines of that.
            let own: Vec<_> = text.split(|byte| *byte == b'\n').collect();
            let is_open = matches!(entry.content, Content::KernelOpen(_));
            let is_gap = matches!(entry.content, Content::Gap(_));
            assert!(own.contains(&line), "{}:{}", path.display(), entry.line);
            assert!(if is_gap { own.len() <= 2 } else { own.len() == 1 + usize::from(is_open) });
            assert!(own.len() == 1 || own.iter().all(|line| all.contains(line)));
            lines += u32::from(!is_open);
            opens += u32::from(is_open);
        }
    }
    assert!(lines > 1000 && opens > 20, "{lines} {opens}");
}

#[test]
fn what_is_read_is_the_same_with_and_without_text() {
    for path in real_logs() {
        let path = [path];
        let without = entries(&path, false);
        assert!(without.iter().all(|entry| entry.text.is_none()));
        let mut with = entries(&path, true);
        with.iter_mut().for_each(|entry| entry.text = None);
        assert_eq!(with, without, "{}", path[0].display());
    }
}

// An archive may hold nothing but the text.
#[test]
fn a_kernel_open_is_read_again_from_its_text() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/data/libvirt/libvirt-9.0-kernel-rules/02-macvtap/audit.log"
    );
    let opens = entries(&[path.into()], true);
    let opens: Vec<_> =
        opens.iter().filter(|entry| matches!(entry.content, Content::KernelOpen(_))).collect();
    assert!(!opens.is_empty());
    for open in opens {
        let again = entries_of(open.text.as_deref().unwrap());
        let again: Vec<_> = again.iter().map(|entry| (&entry.content, entry.time, entry.serial)).collect();
        assert_eq!(again, [(&open.content, open.time, open.serial)]);
    }
}

#[test]
fn bytes_that_are_not_utf_8_and_the_end_of_a_line_are_kept() {
    let mut first = record(1, "\"w\u{e9}b\"").replace('\u{e9}', "#").into_bytes();
    let at = first.iter().position(|byte| *byte == b'#').unwrap();
    first[at] = 0xE9;
    first.push(b'\r');
    let second = record(2, "\"b\"").into_bytes();
    let found = entries_of(&[&first[..], b"\n", &second].concat());
    let texts: Vec<_> = found.iter().map(|entry| entry.text.as_deref().unwrap().to_vec()).collect();
    assert_eq!(texts, [first, second]);
}

#[test]
fn a_compressed_log_has_its_lines() {
    let dir = tempfile::tempdir().unwrap();
    let line = record(1, "\"w\"");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(format!("{line}\n").as_bytes()).unwrap();
    let found = entries(&[file(dir.path(), "audit.log.1.gz", &packed.finish().unwrap())], true);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].text.as_deref(), Some(line.as_bytes()));
}

#[test]
fn of_an_event_in_two_logs_the_text_is_of_the_log_that_the_entry_names() {
    let dir = tempfile::tempdir().unwrap();
    let line = record(1, "\"w\"");
    let (_, message) = line.split_once(": ").unwrap();
    let syslog = format!("2026-11-23T18:53:42Z ? audit[26265]: VIRT_CONTROL {message}");
    for order in [["audit.log", "syslog"], ["syslog", "audit.log"]] {
        let paths = order.map(|name| {
            let text = if name == "syslog" { &syslog } else { &line };
            file(dir.path(), name, format!("{text}\n").as_bytes())
        });
        let found = entries(&paths, true);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].source.ends_with("audit.log") && found[0].copies.len() == 1);
        assert_eq!(found[0].text.as_deref(), Some(line.as_bytes()));
    }
}

#[test]
fn a_gap_has_the_line_that_shows_it() {
    let (first, second) = (record(1, "\"w\""), record(9, "\"w\""));
    let found = entries_of(format!("{first}\n{second}\n").as_bytes());
    let gap = found
        .iter()
        .find(|entry| matches!(&entry.content, Content::Gap(gap) if gap.why == GapReason::NeverWritten));
    let gap = gap.unwrap();
    assert_eq!((gap.line, gap.text.as_deref()), (2, Some(second.as_bytes())));
}

#[test]
fn a_line_longer_than_any_record_is_read_and_not_kept() {
    let entry = |padding: usize| {
        let message = record(1, "\"w\"");
        let (_, message) = message.split_once(": ").unwrap();
        format!(
            "{{\"__REALTIME_TIMESTAMP\":\"1795460022001000\",\"_TRANSPORT\":\"audit\",\"_AUDIT_TYPE\":\"2500\",\
             \"_AUDIT_ID\":\"1\",\"PADDING\":\"{}\",\"MESSAGE\":{}}}",
            "x".repeat(padding),
            serde_json::to_string(&format!("VIRT_CONTROL {message}")).unwrap()
        )
    };
    for (padding, is_kept) in [(60_000, true), (70_000, false)] {
        let line = entry(padding);
        let found = entries_of(format!("{line}\n").as_bytes());
        assert_eq!(found.len(), 1, "{padding}");
        assert!(matches!(found[0].content, Content::Record(_)));
        assert_eq!(found[0].text.as_deref(), is_kept.then_some(line.as_bytes()));
    }
}
