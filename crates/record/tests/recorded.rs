//! Every line that was recorded from a real libvirtd, or found in public, is parsed without an
//! error.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bstr::{BString, ByteSlice as _};
use taptrail_record::{
    DeviceKind, Event, KernelOpen, Line, Outcome, PathRecord, Rdev, Record, RecordType, Stamp, Syscall,
    foreign, parse_claim, parse_interpreted, parse_text,
};

/// The folders of recorded logs.
fn folders() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt");
    let mut folders = Vec::new();
    for set in [
        "libvirt-11.3",
        "libvirt-11.3-virtqemud",
        "libvirt-12.9",
        "libvirt-9.0",
        "libvirt-9.0-kernel-rules",
        "libvirt-9.0-vhost",
        "libvirt-9.0-vhost-plug",
    ] {
        folders.extend(fs::read_dir(data.join(set)).unwrap().map(|entry| entry.unwrap().path()));
    }
    assert!(folders.len() > 20, "{folders:?}");
    folders
}

fn lines(path: &Path) -> Vec<BString> {
    fs::read(path).unwrap().lines().map(BString::from).collect()
}

fn records(path: &Path) -> BTreeMap<Stamp, Record> {
    let mut records = BTreeMap::new();
    for line in lines(path) {
        let line = Line::parse(&line).unwrap();
        if let Some(record) = line.record().unwrap() {
            assert_eq!(records.insert(line.stamp, record), None);
        }
    }
    records
}

#[test]
fn every_recorded_line_is_read_and_stays_what_it_is() {
    let mut count = 0;
    for folder in folders() {
        for (stamp, record) in records(&folder.join("audit.log")) {
            let text = record.text(Path::new("/usr/sbin/libvirtd")).unwrap();
            assert_eq!(parse_text(record.record_type(), text.as_bytes()), Ok(Some(record)), "{stamp:?}");
            count += 1;
        }
    }
    assert!(count > 400, "{count}");
}

#[test]
fn a_daemons_own_log_says_the_same_as_the_audit() {
    let mut count = 0;
    for folder in folders() {
        let log = folder.join("libvirtd.log");
        if !log.exists() {
            continue;
        }
        let mut audited = records(&folder.join("audit.log")).into_values();
        for line in lines(&log) {
            let line = line.as_bstr();
            let Some((_, claim)) = line.split_once_str(b" : success=") else { continue };
            let (outcome, text) = match claim.split_once_str(b" ").unwrap() {
                (b"yes", text) => (Outcome::Success, text),
                (b"no", text) => (Outcome::Failed, text),
                other => panic!("{other:?}"),
            };
            let Some(record) = parse_claim(text, outcome).unwrap() else { continue };

            assert!(audited.any(|audited| audited == record), "{line}");
            count += 1;
        }
    }
    assert!(count > 200, "{count}");
}

#[test]
fn ausearch_interprets_lines_into_the_same_records() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let shared = data.join("../../../../tests/data/libvirt");
    let mut files = 0;
    for entry in fs::read_dir(data.join("ausearch-i")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let raw = match stem.rsplit_once(".") {
            Some((set, folder)) => shared.join(set).join(folder).join("audit.log"),
            None => data.join("pairs.log"),
        };
        let mut records: BTreeMap<_, _> =
            records(&raw).into_iter().map(|(stamp, record)| (stamp.serial, record)).collect();
        for line in lines(&path) {
            let Some((head, text)) = line.split_once_str(b"msg='") else { continue };
            let (name, _) = head.strip_prefix(b"type=").unwrap().split_once_str(b" ").unwrap();
            let record_type = RecordType::from_name(name).unwrap();
            let text = &text[..text.rfind_byte(b'\'').unwrap()];
            let Some(record) = parse_interpreted(record_type, text).unwrap() else { continue };
            let serial = head[..head.find(b") :").unwrap()].rsplit_once_str(b":").unwrap().1;
            let serial = serial.to_str().unwrap().parse().unwrap();
            assert_eq!(Some(record), records.remove(&serial), "{line}");
        }
        assert!(records.is_empty(), "{records:?}");
        files += 1;
    }
    assert_eq!(files, 3);
}

/// The kernel's opens in a log, joined from the two records of each event.
fn kernel_opens(path: &Path) -> Vec<KernelOpen> {
    let lines = lines(path);
    let mut opens = Vec::new();
    let mut syscall = None;
    for line in &lines {
        let line = Line::parse(line).unwrap();
        if let Some(open) = Syscall::of(&line) {
            syscall = Some((line.stamp, open));
        }
        if let (Some(path), Some((stamp, open))) = (PathRecord::of(&line), &syscall)
            && *stamp == line.stamp
        {
            opens.extend(KernelOpen::join(open, &path));
        }
    }
    opens
}

#[test]
fn the_kernels_record_has_a_macvtaps_true_node() {
    let set = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt/libvirt-9.0-kernel-rules");
    let opens = kernel_opens(&set.join("02-macvtap/audit.log"));
    let macvtap: Vec<_> = opens.iter().filter(|open| open.device.kind == DeviceKind::Macvtap).collect();
    let open = macvtap[0];
    assert_eq!(
        (open.device.path.as_str(), open.device.rdev),
        ("/dev/tap198", Some(Rdev { major: 246, minor: 2 }))
    );
    assert_eq!((open.pid, open.ppid, open.fd, open.errno), (23941, Some(1), Some(30), None));
    assert_eq!(open.exe, "/usr/sbin/libvirtd");

    let all: Vec<_> = fs::read_dir(&set)
        .unwrap()
        .flat_map(|entry| kernel_opens(&entry.unwrap().path().join("audit.log")))
        .collect();
    let count = |kind| all.iter().filter(|open| open.device.kind == kind).count();
    assert_eq!((count(DeviceKind::Macvtap), count(DeviceKind::Tun), all.len()), (6, 10, 16));
}

#[test]
fn lines_found_in_public_are_read() {
    let wild = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt/wild.log");
    let mut found = Vec::new();
    for line in lines(&wild) {
        let line = line.as_bstr();
        if let Some((_, text)) = line.split_once_str(b"Failed to send audit message ") {
            let fragment = taptrail_record::Fragment::of(text.rsplit_once_str(b": ").unwrap().0);
            assert_eq!(fragment.name.as_deref(), Some("instance-000003b1"));
            assert!(fragment.uuid.is_some() && fragment.mac.is_some() && fragment.device.is_some());
            found.push("unsent".to_owned());
            continue;
        }
        let (head, text) = line.split_once_str(b"msg='").unwrap();
        let text = &text[..text.rfind_byte(b'\'').unwrap()];
        let control = head.contains_str("VIRT_CONTROL");
        let record_type = if control { RecordType::VIRT_CONTROL } else { RecordType::VIRT_RESOURCE };
        let record = if head.contains_str(") :") {
            parse_interpreted(record_type, text)
        } else {
            parse_text(record_type, text)
        };
        found.push(match record.unwrap() {
            Some(Record { event: Event::Start { .. }, guest, .. }) => format!("start {}", guest.name),
            Some(Record { event: Event::GuestStart { .. }, guest, .. }) => format!("booted {}", guest.name),
            Some(record) => panic!("{record:?}"),
            None => foreign(record_type, text).map_or("other".to_owned(), |exe| format!("foreign {exe}")),
        });
    }
    let expect =
        ["start rhel-10-beta", "other", "unsent", "unsent", "booted vm1", "foreign /usr/bin/dockerd-current"];
    assert_eq!(found, expect);
}
