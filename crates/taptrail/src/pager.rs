//! A pager for long answers on a terminal, as git uses one: `$TAPTRAIL_PAGER`, `$PAGER`, or less.
//! No shell runs it, and it is found in fixed directories. Whoever may run taptrail with another
//! user's rights, by sudo, gets no way to run anything else with them.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use signal_hook::SigId;

use crate::output;

/// The variables that name a pager, the first that is set counts.
const VARIABLES: [&str; 2] = ["TAPTRAIL_PAGER", "PAGER"];

/// Where a program without a path is searched for.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];

/// Options of less, if `LESS` is not set: end if all fits on one screen, show colours, leave the
/// text on the terminal.
const LESS: &str = "FRX";

/// Characters that mean something to a shell, which is not run.
const FOR_A_SHELL: &str = "|&;<>()$`\\\"'*?[]{}!\n";

/// Variables that programs set that run others with another user's rights.
const ELEVATED: [&str; 3] = ["SUDO_UID", "DOAS_USER", "PKEXEC_UID"];

/// Why a pager that is set is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum PagerError {
    #[error("{0} has characters for a shell, and none is run")]
    Shell(&'static str),
    #[error("{0} is not valid UTF-8")]
    Text(&'static str),
    #[error("the program of {0} is in none of {dirs}", dirs = DIRECTORIES.join(", "))]
    NotFound(&'static str),
    #[error("the path of {0} is not absolute")]
    Relative(&'static str),
    #[error("{0} names another program than less, and sudo or the like runs this")]
    Elevated(&'static str),
}

/// Standard output for a long answer. On a terminal, the first write starts the pager; dropping it
/// waits for the pager's end.
#[derive(Debug)]
pub(crate) struct LongOutput {
    to: To,
}

#[derive(Debug)]
enum To {
    /// Nothing was written yet, and a pager may be used.
    Undecided(io::Stdout),
    Stdout(io::Stdout),
    Pager(Pager),
}

impl LongOutput {
    /// `paged` is false for what is not for people.
    pub(crate) fn new(paged: bool) -> Self {
        let stdout = io::stdout();
        let is_screen = || stdout.is_terminal() && !is_dumb(env::var_os("TERM").as_deref());
        let pages = paged && output::may_page() && is_screen();
        Self { to: if pages { To::Undecided(stdout) } else { To::Stdout(stdout) } }
    }

    fn decide(&mut self) -> &mut dyn Write {
        if matches!(self.to, To::Undecided(_)) {
            self.to = Pager::start().map_or_else(|| To::Stdout(io::stdout()), To::Pager);
        }
        match &mut self.to {
            To::Pager(pager) => pager,
            To::Stdout(stdout) | To::Undecided(stdout) => stdout,
        }
    }
}

/// Whether a terminal of this type can't show a page.
fn is_dumb(term: Option<&OsStr>) -> bool {
    term.is_none_or(|term| term.is_empty() || term == "dumb")
}

impl Write for LongOutput {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.decide().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Nothing that was written needs no pager.
        if matches!(self.to, To::Undecided(_)) { Ok(()) } else { self.decide().flush() }
    }
}

/// A running pager.
#[derive(Debug)]
struct Pager {
    child: Child,
    /// The pager handles these signals; until its end they do nothing here.
    signals: Vec<SigId>,
}

impl Pager {
    /// Starts the pager; none if none is wanted, or it can't be started, which is said.
    fn start() -> Option<Self> {
        let elevated = ELEVATED.iter().any(|variable| env::var_os(variable).is_some());
        let command = match chosen(elevated) {
            Ok(command) => command?,
            Err(error) => {
                say(&format!(
                    "no pager is used: {error}; --no-pager, or TAPTRAIL_PAGER set to a program, ends this"
                ));
                return None;
            }
        };
        let ignore = |signal: Signal| signal_hook::flag::register(signal.as_raw(), Arc::default()).ok();
        let signals = [Signal::INT, Signal::QUIT].into_iter().filter_map(ignore).collect();
        let mut process = process(&command, env::var_os("LESS").is_some(), elevated)?;
        match process.spawn() {
            Ok(child) => Some(Self { child, signals }),
            Err(error) => {
                say(&format!("no pager is used: {} can't be started: {error}", command[0]));
                None
            }
        }
    }
}

/// The process of a command, with less's variables.
fn process(command: &[String], has_less: bool, elevated: bool) -> Option<Command> {
    let (program, options) = command.split_first()?;
    let mut process = Command::new(program);
    process.args(options).stdin(Stdio::piped());
    if !has_less {
        process.env("LESS", LESS);
    }
    if elevated {
        // less(1): neither shell commands nor other files.
        process.env("LESSSECURE", "1");
    }
    Some(process)
}

impl Write for Pager {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.child.stdin.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // What it returns says nothing about the answer.
        let _ = self.child.wait();
        self.signals.drain(..).for_each(|signal| {
            signal_hook::low_level::unregister(signal);
        });
    }
}

fn say(text: &str) {
    // There is no other place to report an error of this.
    let _ = crate::stderr::write_error(&format!("taptrail: {}", taptrail_record::visible(text)));
}

/// The command of the environment, or less; none for no pager.
fn chosen(elevated: bool) -> Result<Option<Vec<String>>, PagerError> {
    for variable in VARIABLES {
        if let Some(value) = env::var_os(variable) {
            let text = value.into_string().map_err(|_| PagerError::Text(variable))?;
            let command = command(variable, &text, &is_program)?;
            let less = find("less", &is_program);
            let is_other = command.as_ref().is_some_and(|command| command.first() != less.as_ref());
            return if elevated && is_other { Err(PagerError::Elevated(variable)) } else { Ok(command) };
        }
    }
    Ok(find("less", &is_program).map(|less| vec![less]))
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// The program and options that the value of a variable names; none for no pager.
fn command(
    variable: &'static str,
    text: &str,
    exists: &dyn Fn(&Path) -> bool,
) -> Result<Option<Vec<String>>, PagerError> {
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty()).map(str::to_owned);
    let Some(program) = words.next().filter(|program| program != "cat") else { return Ok(None) };
    // `LESS=R less` sets a variable in a shell, and `~/bin/pager` is a path only there.
    if text.contains(|c| FOR_A_SHELL.contains(c)) || program.contains('=') || program.starts_with('~') {
        return Err(PagerError::Shell(variable));
    }
    let program = match program.contains('/') {
        true if !program.starts_with('/') => return Err(PagerError::Relative(variable)),
        true => program,
        false => find(&program, exists).ok_or(PagerError::NotFound(variable))?,
    };
    Ok(Some([program].into_iter().chain(words).collect()))
}

fn find(program: &str, exists: &dyn Fn(&Path) -> bool) -> Option<String> {
    let paths = DIRECTORIES.iter().map(|directory| PathBuf::from(directory).join(program));
    paths.into_iter().find(|path| exists(path)).and_then(|path| path.into_os_string().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<Vec<String>>, PagerError> {
        command("PAGER", text, &|path| path.starts_with("/usr/local/bin") || path == Path::new("/bin/less"))
    }

    fn words(all: &[&str]) -> Result<Option<Vec<String>>, PagerError> {
        Ok(Some(all.iter().map(|word| (*word).to_owned()).collect()))
    }

    #[test]
    fn a_pager_is_a_program_and_its_options() {
        assert_eq!(of("less"), words(&["/bin/less"]));
        assert_eq!(of("  less\t-S  --prompt=x "), words(&["/bin/less", "-S", "--prompt=x"]));
        assert_eq!(of("most"), words(&["/usr/local/bin/most"]));
        assert_eq!(of("/opt/my-pager -x"), words(&["/opt/my-pager", "-x"]));
    }

    #[test]
    fn an_empty_pager_and_cat_are_none() {
        for text in ["", "  ", "cat"] {
            assert_eq!(of(text), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_not_run() {
        for text in [
            "less | tee x",
            "less; reboot",
            "$(reboot)",
            "`reboot`",
            "less 'a b'",
            "less \"x\"",
            "LESS=R less",
            "~/bin/less",
            "less > x",
            "less\nreboot",
            "less &",
            "l*",
            "less \\x",
        ] {
            assert_eq!(of(text), Err(PagerError::Shell("PAGER")), "{text:?}");
        }
    }

    #[test]
    fn less_runs_nothing_where_sudo_runs_it() {
        let variables = |has_less, elevated| {
            let process = process(&["/bin/less".to_owned()], has_less, elevated).unwrap();
            let all = process.get_envs().map(|(name, _)| name.to_str().unwrap().to_owned());
            all.collect::<Vec<_>>()
        };
        assert_eq!(variables(false, false), ["LESS"]);
        assert_eq!(variables(true, false), [] as [&str; 0]);
        assert_eq!(variables(true, true), ["LESSSECURE"]);
        assert_eq!(variables(false, true), ["LESS", "LESSSECURE"]);
    }

    #[test]
    fn a_terminal_that_can_show_no_page_gets_none() {
        for (term, dumb) in [(None, true), (Some(""), true), (Some("dumb"), true), (Some("xterm"), false)] {
            assert_eq!(is_dumb(term.map(OsStr::new)), dumb, "{term:?}");
        }
    }

    #[test]
    fn a_program_is_found_in_fixed_directories_alone() {
        assert_eq!(command("PAGER", "more", &|_| false), Err(PagerError::NotFound("PAGER")));
        for text in ["./less", "bin/less", "../less"] {
            assert_eq!(of(text), Err(PagerError::Relative("PAGER")), "{text}");
        }
    }
}
