//! auditd's log read line by line: just enough of it for the logs in `tests/data/libvirt`.

use std::path::Path;

use jiff::Timestamp;
use taptrail_record::{KernelOpen, Line, PathRecord, Syscall};
use taptrail_trail::{Content, Entry};

/// The records of guests in one log, and the kernel's events of opens.
pub(crate) fn entries(log: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(log).unwrap();
    let mut entries = Vec::new();
    let mut open = None;
    for (number, bytes) in (1..).zip(bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())) {
        let line = Line::parse(bytes).unwrap();
        if let Some(syscall) = Syscall::of(&line) {
            open = Some((line.stamp, syscall));
        }
        let mut writer = line.pid;
        let content = match (PathRecord::of(&line), &open) {
            (Some(path), Some((stamp, syscall))) if *stamp == line.stamp => {
                writer = Some(syscall.pid);
                KernelOpen::join(syscall, &path).map(Content::KernelOpen)
            }
            _ => line.record().unwrap().map(Content::Record),
        };
        let Some(content) = content else { continue };
        let seconds = i64::try_from(line.stamp.seconds).unwrap();
        entries.push(Entry {
            host: "lab".into(),
            time: Timestamp::new(seconds, i32::from(line.stamp.millis) * 1_000_000).unwrap(),
            serial: Some(line.stamp.serial),
            writer,
            credentials: None,
            source: "audit.log".into(),
            line: number,
            content,
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
        });
    }
    entries
}
