//! The tables: what QEMU got, and what it never got.

use compact_str::{CompactString, format_compact};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{Certainty, Holding, Report, State};

use super::columns::{Column, Columns};
use super::devices::devices;
use super::session::Session;
use crate::Style;
use crate::findings::location;
use crate::fold::fold;
use crate::span::{Holds, holds_within_coverage};
use crate::style::TimeFormat;
use crate::table::{Cell, Table, bad, cell, display, good, number, warning};
use crate::text::{NONE, duration, escape_name};
use crate::unauthenticated::UNAUTHENTICATED_MARK;

/// The columns of a table, and what it does without where it has no room.
struct Layout {
    columns: &'static [Column],
    /// Dropped first, in this order.
    drop_first: &'static [Column],
    /// Dropped in this order where folding is not enough.
    drop_last: &'static [Column],
}

/// A row for each session that was granted. `TO` says what is held, so `END` may go.
const SESSIONS: Layout = Layout {
    columns: &[
        Column::Host,
        Column::Guest,
        Column::Mac,
        Column::Devices,
        Column::From,
        Column::To,
        Column::For,
        Column::End,
        Column::Basis,
    ],
    drop_first: &[Column::For],
    drop_last: &[Column::Basis, Column::End],
};

/// A row for each device that was granted.
const DEVICES: Layout = Layout {
    columns: &[
        Column::Host,
        Column::Guest,
        Column::Mac,
        Column::Device,
        Column::Path,
        Column::Ifname,
        Column::Rdev,
        Column::Queues,
        Column::Opened,
        Column::From,
        Column::To,
        Column::End,
        Column::Basis,
    ],
    drop_first: &[Column::Rdev, Column::Queues, Column::Opened],
    drop_last: &[Column::Basis, Column::End, Column::Device, Column::Ifname],
};

/// A row for each session that was never granted.
const NEVER_GRANTED_SESSIONS: Layout = Layout {
    columns: &[
        Column::Host,
        Column::Guest,
        Column::Mac,
        Column::Devices,
        Column::Opened,
        Column::Until,
        Column::State,
        Column::Basis,
    ],
    drop_first: &[],
    drop_last: &[Column::Basis, Column::Until],
};

/// A row for each device that was never granted.
const NEVER_GRANTED_DEVICES: Layout = Layout {
    columns: &[
        Column::Host,
        Column::Guest,
        Column::Mac,
        Column::Device,
        Column::Path,
        Column::Ifname,
        Column::Rdev,
        Column::Queues,
        Column::Opened,
        Column::Until,
        Column::State,
        Column::Basis,
    ],
    drop_first: &[Column::Rdev, Column::Queues],
    drop_last: &[Column::Basis, Column::Device, Column::Ifname, Column::Until],
};

/// To how many terminal columns names and devices are folded, in this order. Times, MACs, UUIDs and
/// paths never are.
const FOLD: [(Column, usize); 7] = [
    (Column::Guest, 20),
    (Column::Devices, 14),
    (Column::Host, 12),
    (Column::Guest, 12),
    (Column::Devices, 8),
    (Column::Guest, 8),
    (Column::Host, 8),
];

/// So many of them are taken before a column of [`Layout::drop_last`] is dropped.
const FOLDED_BEFORE_DROPPING: usize = 3;

