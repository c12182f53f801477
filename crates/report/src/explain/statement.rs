//! The statement about one session: who had what from when to when, each step with its record,
//! how sure that is and why, and whether the logs cover it.

use std::collections::HashSet;

use jiff::Timestamp;
use taptrail_trail::{Certainty, Finding, Holding, Input, State};

use super::coverage;
use super::evidence::{CitedSources, Evident, Step, shows};
use super::look_up::look_up;
use super::page::Page;
use super::sentences;
use crate::duration::duration;
use crate::findings::{location, sentence};
use crate::span::QueryRange;
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Table, cell};
use crate::text::{NONE, escape_name};
use crate::{Session, Style};

/// Shown with a session that rests on unauthenticated lines.
const NOT_AUTHENTICATED: &str = "Not authenticated: a log's text shows it, and any local user can write lines like the kernel's or auditd's there";

/// What the statements of an answer have in common.
pub(super) struct Teller<'a> {
    pub(super) clock: TimeFormat,
    pub(super) style: Style,
    pub(super) input: &'a Input,
    /// The time asked for.
    pub(super) at: Option<QueryRange>,
    pub(super) evidence: CitedSources<'a>,
}

impl Teller<'_> {
    pub(super) fn tell(
        &self,
        page: &mut Page,
        session: &Session<'_>,
        records: &[Evident<'_>],
        findings: &[&Finding],
    ) {
        page.gap();
        page.head(&self.headline(session));
        let guest = session.guest();
        page.row("Host", &escape_name(session.host()));
        page.row("Guest", &escape_name(&guest.name));
        page.row("UUID", &guest.uuid.to_string());
        page.row("Interface", &session.mac().to_string());
        self.devices(page, session);
        self.times(page, session);
        self.steps(page, session, records);
        self.basis(page, session);
        if session.is_unauthenticated() {
            page.row("Doubt", NOT_AUTHENTICATED);
        }
        for finding in findings {
            let (kind, at) = (finding.kind.as_str(), self.clock.full(finding.time));
            page.row("Finding", &format!("{kind} at {at}: {}", sentence(finding)));
        }
        page.row("Coverage", &coverage::of_session(session, self.input, &self.clock));
        self.sources(page, session, records);
    }

    /// The answer in one sentence.
    fn headline(&self, session: &Session<'_>) -> String {
        let (guest, mac) = (escape_name(&session.guest().name), session.mac());
        let (opened, from, to) = (session.opened(), session.granted(), session.released());
        let at_opened = opened.map_or_else(String::new, |at| format!(" at {}", self.clock.full(at)));
        let since = match from {
            Some(from) => format!("from {}", self.clock.full(from)),
            None => "from before the records begin".to_owned(),
        };
        let possibly = self.at.is_some_and(|at| !session.is_held_at(at, self.input));
        let text = match session.state() {
            State::Unknown | State::Opening
                if session.holdings.iter().all(|of| sentences::is_unrecorded(of)) =>
            {
                format!("QEMU of {guest} got {mac}, and no record says with which device")
            }
            State::NeverGranted | State::Unknown | State::Opening if possibly => format!(
                "{guest} possibly held {mac} at the time asked for: it was opened{at_opened}, and no record shows a grant"
            ),
            State::Held => match from {
                Some(from) => format!("{guest} has held {mac} since {}", self.clock.full(from)),
                None => format!("{guest} has held {mac} since before the records begin"),
            },
            State::Released => match (to, self.last_seen(session)) {
                (Some(to), Some(seen)) => format!(
                    "{guest} held {mac} {since} until some time between {} and {}",
                    self.clock.after(from, Some(seen)),
                    self.clock.after(from, Some(to))
                ),
                (Some(to), None) if self.is_latest(session) => {
                    format!(
                        "{guest} held {mac} {since} until {} at the latest",
                        self.clock.after(from, Some(to))
                    )
                }
                (Some(to), None) => {
                    format!("{guest} held {mac} {since} to {}", self.clock.after(from, Some(to)))
                }
                (None, _) => format!("{guest} held {mac} {since} to an unknown time"),
            },
            State::Opening => {
                format!("{mac} of {guest} was opened{at_opened}, and no record shows yet what followed")
            }
            State::Unknown => {
                format!("{mac} of {guest} was opened{at_opened}: whether QEMU got it is not known")
            }
            State::NeverGranted => format!("{mac} of {guest} was opened{at_opened}, and QEMU never got it"),
            State::OpenFailed => format!("{mac} of {guest}: its open failed{at_opened}"),
        };
        let held = matches!(session.state(), State::Held | State::Released);
        if possibly && held { format!("{text}; at the time asked for only possibly") } else { text }
    }

    /// When its end was not seen: the latest time at which it had not ended.
    fn last_seen(&self, session: &Session<'_>) -> Option<Timestamp> {
        session.main().filter(|of| of.released == session.released()).find_map(|of| of.last_seen)
    }

    /// Whether its end is only the time by which it had ended.
    fn is_latest(&self, session: &Session<'_>) -> bool {
        session.main().any(|of| of.released == session.released() && of.certainty == Certainty::Ambiguous)
    }

    fn devices(&self, page: &mut Page, session: &Session<'_>) {
        let mut label = "Device";
        for of in &session.holdings {
            let mut text = device(of);
            if let Some(queues @ 2..) = of.queues {
                text.push_str(&format!(", {queues} queues"));
            }
            if of.state != session.state() {
                text.push_str(&format!(": {}", of.state.as_str()));
            }
            page.row(label, &text);
            label = "";
        }
    }

    fn times(&self, page: &mut Page, session: &Session<'_>) {
        if !session.was_held() {
            return;
        }
        let zone = |time| self.clock.zone_abbreviation(time);
        let from = session.granted();
        match (from, session.opened()) {
            (Some(from), _) => page.row("From", &format!("{} {}", self.clock.full(from), zone(from))),
            (None, Some(opened)) => page.row("From", &format!("after {}, its open", self.clock.full(opened))),
            (None, None) => page.row("From", "before the records begin"),
        }
        let ended = session.ended_by().map_or_else(String::new, |by| format!(": {}", sentences::end(by)));
        let last = self.input.coverage.iter().find(|of| *of.host == *session.host());
        let last = last.and_then(|of| of.spans.last()).map(|span| span.until);
        match (session.state(), session.released()) {
            (State::Held, _) => {
                let end = last
                    .map_or_else(String::new, |last| format!(" ({})", self.clock.after(from, Some(last))));
                page.row("To", &format!("still held as the records end{end}"));
            }
            (_, Some(to)) => {
                let to_text = match self.last_seen(session) {
                    Some(seen) => {
                        let until = self.clock.after(Some(seen), Some(to));
                        format!("between {} and {until}", self.clock.full(seen))
                    }
                    None if self.is_latest(session) => format!("at the latest {}", self.clock.full(to)),
                    None => self.clock.full(to).to_string(),
                };
                page.row("To", &format!("{to_text} {}{ended}", zone(to)));
            }
            (_, None) => page.row("To", &format!("an unknown time{ended}")),
        }
        let held = session.state() == State::Held;
        let to = if held { last } else { self.last_seen(session).or(session.released()) };
        if let Some((from, to)) = from.zip(to).filter(|(from, to)| from <= to) {
            let least = if held || self.last_seen(session).is_some() { "at least " } else { "" };
            let most = if !held && self.is_latest(session) { "at most " } else { "" };
            page.row("For", &format!("{least}{most}{}", duration(to.duration_since(from))));
        }
    }

    /// Each step once, with the record that shows it.
    fn steps(&self, page: &mut Page, session: &Session<'_>, records: &[Evident<'_>]) {
        struct Row<'e, 'a> {
            step: Step,
            time: Timestamp,
            what: String,
            record: Option<&'e Evident<'a>>,
        }
        let mut rows: Vec<Row<'_, '_>> = Vec::new();
        for of in &session.holdings {
            let mut add = |step, time: Option<Timestamp>, what: String| {
                let Some(time) = time else { return };
                let record = shows(step, of, records);
                let line =
                    |of: Option<&Evident<'_>>| of.map(|of| (of.proof.line, of.proof.source.to_string()));
                // A grant of all devices of an interface is one record.
                let is_same = |row: &Row<'_, '_>| {
                    row.step == step
                        && row.time == time
                        && row.what == what
                        && line(row.record) == line(record)
                };
                if !rows.iter().any(is_same) {
                    rows.push(Row { step, time, what, record });
                }
            };
            let failed = if of.state == State::OpenFailed { ", failed" } else { "" };
            add(Step::Open, of.opened, format!("{}{failed}", escape_name(&of.device.path)));
            add(Step::Grant, of.granted, of.pid.map_or("QEMU".to_owned(), |pid| format!("QEMU (pid {pid})")));
            let by = of.ended_by.map_or("", |by| by.as_str());
            add(Step::Release, of.released, by.to_owned());
        }
        rows.sort_by_key(|row| (row.time, row.record.map(|of| of.proof.order())));
        let Some(first) = rows.first().map(|row| row.time) else { return };
        let table = |with_place: bool, width: Option<u16>| {
            let style = Style { width, ..self.style };
            let mut table = Table::without_header(&style, if with_place { 4 } else { 3 });
            for (at, row) in rows.iter().enumerate() {
                let time = self.clock.after((at > 0).then_some(first), Some(row.time));
                let place = row.record.map_or_else(|| NONE.to_owned(), |of| location(of.proof).to_string());
                let cells = [row.step.as_str().to_owned(), time.into(), row.what.clone()];
                table.row(cells.into_iter().chain(with_place.then_some(place)).map(cell));
            }
            (table.fits(&style), table)
        };
        let (fits, wide) = table(true, page.value_width());
        if fits {
            page.whole_row("Steps", wide.text().trim_end());
            return;
        }
        let (_, narrow) = table(false, page.value_width());
        let mut label = "Steps";
        for (line, row) in narrow.rows().zip(&rows) {
            page.row(label, line.trim_end());
            label = "";
            if let Some(of) = row.record {
                page.whole_row("", &format!("  {}", location(of.proof)));
            }
        }
    }

    /// How sure it is and why; of each device, if they differ.
    fn basis(&self, page: &mut Page, session: &Session<'_>) {
        let word = session.certainty().as_str();
        let mut label = "Basis";
        let mut told = HashSet::new();
        let main: Vec<_> = session.main().collect();
        let least = main.iter().find(|of| of.certainty == session.certainty());
        for of in least.into_iter().chain(&main) {
            let why = sentences::certainty(of);
            if told.insert(why) {
                // The sentence begins with the word.
                let why = why.trim_end_matches('.');
                let why = why.split_once(": ").map_or(why, |(_, why)| why);
                let word = if told.len() == 1 { word } else { of.certainty.as_str() };
                let device = if told.len() == 1 {
                    String::new()
                } else {
                    format!("{}: ", escape_name(&of.device.path))
                };
                page.row(label, &format!("{device}{word}: {why}"));
                label = "";
            }
        }
        if session.was_held() && session.main().any(|of| of.end_doubt.is_some()) {
            for doubt in session.main().filter_map(|of| of.end_doubt).collect::<HashSet<_>>() {
                page.row(
                    "Doubt",
                    &format!("it is not proven that nobody holds it any more: {}", doubt.sentence()),
                );
            }
        }
        let mut label = "Possibly";
        let mut told = HashSet::new();
        for of in &session.holdings {
            for stretch in &of.possibly_held {
                let text = sentences::possibly_held(stretch, of, &self.clock);
                let text = text.strip_prefix("Possibly held ").unwrap_or(&text).trim_end_matches('.');
                // What is of all its devices, or of the first, needs no device.
                let is_first = of.device.path == session.first().device.path;
                let all = session.holdings.iter().all(|other| other.possibly_held.contains(stretch));
                let device = match is_first || all {
                    true => String::new(),
                    false => format!("{}: ", escape_name(&of.device.path)),
                };
                let text = format!("{device}{text}");
                if told.insert(text.clone()) {
                    page.row(label, &text);
                    label = "";
                }
            }
        }
    }

    /// How to look up the records of the steps.
    fn sources(&self, page: &mut Page, session: &Session<'_>, records: &[Evident<'_>]) {
        let mut label = "Look up";
        let mut shown = HashSet::new();
        let mut steps: Vec<_> = session
            .main()
            .flat_map(|of| [Step::Open, Step::Grant, Step::Release].map(|step| shows(step, of, records)))
            .flatten()
            .map(|of| of.proof)
            .collect();
        steps.sort_by_key(|proof| proof.order());
        for proof in steps {
            let text = look_up(proof, self.evidence);
            if shown.insert(text.clone()) {
                page.whole_row(label, &text);
                label = "";
            }
        }
    }
}

/// A device by its path, kind, number and interface.
pub(crate) fn device(of: &Holding) -> String {
    let device = &of.device;
    let mut named = vec![device.kind.to_string()];
    named.extend(device.rdev.map(|rdev| rdev.to_string()));
    named.extend(device.dev.as_deref().map(|dev| escape_name(dev).into_string()));
    format!("{} ({})", escape_name(&device.path), named.join(", "))
}
