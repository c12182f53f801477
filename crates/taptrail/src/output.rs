//! Standard output, standard error, and exit codes.

use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use taptrail_guest::ClientError;
use taptrail_report::Style;
use tracing_subscriber::EnvFilter;

use crate::CommandResult;
use crate::cli::{Cli, ColorChoice, Command};
use crate::pager::LongOutput;
use crate::stderr;

/// The exit code of a guest that did not answer in time.
const TIMED_OUT: u8 = 3;

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// The error rendered with a pointer into its text, if it has one.
    rendered: Option<String>,
    error: anyhow::Error,
}

impl Failure {
    /// The exit code of arguments or input that can't be used.
    pub(crate) const INPUT: u8 = 2;

    /// The arguments or the input can't be used.
    pub(crate) fn input(error: impl Into<anyhow::Error>) -> Self {
        Self { code: Self::INPUT, rendered: None, error: error.into() }
    }

    /// As [`input`](Self::input), with a text that points at the place of the error.
    pub(crate) fn pointing(error: impl Into<anyhow::Error>, rendered: String) -> Self {
        Self { code: Self::INPUT, rendered: Some(rendered), error: error.into() }
    }

    /// The guest did not answer in time.
    pub(crate) fn timed_out(error: impl Into<anyhow::Error>) -> Self {
        Self { code: TIMED_OUT, rendered: None, error: error.into() }
    }

    /// The failure on one line, as it is reported to the parent of --background.
    pub(crate) fn line(&self) -> String {
        let text = taptrail_guest::chain(self.error.as_ref());
        let is_denied = |cause: &(dyn std::error::Error + 'static)| {
            let cause = cause.downcast_ref::<std::io::Error>();
            cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
        };
        if rustix::process::geteuid().is_root() || !self.error.chain().any(is_denied) {
            return text;
        }
        let hint = match self.error.downcast_ref::<ClientError>() {
            Some(_) => "only root may, and users that `taptrail run --allow` named",
            None => "root may",
        };
        format!("{text}: {hint}")
    }

    /// Its exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// With another code.
    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Whether its error is of this type.
    pub(crate) fn is<E: std::error::Error + Send + Sync + 'static>(&self) -> bool {
        self.error.is::<E>()
    }

    /// Prints the failure on standard error; returns its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let text = match &self.rendered {
            Some(rendered) => rendered.trim_end().to_owned(),
            None => format!("taptrail: {}", self.line()),
        };
        // There is no other place to report an error of this.
        let _ = stderr::write_error(&text);
        ExitCode::from(self.code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: 1, rendered: None, error: error.into() }
    }
}

/// How output looks, as the arguments say.
#[derive(Debug, Clone, Copy)]
struct Look {
    color: ColorChoice,
    pager: bool,
}

static LOOK: OnceLock<Look> = OnceLock::new();

/// Sets what [`colors`] and [`may_page`] say.
pub(crate) fn set_look(cli: &Cli) {
    // Supervisors print no long answers, and their output may be read by anything.
    let supervises = matches!(cli.command, Command::Run(_) | Command::Adopt(_) | Command::Watch(_));
    LOOK.get_or_init(|| Look { color: cli.color, pager: !cli.no_pager && !supervises });
}

/// Whether long answers for people may go through a pager, if standard output is a terminal.
pub(crate) fn may_page() -> bool {
    LOOK.get().is_some_and(|look| look.pager)
}

/// Buffered standard output, for long answers.
pub(crate) fn stdout() -> impl Write {
    paged_stdout(false)
}

/// As [`stdout()`]; with `paged`, through the pager on a terminal. The pager has ended when it is
/// dropped.
pub(crate) fn paged_stdout(paged: bool) -> impl Write {
    BufWriter::with_capacity(64 * 1024, LongOutput::new(paged))
}

/// As [`print()`], through the pager on a terminal.
pub(crate) fn page(text: &str) -> CommandResult {
    printed(write_all(&mut LongOutput::new(true), text))
}

fn write_all(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

fn printed(written: io::Result<()>) -> CommandResult {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("Standard output can't be written").into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Writes to standard output. If the reader has closed the pipe, it has read enough.
pub(crate) fn print(text: &str) -> CommandResult {
    printed(write_all(&mut io::stdout().lock(), text))
}

/// Prints clap's message: help on standard output, or an error.
pub(crate) fn parsed(message: &clap::Error) -> ExitCode {
    match message.print() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe && !message.use_stderr() => {
            Failure::from(anyhow::Error::new(error).context("Standard output can't be written")).report()
        }
        _ => ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(Failure::INPUT)),
    }
}

/// As [`print()`], JSON with a newline.
pub(crate) fn print_json(value: &(impl serde::Serialize + ?Sized)) -> CommandResult {
    print(&taptrail_report::json(value)?)
}

/// Whether to use colours on this stream.
pub(crate) fn colors(stream: &impl IsTerminal) -> bool {
    let choice = LOOK.get().map_or(ColorChoice::Auto, |look| look.color);
    colors_of(choice, stream.is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}

/// `NO_COLOR` that is set and not empty says no, unless colours are asked for
/// (<https://no-color.org>).
fn colors_of(choice: ColorChoice, is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => is_terminal && no_color.is_none_or(OsStr::is_empty),
    }
}

/// The style of tables on standard output.
pub(crate) fn style(utc: bool) -> Style {
    let out = io::stdout();
    let width = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).ok()).flatten();
    let width = width.map(|size| size.ws_col).filter(|columns| *columns > 0);
    Style { width, color: colors(&out), utc, at: None }
}

/// Starts the log on standard error.
pub(crate) fn start_log(cli: &Cli) {
    let supervises = matches!(cli.command, Command::Run(_) | Command::Adopt(_) | Command::Watch(_));
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "warn",
        (_, 0) if supervises => "info",
        (_, 0) => "warn",
        (_, 1) => "debug",
        _ => "trace",
    };
    // TAPTRAIL_LOG overrides the level, in the usual syntax (`taptrail_guest=trace`).
    let filter = EnvFilter::try_from_env("TAPTRAIL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr::Log)
        .with_ansi(colors(&io::stderr()))
        // journald gets it as a number.
        .with_level(!stderr::is_journal())
        .with_target(false)
        .without_time()
        // A log that can't be written must not end the supervisor: reporting that would panic.
        .log_internal_errors(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_unless_the_user_says_otherwise() {
        let no = Some(OsStr::new("1"));
        let empty = Some(OsStr::new(""));
        for (choice, is_terminal, no_color, colors) in [
            (ColorChoice::Auto, true, None, true),
            (ColorChoice::Auto, true, empty, true),
            (ColorChoice::Auto, true, no, false),
            (ColorChoice::Auto, false, None, false),
            (ColorChoice::Always, false, no, true),
            (ColorChoice::Never, true, None, false),
        ] {
            assert_eq!(colors_of(choice, is_terminal, no_color), colors, "{choice:?} {is_terminal}");
        }
    }
}
