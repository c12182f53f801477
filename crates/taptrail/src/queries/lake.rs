//! Queries to a lake: which rows are read for a filter. The filter itself decides on what is read,
//! as it does for logs.

use std::sync::Arc;

use jiff::Timestamp;
use taptrail_lake::{Conditions, LakeReader, Question, Store, Table, Test, When};
use taptrail_record::{DeviceKind, SOCKET_PREFIX};
use taptrail_report::{DeviceFilter, Filter, GuestFilter, TrailConsumer};
use taptrail_trail::{Coverage, Holding, HostSpan, Input, InputFile, Span, State};

use super::trail_reader::{is_broken_pipe, unwritten};
use crate::lake::End;
use crate::output::Failure;

/// How often a lake is read that changed meanwhile.
const ATTEMPTS: usize = 3;

/// Rows of holdings up to which all are read to find guests with similar names.
const MAX_ROWS_OF_NAMES: u64 = 1_000_000;

/// What of a trail is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Holdings and findings.
    Trail,
    /// Runs of guests.
    Runs,
}

/// Passes on what the filter may select. Returns the lake, with a sentence for each thing that is not
/// certain; none if the reader of our output has closed the pipe.
///
/// # Errors
///
/// There is no lake, it can't be read, or the output can't be written.
pub(super) fn read<T: TrailConsumer>(
    url: &str,
    filter: &Filter,
    part: Part,
    to: &mut T,
) -> Result<Option<(LakeReader, Vec<String>)>, Failure> {
    let store = Arc::new(Store::open_to_read(url).map_err(Failure::input)?);
    let mut attempt = 1;
    loop {
        let mut reading = Reading { filter, to: &mut *to, passed: 0, found: 0, hull: None };
        let read = LakeReader::open(Arc::clone(&store)).map_err(End::Lake).and_then(|lake| {
            reading.read(&lake, part)?;
            Ok(lake)
        });
        let passed = reading.passed;
        match read {
            Ok(lake) => {
                let notes = notes(&lake);
                return Ok(Some((lake, notes)));
            }
            Err(End::Output(error)) if is_broken_pipe(&error) => return Ok(None),
            Err(End::Output(error)) => return Err(unwritten(error)),
            // Compaction deleted an object that a later generation has in another.
            Err(End::Lake(error)) if error.is_not_found() && passed == 0 && attempt < ATTEMPTS => {
                attempt += 1;
            }
            Err(End::Lake(error)) if error.is_not_found() => {
                let error = anyhow::Error::new(error);
                return Err(Failure::input(error.context("The lake changed while it was read: ask again")));
            }
            Err(End::Lake(error)) => return Err(Failure::input(error)),
        }
    }
}

fn notes(lake: &LakeReader) -> Vec<String> {
    let divided = lake.divided_hosts();
    let hosts = if divided == 1 { "1 host is".to_owned() } else { format!("{divided} hosts are") };
    let note = format!(
        "The lake's records of {hosts} in several batches that are not compacted: what goes over from one to the \
         next may be shown as two, or as not certain. `taptrail lake compact` joins them"
    );
    (divided > 0).then_some(note).into_iter().collect()
}

/// The summary of a lake as an input: one file, which is the lake. Lines are the entries that it has,
/// and bytes those of its objects.
pub(super) fn input(lake: &LakeReader) -> Input {
    let coverage = lake.coverage().to_vec();
    let span = |of: &Coverage| {
        let (from, until) = (of.spans.first()?.from, of.spans.last()?.until);
        Some(HostSpan { host: Arc::clone(&of.host), from, until, records: lake.records_of(&of.host) })
    };
    let hosts: Vec<HostSpan> = coverage.iter().filter_map(span).collect();
    let lines = lake.rows_of(Table::Records);
    let records = hosts.iter().map(|of| of.records).sum();
    let file = InputFile { path: lake.url().into(), hosts, lines, ..InputFile::default() };
    Input { bytes: lake.bytes(), lines, records, files: vec![file], coverage, ..Input::default() }
}

/// Reading for one filter.
struct Reading<'a, T> {
    filter: &'a Filter,
    to: &'a mut T,
    /// How much was passed on.
    passed: u64,
    /// How many holdings match.
    found: u64,
    /// The time of the holdings that match; its ends are none where they are not known.
    hull: Option<(Option<Timestamp>, Option<Timestamp>)>,
}

