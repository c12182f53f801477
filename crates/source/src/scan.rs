//! Finds and parses the few relevant lines of a piece.

use std::num::NonZero;

use aho_corasick::packed::Searcher;
use bstr::ByteSlice as _;
use memchr::{memchr_iter, memmem};
use taptrail_trail::Content;

use crate::feed::{MAX_LINE_BYTES, Piece};
use crate::kernel;
use crate::parsed_line::{LineTime, ParsedLine};
use crate::runs::{Run, RunCollector};
use crate::shape::{self, Unreadable};

/// The result of parsing one piece.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Parsed lines, each with its line number in the piece, from 0.
    pub(crate) found: Vec<(u64, ParsedLine)>,
    /// Lines that should be records and can't be parsed, likewise.
    pub(crate) unreadable: Vec<(u64, Unreadable)>,
    /// The kernel's serial numbers in the lines of an audit log.
    pub(crate) runs: Vec<Run>,
    /// Whether an audit log has lines of other types than `VIRT_…`.
    pub(crate) others: bool,
    /// Number of lines that look like a guest's record, but have an unknown shape or an untrusted
    /// writer.
    pub(crate) unread: u64,
    /// The first of them, likewise.
    pub(crate) first_unread: Option<u64>,
    /// The line numbers of both kinds, likewise; of many, the first ones and the last.
    pub(crate) unparsed: Vec<u64>,
    /// Number of lines that begin in the piece.
    pub(crate) lines: u64,
    /// The line number from which `found` counts, if not from the end of the batch before.
    pub(crate) before: Option<u64>,
    /// Input bytes that it accounts for.
    pub(crate) bytes: u64,
}

/// Maximum length of `unparsed`.
const MAX_UNPARSED: usize = 256;

impl Batch {
    /// Adds the result of a line. An unknown line is counted only if it looks like a record.
    pub(crate) fn push(&mut self, line: u64, result: Result<Option<ParsedLine>, Unreadable>) {
        if result.is_err() {
            self.unparsed.truncate(MAX_UNPARSED - 1);
            self.unparsed.push(line);
        }
        match result {
            Ok(Some(found)) => self.found.push((line, found)),
            Ok(None) => {}
            Err(Unreadable::Unknown) => {
                self.unread += 1;
                self.first_unread.get_or_insert(line);
            }
            Err(error) => self.unreadable.push((line, error)),
        }
    }
}

/// How an input is scanned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scanning {
    /// Number of threads.
    pub(crate) threads: NonZero<usize>,
    /// Whether records of other resources than network devices are relevant.
    pub(crate) resources: bool,
    /// Whether the text of each relevant line is kept.
    pub(crate) keep_text: bool,
}

/// The first letters of the types that [`Scanner::interest`] looks further into. `PATH` is apart.
const RELEVANT_TYPES: [&[u8; 4]; 7] = [b"VIRT", b"UNKN", b"AVC ", b"ANOM", b"SYST", b"CONF", b"DAEM"];

