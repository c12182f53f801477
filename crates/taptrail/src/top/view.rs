//! What `top` shows, and how keys change it.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};
use taptrail_report::{LiveEvent, LiveRow, Style, live_events, live_rows};
use taptrail_trail::{Certainty, FindingKind, State};

use crate::live::Snapshot;

/// Events that are kept for scrolling.
const MAX_EVENTS: usize = 500;

/// Characters of a filter.
const MAX_FILTER_CHARS: usize = 100;

/// Rows that PgUp and PgDn move.
const PAGE: usize = 10;

/// A key, as far as the view knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    Escape,
    Enter,
    Backspace,
    Character(char),
}

/// The state of the view.
pub(super) struct View {
    style: Style,
    snapshot: Snapshot,
    /// Why the trail could not be read the last time.
    error: Option<String>,
    /// Rows that are scrolled out at the top.
    offset: usize,
    filter: String,
    /// Whether keys are the filter's.
    typing: bool,
    findings_alone: bool,
}

impl View {
    pub(super) fn new(style: Style) -> Self {
        Self {
            style,
            snapshot: Snapshot::default(),
            error: None,
            offset: 0,
            filter: String::new(),
            typing: false,
            findings_alone: false,
        }
    }

    pub(super) fn update(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
        self.error = None;
    }

    pub(super) fn set_error(&mut self, error: String) {
        self.error = Some(error);
    }

    /// Whether letters are the filter's.
    pub(super) fn is_typing(&self) -> bool {
        self.typing
    }

    pub(super) fn press(&mut self, key: Key) {
        match key {
            Key::Up => self.offset = self.offset.saturating_sub(1),
            Key::Down => self.offset = self.offset.saturating_add(1),
            Key::PageUp => self.offset = self.offset.saturating_sub(PAGE),
            Key::PageDown => self.offset = self.offset.saturating_add(PAGE),
            Key::Home => self.offset = 0,
            Key::Escape => {
                self.typing = false;
                self.filter.clear();
            }
            Key::Enter => self.typing = false,
            Key::Backspace if self.typing => _ = self.filter.pop(),
            Key::Character(c) if self.typing => {
                if self.filter.chars().count() < MAX_FILTER_CHARS && !c.is_control() {
                    self.filter.push(c);
                }
            }
            Key::Character('/') => self.typing = true,
            Key::Character('f') => self.findings_alone = !self.findings_alone,
            Key::Backspace | Key::Character(_) => {}
        }
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, now: Timestamp) {
        let rows: Vec<_> = live_rows(&self.snapshot.report, now, &self.style)
            .into_iter()
            .filter(|row| self.has(row))
            .collect();
        self.offset = self.offset.min(rows.len().saturating_sub(1));
        let [head, held, events, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Fill(3),
            Constraint::Fill(2),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(&rows, now)), head);
        self.draw_held(frame, held, &rows);
        self.draw_events(frame, events, now);
        frame.render_widget(Paragraph::new(self.foot()), foot);
    }

    fn has(&self, row: &LiveRow) -> bool {
        let words = [&row.host, &row.guest, &row.mac, &row.devices];
        self.filter.is_empty() || words.iter().any(|word| word.contains(&*self.filter))
    }

    /// Counts, and how old the records are.
    fn head(&self, rows: &[LiveRow], now: Timestamp) -> Vec<Line<'static>> {
        let count = |state: State| rows.iter().filter(|row| row.state == state).count();
        let (held, opening, unknown) = (count(State::Held), count(State::Opening), count(State::Unknown));
        let findings = self.snapshot.report.findings.len();
        let mut counts = format!("{held} held");
        for (number, word) in [(opening, "opening"), (unknown, "unknown"), (findings, "findings")] {
            if number > 0 {
                counts.push_str(&format!(", {number} {word}"));
            }
        }
        let last =
            self.snapshot.report.input.coverage.iter().filter_map(|of| of.spans.last()).map(|of| of.until);
        let lag = match last.max() {
            Some(last) => {
                format!("the last record is {} old", age(now.duration_since(last).as_secs()))
            }
            None => "no record was read".to_owned(),
        };
        let took = self.snapshot.took.as_millis();
        vec![
            Line::from(vec![
                Span::styled("taptrail top  ", Look::new().add_modifier(Modifier::BOLD)),
                Span::raw(counts),
            ]),
            Line::from(format!("{lag}; reading took {took} ms")),
        ]
    }

    fn draw_held(&self, frame: &mut Frame<'_>, area: Rect, rows: &[LiveRow]) {
        let several = rows.iter().any(|row| row.host != rows[0].host);
        let mut header = vec!["GUEST", "MAC", "DEVICES", "SINCE", "FOR", "STATE", "BASIS"];
        let mut widths = vec![
            Constraint::Fill(2),
            Constraint::Length(17),
            Constraint::Fill(3),
            Constraint::Length(14),
            Constraint::Length(7),
            Constraint::Length(8),
            Constraint::Length(10),
        ];
        if several {
            header.insert(0, "HOST");
            widths.insert(0, Constraint::Fill(1));
        }
        let table_rows = rows.iter().skip(self.offset).map(|row| {
            let state = match row.state {
                State::Held => Look::new().fg(Color::Green),
                _ => Look::new().fg(Color::Yellow),
            };
            let basis = match row.basis {
                Certainty::Definitive => Look::new(),
                Certainty::Doubtful => Look::new().fg(Color::Red),
                _ => Look::new().fg(Color::Yellow),
            };
            let host = several.then(|| Cell::from(row.host.clone()));
            let cells = [
                Cell::from(row.guest.clone()),
                Cell::from(row.mac.clone()),
                Cell::from(row.devices.clone()),
                Cell::from(row.since.clone()),
                Cell::from(row.age.clone()),
                Cell::from(row.state.as_str()).style(state),
                Cell::from(row.basis.as_str()).style(basis),
            ];
            Row::new(host.into_iter().chain(cells))
        });
        let title = match self.offset {
            0 => " Held now ".to_owned(),
            offset => format!(" Held now, from row {} of {} ", offset + 1, rows.len()),
        };
        let table = Table::new(table_rows, widths)
            .header(Row::new(header).style(Look::new().add_modifier(Modifier::BOLD)))
            .block(Block::new().borders(Borders::TOP).title(title));
        frame.render_widget(table, area);
    }

    fn draw_events(&self, frame: &mut Frame<'_>, area: Rect, now: Timestamp) {
        let shown = |event: &LiveEvent| {
            let about = [&event.guest, &event.text].iter().any(|text| text.contains(&*self.filter));
            let is_finding = FindingKind::from_word(event.what).is_some() && event.what != "open-failed";
            about && (!self.findings_alone || is_finding || event.grave)
        };
        let events = live_events(&self.snapshot.report, now, MAX_EVENTS, &self.style);
        let rows = events.into_iter().filter(shown).take(usize::from(area.height)).map(|event| {
            let look = if event.grave { Look::new().fg(Color::Red) } else { Look::new() };
            Row::new([
                Cell::from(event.time),
                Cell::from(event.what).style(look),
                Cell::from(event.guest),
                Cell::from(event.text),
            ])
        });
        let widths =
            [Constraint::Length(14), Constraint::Length(23), Constraint::Fill(1), Constraint::Fill(4)];
        let title = if self.findings_alone { " Last findings " } else { " Last events " };
        let table = Table::new(rows, widths).block(Block::new().borders(Borders::TOP).title(title));
        frame.render_widget(table, area);
    }

    fn foot(&self) -> Line<'static> {
        if let Some(error) = &self.error {
            return Line::styled(format!("Not read: {error}"), Look::new().fg(Color::Red));
        }
        if self.typing {
            return Line::from(format!("Filter: {}_   Enter keeps it, Esc clears it", self.filter));
        }
        let filter =
            if self.filter.is_empty() { String::new() } else { format!("   filtered by '{}'", self.filter) };
        Line::from(format!("q quit   / filter   f findings   arrows scroll{filter}"))
    }
}