impl<T: TrailConsumer> Reading<'_, T> {
    fn read(&mut self, lake: &LakeReader, part: Part) -> Result<(), End> {
        match part {
            Part::Trail => {
                if self.to.wants_holdings() {
                    self.holdings(lake)?;
                    self.nearest(lake)?;
                }
                self.findings(lake)
            }
            Part::Runs => {
                let at_any = self.question(Conditions(self.of_guests()));
                lake.runs(&at_any, &mut |run| {
                    self.passed += 1;
                    Ok(self.to.run(run)?)
                })
            }
        }
    }

    fn holdings(&mut self, lake: &LakeReader) -> Result<(), End> {
        let question = self.question(Conditions(of_holdings(self.filter)));
        lake.holdings(&question, &mut |holding| {
            self.passed += 1;
            if self.filter.matches_holding(&holding) {
                self.found += 1;
                self.widen(&holding);
            }
            Ok(self.to.holding(holding)?)
        })
    }

    /// Passes on what does not match, to name what is near.
    fn nearest(&mut self, lake: &LakeReader) -> Result<(), End> {
        if self.found > 0 || !self.to.wants_nearest() {
            return Ok(());
        }
        let is_name = self.filter.subject.as_ref().is_some_and(|subject| subject.guest_name().is_some());
        let question = if is_name && lake.rows_of(Table::Held) <= MAX_ROWS_OF_NAMES {
            Question::default()
        } else {
            let of_subject = Conditions(of_holdings(self.filter));
            Question { conditions: of_subject, host: self.filter.host.clone(), ..Question::default() }
        };
        lake.holdings(&question, &mut |holding| {
            // What may match was passed on and counted before.
            if self.filter.matches_holding(&holding) || self.filter.may_match(&holding) {
                return Ok(());
            }
            self.passed += 1;
            Ok(self.to.holding(holding)?)
        })
    }

    fn findings(&mut self, lake: &LakeReader) -> Result<(), End> {
        let question = self.question(Conditions(of_findings(self.filter)));
        let (mut since, mut until) = (self.filter.start, self.filter.end);
        if self.filter.depends_on_holdings() {
            let Some((from, to)) = self.hull else { return Ok(()) };
            since = since.max(from);
            until = [until, to].into_iter().flatten().min();
        }
        lake.findings(&question, since, until, &mut |finding| {
            self.passed += 1;
            Ok(self.to.finding(finding)?)
        })
    }

    /// The question about a time. What a filter's `at` excludes may have ended before its `start`.
    fn question(&self, conditions: Conditions) -> Question {
        let Filter { host, start, at, .. } = self.filter;
        let when = match (at, start) {
            (Some(at), _) => When::At(Span { from: at.from, until: at.to }),
            (None, Some(start)) => When::Since(*start),
            (None, None) => When::Any,
        };
        Question { conditions, host: host.clone(), when }
    }

    fn of_guests(&self) -> Vec<Vec<Test>> {
        let tests: Vec<Test> = self.filter.guests.iter().flat_map(of_guest).collect();
        if tests.is_empty() { Vec::new() } else { vec![tests] }
    }

    /// Adds the time of a holding: findings within it may concern it.
    fn widen(&mut self, holding: &Holding) {
        let from = holding.begun();
        let last = holding.proof.last().map(|proof| proof.time);
        let to = holding.released.or(last).filter(|_| holding.state != State::Held);
        self.hull = Some(match self.hull {
            None => (from, to),
            Some((first, end)) => {
                (first.zip(from).map(|(a, b)| a.min(b)), end.zip(to).map(|(a, b)| a.max(b)))
            }
        });
    }
}

/// What rows of holdings must meet to match, or to lack what decides that.
fn of_holdings(filter: &Filter) -> Vec<Vec<Test>> {
    of_all(filter, false)
}

/// The same of findings: one that names no guest, interface or device may concern any.
fn of_findings(filter: &Filter) -> Vec<Vec<Test>> {
    of_all(filter, true)
}

fn of_all(filter: &Filter, or_none: bool) -> Vec<Vec<Test>> {
    let kind = if or_none { "device_kind" } else { "kind" };
    let mut all = Vec::new();
    let mut add = |mut tests: Vec<Test>, unnamed: &[&'static str]| {
        if or_none {
            tests.extend(unnamed.iter().map(|column| Test::None(column)));
        }
        all.push(tests);
    };
    if let Some(subject) = &filter.subject {
        let mut tests = Vec::new();
        let mut unnamed = Vec::new();
        if let Some(mac) = subject.mac() {
            tests.push(Test::Is("mac", mac.to_string()));
            unnamed.push("mac");
        }
        if let Some(device) = subject.device() {
            tests.extend(of_device(device, kind));
            unnamed.push(kind);
        }
        if let Some(guest) = subject.guest() {
            tests.extend(of_guest(guest));
            unnamed.push("guest");
        }
        add(tests, &unnamed);
    }
    if !filter.guests.is_empty() {
        add(filter.guests.iter().flat_map(of_guest).collect(), &["guest"]);
    }
    if let Some(mac) = filter.mac {
        add(vec![Test::Is("mac", mac.to_string())], &["mac"]);
    }
    if let Some(device) = &filter.device {
        add(of_device(device, kind), &[kind]);
    }
    all
}

fn of_guest(guest: &GuestFilter) -> Vec<Test> {
    match guest {
        GuestFilter::Name(name) => vec![Test::Is("guest", name.clone())],
        GuestFilter::Uuid(uuid) => vec![Test::Is("uuid", uuid.to_string()), Test::NamedAs(*uuid)],
    }
}

/// A device, or one whose records lack what is asked for.
fn of_device(device: &DeviceFilter, kind: &'static str) -> Vec<Test> {
    let is_kind = |of: DeviceKind| Test::Is(kind, of.to_string());
    match device {
        DeviceFilter::Kind(of) => vec![is_kind(*of), is_kind(DeviceKind::Unknown)],
        DeviceFilter::Path(path) => vec![
            Test::Is("path", path.clone()),
            Test::Is("path", format!("{SOCKET_PREFIX}{path}")),
            is_kind(DeviceKind::Unknown),
        ],
        DeviceFilter::Number(rdev) => vec![Test::Is("rdev", rdev.to_string()), Test::None("rdev")],
        DeviceFilter::Interface(name) => vec![
            Test::Is("dev", name.as_str().to_owned()),
            Test::Is("path", name.as_str().to_owned()),
            Test::None("dev"),
        ],
    }
}
