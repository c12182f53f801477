//! Runs a program for a finding.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Access, MemfdFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use taptrail_kernel::poll_timeout;
use taptrail_trail::FindingKind;

use super::{Action, leftovers};

/// How long a program may take.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(30);

/// A program, by its absolute path. It gets the finding on standard input, no arguments, and a
/// clean environment.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    limit: Duration,
}

impl FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !Path::new(text).is_absolute() {
            return Err(format!(
                "'{text}' is no absolute path: programs are not looked for, and no shell runs them"
            ));
        }
        Ok(Self { path: text.into(), limit: PROGRAM_TIMEOUT })
    }
}

impl Program {
    /// Checks that the program exists and is executable. A missing program is an error at the
    /// start: its path is probably misspelt.
    pub(crate) fn check(&self) -> Result<(), String> {
        let path = self.path.display();
        let about = std::fs::metadata(&self.path).map_err(|error| format!("{path}: {error}"))?;
        if !about.is_file() {
            return Err(format!("{path} is no file"));
        }
        match rustix::fs::access(&self.path, Access::EXEC_OK) {
            Ok(()) => Ok(()),
            Err(_) => Err(format!("{path} may not be run: chmod +x makes a file a program")),
        }
    }
}

impl Action for Program {
    fn run(&mut self, finding: FindingKind, json: &str) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let input = input(json).map_err(failed)?;
        let mut command = Command::new(&self.path);
        command
            .stdin(input)
            // Our own standard output has the events.
            .stdout(Stdio::null())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("TAPTRAIL_FINDING", finding.as_str())
            .current_dir("/")
            .process_group(0);
        let mut child = leftovers::spawn(&mut command).map_err(failed)?;
        let in_time = ends_within(&child, self.limit);
        // Kills the processes that it has left in its group. Before it is reaped, so that the
        // group's number is still its own.
        kill_group(&child);
        let _ = child.kill();
        let status = child.wait();
        // Then those that have left the group.
        leftovers::end(child.id());
        if !in_time {
            let seconds = self.limit.as_secs();
            return Err(format!("{} took more than {seconds} s, and was ended", self.path.display()));
        }
        let status = status.map_err(failed)?;
        if status.success() { Ok(()) } else { Err(format!("{}: {status}", self.path.display())) }
    }
}

/// A memory file with one line, positioned at its beginning. Unlike a pipe it takes all at once,
/// whether the program reads it or not.
fn input(json: &str) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("finding", MemfdFlags::CLOEXEC)?);
    writeln!(file, "{json}")?;
    file.rewind()?;
    Ok(file)
}

fn ends_within(child: &Child, limit: Duration) -> bool {
    let Some(pid) = pid(child) else { return false };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut polled, poll_timeout(left).as_ref()) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn kill_group(child: &Child) {
    if let Some(pid) = pid(child) {
        // Usually no process is left.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(dir: &Path, text: &str) -> Program {
        let path = dir.join("script");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().parse().unwrap()
    }

    // Shows 13.29.
    #[test]
    fn a_program_has_the_finding_on_its_input_and_a_clean_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut program =
            script(dir.path(), &format!("exec >{}\ncat; env; pwd; echo args: $#", out.display()));
        program.run(FindingKind::LogGap, r#"{"kind":"finding"}"#).unwrap();
        let written = std::fs::read_to_string(&out).unwrap();
        let mut lines: Vec<_> =
            written.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
        assert_eq!(lines.remove(0), r#"{"kind":"finding"}"#);
        lines.sort_unstable();
        let expect = [
            "/",
            "LANG=C.UTF-8",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "TAPTRAIL_FINDING=log-gap",
            "args: 0",
        ];
        assert_eq!(lines, expect);
    }

    #[test]
    fn a_program_that_fails_is_named_and_one_that_reads_nothing_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(1 << 20);
        assert_eq!(script(dir.path(), "exit 0").run(FindingKind::LogGap, &long), Ok(()));
        let error = script(dir.path(), "exit 3").run(FindingKind::LogGap, "x").unwrap_err();
        assert!(error.contains("script") && error.contains('3'), "{error}");
        let mut none: Program = "/no/program".parse().unwrap();
        assert!(none.run(FindingKind::LogGap, "x").unwrap_err().starts_with("/no/program: "));
    }

    // Shows 13.29.
    #[test]
    fn a_program_that_takes_too_long_is_ended_with_all_that_it_started() {
        leftovers::adopt().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        // One in its group, one in a session of its own, one whose parents are gone, and one of
        // each of those.
        let sleep = |how: &str| {
            format!("{how} sh -c 'echo $$ >>{0}; sleep 1000 & echo $! >>{0}; wait'", pids.display())
        };
        let all = [sleep("") + " &", sleep("setsid") + " &", format!("({} &)", sleep("setsid"))];
        let until = format!("until [ $(wc -l <{}) = 6 ]; do sleep 0.01; done", pids.display());
        for (after, limit, fails) in
            [("", PROGRAM_TIMEOUT, false), ("\nwait; sleep 1000", Duration::from_secs(3), true)]
        {
            std::fs::write(&pids, "").unwrap();
            let text = format!("{}\n{until}{after}", all.join("\n"));
            let mut program = Program { limit, ..script(dir.path(), &text) };
            let ran = program.run(FindingKind::LogGap, "x");
            assert_eq!(ran.is_err_and(|error| error.contains("took more than")), fails);
            let pids = std::fs::read_to_string(&pids).unwrap();
            assert_eq!(pids.lines().count(), 6);
            for pid in pids.lines() {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                assert_eq!(stat, "", "it is ended, and seen off");
            }
        }
    }

    #[test]
    fn what_a_program_leaves_is_not_taken_for_what_another_still_runs() {
        leftovers::adopt().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (pid, go) = (dir.path().join("pid"), dir.path().join("go"));
        // The older program has started a process in a session of its own, and waits for it.
        let text = format!(
            "(setsid sh -c 'echo $$ >{0}.new; mv {0}.new {0}; while [ ! -e {1} ]; do sleep 0.01; done' &)\n\
             while [ ! -e {1} ]; do sleep 0.01; done",
            pid.display(),
            go.display()
        );
        let mut older = script(dir.path(), &text);
        let older = std::thread::spawn(move || older.run(FindingKind::LogGap, "x"));
        while !pid.exists() {
            std::thread::yield_now();
        }
        let other = tempfile::tempdir().unwrap();
        script(other.path(), "exit 0").run(FindingKind::LogGap, "x").unwrap();
        let pid = std::fs::read_to_string(&pid).unwrap();
        assert!(std::fs::exists(format!("/proc/{}", pid.trim())).unwrap());
        std::fs::write(&go, "").unwrap();
        older.join().unwrap().unwrap();
        assert!(!std::fs::exists(format!("/proc/{}", pid.trim())).unwrap());
    }

    #[test]
    fn a_program_that_can_not_be_run_is_refused_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "exit 0");
        assert_eq!(program.check(), Ok(()));
        std::fs::set_permissions(&program.path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            program.check().unwrap_err().ends_with("/script may not be run: chmod +x makes a file a program")
        );
        let check = |path: &str| path.parse::<Program>().unwrap().check().unwrap_err();
        assert!(check("/no/program").starts_with("/no/program: No such file"));
        assert_eq!(check("/usr"), "/usr is no file");
    }
}
