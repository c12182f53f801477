//! Collects the data of a page from a picture.

use std::collections::HashMap;
use std::hash::Hash;

use compact_str::CompactString;
use jiff::Timestamp;
use taptrail_record::{Device, GuestId};
use taptrail_trail::{Coverage, FindingKind, Input, Proof, State};

use super::bar::{Bar, begin};
use super::data::{CERTAINTIES, CoverageData, DOUBTS, Data, ENDS, EvidenceData, FileData, STATES, place};
use super::evidence::{Evidence, Hash as FileHash};
use super::picture::{Mark, Picture};
use super::template::template;
use super::zone::Zone;
use super::{MAX_PAGE_LINE_BYTES, MAX_PAGE_LINES};
use crate::explain::LineReader;
use crate::style::{Style, TimeFormat};
use crate::text::{cut, escape_name, escape_text};

/// The longest raw line shown, in characters: twice what auditd writes at most.
const MAX_LINE_CHARS: usize = 16 * 1024;

/// The longest sentence and note shown, in characters.
const MAX_TEXT_CHARS: usize = 800;

/// Gives each different value a number.
#[derive(Debug)]
struct Table<K>(HashMap<K, u32>);

impl<K: Hash + Eq> Table<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// The value's number; a new value is added by `add`.
    fn number(&mut self, value: K, add: impl FnOnce()) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(value).or_insert_with(|| {
            add();
            next
        })
    }
}

/// Collects the data of a picture.
pub(super) struct Collector<'a> {
    data: Data,
    lines: &'a LineReader<'a>,
    clock: TimeFormat,
    hosts: Table<&'a str>,
    guests: Table<&'a GuestId>,
    macs: Table<taptrail_record::MacAddr>,
    devices: Table<&'a Device>,
    files: Table<&'a str>,
    told: Table<String>,
    proofs: HashMap<(u32, u64), u32>,
    raw_bytes: usize,
    raw_lines: usize,
    /// Lines whose text was not there, or was too much.
    unread_lines: usize,
    too_many_lines: usize,
}

/// The data of a page, and what was left out.
pub(super) fn collect<'a>(
    picture: &'a Picture<'a>,
    evidence: &'a Evidence,
    style: &Style,
    lines: &'a LineReader<'a>,
) -> (Data, Vec<String>) {
    let clock = TimeFormat::new(style);
    let zone = Zone::of(clock.zone(), picture.from, picture.until);
    let data = Data {
        zone: Some(zone),
        base: picture.from.as_millisecond(),
        until: picture.until.as_millisecond() - picture.from.as_millisecond(),
        counts: picture.counts,
        ..Data::default()
    };
    let mut collector = Collector {
        data,
        lines,
        clock,
        hosts: Table::new(),
        guests: Table::new(),
        macs: Table::new(),
        devices: Table::new(),
        files: Table::new(),
        told: Table::new(),
        proofs: HashMap::new(),
        raw_bytes: 0,
        raw_lines: 0,
        unread_lines: 0,
        too_many_lines: 0,
    };
    collector.all(picture);
    let mut left_out = picture.left_out.clone();
    left_out.extend(collector.left_out_lines());
    collector.data.evidence = collector.evidence(evidence, &picture.report.input, &left_out);
    (collector.data, left_out)
}

impl<'a> Collector<'a> {
    fn all(&mut self, picture: &'a Picture<'a>) {
        for row in &picture.rows {
            let host = self.host(row.host);
            let guest = row.guest.map(|guest| self.guest(guest));
            let mac = row.mac.map(|mac| self.mac(mac));
            self.data.rows.push((host, guest, mac, row.lane));
        }
        // The most important lines first: there may be too many.
        for mark in picture.marks.iter().rev() {
            mark.finding.proof.iter().for_each(|proof| _ = self.line(proof));
        }
        let mut latest: Vec<usize> = (0..picture.bars.len()).collect();
        latest.sort_by_key(|at| std::cmp::Reverse(begin(&picture.bars[*at].session)));
        for at in latest {
            let proofs = picture.bars[at].session.holdings.iter().flat_map(|of| &of.proof);
            proofs.for_each(|proof| _ = self.line(proof));
        }
        for (at, bar) in picture.bars.iter().enumerate() {
            self.bar(at, bar);
        }
        picture.marks.iter().for_each(|mark| self.mark(mark));
        for coverage in &picture.report.input.coverage {
            self.coverage(coverage);
        }
    }

