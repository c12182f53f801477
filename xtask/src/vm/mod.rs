//! Runs a command in a virtual machine with a kernel of Debian, for tests that this machine's own
//! kernel can't run, or that would disturb it. See docs/test-vm.md for its use.
//!
//! | File | What |
//! |---|---|
//! | `cache`, `bzimage` | Debian's packages (`apt`), and from them a kernel as QEMU takes it |
//! | `root` | root file systems of other Debian releases, for `--suite` |
//! | `initramfs`, `cpio`, `modules`, `init.sh` | the first steps in the virtual machine |
//! | `qemu` | its process, which ends with this program |
//! | `watch`, `signals`, `console` | the events until the command's exit status arrives |
//! | `environment` | the variables that are passed |
//! | `linux_guest`, `linux_guest.sh` | a system for the guests of tests, of the same kernel |
//!
//! In the virtual machine, the same program runs as `agent`; `wire` is their protocol.

mod bzimage;
mod cache;
mod console;
mod cpio;
mod environment;
mod initramfs;
pub(crate) mod linux_guest;
mod modules;
mod qemu;
mod root;
mod signals;
mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use self::console::Console;
use self::qemu::Qemu;
use self::signals::Signals;
use self::watch::{End, Order};
use crate::cli::VmArguments;
use crate::kernels::{self, KERNELS};
use crate::suites;
use crate::wire::Kind;

/// The exit status of a command that timed out, as of timeout(1).
const TIMED_OUT: u8 = 124;

/// Runs the command, shows its output and returns its exit status.
pub(crate) fn run(arguments: &VmArguments) -> Result<ExitCode> {
    run_into(arguments, &mut std::io::stdout()).map(ExitCode::from)
}

/// Runs the command, writes its standard output to `stdout` and returns its exit status.
pub(crate) fn run_into(arguments: &VmArguments, stdout: &mut dyn Write) -> Result<u8> {
    let kernel = kernels::named(&arguments.kernel).context("No kernel of this name")?;
    let kernel = cache::kernel(kernel, arguments.update)?;
    let root = arguments
        .suite
        .as_deref()
        .map(|name| root::of(suites::named(name).context("No suite of this name")?));
    let root = root.transpose()?;
    let over = arguments.over.as_deref().map(over).transpose()?;
    let layers: Vec<&Path> =
        over.as_deref().into_iter().chain(root.as_ref().map(root::Root::files)).collect();
    let initramfs = initramfs::build(&kernel, &layers)?;
    let order = Order {
        frames: frames(arguments, kernel.modules())?,
        timeout: arguments.timeout,
        show_console: arguments.console,
    };
    let signals = Signals::catch()?;
    let mut qemu = Qemu::start(arguments, &kernel, &initramfs)?;
    let mut console = Console::default();
    let mut stderr = std::io::stderr();
    match watch::watch(&mut qemu, &order, &signals, &mut console, stdout) {
        Ok(End::Status(status)) => Ok(status),
        Ok(End::TimedOut) => {
            let _ = writeln!(stderr, "xtask: the command did not end within {:?}", arguments.timeout);
            Ok(TIMED_OUT)
        }
        Ok(End::Signal(number)) => Ok(128 + number),
        Err(error) => {
            let _ = write!(stderr, "xtask: the end of the virtual machine's console:\n{}", console.end());
            Err(error)
        }
    }
}

/// Prints the names of the kernels, for scripts that use them all.
pub(crate) fn name_kernels() -> Result<ExitCode> {
    let mut stdout = std::io::stdout();
    KERNELS.iter().try_for_each(|kernel| writeln!(stdout, "{}", kernel.name))?;
    Ok(ExitCode::SUCCESS)
}

/// Where the virtual machine sees this machine's files when it has a suite's root file system.
/// init.sh mounts them there.
const HOST: &str = "/host";

/// The path by which the virtual machine sees a file of this machine: the same one, or one below
/// `/host`.
pub(crate) fn seen_inside(suite: Option<&str>, path: &Path) -> PathBuf {
    match suite {
        Some(_) => Path::new(HOST).join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    }
}

/// The absolute path of a directory whose files are over the suite's.
fn over(dir: &Path) -> Result<PathBuf> {
    let whole = std::fs::canonicalize(dir).with_context(|| format!("Can't use {}", dir.display()))?;
    ensure!(whole.is_dir(), "{} is no directory", dir.display());
    Ok(whole)
}

/// The request to the agent.
fn frames(arguments: &VmArguments, modules: &Path) -> Result<Vec<(Kind, OsString)>> {
    let directory = std::env::current_dir().context("The working directory is not known")?;
    let variables = environment::chosen(std::env::vars_os(), &arguments.variables);
    let suite = arguments.suite.as_deref();
    let mut frames = vec![
        (Kind::Modules, seen_inside(suite, modules).into()),
        (Kind::Directory, seen_inside(suite, &directory).into()),
    ];
    frames.extend(arguments.command.iter().map(|argument| (Kind::Argument, argument.clone())));
    frames.extend(variables.into_iter().map(|variable| (Kind::Variable, variable)));
    frames.push((Kind::Run, OsString::new()));
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_another_root_this_machines_files_are_below_host() {
        let path = Path::new("/work/target/xtask");
        assert_eq!(seen_inside(None, path), path);
        assert_eq!(seen_inside(Some("trixie"), path), Path::new("/host/work/target/xtask"));
    }
}
