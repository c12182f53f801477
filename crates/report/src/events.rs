//! Every record of a guest as one event: its starts and stops, all its resources, and what the
//! kernel recorded of its process. As a table, JSON, JSON lines or CSV.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use compact_str::{CompactString, ToCompactString as _, format_compact};
use jiff::Timestamp;
use serde::Serialize;
use taptrail_record::{Device, Event, FilterAddress, GuestId, Outcome, Record, ResourceChange};
use taptrail_trail::{Content, Entry, Finding, FindingKind, Holding, Input, LineRef, Proof};

use crate::csv::Rows;
use crate::json::write_jsonl;
use crate::sink::{Format, TrailConsumer};
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Cell, Table, bad, cell, warning};
use crate::text::{NONE, cut, escape_name};
use crate::trail::count;
use crate::{Filter, Style};

/// One record of a guest.
///
/// Serialised as one of the `events` of `taptrail guests --all-events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestEvent {
    /// When it happened: RFC 3339, UTC, milliseconds.
    #[serde(serialize_with = "millis")]
    pub time: Timestamp,
    /// The host.
    pub host: Arc<str>,
    /// The guest; none if a record of the kernel names a process that is not known to be a guest's.
    pub guest: Option<GuestId>,
    /// The kind of resource in libvirt's word (`net`, `disk`, `mem` …), or `guest`.
    pub resource: CompactString,
    /// What happened: the record's `op=` or `reason=`, or a kind of finding.
    pub event: CompactString,
    /// Why a guest started or stopped.
    pub reason: Option<CompactString>,
    /// Whether it succeeded; none for what the kernel recorded.
    pub result: Option<&'static str>,
    /// What it was before.
    pub old: Option<CompactString>,
    /// What it is now.
    pub new: Option<CompactString>,
    /// Further pairs of the record, or a finding's sentence.
    pub details: CompactString,
    /// The kernel's serial number of the record, where the source kept it.
    pub serial: Option<u32>,
    /// Where the record is.
    pub line: LineRef,
}

fn millis<S: serde::Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.3}"))
}

impl GuestEvent {
    /// The event of an entry, if it is a record of a guest.
    pub fn of_entry(entry: &Entry) -> Option<Self> {
        let this = |guest: &GuestId, resource: &str, outcome: Outcome| Self {
            time: entry.time,
            host: Arc::clone(&entry.host),
            guest: Some(guest.clone()),
            resource: resource.into(),
            event: CompactString::default(),
            reason: None,
            result: Some(outcome.as_str()),
            old: None,
            new: None,
            details: CompactString::default(),
            serial: entry.serial,
            line: LineRef { source: Arc::clone(&entry.source), line: entry.line },
        };
        match &entry.content {
            Content::Record(record) => {
                let resource = if record.event.mac().is_some() || record.event.device().is_some() {
                    "net"
                } else {
                    "guest"
                };
                Some(this(&record.guest, resource, record.outcome).with_record(record))
            }
            Content::Resource(change) => {
                Some(this(&change.guest, &change.resource, change.outcome).with_change(change))
            }
            _ => None,
        }
    }

    fn with_record(self, record: &Record) -> Self {
        let with = |event: &str| Self { event: event.into(), ..self.clone() };
        let of_guest = |event: &str, reason: &str, pid: Option<u32>| Self {
            reason: Some(reason.into()),
            details: pid.map_or_else(CompactString::default, |pid| format_compact!("vm-pid={pid}")),
            ..with(event)
        };
        let of_device = |event: &str, mac: Option<String>, device: &Device| {
            let mut details = format_compact!("path={}", device.path);
            // Writing to a CompactString can't fail.
            let _ = device.rdev.map(|rdev| write!(details, " rdev={rdev}"));
            let _ = device.dev.as_ref().map(|dev| write!(details, " dev={dev}"));
            Self { new: mac.map(CompactString::from), details, ..with(event) }
        };
        match &record.event {
            Event::GuestStart { reason, vm_pid } => of_guest("start", reason.as_str(), *vm_pid),
            Event::GuestStop { reason, vm_pid } => of_guest("stop", reason.as_str(), *vm_pid),
            Event::GuestGone { vm_pid } => of_guest("gone", "exited", Some(*vm_pid)),
            Event::Start { mac, .. } => Self { new: Some(mac.to_compact_string()), ..with("start") },
            Event::Attach { mac, .. } => Self { new: Some(mac.to_compact_string()), ..with("attach") },
            Event::Detach { mac, .. } => Self { old: Some(mac.to_compact_string()), ..with("detach") },
            Event::Open { mac, device, .. } => of_device("open", Some(mac.to_string()), device),
            Event::Keep { mac, device, .. } => of_device("keep", Some(mac.to_string()), device),
            Event::Close { mac, device, .. } => of_device("close", Some(mac.to_string()), device),
            Event::Filter { mac, device, address } => {
                let mut event = of_device("filter", Some(mac.to_string()), device);
                if let Some(FilterAddress { ip, change }) = address {
                    let _ = write!(event.details, " ip={ip} ip-change={}", change.as_str());
                    let _ = change.server().map(|server| write!(event.details, " dhcp-server={server}"));
                    let end = change.until().and_then(|time| i64::try_from(time).ok());
                    let end = end.and_then(|time| Timestamp::from_millisecond(time).ok());
                    let _ = end.map(|end| write!(event.details, " lease-end={end:.3}"));
                }
                event
            }
            Event::Mac { mac, device } => of_device("mac", Some(mac.to_string()), device),
            Event::Update { mac, device, phase, settings } => {
                let mut event = of_device(phase.as_str(), Some(mac.to_string()), device);
                let _ = write!(event.details, " settings={settings}");
                event
            }
            Event::Seen(seen) => of_device("seen", seen.mac.map(|mac| mac.to_string()), &seen.device),
            Event::Gone(gone) => of_device("close", gone.mac.map(|mac| mac.to_string()), &gone.device),
        }
    }

