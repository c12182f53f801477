use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::privileges::PrivilegeDrop;
use super::{Credentials, Limit, PrivateDev, inherit, namespace};
use crate::device::Admitted;

/// A request to start a guest's program, with everything that it inherits.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    /// The program's absolute path, so that no search path is used.
    pub program: &'a Path,
    /// Its arguments, without the program's own name.
    pub args: &'a [OsString],
    /// Its environment; this process's if `None`.
    pub environment: Option<&'a [(OsString, OsString)]>,
    /// The raw network devices that it inherits, with the descriptor numbers that they have here.
    pub devices: &'a [&'a Admitted],
    /// The listening socket of its monitor, with the descriptor number that it has here.
    pub monitor: Option<&'a UnixListener>,
    /// Its user and groups; this process's if `None`.
    pub credentials: Option<&'a Credentials>,
    /// Its limits, besides this process's others, and no core dump.
    pub limits: &'a [Limit],
    /// Its private `/dev`; the host's if `None`.
    pub dev: Option<&'a PrivateDev>,
    /// Its working directory; this process's if `None`.
    pub directory: Option<&'a Path>,
    /// Its standard input.
    pub stdin: Stdio,
    /// Its standard output.
    pub stdout: Stdio,
    /// Its standard error.
    pub stderr: Stdio,
    /// Whether it gets a new session, without this process's terminal.
    pub new_session: bool,
}

impl<'a> SpawnRequest<'a> {
    /// A program that inherits only stdio and environment, and sees the host's `/dev`.
    pub fn new(program: &'a Path, args: &'a [OsString]) -> Self {
        Self {
            program,
            args,
            environment: None,
            devices: &[],
            monitor: None,
            credentials: None,
            limits: &[],
            dev: None,
            directory: None,
            stdin: Stdio::inherit(),
            stdout: Stdio::inherit(),
            stderr: Stdio::inherit(),
            new_session: false,
        }
    }
}

