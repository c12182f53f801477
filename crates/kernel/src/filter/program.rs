//! One bounded run of a program.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{FilterError, Nft};

/// The most that is read of what the program says.
const LIMIT: usize = 1 << 20;
/// The most of its complaint that is passed on, in characters.
const COMPLAINT: usize = 2000;

/// Runs the program with this input; returns what it printed, if it succeeded.
pub(super) fn run(nft: &Nft, args: &[&str], input: &[u8]) -> Result<Vec<u8>, FilterError> {
    let mut child = Command::new(&nft.path)
        .args(args)
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| FilterError::Start { program: nft.path.clone(), source })?;
    let ended = talk(&mut child, input, Instant::now() + nft.timeout);
    if ended.is_err() {
        // Both fail only for a child that has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
    match ended {
        Ok((status, output, _)) if status.success() => Ok(output),
        Ok((status, _, complaint)) => {
            let stderr = String::from_utf8_lossy(&complaint).trim().chars().take(COMPLAINT).collect();
            Err(FilterError::Refused { program: nft.path.clone(), status, stderr })
        }
        Err(Trouble::Late) => Err(FilterError::Late { program: nft.path.clone(), timeout: nft.timeout }),
        Err(Trouble::Chatter) => Err(FilterError::Chatter { program: nft.path.clone(), limit: LIMIT }),
        Err(Trouble::Io(source)) => Err(FilterError::Talk { program: nft.path.clone(), source }),
    }
}

enum Trouble {
    Late,
    Chatter,
    Io(std::io::Error),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

fn talk(
    child: &mut Child,
    input: &[u8],
    deadline: Instant,
) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), Trouble> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    if let Some(mut stdin) = child.stdin.take() {
        // What a filter takes fits into a pipe, so this never waits. A program that ends without
        // reading says why by its status.
        match stdin.write_all(input) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
    }
    let mut output = Stream::new(child.stdout.take().map(OwnedFd::from))?;
    let mut complaint = Stream::new(child.stderr.take().map(OwnedFd::from))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Late);
        }
        let ended = await_any(&pidfd, [&output, &complaint], left)?;
        output.drain()?;
        complaint.drain()?;
        // Its end is awaited, not the end of its streams: a child of its own may keep those.
        if ended {
            return Ok((child.wait()?, output.bytes, complaint.bytes));
        }
    }
}

/// Waits until there is something to read or the program ended; says whether it ended.
fn await_any(pidfd: &OwnedFd, streams: [&Stream; 2], left: Duration) -> Result<bool, Trouble> {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
    fds.extend(
        streams.iter().filter_map(|stream| stream.file.as_ref()).map(|file| PollFd::new(file, PollFlags::IN)),
    );
    let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty())),
        Err(errno) => Err(errno.into()),
    }
}

/// One of the program's streams, read as far as there is something.
struct Stream {
    /// `None` once it has ended.
    file: Option<std::fs::File>,
    bytes: Vec<u8>,
}

impl Stream {
    fn new(fd: Option<OwnedFd>) -> Result<Self, Trouble> {
        if let Some(fd) = &fd {
            fcntl_setfl(fd.as_fd(), fcntl_getfl(fd.as_fd())? | OFlags::NONBLOCK)?;
        }
        Ok(Self { file: fd.map(std::fs::File::from), bytes: Vec::new() })
    }

    fn drain(&mut self) -> Result<(), Trouble> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let room = (LIMIT + 1).saturating_sub(self.bytes.len()) as u64;
        match file.take(room).read_to_end(&mut self.bytes) {
            _ if self.bytes.len() > LIMIT => Err(Trouble::Chatter),
            Ok(_) => {
                self.file = None;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
