//! Runs of guests as a table. A narrow terminal gets fewer columns.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use compact_str::{CompactString, format_compact};
use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{ActorRole, GuestRun, Input, Proof, RecordedActor, RunState};

use crate::Style;
use crate::explain::names;
use crate::fold::fold;
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Cell, Table, bad, cell, display, good, number, warning};
use crate::text::{NONE, escape_name};
use crate::trail::count;
use crate::unauthenticated::{UNAUTHENTICATED_FOOTNOTE, UNAUTHENTICATED_MARK};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Host,
    Guest,
    Uuid,
    Start,
    End,
    For,
    Why,
    By,
    Interfaces,
    Pid,
}

impl Column {
    const ALL: [Self; 10] = [
        Self::Host,
        Self::Guest,
        Self::Uuid,
        Self::Start,
        Self::End,
        Self::For,
        Self::Why,
        Self::By,
        Self::Interfaces,
        Self::Pid,
    ];

    /// Those that a narrow terminal does not get, the first to go first.
    const DROPPED: [Self; 5] = [Self::Uuid, Self::Pid, Self::By, Self::Interfaces, Self::For];

    fn header(self) -> &'static str {
        match self {
            Self::Host => "HOST",
            Self::Guest => "GUEST",
            Self::Uuid => "UUID",
            Self::Start => "START",
            Self::End => "END",
            Self::For => "FOR",
            Self::Why => "WHY",
            Self::By => "BY",
            Self::Interfaces => "INTERFACES",
            Self::Pid => "PID",
        }
    }
}

/// The columns of a terminal that a guest's name may take.
const MAX_NAME_WIDTH: usize = 24;

/// Stands behind the reason of a run of which records may be missing.
const INCOMPLETE_MARK: &str = "?";

/// Runs, a row for each, a summary line, and the guests of which a start failed. The first column is
/// the host, if there is more than one.
pub fn run_table(
    runs: &[GuestRun],
    not_started: &BTreeSet<CompactString>,
    input: &Input,
    style: &Style,
) -> String {
    let mut text = if runs.is_empty() { "No guests\n".to_owned() } else { rows(runs, input, style) };
    let running = runs.iter().filter(|run| run.state == RunState::Running).count();
    // Writing to a String can't fail.
    let _ = write!(
        text,
        "\n{}, {running} running; {} read",
        count(runs.len() as u64, "run"),
        count(input.records, "record"),
    );
    if input.unreadable > 0 {
        let _ = write!(text, ", {} unreadable", count(input.unreadable, "line"));
    }
    text.push('\n');
    if !not_started.is_empty() {
        let names = names(not_started.iter().map(CompactString::as_str));
        let line = format!(
            "Failed starts: {names}; `taptrail findings --kind start-failed --kind false-start` has each"
        );
        for part in fold(&line, style.width.map_or(usize::MAX, usize::from)) {
            let _ = writeln!(text, "{part}");
        }
    }
    if runs.iter().any(|run| run.uncertain_since.is_some()) {
        let _ = writeln!(text, "{INCOMPLETE_MARK}  records of that time may be missing");
    }
    if runs.iter().any(|run| Proof::any_unauthenticated(&run.proof)) {
        text.push_str(UNAUTHENTICATED_FOOTNOTE);
    }
    text
}

fn rows(runs: &[GuestRun], input: &Input, style: &Style) -> String {
    let clock = TimeFormat::new(style);
    let mut columns = Column::ALL.to_vec();
    if runs.iter().all(|run| run.host == runs[0].host) {
        columns.retain(|column| *column != Column::Host);
    }
    let table = |columns: &[Column]| {
        let header: Vec<_> = columns.iter().map(|column| column.header()).collect();
        let mut table = Table::new(style, &header);
        for run in runs {
            table.row(
                columns.iter().map(|column| column_cell(*column, run, input, &clock, style.width.is_some())),
            );
        }
        table
    };
    for dropped in Column::DROPPED {
        let full = table(&columns);
        if full.fits(style) {
            return full.text();
        }
        columns.retain(|column| *column != dropped);
    }
    table(&columns).folded(style).text()
}

/// A long name takes several lines of a terminal, so that other columns have room.
fn name(name: &str, narrow: bool) -> CompactString {
    if narrow { fold(name, MAX_NAME_WIDTH).join("\n").into() } else { name.into() }
}

