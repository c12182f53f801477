//! Tests of all shapes together: all give the same content, and no program's text passes for
//! another's.

mod believed;
mod hostile;
mod processes;
mod real;
mod same_facts;
mod same_trail;
mod wild;

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Export, Unreadable};
use crate::parsed_line::{Clock, LineTime, ParsedLine};

/// The logs of a real libvirt, in order.
fn logs(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt");
    let mut files = Vec::new();
    for set in [
        "libvirt-11.3",
        "libvirt-11.3-virtqemud",
        "libvirt-9.0",
        "libvirt-9.0-kernel-rules",
        "libvirt-9.0-vhost",
        "libvirt-9.0-vhost-plug",
    ] {
        for case in std::fs::read_dir(data.join(set)).unwrap() {
            let path = case.unwrap().path().join(name);
            files.extend(std::fs::read(&path).ok().map(|bytes| (path, bytes)));
        }
    }
    files.sort();
    files
}

fn lines(log: &[u8]) -> impl Iterator<Item = &[u8]> {
    log.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// Parses a line; `None` if its shape is unknown.
fn line(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    match super::line(line) {
        Err(Unreadable::Unknown) => Ok(None),
        result => result,
    }
}

/// Parses a log, all lines of which are readable.
fn parsed(log: &[u8]) -> Vec<ParsedLine> {
    let line = |text| line(text).unwrap_or_else(|error| panic!("{error}: {}", shown(text)));
    lines(log).filter_map(line).collect()
}

/// Parses an export in pieces of this size.
fn exported(bytes: &[u8], piece: usize) -> Vec<(u64, Result<ParsedLine, Unreadable>)> {
    let (mut export, mut parsed) = (Export::default(), Vec::new());
    for piece in bytes.chunks(piece) {
        export.push(piece, &mut |line, found| parsed.push((line, found)));
    }
    assert_eq!(export.lines(), bytes.iter().filter(|byte| **byte == b'\n').count() as u64);
    export.finish(&mut |line, found| parsed.push((line, found)));
    parsed
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(400)]).into_owned()
}

/// The time, for a reader in UTC at the time of the logs.
fn moment(when: LineTime) -> Timestamp {
    when.resolve(&mut Clock::new(TimeZone::UTC, "2026-12-01T00:00:00Z".parse().unwrap()))
}