/// A time in seconds in the largest unit that is less than it.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use taptrail_record::{Device, GuestId, MacAddr, Rdev};
    use taptrail_trail::{EndedBy, Holding, Report};
    use uuid::Uuid;

    use super::*;

    fn holding(name: &str, mac: u8, at: i64, released: Option<i64>) -> Holding {
        let time = |seconds| Timestamp::from_second(seconds).ok();
        Holding {
            host: "h1".into(),
            guest: GuestId { name: name.into(), uuid: Uuid::from_u128(mac.into()) },
            mac: MacAddr::kvm([0, 0, mac]),
            device: Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into())),
            queues: Some(2),
            opened: time(at),
            granted: time(at),
            released: released.and_then(time),
            last_seen: None,
            end_doubt: None,
            uncertain_since: None,
            possibly_held: Vec::new(),
            state: if released.is_some() { State::Released } else { State::Held },
            ended_by: released.map(|_| EndedBy::Stop),
            certainty: Certainty::Definitive,
            pid: None,
            proof: Vec::new(),
        }
    }

    fn view() -> View {
        let mut view = View::new(Style { utc: true, ..Style::default() });
        let holdings = vec![
            holding("web1", 1, 100, None),
            holding("db\x1b[31m", 2, 120, None),
            holding("old", 3, 50, Some(130)),
        ];
        view.update(Snapshot { report: Report { holdings, ..Report::default() }, ..Snapshot::default() });
        view
    }

    fn screen(view: &mut View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, 14)).unwrap();
        let now = Timestamp::from_second(160).unwrap();
        terminal.draw(|frame| view.draw(frame, now)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn what_is_held_and_what_happened() {
        insta::assert_snapshot!(screen(&mut view()));
    }

    #[test]
    fn a_filter_is_typed_kept_and_cleared() {
        let mut view = view();
        "/web1q".chars().for_each(|c| view.press(Key::Character(c)));
        assert!(view.is_typing(), "q is a letter now");
        view.press(Key::Backspace);
        view.press(Key::Enter);
        let text = screen(&mut view);
        assert!(!view.is_typing() && text.contains("web1") && !text.contains("old"), "{text}");
        view.press(Key::Escape);
        assert!(screen(&mut view).contains("old"));
    }

    #[test]
    fn an_age_has_one_unit() {
        let words = [-5, 119, 120, 7_199, 7_200, 172_799, 524_406].map(age);
        assert_eq!(words, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "6 days"]);
    }

    #[test]
    fn scrolling_ends_at_the_last_row() {
        let mut view = view();
        (0..100).for_each(|_| view.press(Key::PageDown));
        let text = screen(&mut view);
        assert!(text.contains("from row 2 of 2"), "{text}");
        view.press(Key::Home);
        assert!(screen(&mut view).contains(" Held now "));
    }

    #[test]
    fn an_error_of_reading_leaves_the_view() {
        let mut view = view();
        view.set_error("audit.log: Permission denied".to_owned());
        let text = screen(&mut view);
        assert!(text.contains("Not read: audit.log") && text.contains("web1"), "{text}");
    }
}
