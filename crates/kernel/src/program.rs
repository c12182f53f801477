//! One bounded run of a program: by its path, without a shell, with a clean environment.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use tracing::warn;

use crate::proc::processes;
use crate::process::confine;

/// The largest output that is read from the program, in bytes.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// The longest part of its error output that an error contains, in characters.
const MAX_STDERR_CHARS: usize = 2000;
/// How many of the processes that a program leaves are named.
const MAX_NAMED: usize = 8;

/// Why a program did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The program can't be started.
    #[error("{} can't be started", program.display())]
    Start {
        /// Its path.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Communicating with the program failed.
    #[error("{} can't be talked to", program.display())]
    Communicate {
        /// Its path.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The program took too long, and was killed.
    #[error("{} took longer than {} ms and was killed", program.display(), timeout.as_millis())]
    TimedOut {
        /// Its path.
        program: PathBuf,
        /// The time limit.
        timeout: Duration,
    },
    /// The program printed too much, and was killed.
    #[error("{} gave more than {limit} bytes and was killed", program.display())]
    TooMuchOutput {
        /// Its path.
        program: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// The program failed.
    #[error("{} failed ({status}): {stderr}", program.display())]
    Failed {
        /// Its path.
        program: PathBuf,
        /// Its exit status.
        status: ExitStatus,
        /// Its error output.
        stderr: String,
    },
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// Its absolute path.
    pub(crate) path: &'a Path,
    pub(crate) timeout: Duration,
    /// Its environment, and no other variable.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// It is somebody else's: a process group of its own, without descriptors and privileges that
    /// it has no use for. Unless it succeeds, the whole group is killed.
    pub(crate) confined: bool,
}

/// Runs the program with this input; returns what it printed, if it succeeded.
pub(crate) fn run<S: AsRef<OsStr>>(
    program: &Program<'_>,
    args: &[S],
    input: &[u8],
) -> Result<Vec<u8>, ProgramError> {
    let path = || program.path.to_owned();
    let mut command = Command::new(program.path);
    command
        .args(args)
        .env_clear()
        .envs(program.environment.iter().copied())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if program.confined {
        confine(&mut command);
    }
    let mut child = command.spawn().map_err(|source| ProgramError::Start { program: path(), source })?;
    let ended = communicate(&mut child, input, Instant::now() + program.timeout);
    if program.confined {
        // Before it is reaped: until then its number is no other process group's.
        let group = Pid::from_child(&child);
        if has_succeeded(&child) && ended.is_ok() {
            let left = rest_of(group);
            if !left.is_empty() {
                warn!(
                    "{} has ended, and processes that it began run on: {}",
                    program.path.display(),
                    left.join(", ")
                );
            }
        } else {
            // Fails only if nothing is left of its group.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
    if ended.is_err() {
        // Fails only if the child has ended already.
        let _ = child.kill();
    }
    let status = child.wait().map_err(RunError::from);
    let ended = ended.and_then(|(output, stderr)| Ok((status?, output, stderr)));
    match ended {
        Ok((status, output, _)) if status.success() => Ok(output),
        Ok((status, _, stderr)) => {
            let stderr = String::from_utf8_lossy(&stderr).trim().chars().take(MAX_STDERR_CHARS).collect();
            Err(ProgramError::Failed { program: path(), status, stderr })
        }
        Err(RunError::TimedOut) => Err(ProgramError::TimedOut { program: path(), timeout: program.timeout }),
        Err(RunError::TooMuchOutput) => {
            Err(ProgramError::TooMuchOutput { program: path(), limit: MAX_OUTPUT_BYTES })
        }
        Err(RunError::Io(source)) => Err(ProgramError::Communicate { program: path(), source }),
    }
}

/// Whether a child that was not waited for yet has ended well.
fn has_succeeded(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::Pid(Pid::from_child(child)), options);
    status.is_ok_and(|status| status.is_some_and(|status| status.exit_status() == Some(0)))
}

/// The processes of a group but for its leader, each as `NAME (pid N)`; at most a few.
fn rest_of(group: Pid) -> Vec<String> {
    let group = group.as_raw_pid().cast_unsigned();
    let Ok(all) = processes() else { return Vec::new() };
    let others = all.into_iter().filter(|pid| *pid != group);
    let named = others.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (start, fields) = stat.rsplit_once(") ")?;
        // State, parent and process group.
        let mut fields = fields.split(' ');
        let (state, of) = (fields.next()?, fields.nth(1)?);
        let name = start.split_once('(')?.1.escape_debug();
        (of.parse() == Ok(group) && state != "Z").then(|| format!("{name} (pid {pid})"))
    });
    named.take(MAX_NAMED).collect()
}

enum RunError {
    TimedOut,
    TooMuchOutput,
    Io(std::io::Error),
}

impl From<std::io::Error> for RunError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for RunError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Gives the program its input, and returns its output and error output once it has ended.
fn communicate(child: &mut Child, input: &[u8], deadline: Instant) -> Result<(Vec<u8>, Vec<u8>), RunError> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut input = Input::new(child.stdin.take().map(OwnedFd::from), input)?;
    let mut output = Stream::new(child.stdout.take().map(OwnedFd::from))?;
    let mut stderr = Stream::new(child.stderr.take().map(OwnedFd::from))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RunError::TimedOut);
        }
        let ended = await_any(&pidfd, &input, [&output, &stderr], left)?;
        input.feed()?;
        output.drain()?;
        stderr.drain()?;
        // Waits for the program's end, not for that of its streams, which a child of it may keep
        // open.
        if ended {
            return Ok((output.bytes, stderr.bytes));
        }
    }
}

