use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::io::FdFlags;

use super::privileges::PrivilegeDrop;
use super::spawn::{Sigint, start};

/// A request to start this program again, in the background.
#[derive(Debug)]
pub struct BackgroundRequest<'a> {
    /// Its arguments, without the program's own name.
    pub args: &'a [OsString],
    /// The file for its output and errors.
    pub output: File,
    /// The end of a pipe by which it reports that it is ready, or why not. The descriptor keeps its
    /// number, and the new process takes it with [`take_inherited`].
    pub ready: BorrowedFd<'a>,
}

/// Starts `/proc/self/exe`, which is this very program even if its file was replaced, in a new
/// session: without a terminal, with stdin from /dev/null, and with no descriptor of this process
/// but `ready`.
///
/// # Errors
///
/// fork(2), setsid(2) or execve(2) fails.
pub fn spawn_background(request: BackgroundRequest<'_>) -> io::Result<Child> {
    start_in_background(this_program(), request)
}

/// Starts `/proc/self/exe` with these sockets as its standard input and output, and otherwise only
/// this process's standard error: in a new session, without an environment, without any capability
/// or a way to regain one.
///
/// # Errors
///
/// fork(2), setsid(2) or execve(2) fails.
pub fn spawn_unprivileged(args: &[OsString], stdin: OwnedFd, stdout: OwnedFd) -> io::Result<Child> {
    let mut command = this_program();
    command.args(args).env_clear().stdin(stdin).stdout(stdout).current_dir("/");
    let dropped = PrivilegeDrop { credentials: None, limits: Vec::new() };
    start(command, &[], Sigint::Blocked, Some(dropped), true)
}

fn this_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    // It has the same name in process lists as this process.
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command
}

fn start_in_background(mut command: Command, request: BackgroundRequest<'_>) -> io::Result<Child> {
    command.args(request.args).stdin(Stdio::null());
    command.stdout(request.output.try_clone()?).stderr(request.output);
    start(command, &[request.ready], Sigint::Default, None, true)
}

/// Takes ownership of a descriptor that this program was started with, by its number, once.
///
/// # Errors
///
/// EBADF if the number is stdio's, isn't open, or is close-on-exec: then this program opened it, or
/// took it already, and it has another owner.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    let refused = || io::Error::from_raw_os_error(libc::EBADF);
    if number <= libc::STDERR_FILENO {
        return Err(refused());
    }
    // SAFETY: only asks and sets a flag below; EBADF when it isn't open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(refused());
    }
    rustix::io::fcntl_setfd(borrowed.as_fd(), FdFlags::CLOEXEC)?;
    // SAFETY: every descriptor opened in this program is close-on-exec, so this one came over the
    // exec and nothing here owns it; the flag, set now, refuses a second owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsRawFd, IntoRawFd};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::process::testing::{settled_descriptors, status};

    #[test]
    fn the_background_program_has_its_own_session_and_says_when_it_is_ready() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let output = tempfile::tempfile().unwrap();
        let script =
            format!("echo started; (echo ready >/proc/self/fd/{}); exec sleep 60", writer.as_raw_fd());
        let args = ["-c".into(), script.into()];
        let request =
            BackgroundRequest { args: &args, output: output.try_clone().unwrap(), ready: writer.as_fd() };
        let mut child = start_in_background(Command::new("/bin/sh"), request).unwrap();

        let mut word = [0; 6];
        File::from(reader).read_exact(&mut word).unwrap();
        assert_eq!(&word, b"ready\n");
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed());
        assert_eq!(rustix::process::getsid(pid).ok(), pid);
        let expected = [0, 1, 2, writer.as_raw_fd()];
        assert_eq!(settled_descriptors(child.id(), &expected), expected);
        assert_eq!(std::fs::read_link(format!("/proc/{}/fd/0", child.id())).unwrap(), *"/dev/null");
        assert_eq!(status(child.id(), "SigBlk"), "0000000000000000");
        let mut said = [0; 8];
        rustix::io::pread(&output, &mut said, 0).unwrap();
        assert_eq!(&said, b"started\n");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn an_inherited_descriptor_is_taken_once() {
        let (reader, writer) = pipe_with(PipeFlags::empty()).unwrap();
        let number = writer.into_raw_fd();
        let taken = take_inherited(number).unwrap();
        assert!(rustix::io::fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
        assert_eq!(take_inherited(number).unwrap_err().raw_os_error(), Some(libc::EBADF));
        drop((taken, reader));
    }

    #[test]
    fn descriptors_of_our_own_are_not_taken() {
        let (reader, _writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        for number in [-1, 0, 1, 2, reader.as_raw_fd(), 1_000_000] {
            assert_eq!(take_inherited(number).unwrap_err().raw_os_error(), Some(libc::EBADF), "{number}");
        }
    }
}
