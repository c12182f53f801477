//! Programs of the user's that configure a link: `script` and `downscript`.
//!
//! Such a program is run as its file is, by its absolute path, with the link's name as its only
//! argument. It has the supervisor's user, CAP_NET_ADMIN and no other capability, before a guest
//! runs as afterwards; no descriptor but stdio; an environment of three variables; a process group of
//! its own; and a time limit. Unless it succeeds, the whole group is killed; what a script that
//! succeeded leaves in it is logged.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use taptrail_record::IfName;
use tracing::debug;

use crate::program::{self, Program, ProgramError};

/// The time limit of one run.
pub const SCRIPT_TIMEOUT: Duration = Duration::from_secs(10);

const ENVIRONMENT: &[(&str, &str)] =
    &[("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C"), ("HOME", "/")];

/// Bits of a mode: others than the owner may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The bit of a directory in which only its owner can remove a file.
const STICKY: u32 = 0o1000;

/// Why a script can't be run, or failed.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// There is no such file, or it can't be examined.
    #[error("{} can't be examined", path.display())]
    Look {
        /// The script's path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not what may be run with the supervisor's rights.
    #[error("{} can't be run: {reason}", path.display())]
    Unfit {
        /// The script's path.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// It failed, or took too long.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Checks that a script's file is an executable one, which nobody but root and this process's user
/// can change, or replace by another.
///
/// # Errors
///
/// The file is missing or unfit.
pub fn check(path: &Path) -> Result<(), ScriptError> {
    let found = path.metadata().map_err(|source| ScriptError::Look { path: path.to_owned(), source })?;
    let own = rustix::process::geteuid().as_raw();
    let resolved =
        path.canonicalize().map_err(|source| ScriptError::Look { path: path.to_owned(), source })?;
    let mut directories = path.ancestors().skip(1).chain(resolved.ancestors().skip(1));
    let is_replaceable = directories.any(|directory| {
        directory.metadata().map_or(true, |found| {
            let mode = found.permissions().mode();
            // In a sticky one, nobody can replace another user's file.
            let is_shared = mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0;
            found.uid() != 0 && found.uid() != own || is_shared
        })
    });
    let mode = found.permissions().mode();
    let reason = if !found.is_file() {
        "it is no regular file"
    } else if mode & 0o111 == 0 {
        "it is not executable (chmod +x)"
    } else if found.uid() != 0 && found.uid() != own {
        "its owner is neither root nor the supervisor's user"
    } else if mode & WRITABLE_BY_OTHERS != 0 {
        "others than its owner can write to it (chmod go-w)"
    } else if is_replaceable {
        "others than root and the supervisor's user can write to a directory that it is in"
    } else {
        return Ok(());
    };
    Err(ScriptError::Unfit { path: path.to_owned(), reason })
}

/// Runs a script for a link, and waits for its end, at most `timeout`.
///
/// # Errors
///
/// The script is unfit, can't be started, fails or takes too long.
pub fn run(path: &Path, ifname: &IfName, timeout: Duration) -> Result<(), ScriptError> {
    check(path)?;
    let script = Program { path, timeout, environment: ENVIRONMENT, confined: true };
    let printed = program::run(&script, &[ifname.as_str()], &[])?;
    let printed = String::from_utf8_lossy(&printed);
    debug!("{} {ifname}: {}", path.display(), printed.trim().escape_debug());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn script(directory: &Path, text: &str, mode: u32) -> PathBuf {
        let path = directory.join("script");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn vnet7() -> IfName {
        "vnet7".parse().unwrap()
    }

    // Shows 1.20.
    #[test]
    fn a_script_gets_the_links_name_and_little_else() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let text = format!(
            "#!/bin/sh\nexec > {}\necho \"$#:$1\"; env | sort; grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/self/status; \
             n=3; while [ $n -lt 255 ]; do [ $n = 10 ] || [ ! -e /proc/$$/fd/$n ] || echo open $n; n=$((n+1)); done; ps -o pgid= -p $$ | tr -d ' ' | grep -qx $$ && echo leads; ulimit -c\n",
            out.display()
        );
        // An open descriptor that is not close-on-exec is not the script's.
        let leaked =
            rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        run(&script(directory.path(), &text, 0o755), &vnet7(), SCRIPT_TIMEOUT).unwrap();
        drop(leaked);
        let said = std::fs::read_to_string(out).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "1:vnet7");
        let variables: Vec<&str> =
            lines.iter().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert_eq!(variables, ["HOME", "LC_ALL", "PATH", "PWD"], "{said}");
        for name in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(said.contains(&format!("{name}:\t0000000000001000")), "{said}");
        }
        assert!(said.contains("NoNewPrivs:\t1") && said.ends_with("\nleads\n0\n"), "{said}");
        // The shell keeps its script open as number 10 or 255.
        assert!(!said.contains("open "), "{said}");
    }

    // Shows 1.20.
    #[test]
    fn a_script_that_fails_or_hangs_is_an_error_and_its_children_end() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let background = format!("#!/bin/sh\nsleep 60 &\necho $! > {}\n", pid.display());
        let failing = script(directory.path(), &format!("{background}echo no bridge >&2\nexit 7\n"), 0o700);
        let error = run(&failing, &vnet7(), SCRIPT_TIMEOUT).unwrap_err().to_string();
        assert!(error.contains("script failed (exit status: 7): no bridge"), "{error}");
        assert_ends(&pid);

        let text = format!("{background}wait\n");
        let hanging = script(directory.path(), &text, 0o700);
        let before = Instant::now();
        let error = run(&hanging, &vnet7(), Duration::from_millis(500)).unwrap_err();
        assert!(matches!(error, ScriptError::Program(ProgramError::TimedOut { .. })), "{error}");
        assert!(before.elapsed() < Duration::from_secs(10));
        assert_ends(&pid);
    }

    /// Asserts that the process whose pid is in this file ends.
    fn assert_ends(pid: &Path) {
        let pid: u32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let lives =
            || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while lives() {
            assert!(Instant::now() < deadline, "its child {pid} lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_file_that_others_can_change_is_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let unfit = |mode| check(&script(directory.path(), "#!/bin/sh\n", mode)).unwrap_err().to_string();
        assert!(unfit(0o644).contains("not executable"));
        assert!(unfit(0o775).contains("others than its owner can write"));
        assert!(check(directory.path()).unwrap_err().to_string().contains("no regular file"));
        assert!(matches!(check(&directory.path().join("none")), Err(ScriptError::Look { .. })));
        let foreign = script(directory.path(), "#!/bin/sh\n", 0o755);
        std::os::unix::fs::chown(&foreign, Some(65_534), None).unwrap();
        assert!(check(&foreign).unwrap_err().to_string().contains("neither root nor"));
    }
}