/// Starts a guest's program.
///
/// It inherits stdio, the devices and the monitor's listener, and no other descriptor,
/// close-on-exec or not. SIGINT is blocked in it, because Ctrl-C at the terminal reaches the whole
/// process group, and the supervisor then stops the guest in order. It runs without any capability,
/// also as root, and with `no_new_privs`, so that it can't regain any; the files that it creates
/// are only for its user (umask 0077).
///
/// The kernel closes other descriptors during the exec, and this function returns before that has
/// ended: for some microseconds `/proc/PID/fd` may show more. Inherited descriptors are there from
/// the beginning.
///
/// # Errors
///
/// InvalidInput if the program's path is relative; or setting up its `/dev`, fork(2), the change of
/// user or execve(2) fails. Then no program runs.
pub fn spawn(request: SpawnRequest<'_>) -> io::Result<Child> {
    if !request.program.is_absolute() {
        let message = format!("The program '{}' needs an absolute path", request.program.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let devices = request.devices.iter().map(|device| device.as_fd());
    let inherited: Vec<BorrowedFd<'_>> = devices.chain(request.monitor.map(AsFd::as_fd)).collect();

    let mut command = Command::new(request.program);
    command.args(request.args);
    if let Some(environment) = request.environment {
        command.env_clear().envs(environment.iter().map(|(key, value)| (key, value)));
    }
    command.stdin(request.stdin).stdout(request.stdout).stderr(request.stderr);
    if let Some(directory) = request.directory {
        command.current_dir(directory);
    }
    let privilege_drop =
        PrivilegeDrop { credentials: request.credentials.cloned(), limits: request.limits.to_vec() };
    let new_session = request.new_session;
    let start = || start(command, &inherited, Sigint::Blocked, Some(privilege_drop), new_session);
    match request.dev {
        Some(dev) => namespace::within(dev, start),
        None => start(),
    }
}

/// The effect of Ctrl-C at the terminal on the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sigint {
    /// It ends the program, unless that handles SIGINT.
    Default,
    /// SIGINT is blocked in the program.
    Blocked,
}

/// Starts `command` with stdio and `inherited`, and no other descriptor.
pub(super) fn start(
    mut command: Command,
    inherited: &[BorrowedFd<'_>],
    sigint: Sigint,
    privilege_drop: Option<PrivilegeDrop>,
    new_session: bool,
) -> io::Result<Child> {
    let keep: Vec<RawFd> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || {
        inherit::keep_only(&keep)?;
        if sigint == Sigint::Blocked {
            // std has just cleared the signal mask, so this stays set.
            inherit::block_sigint()?;
        }
        if new_session {
            inherit::new_session()?;
        }
        privilege_drop.as_ref().map_or(Ok(()), PrivilegeDrop::apply)
    };
    // SAFETY: `prepare` makes async-signal-safe calls only; it allocates, frees and locks nothing.
    // The descriptors that it keeps are borrowed until after the exec.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use rustix::io::FdFlags;
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::process::testing::{settled_descriptors, status};

    fn sleep() -> Command {
        let mut command = Command::new("/bin/sleep");
        command.arg("60").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A descriptor that any ordinary child would inherit.
    fn leaked() -> File {
        let file = File::open("/dev/zero").unwrap();
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).unwrap();
        file
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).unwrap()
    }

    // Shows 5.2.
    #[test]
    fn a_child_inherits_what_is_meant_for_it_and_nothing_else() {
        let leaked = leaked();
        let (reader, writer) = pipe();
        let keep = [writer.as_fd(), reader.as_fd()];
        let child = start(sleep(), &keep, Sigint::Blocked, None, false).unwrap();
        let mut expected = vec![0, 1, 2, reader.as_raw_fd(), writer.as_raw_fd()];
        expected.sort_unstable();
        let seen = settled_descriptors(child.id(), &expected);
        let same = |fd: RawFd| crate::proc::same_file(std::process::id(), fd, child.id(), fd).unwrap();
        assert!(same(reader.as_raw_fd()) && same(writer.as_raw_fd()));
        end(child);
        assert_eq!(seen, expected, "{leaked:?} must not be there");
        // Here they stay as they were.
        assert!(rustix::io::fcntl_getfd(&writer).unwrap().contains(FdFlags::CLOEXEC));
        assert!(!rustix::io::fcntl_getfd(&leaked).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn the_monitor_listener_goes_along_under_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let monitor = UnixListener::bind(directory.path().join("qmp")).unwrap();
        let args = ["60".into()];
        let child = spawn(SpawnRequest {
            monitor: Some(&monitor),
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::null(),
            new_session: true,
            ..SpawnRequest::new(Path::new("/bin/sleep"), &args)
        })
        .unwrap();
        let expected = [0, 1, 2, monitor.as_raw_fd()];
        let seen = settled_descriptors(child.id(), &expected);
        let session = status(child.id(), "NSsid");
        let pid = child.id();
        end(child);
        assert_eq!(seen, expected);
        assert_eq!(session, pid.to_string());
    }

    #[test]
    fn interrupts_are_for_the_supervisor_alone() {
        let child = start(sleep(), &[], Sigint::Blocked, None, false).unwrap();
        let blocked = status(child.id(), "SigBlk");
        end(child);
        assert_eq!(blocked, "0000000000000002");
    }

    const NO_CAPABILITY: &str = "0000000000000000";

    fn capabilities(pid: u32) -> [String; 5] {
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| status(pid, set))
    }

    // Shows 5.8.
    #[test]
    fn credentials_are_given_up_for_good() {
        let user = Credentials { uid: 65_534, gid: 65_533, groups: vec![65_533, 12] };
        let privilege_drop = PrivilegeDrop { credentials: Some(user), limits: Vec::new() };
        let child = start(sleep(), &[], Sigint::Blocked, Some(privilege_drop), false).unwrap();
        let seen = ["Uid", "Gid", "Groups", "NoNewPrivs"].map(|field| status(child.id(), field));
        let capabilities = capabilities(child.id());
        end(child);
        assert_eq!(seen, ["65534 65534 65534 65534", "65533 65533 65533 65533", "12 65533", "1"]);
        assert_eq!(capabilities, [NO_CAPABILITY; 5]);
    }

    // Shows 5.8.
    #[test]
    fn roots_own_program_has_no_capability_either() {
        let limits = vec!["nofile=77".parse().unwrap()];
        let privilege_drop = PrivilegeDrop { credentials: None, limits };
        let child = start(sleep(), &[], Sigint::Blocked, Some(privilege_drop), false).unwrap();
        let seen = ["Uid", "NoNewPrivs", "Umask"].map(|field| status(child.id(), field));
        let capabilities = capabilities(child.id());
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        end(child);
        assert_eq!(seen, ["0 0 0 0", "1", "0077"]);
        assert_eq!(capabilities, [NO_CAPABILITY; 5]);
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(limit("Max core file size"), ["0", "0"]);
        assert_eq!(limit("Max open files"), ["77", "77"]);
    }

    #[test]
    fn our_own_program_gives_up_nothing() {
        let child = start(sleep(), &[], Sigint::Blocked, None, false).unwrap();
        let fields = |pid| ["Uid", "NoNewPrivs", "CapEff", "CapBnd", "Umask"].map(|field| status(pid, field));
        let seen = fields(child.id());
        end(child);
        assert_eq!(seen, fields(std::process::id()));
    }

    #[test]
    fn a_program_with_its_own_dev_is_started_in_it() {
        let dev = PrivateDev::new([]).unwrap();
        let args = ["60".into()];
        let child = spawn(SpawnRequest {
            dev: Some(&dev),
            environment: Some(&[("LANG".into(), "C".into())]),
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::null(),
            ..SpawnRequest::new(Path::new("/bin/sleep"), &args)
        })
        .unwrap();
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
        let (theirs, environment) =
            (namespace(child.id()), std::fs::read(format!("/proc/{}/environ", child.id())).unwrap());
        end(child);
        assert_ne!(theirs, namespace(std::process::id()));
        assert_eq!(environment, b"LANG=C\0");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_here() {
        let missing = spawn(SpawnRequest::new(Path::new("/nonexistent/qemu"), &[])).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let relative = spawn(SpawnRequest::new(Path::new("sleep"), &[])).unwrap_err();
        assert_eq!(relative.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_failure_between_fork_and_exec_is_an_error_here() {
        // SAFETY: never used as a descriptor here: the child finds that it isn't open.
        let gone = unsafe { BorrowedFd::borrow_raw(900) };
        let error = start(sleep(), &[gone], Sigint::Blocked, None, false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
