//! The records of a session, decoded: a row for each, or where rows are too wide, keys and values.

use std::collections::HashSet;

use taptrail_record::{Descriptor, Device, Event, Requester};
use taptrail_trail::Proof;

use super::evidence::{Decoded, Evident};
use super::page::Page;
use crate::Style;
use crate::findings::location;
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Table, cell};
use crate::text::{cut, escape_name};

/// The longest line shown, in characters: twice what auditd writes at most.
const MAX_LINE_CHARS: usize = 16 * 1024;

/// The keys of a decoded record, in the order of the columns.
const KEYS: [&str; 22] = [
    "op",
    "res",
    "reason",
    "vm",
    "uuid",
    "mac",
    "path",
    "rdev",
    "dev",
    "queue",
    "vm-pid",
    "fds",
    "fd",
    "forced",
    "errno",
    "last-seen",
    "doubt",
    "requester",
    "pid",
    "ppid",
    "uid",
    "auid",
];

/// Columns between the edge and the records.
const INDENT: usize = 2;

/// The lines of these records as they are, each once.
pub(super) fn raw<'a>(page: &mut Page, records: &[Evident<'a>], shown: &mut HashSet<(&'a str, u64)>) {
    for of in records {
        page.lines(INDENT, &place(of.proof));
        let new = shown.insert((&of.proof.source, of.proof.line));
        if let Some(line) = of.line.as_deref().filter(|_| new) {
            page.lines(2 * INDENT, &printable(line));
        }
    }
}

/// These records decoded; the lines of those that can't be.
pub(super) fn decoded(page: &mut Page, records: &[Evident<'_>], clock: &TimeFormat, style: &Style) {
    let rows: Vec<_> = records.iter().map(|of| (of, values(&of.content))).collect();
    let known = || rows.iter().filter(|(_, values)| values.iter().any(Option::is_some));
    let columns: Vec<usize> =
        (0..KEYS.len()).filter(|at| known().any(|(_, values)| values[*at].is_some())).collect();
    let first = records.first().map(|of| of.proof.time);
    let time = |at: usize, of: &Evident<'_>| clock.after(first.filter(|_| at > 0), Some(of.proof.time));
    let width = style.width.map(|width| width.saturating_sub(u16::try_from(INDENT).unwrap_or_default()));
    let style = Style { width, ..*style };
    let header: Vec<String> = ["serial", "time"]
        .into_iter()
        .chain(columns.iter().map(|at| KEYS[*at]))
        .chain(["place"])
        .map(str::to_uppercase)
        .collect();
    let names: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut table = Table::new(&style, &names);
    for (at, (of, values)) in rows.iter().enumerate() {
        let front = [serial(of.proof), time(at, of).into_string()];
        let cells = columns.iter().map(|column| values[*column].clone().unwrap_or_default());
        table.row(front.into_iter().chain(cells).chain([line(of.proof)]).map(cell));
    }
    if table.fits(&style) && known().count() == rows.len() {
        page.lines(INDENT, &table.text());
        return;
    }
    for (at, (of, values)) in rows.iter().enumerate() {
        let pairs: Vec<String> = KEYS
            .iter()
            .zip(values)
            .skip(2)
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)))
            .collect();
        let head = [
            time(at, of).into_string(),
            values[0].clone().unwrap_or_default(),
            values[1].clone().unwrap_or_default(),
        ];
        page.lines(INDENT, &format!("{}  {}", head.join(" ").trim_end(), place(of.proof)));
        if !pairs.is_empty() {
            page.folded(2 * INDENT, &pairs.join(" "));
        } else if let Some(line) = &of.line {
            page.lines(2 * INDENT, &printable(line));
        } else {
            page.lines(2 * INDENT, "(its line was not read again)");
        }
    }
}

/// `FILE:LINE (serial N)`, with a mark where any local user can have written the line.
fn place(proof: &Proof) -> String {
    let mark = if proof.unauthenticated { " (not authenticated)" } else { "" };
    format!("{}{mark}", location(proof))
}

/// `FILE:LINE` alone.
fn line(proof: &Proof) -> String {
    place(&Proof { serial: None, ..proof.clone() })
}

fn serial(proof: &Proof) -> String {
    proof.serial.map_or_else(String::new, |serial| serial.to_string())
}

/// A line from outside, safe for a terminal. auditd separates the names that it adds (log_format =
/// ENRICHED) by a control character.
fn printable(line: &str) -> String {
    cut(&line.replace('\u{1d}', " "), MAX_LINE_CHARS).into_string()
}