/// Sessions, or their devices, in the order of time, with a line for each day.
pub(crate) fn sessions(
    report: &Report,
    all: Vec<Session<'_>>,
    columns: &Columns,
    hosts: bool,
    clock: &TimeFormat,
    style: &Style,
) -> String {
    let rows: Vec<Row<'_>> = if columns.are_of_devices() {
        all.iter().flat_map(|session| &session.holdings).map(|holding| Row::device(holding)).collect()
    } else {
        all.into_iter().map(Row::session).collect()
    };
    let context = Context { report, clock, style, hosts };
    // What a filter's time selects may have been held then.
    let (never, granted): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| style.at.is_none() && row.session.was_never_granted());
    let mut text = String::new();
    let mut dropped = Vec::new();
    if !granted.is_empty() {
        text.push_str(&context.table(&granted, columns, [&SESSIONS, &DEVICES], &mut dropped));
    }
    if !never.is_empty() {
        text.push_str(if granted.is_empty() { "" } else { "\n" });
        text.push_str("Opened or tried, never granted\n");
        let layouts = [&NEVER_GRANTED_SESSIONS, &NEVER_GRANTED_DEVICES];
        text.push_str(&context.table(&never, columns, layouts, &mut dropped));
    }
    let legend: String =
        LEGEND.iter().filter(|(mark, _)| is_marked(&text, *mark)).map(|(_, line)| *line).collect();
    text.push_str(&legend);
    if !dropped.is_empty() {
        let names: Vec<_> = dropped.iter().map(|column| column.header()).collect();
        let line = format!("No room for {}: a wider terminal or -o shows them", names.join(", "));
        for part in fold(&line, style.width.map_or(usize::MAX, usize::from)) {
            text.push_str(part);
            text.push('\n');
        }
    }
    text
}

/// What the marks before a time or duration mean.
const LEGEND: [(char, &str); 3] = [
    ('≤', "≤ then or before\n"),
    ('≥', "≥ so long or longer\n"),
    ('?', "? QEMU may have had it since or until then; no record says so\n"),
];

/// Whether a time or duration in a text has the mark.
fn is_marked(text: &str, mark: char) -> bool {
    text.split(mark).skip(1).any(|after| after.starts_with(|c: char| c.is_ascii_digit()))
}

/// A session, or one device of one.
struct Row<'a> {
    session: Session<'a>,
}

impl<'a> Row<'a> {
    fn session(session: Session<'a>) -> Self {
        Self { session }
    }

    fn device(holding: &'a Holding) -> Self {
        Self { session: Session { holdings: vec![holding] } }
    }

    /// The time under whose day it stands: its first known one.
    fn first_time(&self) -> Option<Timestamp> {
        let proof = self.session.holdings.iter().filter_map(|of| of.proof.first()).map(|proof| proof.time);
        self.session.opened().or(self.session.granted()).or_else(|| proof.min())
    }
}

/// What the cells of a table depend on.
struct Context<'a> {
    report: &'a Report,
    clock: &'a TimeFormat,
    style: &'a Style,
    hosts: bool,
}