fn column_cell(column: Column, run: &GuestRun, input: &Input, clock: &TimeFormat, narrow: bool) -> Cell {
    match column {
        Column::Host => cell(escape_name(&run.host)),
        Column::Guest => cell(name(&escape_name(&run.guest.name), narrow)),
        Column::Uuid => display(run.guest.uuid),
        Column::Start => cell(clock.optional(run.started)),
        Column::End => cell(end(run, clock)),
        Column::For => cell(duration_of(run, input)),
        Column::Why => why(run),
        Column::By => cell(by(run)),
        Column::Interfaces => number(run.interfaces),
        Column::Pid => run.pid.map_or_else(|| number(NONE), number),
    }
}

/// The end that is nearest to the truth: the kernel records a fatal signal as the process ends, its
/// manager's record comes later. `by` stands before a time that only limits it.
fn end(run: &GuestRun, clock: &TimeFormat) -> CompactString {
    if let Some(crash) = run.crash {
        return clock.after(run.started, Some(crash.time));
    }
    let time = clock.after(run.started, run.ended);
    if run.last_seen.is_some() && run.ended.is_some() { format_compact!("by {time}") } else { time }
}

fn duration_of(run: &GuestRun, input: &Input) -> CompactString {
    let Some(started) = run.started else { return NONE.into() };
    let between = |until: Timestamp| duration(until.duration_since(started));
    if let Some(crash) = run.crash {
        return between(crash.time);
    }
    match (run.state, run.ended, run.last_seen) {
        // It is known to have run so long, and no longer.
        (RunState::Ended, Some(_), Some(last_seen)) => format_compact!("{}+", between(last_seen)),
        (RunState::Ended, Some(ended), None) => between(ended),
        _ => {
            let covered = input.coverage.binary_search_by(|of| of.host.cmp(&run.host)).ok();
            let last = covered.and_then(|at| input.coverage[at].spans.last());
            last.map_or(NONE.into(), |last| format_compact!("{}+", between(last.until.max(started))))
        }
    }
}

/// The two largest units: `2.260s`, `4m 12s`, `3h 05m`, `12d 4h`.
fn duration(of: SignedDuration) -> CompactString {
    let seconds = of.as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if minutes == 0 => format_compact!("{seconds}.{:03}s", of.subsec_millis().max(0)),
        () if hours == 0 => format_compact!("{minutes}m {:02}s", seconds % 60),
        () if days == 0 => format_compact!("{hours}h {:02}m", minutes % 60),
        () => format_compact!("{days}d {}h", hours % 24),
    }
}

fn why(run: &GuestRun) -> Cell {
    let mut word = match (&run.crash, &run.end_reason, run.state) {
        (Some(crash), ..) => match crash.signal_name() {
            Some(name) => format_compact!("crashed ({name})"),
            None => format_compact!("crashed (signal {})", crash.signal),
        },
        (None, Some(reason), _) => reason.as_str().into(),
        (None, None, RunState::Running) => "running".into(),
        (None, None, RunState::Ended) => "unknown".into(),
    };
    let ended_badly = run.crash.is_some() || word == "crashed" || word == "failed";
    if run.uncertain_since.is_some() {
        word.push_str(INCOMPLETE_MARK);
    }
    if Proof::any_unauthenticated(&run.proof) {
        word.push_str(UNAUTHENTICATED_MARK);
    }
    match (ended_badly, run.state) {
        (true, _) => bad(&word),
        (false, RunState::Running) if run.uncertain_since.is_none() => good(&word),
        _ if run.uncertain_since.is_some() || word == "unknown" => warning(&word),
        _ => cell(word),
    }
}

/// Who is on record: for its start, and for its end if that is someone else.
fn by(run: &GuestRun) -> CompactString {
    let same = |one: RecordedActor, other: RecordedActor| {
        (one.role, one.uid, one.auid) == (other.role, other.uid, other.auid)
    };
    match (run.started_by, run.stopped_by) {
        (None, None) => NONE.into(),
        (Some(one), Some(other)) if same(one, other) => actor(one),
        (Some(one), Some(other)) => format_compact!("{}, {}", actor(one), actor(other)),
        (Some(one), None) | (None, Some(one)) => actor(one),
    }
}

fn actor(actor: RecordedActor) -> CompactString {
    let user = match actor.auid {
        RecordedActor::UNSET => format_compact!("uid {}", actor.uid),
        auid => format_compact!("auid {auid}"),
    };
    match actor.role {
        ActorRole::Requester => user,
        ActorRole::Manager => format_compact!("manager ({user})"),
    }
}