/// The values of [`KEYS`], safe for a terminal.
fn values(content: &Decoded) -> [Option<String>; KEYS.len()] {
    let mut values = [const { None }; KEYS.len()];
    let mut set = |key: &str, value: Option<String>| {
        if let Some(at) = KEYS.iter().position(|of| *of == key) {
            values[at] = value;
        }
    };
    let number = |of: Option<u32>| of.map(|number| number.to_string());
    let record = match content {
        Decoded::Unknown => return values,
        Decoded::Open { pid, ppid, fd, errno } => {
            set("op", Some("open(2)".to_owned()));
            set("res", Some(if errno.is_some() { "failed" } else { "success" }.to_owned()));
            set("pid", number(Some(*pid)));
            set("ppid", number(*ppid));
            set("fd", fd.map(|fd| fd.to_string()));
            set("errno", errno.map(|errno| errno.to_string()));
            return values;
        }
        Decoded::Path { path, rdev } => {
            set("op", Some("open(2)".to_owned()));
            set("path", Some(quoted(path)));
            set("rdev", Some(rdev.to_string()));
            return values;
        }
        Decoded::Record { record, by } => {
            set("pid", number(by.pid));
            set("uid", number(by.uid));
            // A daemon has no login.
            set("auid", number(by.auid.filter(|auid| *auid != Requester::UNSET)));
            record
        }
    };
    set("op", Some(op(&record.event).to_owned()));
    set("res", Some(record.outcome.as_str().to_owned()));
    set("vm", Some(quoted(&record.guest.name)));
    set("uuid", Some(record.guest.uuid.to_string()));
    set("mac", record.event.mac().map(|mac| mac.to_string()));
    set("errno", record.errno.map(|errno| errno.to_string()));
    set("last-seen", record.last_seen.map(|time| format!("{}.{:03}", time / 1000, time % 1000)));
    set("doubt", record.doubt.map(|doubt| doubt.as_str().to_owned()));
    set("requester", record.requester.map(|by| format!("pid {} of uid {}", by.pid, by.uid)));
    if let Some(Device { path, rdev, dev, .. }) = record.event.device() {
        set("path", Some(quoted(path)));
        set("rdev", rdev.map(|rdev| rdev.to_string()));
        set("dev", dev.as_deref().map(quoted));
    }
    match &record.event {
        Event::Open { queue, .. } | Event::Close { queue, .. } => set("queue", number(*queue)),
        Event::Keep { queue, vm_pid, .. } => {
            set("queue", number(*queue));
            set("vm-pid", number(*vm_pid));
        }
        Event::Start { vm_pid, fds, .. } | Event::Attach { vm_pid, fds, .. } => {
            set("vm-pid", number(*vm_pid));
            set("fds", number(*fds));
        }
        Event::Detach { vm_pid, fds, forced, .. } => {
            set("vm-pid", number(*vm_pid));
            set("fds", number(*fds));
            set("forced", forced.then(|| "yes".to_owned()));
        }
        Event::Seen(Descriptor { queue, vm_pid, fd, .. })
        | Event::Gone(Descriptor { queue, vm_pid, fd, .. }) => {
            set("queue", number(*queue));
            set("vm-pid", number(Some(*vm_pid)));
            set("fd", number(Some(*fd)));
        }
        Event::GuestStart { reason, vm_pid } | Event::GuestStop { reason, vm_pid } => {
            set("reason", Some(reason.as_str().to_owned()));
            set("vm-pid", number(*vm_pid));
        }
        Event::GuestGone { vm_pid } => set("vm-pid", number(Some(*vm_pid))),
        Event::Update { settings, .. } => set("settings", Some(quoted(settings))),
        Event::Filter { .. } | Event::Mac { .. } => {}
    }
    values
}

/// The word of `reason=` or `op=` in the record.
fn op(event: &Event) -> &'static str {
    match event {
        Event::Open { .. } => "open",
        Event::Start { .. } => "start",
        Event::Attach { .. } => "attach",
        Event::Detach { .. } => "detach",
        Event::Keep { .. } => "keep",
        Event::Close { .. } | Event::Gone(_) => "close",
        Event::Filter { .. } => "filter",
        Event::Mac { .. } => "mac",
        Event::Update { phase, .. } => phase.as_str(),
        Event::Seen(_) => "seen",
        Event::GuestStart { .. } => "guest-start",
        Event::GuestStop { .. } => "guest-stop",
        Event::GuestGone { .. } => "guest-gone",
    }
}

/// A name from outside as one value: in quotes if it could pass for several.
fn quoted(name: &str) -> String {
    let name = escape_name(name);
    if name.contains([' ', '=', '"']) {
        format!("\"{}\"", name.replace('"', "\\\""))
    } else {
        name.into_string()
    }
}