/// Finds the relevant lines in one pass.
///
/// An audit log has about a hundred lines for each line of a guest, so most of the time is spent
/// here.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// Each relevant line that is not raw audit contains one of these strings.
    marks: Option<Searcher>,
    rdev: memmem::Finder<'static>,
    /// The record of a host's device that a guest got or gave up has this.
    host_devices: memmem::Finder<'static>,
    /// An `AVC` record of a raw network device contains one of these strings.
    devices: Option<Searcher>,
    resources: bool,
    keep_text: bool,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        let marks = [
            // Names of record types, in text and journals; and libvirt's own log.
            "VIRT_",
            "virt=",
            "\"virt_",
            "resrc=net",
            "SYSTEM_BOOT",
            // The same types as numbers.
            "type=25",
            "TYPE\":\"25",
            "TYPE\": \"25",
            "TYPE\" : \"25",
            "TYPE=25",
            "AUDIT25",
            "audit-25",
            "UNKNOWN[25",
            "=1127",
            "\"1127\"",
            "AUDIT1127",
            "audit-1127",
            "[1127",
            // libvirt's own log in early versions, which had no `virt=`.
            "success=yes",
            "success=no",
            "send audit",
            // A journal's JSON writes text that is not UTF-8 as an array of bytes.
            "MESSAGE\":[",
            "MESSAGE\" : [",
            // The kernel's own records of an open(2).
            "rdev=0a:c8",
            "rdev=0a:ee",
            "dev/tap",
            // A fatal signal.
            "ANOM_ABEND",
            "=1701",
            "\"1701\"",
            "AUDIT1701",
            "audit-1701",
            "[1701",
            // A device that a security module refused.
            "dev/net/tun",
            "dev/vhost-net",
            "=\"tun\"",
            "=\"tap",
            "=\"vhost-net\"",
            // The same in a journal's JSON.
            "=\\\"tun\\\"",
            "=\\\"tap",
            "=\\\"vhost-net\\\"",
            "tun_socket",
            // Messages about lost records.
            "callbacks supp",
            "audit_lost=",
            "audit_backlog=",
            "limit exceeded",
            "queue overflow",
            "memory in audit_",
            "audit_enabled=",
            "DAEMON_",
            "Audit daemon",
            "dropping event",
            "queue full",
            "event lost",
            "kernel messages",
            "messages from ",
            "to rate-limiting",
            "messages dropped",
            // A boot.
            "Linux version ",
            "-- Boot ",
            "-- Reboot",
        ];
        let devices = ["/tun\"", "\"tun\"", "tun_socket", "/tap", "\"tap", "vhost-net"];
        Self {
            marks: Searcher::new(marks),
            rdev: memmem::Finder::new(b" rdev="),
            host_devices: memmem::Finder::new(b"resrc=dev "),
            devices: Searcher::new(devices),
            resources: false,
            keep_text: false,
        }
    }

    /// Also finds the records of other resources than network devices.
    pub(crate) fn with_resources(self, resources: bool) -> Self {
        Self { resources, ..self }
    }

    /// Also keeps the text of each relevant line.
    pub(crate) fn with_text(self, keep_text: bool) -> Self {
        Self { keep_text, ..self }
    }

    /// Parses all lines of a piece.
    pub(crate) fn scan(&self, piece: &Piece) -> Batch {
        let (bytes, begin) = piece.lines();
        Batch { bytes: piece.size, ..self.lines(bytes, begin) }
    }

    /// Parses all lines of `bytes` from `begin` on; the bytes before are context.
    pub(crate) fn lines(&self, bytes: &[u8], begin: usize) -> Batch {
        let mut batch = Batch::default();
        let mut runs = RunCollector::default();
        let mut start = begin;
        for newline in memchr_iter(b'\n', &bytes[begin..]) {
            let end = begin + newline;
            let line = &bytes[start..end];
            if self.is_irrelevant(line) && runs.take_usual(line) {
                // Nearly all lines end here.
                batch.lines += 1;
            } else {
                self.line(bytes, start, end, &mut runs, &mut batch);
            }
            start = end + 1;
        }
        if start < bytes.len() {
            self.line(bytes, start, bytes.len(), &mut runs, &mut batch);
        }
        (batch.runs, batch.others) = runs.finish();
        batch
    }

    /// Parses the line `bytes[start..end]`; the bytes before it are context.
    fn line(&self, bytes: &[u8], start: usize, end: usize, runs: &mut RunCollector, batch: &mut Batch) {
        let number = batch.lines;
        batch.lines += 1;
        let line = &bytes[start..end];
        let is_numbered = line.starts_with(b"type=") || line.starts_with(b"node=");
        let interest = self.interest(line);
        if interest == Interest::None && line.len() < MAX_LINE_BYTES {
            if is_numbered {
                runs.take(line, number);
            }
            return;
        }
        let result = match interest {
            _ if line.len() >= MAX_LINE_BYTES => Err(Unreadable::TooLong { max: MAX_LINE_BYTES }),
            Interest::None => Ok(None),
            Interest::Record => match shape::line(line) {
                Ok(None) if self.resources => shape::resource(line),
                Ok(None) if self.host_devices.find(line).is_some() => Ok(host_pci(line)),
                result => result,
            },
            // A guest's name may make its record look like a `PATH` record.
            Interest::Path => kernel::open(bytes, start, end, self.keep_text)
                .map_or_else(|| shape::line(line), |open| Ok(Some(open))),
        };
        let result = match result {
            Ok(Some(found)) if self.keep_text && found.text.is_none() => Ok(Some(found.with_text(line))),
            result => result,
        };
        // The serial number of an unreadable record counts as missing.
        let is_none = matches!(result, Err(Unreadable::Unknown)) && !shape::resembles_record(line);
        if is_numbered && (is_none || result.is_ok()) {
            runs.take(line, number);
        }
        match result {
            _ if is_none => {}
            Ok(Some(found)) if found.content == Content::Boot && found.when == LineTime::Unknown => {
                let when = bytes.get(end + 1..).map_or(LineTime::Unknown, time_after);
                batch.push(number, Ok(Some(ParsedLine { when, ..found })));
            }
            result => batch.push(number, result),
        }
    }

    /// Whether the first bytes of a raw audit line without a host show that it is irrelevant. Unlike
    /// [`Self::interest`] it makes no jump that depends on the type: types change from line to line,
    /// so the processor can't predict such jumps.
    #[inline]
    fn is_irrelevant(&self, line: &[u8]) -> bool {
        let Some((b"type=", kind)) = line.split_first_chunk() else { return false };
        let Some(front) = kind.first_chunk::<4>() else { return false };
        let is_any = RELEVANT_TYPES.iter().fold(false, |is_any, name| is_any | (front == *name));
        if is_any | !front[0].is_ascii_uppercase() | (line.len() >= MAX_LINE_BYTES) {
            return false;
        }
        front != b"PATH" || (kind.starts_with(b"PATH ") && self.path_interest(kind) == Interest::None)
    }

    fn interest(&self, line: &[u8]) -> Interest {
        let kind = match line {
            [b't', b'y', b'p', b'e', b'=', kind @ ..] => kind,
            [b'n', b'o', b'd', b'e', b'=', rest @ ..] => match rest.split_once_str(b" type=") {
                Some((_, kind)) => kind,
                None => return self.other(line),
            },
            _ => return self.other(line),
        };
        let begins = |name: &[u8]| kind.starts_with(name);
        match kind.first() {
            Some(b'V') if begins(b"VIRT_") => Interest::Record,
            Some(b'U') if begins(b"UNKNOWN[") => Interest::Record,
            Some(b'A') if begins(b"AVC ") => self.denial_interest(kind),
            Some(b'A') if begins(b"ANOM_ABEND ") => Interest::Record,
            Some(b'S') if begins(b"SYSTEM_BOOT ") => Interest::Record,
            Some(b'C') if begins(b"CONFIG_CHANGE ") => Interest::Record,
            Some(b'D') if begins(b"DAEMON_") => Interest::Record,
            Some(b'1') if begins(b"1302 ") => self.path_interest(kind),
            Some(b'1' | b'2') => Interest::Record,
            Some(b'P') if begins(b"PATH ") => self.path_interest(kind),
            Some(byte) if byte.is_ascii_uppercase() => Interest::None,
            // No record type begins like this.
            _ => self.other(line),
        }
    }

    /// A line of any shape but raw audit.
    fn other(&self, line: &[u8]) -> Interest {
        if self.marks.as_ref().is_some_and(|marks| marks.find(line).is_none()) {
            return Interest::None;
        }
        let path = [&b"type=PATH "[..], b"type=1302 "].iter().find_map(|kind| memmem::find(line, kind));
        match path.map(|at| self.path_interest(&line[at..])) {
            Some(Interest::Path) => Interest::Path,
            _ => Interest::Record,
        }
    }

    /// Whether an `AVC` record may be of a raw network device: some hosts have very many.
    fn denial_interest(&self, record: &[u8]) -> Interest {
        let is_device = self.devices.as_ref().is_none_or(|devices| devices.find(record).is_some());
        if is_device { Interest::Record } else { Interest::None }
    }

    /// Whether a `PATH` record may be of a raw network device: by its device number, or for a
    /// macvtap, whose number varies, by its name.
    fn path_interest(&self, record: &[u8]) -> Interest {
        let Some(at) = self.rdev.find(record) else { return Interest::None };
        let number = &record[at + " rdev=".len()..];
        let fixed = number.starts_with(b"0a:c8") || number.starts_with(b"0a:ee");
        let device = !number.starts_with(b"00:00");
        if fixed || device && memmem::find(&record[..at], b"name=\"/dev/tap").is_some() {
            Interest::Path
        } else {
            Interest::None
        }
    }
}