    fn bar(&mut self, at: usize, bar: &Bar<'a>) {
        let session = &bar.session;
        let guest = self.guest(session.guest());
        let since = |time: Option<Timestamp>| time.map(|time| self.since(time));
        let (opened, granted, released) =
            (since(session.opened()), since(session.granted()), since(session.released()));
        let certain_from = since(bar.certain.map(|(from, _)| from));
        let certain_until = since(bar.certain.and_then(|(_, until)| until));
        let weak = bar.weak.iter();
        let weak = weak.map(|(from, until, doubt)| (at, since(*from), since(*until), place(&DOUBTS, doubt)));
        let weak: Vec<_> = weak.collect();
        self.data.weak.extend(weak);
        let begun = begin(session);
        let begun = if begun == Timestamp::MIN { 0 } else { self.since(begun) };
        let to = &mut self.data.sessions;
        to.row.push(bar.row);
        to.guest.push(guest);
        to.begin.push(begun);
        to.opened.push(opened);
        to.granted.push(granted);
        to.released.push(released);
        to.certain_from.push(certain_from);
        to.certain_until.push(certain_until);
        to.state.push(place(&STATES, &session.state()));
        to.certainty.push(place(&CERTAINTIES, &bar.certainty()));
        to.ended_by.push(session.ended_by().map(|by| place(&ENDS, &by)));
        to.unauthenticated.push(session.is_unauthenticated().into());
        to.holdings.push(session.holdings.len());
        for holding in &session.holdings {
            let device = self.device(&holding.device);
            let told = self.told(holding);
            let lines = holding.proof.iter().map(|proof| self.line(proof)).collect();
            let failed = holding.opened.filter(|_| holding.state == State::OpenFailed);
            let failed = failed.map(|time| self.since(time));
            let to = &mut self.data.holdings;
            to.device.push(device);
            to.state.push(place(&STATES, &holding.state));
            to.failed.push(failed);
            to.told.push(told);
            to.lines.push(lines);
            to.more.push((holding.proof.len() >= Proof::MAX_PROOFS).into());
        }
    }

    fn mark(&mut self, mark: &Mark<'a>) {
        let finding = mark.finding;
        let guest = finding.guest.as_ref().map(|guest| self.guest(guest));
        let mac = finding.mac.map(|mac| self.mac(mac));
        let lines = finding.proof.iter().map(|proof| self.line(proof)).collect();
        let time = self.since(finding.time);
        let to = &mut self.data.findings;
        to.row.push(mark.row);
        to.session.push(mark.bar);
        to.kind.push(place(FindingKind::ALL, &finding.kind));
        to.guest.push(guest);
        to.mac.push(mac);
        to.time.push(time);
        to.text.push(cut(&finding.text, MAX_TEXT_CHARS));
        to.lines.push(lines);
    }

    fn coverage(&mut self, coverage: &'a Coverage) {
        let host = self.host(&coverage.host);
        let range = |of: &taptrail_trail::Span| (self.since(of.from), self.since(of.until));
        let data = CoverageData {
            host,
            spans: coverage.spans.iter().map(range).collect(),
            gaps: coverage.gaps.iter().map(range).collect(),
            starts: coverage.starts.iter().map(|start| self.since(*start)).collect(),
        };
        self.data.coverage.push(data);
    }

    /// Milliseconds since the base.
    fn since(&self, time: Timestamp) -> i64 {
        time.as_millisecond() - self.data.base
    }

    fn host(&mut self, host: &'a str) -> u32 {
        self.hosts.number(host, || self.data.hosts.push(escape_name(host)))
    }

    fn guest(&mut self, guest: &'a GuestId) -> u32 {
        let add = || self.data.guests.push((escape_name(&guest.name), guest.uuid.to_string()));
        self.guests.number(guest, add)
    }

    fn mac(&mut self, mac: taptrail_record::MacAddr) -> u32 {
        self.macs.number(mac, || self.data.macs.push(mac.to_string()))
    }

    fn device(&mut self, device: &'a Device) -> u32 {
        let interface = device.dev.as_deref().map(escape_name);
        let rdev = device.rdev.map(|rdev| rdev.to_string());
        let row = || (device.kind.as_str(), escape_name(&device.path), interface, rdev);
        self.devices.number(device, || self.data.devices.push(row()))
    }

    fn told(&mut self, holding: &taptrail_trail::Holding) -> (usize, Vec<i64>) {
        let (text, mut values) = template(holding, &self.clock);
        let blanks = text.split('{').skip(1);
        for (value, blank) in values.iter_mut().zip(blanks) {
            if !blank.starts_with('p') {
                *value -= self.data.base;
            }
        }
        let number = self.told.number(text.clone(), || self.data.told.push(text));
        (number as usize, values)
    }

