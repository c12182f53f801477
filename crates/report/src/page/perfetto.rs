//! A trace in the JSON of Chrome's trace events: a process for each guest of a host, a thread for
//! each interface, a slice for each session.
//!
//! Times are microseconds since 1970. Names are escaped: a viewer is one more program that shows
//! them.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use taptrail_trail::{Holding, Severity, State};

use super::bar::{Bar, begin};
use super::evidence::{Evidence, Hash};
use super::picture::{Mark, Picture, Row};
use crate::findings::location;
use crate::text::{escape_name, escape_text};

/// An event of the trace. The names are those of the format.
#[derive(Debug, Serialize)]
struct Event {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    ph: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<i64>,
    pid: usize,
    tid: usize,
    /// The scope of an instant: its thread or its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    args: Map<String, Value>,
}

pub(super) fn write(
    picture: &Picture<'_>,
    evidence: &Evidence,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    let mut trace = Trace { out, first: true };
    trace.out.write_all(b"{\"traceEvents\":[\n")?;
    // A process for each host and each guest, whose number is that of its first row from 1.
    let mut process = 0;
    let mut processes = Vec::with_capacity(picture.rows.len());
    for (at, row) in picture.rows.iter().enumerate() {
        if row.mac.is_none() {
            process = at + 1;
            trace.names(process, row)?;
        } else {
            let lane = if row.lane == 0 { String::new() } else { format!(" ({})", row.lane + 1) };
            let mac = row.mac.map(|mac| mac.to_string()).unwrap_or_default();
            trace.metadata("thread_name", process, at + 1, json!({ "name": format!("{mac}{lane}") }))?;
            trace.metadata("thread_sort_index", process, at + 1, json!({ "sort_index": at + 1 }))?;
        }
        processes.push(process);
    }
    for bar in &picture.bars {
        trace.bar(bar, processes[bar.row], (picture.from, picture.until))?;
    }
    for mark in &picture.marks {
        trace.mark(mark, processes[mark.row], picture.rows[mark.row].mac.is_some())?;
    }
    trace.coverage(picture, &processes)?;
    trace.out.write_all(b"\n],\n\"displayTimeUnit\":\"ms\",\n\"otherData\":")?;
    crate::json::write_line(&mut *trace.out, &other_data(evidence, &picture.left_out))?;
    trace.out.write_all(b"}\n")?;
    Ok(picture.left_out.clone())
}

fn other_data(evidence: &Evidence, left_out: &[String]) -> Value {
    let files = evidence.files.iter().map(|file| {
        let hash = match &file.hash {
            Hash::Sha256 { sha256, bytes, .. } => format!("sha256:{sha256} ({bytes} bytes)"),
            Hash::None(why) => why.clone(),
        };
        Value::String(format!("{}: {hash}", escape_text(&file.path)))
    });
    let files: Vec<Value> = files.collect();
    json!({
        "program": evidence.program,
        "command": super::collect::command(&evidence.command),
        "generated": format!("{:.3}", evidence.generated),
        "inputs": files,
        "left_out": left_out,
    })
}

struct Trace<'o, W: Write> {
    out: &'o mut W,
    first: bool,
}

