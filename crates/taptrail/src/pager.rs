//! A pager for long answers on a terminal, as git uses one: `$TAPTRAIL_PAGER`, `$PAGER`, or less.
//! No shell runs it, and it is found in fixed directories.

use std::env;
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
    Undecided,
    Stdout(io::Stdout),
    Pager(Pager),
}

impl LongOutput {
    /// `paged` is false for what is not for people.
    pub(crate) fn new(paged: bool) -> Self {
        let to = if paged && output::may_page() && io::stdout().is_terminal() {
            To::Undecided
        } else {
            To::Stdout(io::stdout())
        };
        Self { to }
    }

    fn decide(&mut self) -> &mut dyn Write {
        if matches!(self.to, To::Undecided) {
            self.to = Pager::start().map_or_else(|| To::Stdout(io::stdout()), To::Pager);
        }
        match &mut self.to {
            To::Pager(pager) => pager,
            To::Stdout(stdout) => stdout,
            To::Undecided => unreachable!("decided above"),
        }
    }
}

impl Write for LongOutput {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.decide().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.decide().flush()
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
        let command = match chosen() {
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
        let (program, options) = command.split_first()?;
        let mut process = Command::new(program);
        process.args(options).stdin(Stdio::piped());
        if env::var_os("LESS").is_none() {
            process.env("LESS", LESS);
        }
        match process.spawn() {
            Ok(child) => Some(Self { child, signals }),
            Err(error) => {
                say(&format!("no pager is used: {program} can't be started: {error}"));
                None
            }
        }
    }
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
fn chosen() -> Result<Option<Vec<String>>, PagerError> {
    for variable in VARIABLES {
        if let Some(value) = env::var_os(variable) {
            let text = value.into_string().map_err(|_| PagerError::Text(variable))?;
            return command(variable, &text, &is_program);
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
    fn a_program_is_found_in_fixed_directories_alone() {
        assert_eq!(command("PAGER", "more", &|_| false), Err(PagerError::NotFound("PAGER")));
        for text in ["./less", "bin/less", "../less"] {
            assert_eq!(of(text), Err(PagerError::Relative("PAGER")), "{text}");
        }
    }
}
