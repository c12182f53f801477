//! A summary for people.

use std::fmt::Write as _;

use jiff::SignedDuration;
use taptrail_trail::{Severity, Span};

use super::{GroupBy, Grouped, HostSummary, Summary};
use crate::Style;
use crate::fold::fold;
use crate::style::TimeFormat;
use crate::table::{Table, cell, good, number};
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
        let (grave, other): (Vec<_>, Vec<_>) =
            self.kinds().partition(|(kind, _)| kind.severity() == Severity::Grave);
        for (label, kinds) in [("Look first", grave), ("Findings", other)] {
            let all: u64 = kinds.iter().map(|(_, count)| count).sum();
            let each: Vec<_> = kinds
                .iter()
                .map(|(kind, count)| format!("{} {}", thousands(*count), kind.as_str()))
                .collect();
            match all {
                0 if label == "Look first" => {}
                0 => page.line(label, "none"),
                _ => page.line(label, &each.join(", ")),
            }
        }
        page.line("Losses", &self.losses_line());
        if let Some(by) = &self.by {
            page.text.push('\n');
            page.text.push_str(&rows(by, &page.clock, style));
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

/// A row for each guest, host, day or device.
fn rows(by: &Grouped, clock: &TimeFormat, style: &Style) -> String {
    let several = by.rows.iter().any(|row| row.host != by.rows[0].host);
    let (name, hosts) = match by.key {
        GroupBy::Guest => (Some("GUEST"), several),
        GroupBy::Host => (None, true),
        GroupBy::Day => (Some("DAY"), false),
        GroupBy::Device => (Some("DEVICE"), several),
    };
    let front = hosts.then_some("HOST").into_iter().chain(name);
    let rest = ["HELD", "STILL", "UNKNOWN", "NEVER", "FINDINGS", "FIRST", "LAST"];
    let header: Vec<_> = front.chain(rest).collect();
    let mut table = Table::new(style, &header);
    for row in &by.rows {
        let host = hosts.then(|| cell(escape_name(&row.host)));
        let name = name.map(|_| cell(escape_name(&row.name)));
        let of = &row.sessions;
        let still = thousands(of.still_held);
        let time = |time| cell(clock.optional_short(time));
        table.row(host.into_iter().chain(name).chain([
            number(thousands(of.held)),
            if of.still_held > 0 { good(&still).aligned_right() } else { number(still) },
            number(thousands(of.unknown)),
            number(thousands(of.never_granted)),
            number(thousands(row.findings)),
            time(row.first),
            if of.still_held > 0 { cell(NONE) } else { time(row.last) },
        ]));
    }
    let mut left = header.clone();
    let dropped = table.drop_columns(style, &header, &["FIRST", "LAST", "UNKNOWN"], 0);
    left.retain(|name| !dropped.contains(name));
    table.fold_columns(style, &left, &[("DEVICE", 12), ("GUEST", 12), ("HOST", 8)]);
    table.text()
}