/// The time of the first line that has one, up to the next boot.
fn time_after(bytes: &[u8]) -> LineTime {
    // In the kernel's log, many lines come before the first record, which alone has a date. The
    // search ends at the next boot, so that it never takes long.
    let bytes = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    for line in bytes.split(|&byte| byte == b'\n') {
        if let Some(when) = shape::first_time(line) {
            return when;
        }
        if line.starts_with(b"-- ") || memmem::find(line, b"Linux version ").is_some() {
            break;
        }
    }
    LineTime::Unknown
}

/// The relevance of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interest {
    /// Not relevant.
    None,
    /// It may be a record, or contain one.
    Record,
    /// It may be the `PATH` record of an open(2), which names the device.
    Path,
}

/// The record of a host's PCI device that a guest got or gave up: it may be a network card.
fn host_pci(line: &[u8]) -> Option<ParsedLine> {
    let found = shape::resource(line).ok()??;
    matches!(&found.content, Content::Resource(change) if change.host_pci().is_some()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_are_looked_for_all_at_once() {
        let Scanner { marks, devices, .. } = Scanner::new();
        assert!(marks.is_some() && devices.is_some(), "too many for this processor: all lines would be read");
    }

    #[test]
    fn a_line_found_irrelevant_by_its_first_bytes_is_of_no_interest() {
        let scanner = Scanner::new();
        let tails = [
            " msg=audit(1795460022.944:2592): item=0 name=\"/dev/tap3\" rdev=fc:03 nametype=NORMAL",
            " msg=audit(1795460022.944:2592): item=0 name=\"/dev/net/tun\" rdev=0a:c8 nametype=NORMAL",
            " msg=audit(1795460022.944:2592): item=0 name=\"/etc\" rdev=00:00 nametype=NORMAL",
            " msg=audit(1795460022.944:2592): pid=1 dev=\"tun\"",
            "",
        ];
        let names = [
            "VIRT_CONTROL",
            "UNKNOWN[1127]",
            "AVC",
            "ANOM_ABEND",
            "SYSTEM_BOOT",
            "CONFIG_CHANGE",
            "DAEMON_START",
            "1127",
            "2501",
            "1302",
            "PATH",
            "PAT",
            "PATHS",
            "SYSCALL",
            "SYSTEM_RUNLEVEL",
            "CWD",
            "A",
            "AVC_PATH",
            "VIR",
            "CONFIG",
            "EOE",
            "virt",
            "",
            "ANOM_PROMISCUOUS",
        ];
        let mut irrelevant = Vec::new();
        for name in names {
            for front in ["type=", "node=a type=", "Type="] {
                let lines = tails.map(|tail| format!("{front}{name}{tail}"));
                let is_none = lines.iter().filter(|line| scanner.is_irrelevant(line.as_bytes()));
                let is_none: Vec<&String> = is_none.collect();
                assert!(is_none.iter().all(|line| scanner.interest(line.as_bytes()) == Interest::None));
                if !is_none.is_empty() {
                    irrelevant.push((name, is_none.len()));
                }
            }
        }
        let all = ["SYSCALL", "CWD", "AVC_PATH"];
        assert!(all.iter().all(|name| irrelevant.iter().any(|(of, _)| of == name)), "{irrelevant:?}");
        assert!(irrelevant.contains(&("PATH", 2)), "{irrelevant:?}");
    }
}
