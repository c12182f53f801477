//! A summary for people.

use std::fmt::Write as _;

use compact_str::format_compact;
use jiff::SignedDuration;
use taptrail_trail::{Severity, Span};

use super::{BridgeTapCounts, Group, GroupBy, Grouped, HostSummary, Summary};
use crate::Style;
use crate::fold::fold;
use crate::style::TimeFormat;
use crate::table::{Table, bad, cell, good, number};
use crate::text::{NONE, duration, escape_name};
use crate::trail::{count, thousands};

/// Columns of a line's label.
const LABEL_WIDTH: usize = 12;

impl Summary {
    /// The summary as lines of a label and a sentence, and the rows of `--by` below it.
    pub fn text(&self, style: &Style) -> String {
        let mut page = Page { text: String::new(), style, clock: TimeFormat::new(style) };
        page.line("Time", &page.range(self.range.as_ref()));
        self.hosts(&mut page);
        let input = &self.input;
        let mut read = vec![count(input.files, "file"), count(input.lines, "line")];
        read.push(count(input.records, "record"));
        read.extend((input.duplicates > 0).then(|| count(input.duplicates, "duplicate")));
        page.line("Read", &read.join(", "));
        page.line("Interfaces", &self.sessions_line());
        page.line("Devices", &self.devices_line());
        if let Some(taps) = &self.bridge_taps {
            page.line("Bridge taps", &bridge_taps_line(taps));
        }
        let (grave, other): (Vec<_>, Vec<_>) =
            self.kinds().partition(|(kind, _)| kind.severity() == Severity::Grave);
        let are_none = grave.is_empty() && other.is_empty();
        for (label, kinds) in [("Look first", grave), ("Findings", other)] {
            let all: u64 = kinds.iter().map(|(_, count)| count).sum();
            let each: Vec<_> = kinds
                .iter()
                .map(|(kind, count)| format!("{} {}", thousands(*count), kind.as_str()))
                .collect();
            match all {
                0 if label == "Findings" && are_none => page.line(label, "none"),
                0 => {}
                _ => page.line(label, &each.join(", ")),
            }
        }
        page.line("Losses", &self.losses_line());
        self.missing(&mut page);
        if let Some(by) = &self.by {
            page.text.push('\n');
            page.text.push_str(&rows(by, &self.hosts, &page.clock, style));
        }
        page.text
    }

    fn hosts(&self, page: &mut Page<'_>) {
        /// Hosts that are named; the others are counted.
        const MAX_NAMED: usize = 5;
        let named: Vec<_> = self.hosts.iter().take(MAX_NAMED).map(|of| escape_name(&of.host)).collect();
        let more = self.hosts.len().saturating_sub(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let text = match self.hosts.len() {
            0 => "none".to_owned(),
            1 => named.concat(),
            all => format!("{all}: {}{more}", named.join(", ")),
        };
        page.line("Hosts", &text);
    }

    /// The times of which records may be missing, by host.
    fn missing(&self, page: &mut Page<'_>) {
        /// Hosts that are named; the others are counted.
        const MAX_NAMED: usize = 8;
        /// Time ranges of a host that are shown.
        const MAX_RANGES: usize = 2;
        let with: Vec<_> = self.hosts.iter().filter(|of| !of.missing.is_empty()).collect();
        for HostSummary { host, missing, .. } in with.iter().take(MAX_NAMED) {
            let range = |range: &Span| {
                let from = page.clock.short(range.from, None);
                let day = page.clock.date(range.from);
                let until = page.clock.short(range.until, Some(day));
                format!("{from} to {until} ({})", duration(range.until.duration_since(range.from)))
            };
            let shown: Vec<_> = missing.iter().take(MAX_RANGES).map(range).collect();
            let more = missing.len().saturating_sub(MAX_RANGES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            page.line("", &format!("{}: {}{more}", escape_name(host), shown.join(", ")));
        }
        let more = with.len().saturating_sub(MAX_NAMED);
        if more > 0 {
            page.line("", &format!("and {}", count(more as u64, "more host")));
        }
    }

    fn sessions_line(&self) -> String {
        let of = &self.sessions;
        let mut parts = vec![match (of.held, of.still_held) {
            (0, _) => "none held".to_owned(),
            (held, 0) => format!("{} held", thousands(held)),
            (held, still) => format!("{} held, {} of them still", thousands(held), thousands(still)),
        }];
        let basis: Vec<_> =
            self.basis.iter().map(|(word, count)| format!("{} {word}", thousands(*count))).collect();
        if !basis.is_empty() {
            let _ = write!(parts[0], " ({})", basis.join(", "));
        }
        parts.extend((of.unknown > 0).then(|| format!("{} unknown", thousands(of.unknown))));
        let never = || format!("{} opened or tried and never granted", thousands(of.never_granted));
        parts.extend((of.never_granted > 0).then(never));
        parts.join("; ")
    }

    fn devices_line(&self) -> String {
        let part = |(kind, of): (&&str, &super::DeviceCounts)| {
            let counts = [
                (of.held, ""),
                (of.unknown, " unknown"),
                (of.never_granted, " never granted"),
                (of.open_failed, " failed"),
            ];
            let counts: Vec<_> = counts
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{}{what}", thousands(*count)))
                .collect();
            format!("{kind} {}", counts.join(", "))
        };
        let parts: Vec<_> = self.devices.iter().map(part).collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join("; ") }
    }

    /// What is missing of the records, which makes answers incomplete.
    fn losses_line(&self) -> String {
        let sum = |of: fn(&HostSummary) -> u64| self.hosts.iter().map(of).sum::<u64>();
        let (gaps, uncovered, gap_ms) = (sum(|of| of.gaps), sum(|of| of.uncovered), sum(|of| of.gap_ms));
        let mut parts = Vec::new();
        if gaps > 0 {
            let long = SignedDuration::from_millis(i64::try_from(gap_ms).unwrap_or(i64::MAX));
            parts.push(format!("{} of {} together", count(gaps, "gap"), duration(long)));
        }
        parts.extend((uncovered > 0).then(|| format!("{} without any log", count(uncovered, "time range"))));
        let lines = [(self.input.unreadable, "unreadable"), (self.input.unread, "in no known shape")];
        for (lines, what) in lines.into_iter().filter(|(lines, _)| *lines > 0) {
            parts.push(format!("{} {what}", count(lines, "line")));
        }
        if parts.is_empty() { "none known".to_owned() } else { parts.join("; ") }
    }
}

fn bridge_taps_line(of: &BridgeTapCounts) -> String {
    let mut text = format!("{} passed", thousands(of.passed));
    for (count, what) in [(of.still_held, "of them still held"), (of.unknown, "with an unknown end")] {
        if count > 0 {
            let _ = write!(text, ", {} {what}", thousands(count));
        }
    }
    if of.never_passed > 0 {
        let _ = write!(text, "; {} never passed", thousands(of.never_passed));
    }
    text
}

struct Page<'a> {
    text: String,
    style: &'a Style,
    clock: TimeFormat,
}