    fn with_change(self, change: &ResourceChange) -> Self {
        let mut details = CompactString::default();
        for (at, (key, value)) in change.details.iter().enumerate() {
            // Writing to a CompactString can't fail.
            let _ = write!(details, "{}{key}={value}", if at == 0 { "" } else { " " });
        }
        let (old, new) = (change.old.clone(), change.new.clone());
        Self { event: change.reason.clone(), old, new, details, ..self }
    }

    /// The event of a finding that is about a record of the kernel, which names no guest.
    pub fn of_finding(finding: &Finding) -> Option<Self> {
        let resource = match finding.kind {
            FindingKind::QemuCrashed => "guest",
            FindingKind::AccessDenied => "net",
            _ => return None,
        };
        let Proof { serial, source, line, .. } = finding.proof.first()?;
        Some(Self {
            time: finding.time,
            host: Arc::clone(&finding.host),
            guest: finding.guest.clone(),
            resource: resource.into(),
            event: finding.kind.as_str().into(),
            reason: None,
            result: None,
            old: None,
            new: None,
            details: finding.text.as_str().into(),
            serial: *serial,
            line: LineRef { source: Arc::clone(source), line: *line },
        })
    }
}

/// Writes the events that a filter selects, in a format. JSONL and CSV are written as they are
/// read.
#[derive(Debug)]
pub struct EventSink<W: Write> {
    filter: Filter,
    count: u64,
    output: Output<W>,
    /// Events that are not written yet.
    deferred: Vec<GuestEvent>,
}

#[derive(Debug)]
enum Output<W: Write> {
    Table(W, Style),
    Json(W),
    Jsonl(W),
    Csv(Box<Rows<W>>),
}

/// A line of JSONL.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum JsonLine<'a> {
    Event(&'a GuestEvent),
    Input(&'a Input),
}

/// The JSON of all events.
#[derive(Debug, Serialize)]
struct Events<'a> {
    events: &'a [GuestEvent],
    input: &'a Input,
}

/// The columns of events, which docs/schema.md describes.
pub(crate) const EVENT_COLUMNS: &[&str] = &[
    "time", "host", "guest", "uuid", "resource", "event", "reason", "result", "old", "new", "details",
    "serial", "source", "line",
];

impl<W: Write> EventSink<W> {
    /// A sink that writes to `out`. The header of CSV is written at once.
    ///
    /// # Errors
    ///
    /// Writing to the output fails, or the format is [`Format::Ecs`], which has none of these.
    pub fn new(filter: Filter, format: Format, out: W) -> io::Result<Self> {
        let output = match format {
            Format::Table(style) => Output::Table(out, style),
            Format::Json => Output::Json(out),
            Format::Jsonl => Output::Jsonl(out),
            Format::Csv => Output::Csv(Box::new(Rows::new(out, EVENT_COLUMNS)?)),
            Format::Ecs => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self { filter, count: 0, output, deferred: Vec::new() })
    }

    /// How many events were written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    fn emit(&mut self, event: GuestEvent) -> io::Result<()> {
        if !self.filter.matches_event(&event.host, event.guest.as_ref(), event.time) {
            return Ok(());
        }
        self.count += 1;
        match &mut self.output {
            Output::Table(..) | Output::Json(_) => self.deferred.push(event),
            Output::Jsonl(out) => write_jsonl(out, &JsonLine::Event(&event))?,
            Output::Csv(rows) => csv_row(rows, &event)?,
        }
        Ok(())
    }

    /// Writes what was deferred, and the summary of the input.
    ///
    /// # Errors
    ///
    /// Writing to the output fails.
    pub fn finish(&mut self, input: &Input) -> io::Result<()> {
        // What the kernel recorded may have become known later.
        self.deferred.sort_by_key(|event| event.time);
        let events = &self.deferred[..];
        match &mut self.output {
            Output::Table(out, style) => {
                out.write_all(event_table(events, input, style).as_bytes())?;
                out.flush()
            }
            Output::Json(out) => {
                crate::json::write_pretty(&mut *out, &Events { events, input })?;
                out.write_all(b"\n")?;
                out.flush()
            }
            Output::Jsonl(out) => {
                write_jsonl(out, &JsonLine::Input(input))?;
                out.flush()
            }
            Output::Csv(rows) => rows.flush(),
        }
    }
}

