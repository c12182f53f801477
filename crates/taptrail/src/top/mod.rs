//! `taptrail top`: a live view of a trail in the terminal.

mod view;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use taptrail_guest::Dirs;
use taptrail_report::Style;

use self::view::{Key, View};
use crate::CommandResult;
use crate::cli::Top;
use crate::live::{CHECK_INTERVAL, LiveTrail};
use crate::output::Failure;
use crate::queries::Query;

/// Ages are shown in seconds, so the view is drawn again this often.
const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn top(arguments: &Top, dirs: &Dirs) -> CommandResult {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::input(anyhow::anyhow!(
            "`taptrail top` needs a terminal; `taptrail trail --held` writes the same to a file"
        )));
    }
    let mut query = Query::new(arguments.utc);
    query.about(&arguments.selection);
    let mut trail = LiveTrail::new(&arguments.sources, dirs, query.filter);
    // Read before the terminal is switched: an error is printed as any other.
    let first = trail.refresh()?.unwrap_or_default();
    let style = Style { width: None, color: true, utc: arguments.utc, at: None };
    let mut view = View::new(style);
    view.update(first);
    let mut terminal = ratatui::try_init().context("The terminal can't be used")?;
    let done = run(&mut terminal, &mut trail, &mut view);
    ratatui::restore();
    done.map(|()| ExitCode::SUCCESS)
}

/// Draws until the user quits.
fn run(
    terminal: &mut ratatui::DefaultTerminal,
    trail: &mut LiveTrail<'_>,
    view: &mut View,
) -> Result<(), Failure> {
    let mut idle = REDRAW_INTERVAL;
    loop {
        match trail.refresh() {
            Ok(Some(snapshot)) => {
                view.update(snapshot);
                idle = REDRAW_INTERVAL;
            }
            Ok(None) => {}
            // The view stays: a log that is being rotated can be read again in a moment.
            Err(failure) => view.set_error(failure.line()),
        }
        if idle >= REDRAW_INTERVAL {
            terminal
                .draw(|frame| view.draw(frame, Timestamp::now()))
                .context("The terminal can't be drawn")?;
            idle = Duration::ZERO;
        }
        if !event::poll(CHECK_INTERVAL).context("The terminal can't be read")? {
            idle += CHECK_INTERVAL;
            continue;
        }
        match event::read().context("The terminal can't be read")? {
            Event::Key(key) if key.kind == KeyEventKind::Press => {
                if quits(key, view) {
                    return Ok(());
                }
                if let Some(key) = meaning(key) {
                    view.press(key);
                }
            }
            _ => {}
        }
        idle = REDRAW_INTERVAL;
    }
}

fn quits(key: KeyEvent, view: &View) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    control_c || (key.code == KeyCode::Char('q') && !view.is_typing())
}

fn meaning(key: KeyEvent) -> Option<Key> {
    Some(match key.code {
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::Esc => Key::Escape,
        KeyCode::Enter => Key::Enter,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Char(c) => Key::Character(c),
        _ => return None,
    })
}