impl Page<'_> {
    fn range(&self, range: Option<&Span>) -> String {
        let Some(range) = range else { return "unknown: no line has a time".to_owned() };
        let day = self.clock.date(range.from);
        let (first, last) =
            (self.clock.short(range.from, Some(day)), self.clock.short(range.until, Some(day)));
        let long = duration(range.until.duration_since(range.from));
        format!("{}, {first} to {last} ({long})", self.clock.day(day))
    }

    /// A label and its sentence, folded below itself.
    fn line(&mut self, label: &str, sentence: &str) {
        let width = self.style.width.map_or(usize::MAX, usize::from).saturating_sub(LABEL_WIDTH).max(20);
        let (on, off) = if self.style.color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        for (number, part) in fold(sentence, width).into_iter().enumerate() {
            let label = if number == 0 { label } else { "" };
            // Writing to a String can't fail.
            let _ = writeln!(self.text, "{on}{label:LABEL_WIDTH$}{off}{part}");
        }
    }
}

/// A row for each guest, host, day or device. A host's row has the time that its logs cover, the
/// others the times of their sessions.
fn rows(by: &Grouped, hosts: &[HostSummary], clock: &TimeFormat, style: &Style) -> String {
    let several = by.rows.iter().any(|row| row.host != by.rows[0].host);
    let (name, with_host) = match by.key {
        GroupBy::Guest => (Some("GUEST"), several),
        GroupBy::Host => (None, true),
        GroupBy::Day => (Some("DAY"), false),
        GroupBy::Device => (Some("DEVICE"), several),
    };
    let front = with_host.then_some("HOST").into_iter().chain(name);
    let counts = ["HELD", "STILL", "UNKNOWN", "NEVER", "FINDINGS"];
    let times: &[&str] =
        if by.key == GroupBy::Host { &["GAPS", "LOGS FROM", "LOGS TO"] } else { &["FIRST", "LAST"] };
    let header: Vec<_> = front.chain(counts).chain(times.iter().copied()).collect();
    let mut table = Table::new(style, &header);
    // The rows are in the order of their hosts and names.
    let is_same = |a: &Group, b: &Group| a.host == b.host && a.name == b.name;
    let of_one_name = by.rows.chunk_by(is_same).flat_map(|rows| rows.iter().map(|row| (row, rows.len() > 1)));
    for (row, has_namesake) in of_one_name {
        let host = with_host.then(|| cell(escape_name(&row.host)));
        let name = name.map(|_| {
            match &row.uuid {
                // A UUID's first part tells guests of one name apart.
                Some(uuid) if has_namesake => {
                    let part = uuid.split('-').next().unwrap_or_default();
                    cell(format_compact!("{} ({part})", escape_name(&row.name)))
                }
                _ => cell(escape_name(&row.name)),
            }
        });
        let of = &row.sessions;
        let still = thousands(of.still_held);
        let time = |time| cell(clock.optional_short(time));
        let times = if by.key == GroupBy::Host {
            let logs = hosts.iter().find(|of| of.host == row.host);
            let range = logs.and_then(|of| of.range);
            let gaps = logs.map_or(0, |of| of.missing.len() as u64);
            let shown = thousands(gaps);
            vec![
                if gaps > 0 { bad(&shown).aligned_right() } else { number(shown) },
                time(range.map(|range| range.from)),
                time(range.map(|range| range.until)),
            ]
        } else {
            vec![time(row.first), if of.still_held > 0 { cell(NONE) } else { time(row.last) }]
        };
        let counts = [
            number(thousands(of.held)),
            if of.still_held > 0 { good(&still).aligned_right() } else { number(still) },
            number(thousands(of.unknown)),
            number(thousands(of.never_granted)),
            number(thousands(row.findings)),
        ];
        table.row(host.into_iter().chain(name).chain(counts).chain(times));
    }
    let mut left = header.clone();
    let may_drop: &[&str] = if by.key == GroupBy::Host {
        &["UNKNOWN", "STILL", "NEVER", "LOGS FROM", "LOGS TO"]
    } else {
        &["FIRST", "LAST", "UNKNOWN"]
    };
    let dropped = table.drop_columns(style, &header, may_drop, 0);
    left.retain(|name| !dropped.contains(name));
    table.fold_columns(style, &left, &[("DEVICE", 12), ("GUEST", 12), ("HOST", 8)]);
    table.text()
}