impl<W: Write> TrailConsumer for EventSink<W> {
    fn holding(&mut self, _: Holding) -> io::Result<()> {
        Ok(())
    }

    fn finding(&mut self, finding: Finding) -> io::Result<()> {
        GuestEvent::of_finding(&finding).map_or(Ok(()), |event| self.emit(event))
    }

    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        GuestEvent::of_entry(entry).map_or(Ok(()), |event| self.emit(event))
    }
}

fn csv_row<W: Write>(row: &mut Rows<W>, event: &GuestEvent) -> io::Result<()> {
    row.time(Some(event.time))?;
    row.outside(&event.host)?;
    row.outside(event.guest.as_ref().map_or("", |guest| &guest.name))?;
    row.value(event.guest.as_ref().map(|guest| guest.uuid))?;
    row.outside(&event.resource)?;
    row.outside(&event.event)?;
    row.outside(event.reason.as_deref().unwrap_or_default())?;
    row.word(event.result.unwrap_or_default())?;
    row.outside(event.old.as_deref().unwrap_or_default())?;
    row.outside(event.new.as_deref().unwrap_or_default())?;
    row.outside(&event.details)?;
    row.value(event.serial)?;
    row.outside(&event.line.source)?;
    row.value(Some(event.line.line))?;
    row.end()
}

/// The longest value in the table's last column, in characters: an image's path may have thousands.
const MAX_CHANGE_CHARS: usize = 300;

/// Events, a row for each, and a summary line. The second column is the host, if there is more than
/// one.
fn event_table(events: &[GuestEvent], input: &Input, style: &Style) -> String {
    let mut text = if events.is_empty() {
        "No events\n".to_owned()
    } else {
        let wide = rows(events, style, false);
        if wide.fits(style) { wide.text() } else { rows(events, style, true).folded(style).text() }
    };
    // Writing to a String can't fail.
    let _ = write!(text, "\n{}", count(events.len() as u64, "event"));
    if input.unreadable > 0 {
        let _ = write!(text, ", {} unreadable", count(input.unreadable, "line"));
    }
    text.push('\n');
    text
}

/// Length of the year and the hyphen after it.
const YEAR_PREFIX_LEN: usize = "2026-".len();

/// A narrow table says the result beside the event, and leaves out a year that all events have.
fn rows(events: &[GuestEvent], style: &Style, narrow: bool) -> Table {
    let clock = TimeFormat::new(style);
    let hosts = events.iter().any(|event| event.host != events[0].host);
    let time = |event: &GuestEvent| clock.full(event.time);
    let year = |event: &GuestEvent| time(event).get(..YEAR_PREFIX_LEN).map(CompactString::from);
    let without_year = narrow && events.iter().all(|event| year(event) == year(&events[0]));
    let columns = [
        Some("TIME"),
        hosts.then_some("HOST"),
        Some("GUEST"),
        Some("RESOURCE"),
        Some("EVENT"),
        (!narrow).then_some("RESULT"),
        Some("OLD -> NEW"),
    ];
    let header: Vec<_> = columns.into_iter().flatten().collect();
    let mut table = Table::new(style, &header);
    for event in events {
        let mut when = time(event);
        if without_year {
            when.replace_range(..YEAR_PREFIX_LEN, "");
        }
        let cells = [
            Some(cell(when)),
            hosts.then(|| cell(escape_name(&event.host))),
            Some(cell(event.guest.as_ref().map_or(NONE.into(), |guest| escape_name(&guest.name)))),
            Some(cell(escape_name(&event.resource))),
            Some(what(event, narrow)),
            (!narrow).then(|| result(event)),
            Some(cell(change(event))),
        ];
        table.row(cells.into_iter().flatten());
    }
    table
}

fn what(event: &GuestEvent, with_result: bool) -> Cell {
    let mut text = match &event.reason {
        // A stop because of a failure has not failed.
        Some(reason) => format_compact!("{} ({})", event.event, escape_name(reason)),
        None if event.event.is_empty() => NONE.into(),
        None => escape_name(&event.event),
    };
    match event.result {
        Some("failed") if with_result => {
            text.push_str(" failed");
            bad(&text)
        }
        None => warning(&text),
        _ => cell(text),
    }
}

fn result(event: &GuestEvent) -> Cell {
    match event.result {
        Some("failed") => bad("failed"),
        result => cell(result.unwrap_or(NONE)),
    }
}

fn change(event: &GuestEvent) -> CompactString {
    let value = |value: &Option<CompactString>| {
        value.as_ref().map_or(NONE.into(), |value| cut(value, MAX_CHANGE_CHARS))
    };
    let mut text = match (&event.old, &event.new) {
        (None, None) => CompactString::default(),
        (None, new) => value(new),
        (old, new) => format_compact!("{} -> {}", value(old), value(new)),
    };
    if !event.details.is_empty() {
        text.push_str(if text.is_empty() { "" } else { " " });
        text.push_str(&cut(&event.details, MAX_CHANGE_CHARS));
    }
    text
}