    /// A line's number. Its text is added where it is new, and not too much.
    fn line(&mut self, proof: &'a Proof) -> u32 {
        let file = self.files.number(&proof.source, || self.data.files.push(escape_text(&proof.source)));
        if let Some(known) = self.proofs.get(&(file, proof.line)) {
            return *known;
        }
        let number = u32::try_from(self.proofs.len()).unwrap_or(u32::MAX);
        self.proofs.insert((file, proof.line), number);
        let raw = self.raw(proof);
        let to = &mut self.data.lines;
        to.file.push(file);
        to.line.push(proof.line);
        to.serial.push(proof.serial);
        to.unauthenticated.push(proof.unauthenticated.into());
        to.raw.push(raw);
        number
    }

    fn raw(&mut self, proof: &Proof) -> Option<CompactString> {
        if self.raw_lines >= MAX_PAGE_LINES || self.raw_bytes >= MAX_PAGE_LINE_BYTES {
            self.too_many_lines += 1;
            return None;
        }
        let Some(raw) = (self.lines)(proof) else {
            self.unread_lines += 1;
            return None;
        };
        // auditd separates the names that it adds (log_format = ENRICHED) by this character.
        let raw = cut(&raw.replace('\u{1d}', " "), MAX_LINE_CHARS);
        if self.raw_bytes + raw.len() > MAX_PAGE_LINE_BYTES {
            self.raw_bytes = MAX_PAGE_LINE_BYTES;
            self.too_many_lines += 1;
            return None;
        }
        self.raw_bytes += raw.len();
        self.raw_lines += 1;
        Some(raw)
    }

    fn left_out_lines(&self) -> Vec<String> {
        let mut left_out = Vec::new();
        if self.too_many_lines > 0 {
            left_out.push(format!(
                "The text of {} lines, of the oldest sessions: {} MiB or {MAX_PAGE_LINES} lines at most are \
                 shown. Their places are here: 'taptrail explain' shows the text",
                self.too_many_lines,
                MAX_PAGE_LINE_BYTES / 1024 / 1024,
            ));
        }
        if self.unread_lines > 0 {
            left_out.push(format!(
                "The text of {} lines, which can't be read again: they are from standard input, or their \
                 file has changed since. Their places are here",
                self.unread_lines
            ));
        }
        left_out
    }

    fn evidence(&mut self, evidence: &Evidence, input: &'a Input, left_out: &[String]) -> EvidenceData {
        let files = evidence.files.iter().map(|file| {
            let read = input.files.iter().find(|of| *of.path == *file.path);
            let (bytes, sha256, changed, why) = match &file.hash {
                FileHash::Sha256 { sha256, bytes, changed } => {
                    (Some(*bytes), Some(sha256.clone()), *changed, None)
                }
                FileHash::None(why) => (None, None, false, Some(cut(why, MAX_TEXT_CHARS))),
            };
            let hosts = read.map_or(&[][..], |read| &read.hosts);
            FileData {
                path: escape_text(&file.path),
                lines: read.map(|read| read.lines),
                bytes,
                sha256,
                changed,
                why,
                hosts: hosts
                    .iter()
                    .map(|of| (self.host(&of.host), self.since(of.from), self.since(of.until), of.records))
                    .collect(),
                unreadable: read.map_or(0, |read| read.unreadable),
                unread: read.map_or(0, |read| read.unread),
                unauthenticated: read.map_or(0, |read| read.unauthenticated),
            }
        });
        let files = files.collect();
        EvidenceData {
            program: escape_text(&evidence.program),
            command: command(&evidence.command),
            generated: self.since(evidence.generated),
            files,
            bytes: input.bytes,
            lines: input.lines,
            records: input.records,
            unreadable: input.unreadable,
            unread: input.unread,
            duplicates: input.duplicates,
            warnings: evidence.warnings.iter().map(|one| cut(one, MAX_TEXT_CHARS)).collect(),
            left_out: left_out.to_vec(),
        }
    }
}

/// A command line as a shell takes it.
pub(super) fn command(arguments: &[String]) -> CompactString {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quoted = arguments.iter().map(|argument| {
        if !argument.is_empty() && argument.chars().all(plain) {
            argument.clone()
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    });
    cut(&quoted.collect::<Vec<_>>().join(" "), 4 * MAX_LINE_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_quoted_as_a_shell_needs_it() {
        let words = ["taptrail", "report", "it's", "", "a b", "$HOME", "--out=a.html", "x\u{202e}"];
        assert_eq!(
            command(&words.map(str::to_owned)),
            r"taptrail report 'it'\''s' '' 'a b' '$HOME' --out=a.html 'x\u{202e}'"
        );
    }
}