/// Waits until a stream is ready or the program has ended; returns whether it has ended.
fn await_any(
    pidfd: &OwnedFd,
    input: &Input<'_>,
    streams: [&Stream; 2],
    left: Duration,
) -> Result<bool, RunError> {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
    fds.extend(input.file.as_ref().map(|file| PollFd::new(file, PollFlags::OUT)));
    fds.extend(
        streams.iter().filter_map(|stream| stream.file.as_ref()).map(|file| PollFd::new(file, PollFlags::IN)),
    );
    let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty())),
        Err(errno) => Err(errno.into()),
    }
}

/// The program's input, written without blocking: that of a large filter does not fit into a pipe.
struct Input<'i> {
    /// `None` once all is written, or the program reads no more.
    file: Option<std::fs::File>,
    left: &'i [u8],
}

impl<'i> Input<'i> {
    fn new(fd: Option<OwnedFd>, input: &'i [u8]) -> Result<Self, RunError> {
        if let Some(fd) = &fd {
            fcntl_setfl(fd.as_fd(), fcntl_getfl(fd.as_fd())? | OFlags::NONBLOCK)?;
        }
        let mut input = Self { file: fd.map(std::fs::File::from), left: input };
        input.feed()?;
        Ok(input)
    }

    fn feed(&mut self) -> std::io::Result<()> {
        while let Some(file) = &mut self.file {
            match file.write(self.left) {
                // If the program ends without reading, its status is the error.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.file = None,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.left = self.left.get(count..).unwrap_or_default();
                    if self.left.is_empty() {
                        self.file = None;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One of the program's output streams, read without blocking.
struct Stream {
    /// `None` once it has ended.
    file: Option<std::fs::File>,
    bytes: Vec<u8>,
}

impl Stream {
    fn new(fd: Option<OwnedFd>) -> Result<Self, RunError> {
        if let Some(fd) = &fd {
            fcntl_setfl(fd.as_fd(), fcntl_getfl(fd.as_fd())? | OFlags::NONBLOCK)?;
        }
        Ok(Self { file: fd.map(std::fs::File::from), bytes: Vec::new() })
    }

    fn drain(&mut self) -> Result<(), RunError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let room = (MAX_OUTPUT_BYTES + 1).saturating_sub(self.bytes.len()) as u64;
        match file.take(room).read_to_end(&mut self.bytes) {
            _ if self.bytes.len() > MAX_OUTPUT_BYTES => Err(RunError::TooMuchOutput),
            Ok(_) => {
                self.file = None;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
