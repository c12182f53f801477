use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use taptrail_trail::{Finding, Holding, Proof};

use super::{Explanation, Interface, LineReader, sentences};
use crate::Style;
use crate::findings::{location, sentence};
use crate::fold::fold;
use crate::style::{Clock as _, TimeFormat};
use crate::text::{cut, escape_name};
use crate::trail::count;

/// The longest line shown, in characters: twice what auditd writes at most.
const MAX_LINE_CHARS: usize = 16 * 1024;

pub(super) fn text<'a>(explanation: &'a Explanation, style: &'a Style, lines: &'a LineReader<'a>) -> String {
    let mut page =
        Page { text: String::new(), clock: TimeFormat::new(style), style, lines, shown: HashSet::new() };
    for interface in &explanation.interfaces {
        page.interface(interface);
    }
    let (mut holdings, mut findings) = (0, 0);
    for interface in &explanation.interfaces {
        holdings += interface.holdings.len() as u64;
        findings += interface.findings.len() as u64;
    }
    if explanation.interfaces.is_empty() {
        page.text.push_str("No record is about it\n\n");
    }
    let (holdings, findings) = (count(holdings, "holding"), count(findings, "finding"));
    // Writing to a String can't fail.
    let _ =
        writeln!(page.text, "{holdings}; {findings}; {} read", count(explanation.input.records, "record"));
    page.text
}

/// Shown with a holding that rests on unauthenticated lines.
const NOT_AUTHENTICATED: &str = "Not authenticated: a log's text shows it, and any local user can write lines like the kernel's or auditd's there.";

struct Page<'a> {
    text: String,
    clock: TimeFormat,
    style: &'a Style,
    lines: &'a LineReader<'a>,
    /// The lines of this interface that were shown already.
    shown: HashSet<LineKey<'a>>,
}

/// A line of a source.
type LineKey<'a> = (&'a str, u64);

impl<'a> Page<'a> {
    fn interface(&mut self, interface: &'a Interface) {
        self.shown.clear();
        let host = escape_name(&interface.host);
        let guest = interface.guest.as_ref();
        let guest = guest.map(|guest| format!("{} ({}) on {host}", escape_name(&guest.name), guest.uuid));
        let head = match (&interface.mac, guest) {
            (Some(mac), Some(guest)) => format!("{mac} of {guest}"),
            (None, Some(guest)) => format!("The whole of {guest}"),
            (Some(mac), None) => format!("{mac} on {host}"),
            (None, None) => format!("The whole of {host}"),
        };
        self.line(0, &head, true);
        // A finding is shown with the first holding that has the same line in its proof.
        let mut findings: HashMap<LineKey<'a>, Vec<&'a Finding>> = HashMap::new();
        let mut elsewhere = Vec::new();
        for finding in &interface.findings {
            match finding.proof.last() {
                Some(last) => findings.entry((&last.source, last.line)).or_default().push(finding),
                None => elsewhere.push(finding),
            }
        }
        for holding in &interface.holdings {
            let here = |proof: &'a Proof| findings.remove(&(&*proof.source, proof.line)).unwrap_or_default();
            let with: Vec<_> = holding.proof.iter().flat_map(here).collect();
            self.holding(holding, &with);
        }
        elsewhere.extend(findings.into_values().flatten());
        elsewhere.sort_by_key(|finding| finding.time);
        for finding in elsewhere {
            self.text.push('\n');
            self.finding(2, finding);
            self.proof(&finding.proof);
        }
        self.text.push('\n');
    }

    fn holding(&mut self, holding: &'a Holding, findings: &[&'a Finding]) {
        let device = &holding.device;
        let mut named = vec![device.kind.to_string()];
        named.extend(device.dev.as_deref().map(|dev| escape_name(dev).into_string()));
        named.extend(device.rdev.map(|rdev| rdev.to_string()));
        let head = format!("{} ({}): {}", escape_name(&device.path), named.join(" "), holding.state.as_str());
        self.text.push('\n');
        self.line(2, &head, true);
        for sentence in sentences::describe(holding, &self.clock) {
            self.line(4, &sentence, false);
        }
        if Proof::any_unauthenticated(&holding.proof) {
            self.line(4, NOT_AUTHENTICATED, false);
        }
        for finding in findings {
            self.finding(4, finding);
        }
        let all = holding.proof.iter().chain(findings.iter().flat_map(|finding| &finding.proof));
        let mut unique = HashSet::new();
        self.proof(all.filter(|proof| unique.insert((&proof.source, proof.line))));
        if holding.proof.len() >= Proof::MAX_PROOFS {
            self.line(4, "More records may show it: the first and the last are here.", false);
        }
    }

    fn finding(&mut self, indent: usize, finding: &'a Finding) {
        let (kind, at) = (finding.kind.as_str(), self.clock.full(finding.time));
        self.line(indent, &format!("Finding {kind} at {at}: {}.", sentence(finding)), false);
    }

    fn proof(&mut self, proof: impl IntoIterator<Item = &'a Proof>) {
        for proof in proof {
            // Writing to a String can't fail.
            let mark = if proof.unauthenticated { " (not authenticated)" } else { "" };
            let _ = writeln!(self.text, "    {}{mark}", location(proof));
            let new = self.shown.insert((&proof.source, proof.line));
            if let Some(raw) = new.then(|| (self.lines)(proof)).flatten() {
                // auditd separates the names that it adds (log_format = ENRICHED) by this
                // character.
                let _ = writeln!(self.text, "      {}", cut(&raw.replace('\u{1d}', " "), MAX_LINE_CHARS));
            }
        }
    }

    /// A line of ours, folded into the style's width.
    fn line(&mut self, indent: usize, line: &str, bold: bool) {
        let width = self.style.width.map_or(usize::MAX, usize::from).saturating_sub(indent).max(20);
        let (on, off) = if bold && self.style.color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        for part in fold(line, width) {
            // Writing to a String can't fail.
            let _ = writeln!(self.text, "{:indent$}{on}{part}{off}", "");
        }
    }
}