impl Context<'_> {
    /// A table of some rows, with the layout for sessions or for devices.
    fn table(
        &self,
        rows: &[Row<'_>],
        asked: &Columns,
        [sessions, devices]: [&Layout; 2],
        dropped: &mut Vec<Column>,
    ) -> String {
        let layout = match asked {
            Columns::Sessions => Some(sessions),
            Columns::Devices => Some(devices),
            Columns::These(_) => None,
        };
        let mut shown: Vec<_> = match asked {
            Columns::These(columns) => columns.clone(),
            _ => layout.map_or(&[][..], |layout| layout.columns).to_vec(),
        };
        shown.retain(|column| layout.is_none() || self.hosts || *column != Column::Host);
        let header: Vec<_> = shown.iter().map(|column| column.header()).collect();
        let mut table = Table::new(self.style, &header);
        table.reserve_rows(rows.len());
        let mut before: Option<(&Row<'_>, Option<Date>)> = None;
        let mut days = Vec::with_capacity(rows.len());
        for row in rows {
            let day = row.first_time().map(|time| self.clock.date(time));
            // On a terminal, a guest with several interfaces is named once.
            let same = before.is_some_and(|(last, last_day)| {
                let (last, this) = (&last.session, &row.session);
                last_day == day && last.host() == this.host() && last.guest() == this.guest()
            }) && self.style.width.is_some()
                && layout.is_some();
            table.row(shown.iter().map(|column| match column {
                Column::Host | Column::Guest | Column::Uuid if same => cell(""),
                column => self.cell(row, *column, day),
            }));
            days.push(day);
            before = Some((row, day));
        }
        if let Some(layout) = layout {
            self.fit(&mut table, &mut shown, layout, dropped);
        }
        self.with_days(&table, &days)
    }

    /// Drops and folds columns until the table fits.
    fn fit(&self, table: &mut Table, shown: &mut Vec<Column>, layout: &Layout, dropped: &mut Vec<Column>) {
        let mut drop = |table: &mut Table, shown: &mut Vec<Column>, order, slack| {
            let gone = table.drop_columns(self.style, shown, order, slack);
            shown.retain(|column| !gone.contains(column));
            let new: Vec<_> = gone.into_iter().filter(|column| !dropped.contains(column)).collect();
            dropped.extend(new);
        };
        drop(table, shown, layout.drop_first, 0);
        let folded = |(column, least): &(Column, usize)| {
            let at = shown.iter().position(|of| of == column);
            at.map_or(0, |at| table.column_width(at).saturating_sub(*least))
        };
        let slack = FOLD.iter().take(FOLDED_BEFORE_DROPPING).map(folded).sum();
        drop(table, shown, layout.drop_last, slack);
        table.fold_columns(self.style, shown, &FOLD);
    }

    /// The table's lines, with the day and zone above each day's first row.
    fn with_days(&self, table: &Table, days: &[Option<Date>]) -> String {
        let mut lines = table.rows();
        let header = lines.next().unwrap_or_default();
        let heading = |day: Option<Date>| match day {
            Some(day) => self.clock.day(day),
            None => "Time unknown".to_owned(),
        };
        let mut text = String::new();
        let mut last = None;
        for (line, day) in lines.zip(days) {
            if last != Some(*day) {
                text.push_str(&heading(*day));
                text.push('\n');
                if last.is_none() {
                    text.push_str(&header);
                }
                last = Some(*day);
            }
            text.push_str(&line);
        }
        text
    }

    fn cell(&self, row: &Row<'_>, column: Column, day: Option<Date>) -> Cell {
        let session = &row.session;
        let device = &session.first().device;
        match column {
            Column::Host => cell(escape_name(session.host())),
            Column::Guest => cell(escape_name(&session.guest().name)),
            Column::Uuid => display(session.guest().uuid),
            Column::Mac => display(session.mac()),
            Column::Devices => cell(devices(session)),
            Column::Opened => cell(self.time(session.opened(), "", day)),
            Column::From => cell(self.from(session, day)),
            Column::To => self.to(session, day),
            Column::Until => cell(self.time(possible_end(session), "?", day)),
            Column::For => cell(self.how_long(session)),
            Column::End => cell(session.ended_by().map_or(NONE, |by| by.as_str())),
            Column::Basis => basis(session),
            Column::Pid => session.main().find_map(|of| of.pid).map_or_else(|| cell(NONE), number),
            Column::State => self.state(session),
            Column::Proof => {
                let first =
                    session.holdings.iter().filter_map(|of| of.proof.first()).min_by_key(|of| of.order());
                first.map_or_else(|| cell(NONE), |proof| display(location(proof)))
            }
            Column::Device => cell(device.kind.as_str()),
            Column::Path => cell(escape_name(&device.path)),
            Column::Ifname => cell(device.dev.as_deref().map_or(NONE.into(), escape_name)),
            Column::Rdev => device.rdev.map_or_else(|| cell(NONE), display),
            // The records may not contain the number of queues.
            Column::Queues => session.first().queues.map_or_else(|| number("?"), number),
        }
    }

    fn time(&self, time: Option<Timestamp>, mark: &str, day: Option<Date>) -> CompactString {
        time.map_or(NONE.into(), |time| format_compact!("{mark}{}", self.clock.short(time, day)))
    }

    /// When QEMU got it. What was held since before the trail was held at its first record; what is
    /// not known to be held may have been since its open.
    fn from(&self, session: &Session<'_>, day: Option<Date>) -> CompactString {
        if !session.was_held() {
            let may = session.state() != State::OpenFailed;
            return self.time(session.opened().filter(|_| may), "?", day);
        }
        match session.granted() {
            Some(granted) => self.time(Some(granted), "", day),
            None => self.time(first_shown(session), "≤", day),
        }
    }

    fn to(&self, session: &Session<'_>, day: Option<Date>) -> Cell {
        match (self.then(session), session.state(), session.released()) {
            (Some(Holds::Possibly), ..) | (_, State::Released, None) => self.state(session),
            (_, State::Released, at) => {
                let mark = if is_latest_end(session) { "≤" } else { "" };
                cell(self.time(at, mark, day))
            }
            _ => self.state(session),
        }
    }

    /// The state, or `possibly-held` if that is all that is known for the filter's time.
    fn state(&self, session: &Session<'_>) -> Cell {
        match (self.then(session), session.state()) {
            (Some(Holds::Possibly), _) => warning("possibly-held"),
            (_, State::Held) => good(State::Held.as_str()),
            (_, state @ (State::OpenFailed | State::NeverGranted | State::Unknown)) => {
                warning(state.as_str())
            }
            (_, state @ (State::Opening | State::Released)) => cell(state.as_str()),
        }
    }

    /// Whether it was held at the filter's time: as the device that most surely was.
    fn then(&self, session: &Session<'_>) -> Option<Holds> {
        let at = self.style.at?;
        let held = |of: &&Holding| holds_within_coverage(of, at, &self.report.input);
        let all: Vec<_> = session.holdings.iter().map(held).collect();
        let best = [Holds::Yes, Holds::Possibly].into_iter().find(|what| all.contains(what));
        Some(best.unwrap_or(Holds::No))
    }

    fn how_long(&self, session: &Session<'_>) -> CompactString {
        if !session.was_held() {
            return NONE.into();
        }
        let from = session.granted();
        let to = session.released();
        let last = || self.report.input.coverage.iter().find(|of| *of.host == *session.host())?.spans.last();
        let (from, mark) = match from {
            Some(from) => (Some(from), ""),
            None => (first_shown(session), "≥"),
        };
        let (to, mark) = match to {
            Some(to) if is_latest_end(session) && mark.is_empty() => (Some(to), "≤"),
            Some(_) if is_latest_end(session) => return NONE.into(),
            Some(to) => (Some(to), mark),
            None => (last().map(|span| span.until), "≥"),
        };
        let long = from.zip(to).filter(|(from, to)| from <= to).map(|(from, to)| to.duration_since(from));
        long.map_or(NONE.into(), |long: SignedDuration| format_compact!("{mark}{}", duration(long)))
    }
}

/// The time of the first record that shows a session that was held when the trail began.
fn first_shown(session: &Session<'_>) -> Option<Timestamp> {
    session.main().filter_map(|of| of.proof.first()).map(|proof| proof.time).min()
}

/// Until when QEMU may have had it, though no record says that it got it.
fn possible_end(session: &Session<'_>) -> Option<Timestamp> {
    session.main().flat_map(|of| &of.possibly_held).filter_map(|range| range.until).max()
}

/// Whether it had ended by the time that it has as its end, and possibly before.
fn is_latest_end(session: &Session<'_>) -> bool {
    session.main().any(|of| of.last_seen.is_some() || of.certainty == Certainty::Ambiguous)
}

/// The certainty, with a mark where it rests on unauthenticated lines.
fn basis(session: &Session<'_>) -> Cell {
    let mark = if session.is_unauthenticated() { UNAUTHENTICATED_MARK } else { "" };
    let certainty = session.certainty();
    let word = format_compact!("{}{mark}", certainty.as_str());
    match certainty {
        Certainty::Definitive if mark.is_empty() => cell(word),
        Certainty::Definitive => warning(&word),
        Certainty::Inferred | Certainty::Ambiguous | Certainty::Incomplete => warning(&word),
        Certainty::Doubtful => bad(&word),
    }
}
