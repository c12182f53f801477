//! A command in a virtual machine with a kernel of Debian's, for what this machine's own kernel can't do or must not
//! be made to do. docs/test-vm.md says how it is used.
//!
//! | File | What |
//! |---|---|
//! | `kernels` | the kernels to choose from |
//! | `cache`, `apt`, `bzimage` | Debian's packages, and from them a kernel as QEMU takes it |
//! | `root` | root file systems of other Debian releases, for `--suite` |
//! | `initramfs`, `cpio`, `modules`, `init.sh` | the first steps in the virtual machine |
//! | `qemu` | its process, which ends with ours |
//! | `watch`, `signals`, `console` | what happens until the command's exit status is here |
//! | `environment` | the variables that go along |
//! | `linux_guest`, `linux_guest.sh` | a system for the guests of tests, of the same kernel |
//!
//! In the virtual machine, this same program goes on as `agent`; `wire` is what the two say.

mod apt;
mod bzimage;
mod cache;
mod console;
mod cpio;
mod environment;
mod initramfs;
mod kernels;
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
use crate::suites;
use crate::wire::Kind;

pub(crate) use self::kernels::KERNELS;

/// The command's time is over, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// Runs the command and shows its output; its exit status.
pub(crate) fn run(arguments: &VmArguments) -> Result<ExitCode> {
    run_into(arguments, &mut std::io::stdout()).map(ExitCode::from)
}

/// Runs the command; its exit status. What it writes to standard output goes where the caller wants it.
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

/// Names the kernels, for scripts that try them all.
pub(crate) fn name_kernels() -> Result<ExitCode> {
    let mut stdout = std::io::stdout();
    KERNELS.iter().try_for_each(|kernel| writeln!(stdout, "{}", kernel.name))?;
    Ok(ExitCode::SUCCESS)
}

/// Where the virtual machine sees this machine's files when it has a suite's root file system. init.sh mounts them there.
const HOST: &str = "/host";

/// The path by which the virtual machine sees a file of this machine: the same one, or one below `/host`.
pub(crate) fn seen_inside(suite: Option<&str>, path: &Path) -> PathBuf {
    match suite {
        Some(_) => Path::new(HOST).join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    }
}

/// The whole path of a directory whose files go over the suite's.
fn over(dir: &Path) -> Result<PathBuf> {
    let whole = std::fs::canonicalize(dir).with_context(|| format!("Can't use {}", dir.display()))?;
    ensure!(whole.is_dir(), "{} is no directory", dir.display());
    Ok(whole)
}

/// What the agent is told.
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