impl<W: Write> Trace<'_, W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if !std::mem::take(&mut self.first) {
            self.out.write_all(b",\n")?;
        }
        crate::json::write_line(&mut *self.out, event).map_err(io::Error::other)
    }

    fn metadata(&mut self, name: &str, pid: usize, tid: usize, args: Value) -> io::Result<()> {
        let args = object(args);
        let name = name.to_owned();
        self.event(&Event { name, cat: None, ph: "M", ts: None, dur: None, pid, tid, s: None, args })
    }

    /// Names the process of a host or guest, and its first thread.
    fn names(&mut self, pid: usize, row: &Row<'_>) -> io::Result<()> {
        let host = escape_name(row.host);
        let name = match row.guest {
            Some(guest) => format!("{} on {host}", escape_name(&guest.name)),
            None => format!("Host {host}"),
        };
        self.metadata("process_name", pid, pid, json!({ "name": name }))?;
        if let Some(guest) = row.guest {
            self.metadata("process_labels", pid, pid, json!({ "labels": guest.uuid.to_string() }))?;
        }
        self.metadata("process_sort_index", pid, pid, json!({ "sort_index": pid }))?;
        let thread = if row.guest.is_some() { "guest" } else { "coverage" };
        self.metadata("thread_name", pid, pid, json!({ "name": thread }))
    }

    fn bar(&mut self, bar: &Bar<'_>, pid: usize, (first, last): (Timestamp, Timestamp)) -> io::Result<()> {
        let (session, tid) = (&bar.session, bar.row + 1);
        let devices: Vec<Value> = session.holdings.iter().map(|holding| device(holding)).collect();
        let main: Vec<String> = session.main().map(device_name).collect();
        let args = object(json!({
            "guest": escape_name(&session.guest().name),
            "uuid": session.guest().uuid.to_string(),
            "mac": session.mac().to_string(),
            "state": session.state().as_str(),
            "certainty": session.certainty().as_str(),
            "ended_by": session.ended_by().map(|by| by.as_str()),
            "unauthenticated": session.is_unauthenticated(),
            "devices": devices,
        }));
        let from = begin(session).max(first);
        let slice = |name: String, from: Timestamp, to: Timestamp, args| {
            let dur = (micros(to) - micros(from)).max(0);
            let (ts, dur) = (Some(micros(from)), Some(dur));
            Event { name, cat: Some("session"), ph: "X", ts, dur, pid, tid, s: None, args }
        };
        let name = main.join(" + ");
        if !session.was_held() {
            let name = format!("{}: {name}", session.state().as_str());
            let ts = Some(micros(from));
            let cat = Some("session");
            return self.event(&Event { name, cat, ph: "i", ts, dur: None, pid, tid, s: Some("t"), args });
        }
        let end = session.released().filter(|_| session.state() == State::Released);
        self.event(&slice(name, from, end.unwrap_or(last), args))?;
        if let Some((opened, granted)) = session.opened().zip(session.granted())
            && opened < granted
        {
            self.event(&slice("open to grant".to_owned(), opened, granted, Map::new()))?;
        }
        Ok(())
    }

    fn mark(&mut self, mark: &Mark<'_>, pid: usize, is_interface: bool) -> io::Result<()> {
        let finding = mark.finding;
        let grave = finding.kind.severity() == Severity::Grave;
        let places: Vec<String> = finding.proof.iter().map(|proof| location(proof).to_string()).collect();
        self.event(&Event {
            name: format!("{}{}", finding.kind.as_str(), if grave { " (grave)" } else { "" }),
            cat: Some(if grave { "finding,grave" } else { "finding" }),
            ph: "i",
            ts: Some(micros(finding.time)),
            dur: None,
            pid,
            tid: mark.row + 1,
            s: Some(if is_interface { "t" } else { "p" }),
            args: object(json!({
                "what": crate::findings::sentence(finding),
                "meaning": finding.kind.summary(),
                "lines": places,
            })),
        })
    }

    /// The hosts' coverage, gaps and boots, in the thread of each host.
    fn coverage(&mut self, picture: &Picture<'_>, processes: &[usize]) -> io::Result<()> {
        for (at, row) in picture.rows.iter().enumerate().filter(|(_, row)| row.guest.is_none()) {
            let Some(coverage) = picture.coverage(row.host) else { continue };
            let (pid, tid) = (processes[at], at + 1);
            let named = [("covered", &coverage.spans), ("gap", &coverage.gaps)];
            for (name, spans) in named {
                for span in spans {
                    let dur = Some(micros(span.until) - micros(span.from));
                    let (name, ts, args) = (name.to_owned(), Some(micros(span.from)), Map::new());
                    self.event(&Event {
                        name,
                        cat: Some("coverage"),
                        ph: "X",
                        ts,
                        dur,
                        pid,
                        tid,
                        s: None,
                        args,
                    })?;
                }
            }
            for start in &coverage.starts {
                let (name, ts) = ("boot, or begin of watching".to_owned(), Some(micros(*start)));
                let (cat, args) = (Some("coverage"), Map::new());
                self.event(&Event { name, cat, ph: "i", ts, dur: None, pid, tid, s: Some("p"), args })?;
            }
        }
        Ok(())
    }
}

fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// A device's kind, with its interface where that is known.
pub(super) fn device_name(holding: &Holding) -> String {
    let device = &holding.device;
    match device.dev.as_deref() {
        Some(dev) => format!("{} {}", device.kind, escape_name(dev)),
        None => device.kind.to_string(),
    }
}

fn device(holding: &Holding) -> Value {
    let time = |time: Option<Timestamp>| time.map(|time| format!("{time:.3}"));
    json!({
        "kind": holding.device.kind.as_str(),
        "path": escape_name(&holding.device.path),
        "interface": holding.device.dev.as_deref().map(escape_name),
        "number": holding.device.rdev.map(|rdev| rdev.to_string()),
        "state": holding.state.as_str(),
        "opened": time(holding.opened),
        "granted": time(holding.granted),
        "released": time(holding.released),
        "certainty": holding.certainty.as_str(),
        "pid": holding.pid,
        "lines": holding.proof.iter().map(|proof| location(proof).to_string()).collect::<Vec<_>>(),
    })
}
