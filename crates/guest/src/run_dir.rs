//! A guest's directory under the run directory: locked by its supervisor, and used by its clients.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use taptrail_kernel::proc::ProcessId;

/// taptrail's directories. Options, `TAPTRAIL_STATE_DIR` and `TAPTRAIL_RUN_DIR` override the
/// defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Persistent state: the ledger. `/var/lib/taptrail`.
    pub state: PathBuf,
    /// Runtime files: sockets and locks, with a directory for each guest. `/run/taptrail`.
    pub run: PathBuf,
}

impl Default for Dirs {
    fn default() -> Self {
        Self { state: "/var/lib/taptrail".into(), run: "/run/taptrail".into() }
    }
}

/// O_NOFOLLOW, for files in our own directories: a symbolic link there is an attack.
pub const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// The file whose flock(2) its supervisor holds.
pub(crate) const LOCK_FILE: &str = "lock";

/// The file of the addresses that interfaces have learnt.
pub(crate) const LEARNT_FILE: &str = "addresses";

/// How long to wait for a lock whose holder is about to release it: a killed supervisor whose last
/// threads are ending, a supervisor that cleans up, or a recovery.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A unix socket's path has 108 bytes with its NUL (unix(7)).
const SUN_PATH: usize = 108;

/// A guest's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The name would not be a file name.
    #[error(
        "Guest name '{0}' can't be used: 1 to 64 bytes without '/', control characters or a leading '.' are needed"
    )]
    Name(String),
    /// The path is too long for a socket.
    #[error("Socket path {path} is too long: {SUN_PATH} bytes are the system's limit; use a shorter run directory", path = .0.display())]
    TooDeep(PathBuf),
    /// Other users could replace files in the directory.
    #[error("Run directory {path} is not a directory that only its owner, us, can write to: remove it", path = .0.display())]
    NotOurs(PathBuf),
    /// Another process holds the guest's lock.
    #[error("Guest '{name}' is {}", .supervisor.as_ref().map_or("being started, ended or recovered by another process: try again".to_owned(), |pid| format!("already running: its supervisor has pid {pid}")))]
    Taken {
        /// The guest's name.
        name: String,
        /// The pid in its lock file.
        supervisor: Option<u32>,
    },
    /// A QEMU serves the guest's monitor, and another state directory has it on record.
    #[error("Guest '{name}' runs on: its QEMU serves {monitor}, and this state directory has no record of it: use `taptrail adopt` with the --state-dir that has one, or end QEMU and try again", monitor = monitor.display())]
    MonitorInUse {
        /// The guest's name.
        name: String,
        /// Path of its monitor's socket.
        monitor: PathBuf,
    },
    /// The system refused.
    #[error("{what} {path} failed", path = path.display())]
    Io {
        /// What failed, as it begins a sentence: `Making`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Refuses a guest name that can't be a file name.
///
/// # Errors
///
/// [`RunDirError::Name`]: the name is empty, has more than 64 bytes, begins with a dot, or has a
/// slash or a control character.
pub fn check_name(name: &str) -> Result<(), RunDirError> {
    let bad = name.is_empty()
        || name.len() > 64
        || name.starts_with('.')
        || name.chars().any(|c| c == '/' || c.is_control());
    if bad { Err(RunDirError::Name(name.chars().take(80).collect())) } else { Ok(()) }
}

/// The socket on which the guest's supervisor serves its API.
pub fn api_socket(run: &Path, guest: &str) -> PathBuf {
    run.join(guest).join("api")
}

/// The log file of the supervisor and QEMU under `--background`.
pub fn log_file(run: &Path, guest: &str) -> PathBuf {
    run.join(guest).join("log")
}

/// Makes the guest's directory (mode 0700) where it is missing.
fn make(run: &Path, guest: &str) -> Result<PathBuf, RunDirError> {
    check_name(guest)?;
    let path = run.join(guest);
    let failed = |what| {
        let path = path.clone();
        move |source| RunDirError::Io { what, path, source }
    };
    match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
        // It existed, and may have been removed since: the check below finds out.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(failed("Making"))?,
    }
    let found = std::fs::symlink_metadata(&path).map_err(failed("Looking at"))?;
    let ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if found.is_dir() && ours { Ok(path) } else { Err(RunDirError::NotOurs(path)) }
}

/// The file in the run directory that is locked by whoever runs nft. No guest can have this name.
const NFT_TURNS_FILE: &str = ".nft";

/// Opens the file by which supervisors take turns with nft. It has to be one that nobody else can open.
pub(crate) fn nft_turns(run: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(NOFOLLOW | rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(run.join(NFT_TURNS_FILE))?;
    let found = file.metadata()?;
    let ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    if found.is_file() && ours { Ok(file) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// The names of all guests that have a directory, in order. Such a guest need not run.
///
/// # Errors
///
/// The run directory can't be read. One that does not exist has no guests.
pub fn guests(run: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match std::fs::read_dir(run) {
        Ok(entries) => {
            for entry in entries {
                names.extend(entry?.file_name().into_string().ok().filter(|name| check_name(name).is_ok()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort();
    Ok(names)
}

/// The pid that the guest's supervisor has written into its lock file.
pub(crate) fn supervisor(run: &Path, guest: &str) -> Option<u32> {
    holder(&run.join(guest).join(LOCK_FILE))
}

fn holder(lock: &Path) -> Option<u32> {
    std::fs::read_to_string(lock).ok()?.trim().parse().ok()
}

/// The lock on a guest's directory. On drop the directory is emptied and removed.
///
/// ```text
///   acquire:    make directory ─▶ open lock ─▶ flock ─▶ is the path still this file? ─▶ ours
///                    ▲ not there │    │ held, but not for long   │ no
///                    └───────────┴────┴──────────────────────────┘
///   drop:       remove all other files ─▶ remove lock ─▶ remove directory, if it is empty
/// ```
///
/// The lock file is removed last, and only by its holder: until then no other process uses the
/// directory, and after that the holder touches nothing in it. If a file is removed between two of
/// these steps, the other process starts over; what a crash leaves is cleaned up by the next
/// holder.
#[derive(Debug)]
pub(crate) struct RunDirLock {
    path: PathBuf,
    // Locked; the kernel releases the lock with the descriptor, however the process ends.
    lock: File,
    keep_log: bool,
    keep_monitor: bool,
}

/// Why the lock was not acquired.
enum LockError {
    /// The file was removed, or is about to be: try again.
    Retry,
    /// A running process holds it.
    Held,
    Failed(RunDirError),
}

impl RunDirLock {
    /// Locks the directory as the guest's supervisor; the error names the current holder.
    pub(crate) fn acquire(run: &Path, guest: &str) -> Result<Self, RunDirError> {
        let mut claim = Self::acquire_for_recovery(run, guest)?;
        // A killed supervisor may have left it open to other users.
        set_mode(&claim.path, |mode| mode & 0o700)?;
        let path = claim.path.join(LOCK_FILE);
        writeln!(claim.lock, "{}", std::process::id()).map_err(|source| RunDirError::Io {
            what: "Writing",
            path,
            source,
        })?;
        Ok(claim)
    }

    /// Locks the directory for recovery, without writing a pid: others wait for the lock meanwhile.
    pub(crate) fn acquire_for_recovery(run: &Path, guest: &str) -> Result<Self, RunDirError> {
        check_name(guest)?;
        let path = run.join(guest);
        let longest = path.join("monitor");
        if longest.as_os_str().len() >= SUN_PATH {
            return Err(RunDirError::TooDeep(longest));
        }
        let lock_path = path.join(LOCK_FILE);
        let end = Instant::now() + LOCK_TIMEOUT;
        loop {
            match make(run, guest).map_err(LockError::of).and_then(|_| try_lock(&lock_path)) {
                Ok(lock) => return Ok(Self { path, lock, keep_log: false, keep_monitor: false }),
                Err(LockError::Failed(error)) => return Err(error),
                Err(LockError::Retry) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(_) => {
                    let supervisor = holder(&lock_path);
                    return Err(RunDirError::Taken { name: guest.to_owned(), supervisor });
                }
            }
        }
    }

    /// Fails if a running QEMU serves the monitor's socket.
    pub(crate) fn check_monitor_unused(&mut self, guest: &str) -> Result<(), RunDirError> {
        let monitor = self.path.join("monitor");
        let Ok(address) = SocketAddrUnix::new(&monitor) else { return Ok(()) };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connected = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .and_then(|socket| connect(&socket, &address));
        match connected {
            // The socket's backlog is full.
            Ok(()) | Err(Errno::AGAIN) => {
                self.keep_for_adoption(true);
                Err(RunDirError::MonitorInUse { name: guest.to_owned(), monitor })
            }
            Err(_) => Ok(()),
        }
    }

    /// Listens on a socket of this name in the directory, which only root and the owner can connect
    /// to. A socket that a killed supervisor left is replaced.
    pub(crate) fn listen(&self, name: &str) -> Result<UnixListener, RunDirError> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(RunDirError::Io { what: "Removing", path, source });
            }
            _ => {}
        }
        let failed = |source| RunDirError::Io { what: "Listening on", path: path.clone(), source };
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(listener)
    }

    /// Lets all users connect to the API's socket, and nothing else: they can traverse the
    /// directories but not list them, and no other file is open to them. The server then checks
    /// each client's uid.
    pub(crate) fn allow_all_users(&self) -> Result<(), RunDirError> {
        let run = self.path.parent().unwrap_or(&self.path);
        for (path, more) in [(run, 0o011), (&self.path, 0o011), (&self.path.join("api"), 0o666)] {
            set_mode(path, |mode| mode | more)?;
        }
        Ok(())
    }

    /// The log files that are there: `log`, and by rotation `log.1`, `log.2` and so on.
    fn logs(&self) -> Vec<PathBuf> {
        let is_log = |name: &str| match name.strip_prefix("log") {
            Some("") => true,
            Some(rest) => rest.strip_prefix('.').is_some_and(|number| number.parse::<u32>().is_ok()),
            None => false,
        };
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_str().is_some_and(is_log))
            .map(|entry| entry.path())
            .collect()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a socket in the directory.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps the log file, and so the directory, on drop: the guest failed in the background, and
    /// the log is the only trace.
    pub(crate) fn keep_log(&mut self) {
        self.keep_log = true;
    }

    /// Whether to keep the monitor's socket, QEMU's output FIFO, the learnt addresses and the log on
    /// drop: QEMU runs on, and another supervisor may adopt it.
    pub(crate) fn keep_for_adoption(&mut self, leave: bool) {
        self.keep_monitor = leave;
        self.keep_log = leave;
    }
}

/// Changes a file's mode, if it differs.
fn set_mode(path: &Path, change: impl FnOnce(u32) -> u32) -> Result<(), RunDirError> {
    let failed = |source| RunDirError::Io { what: "Setting the mode of", path: path.to_owned(), source };
    let mode = std::fs::symlink_metadata(path).map_err(failed)?.mode() & 0o7777;
    let wanted = change(mode);
    if wanted == mode {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(wanted)).map_err(failed)
}

impl LockError {
    /// A missing file was removed by its holder meanwhile: try again.
    fn of(error: RunDirError) -> Self {
        match &error {
            RunDirError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Self::Retry,
            _ => Self::Failed(error),
        }
    }
}

/// Opens, locks and empties the lock file; the path still names it then.
fn try_lock(path: &Path) -> Result<File, LockError> {
    let failed = |what| {
        let path = path.to_owned();
        move |source| LockError::of(RunDirError::Io { what, path, source })
    };
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(NOFOLLOW)
        .open(path)
        .map_err(failed("Opening"))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(if is_holder_alive(path) { LockError::Held } else { LockError::Retry });
        }
        Err(error) => return Err(failed("Locking")(error.into())),
    }
    // The holder before us may have removed the file between our open and our lock.
    let ours = lock.metadata().map_err(failed("Looking at"))?;
    let there = std::fs::symlink_metadata(path).map_err(failed("Looking at"))?;
    if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
        return Err(LockError::Retry);
    }
    lock.set_len(0).map_err(failed("Writing"))?;
    Ok(lock)
}

/// Whether the pid in the lock file runs. The threads of a killed supervisor may keep the lock for
/// a moment; a holder that releases it soon has emptied the file.
fn is_holder_alive(path: &Path) -> bool {
    holder(path).is_some_and(|pid| ProcessId::of(pid).is_ok_and(|process| process.is_alive()))
}

impl Drop for RunDirLock {
    fn drop(&mut self) {
        // Errors don't matter: the next holder cleans up, too.
        let _ = self.lock.set_len(0);
        let log = if self.keep_log { Vec::new() } else { self.logs() };
        let qemus: &[&str] = if self.keep_monitor { &[] } else { &["monitor", "output", LEARNT_FILE] };
        // The lock file goes last: after that another process may use the directory.
        let names = ["api"].iter().chain(qemus).chain(&[LOCK_FILE]).map(|name| self.path.join(name));
        for path in log.into_iter().chain(names) {
            let _ = std::fs::remove_file(path);
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_claimed_once_and_its_directory_goes_with_the_claim() {
        let run = tempfile::tempdir().unwrap();
        let claim = RunDirLock::acquire(run.path(), "it's web1").unwrap();
        assert_eq!(guests(run.path()).unwrap(), ["it's web1"]);
        let error = RunDirLock::acquire(run.path(), "it's web1").unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(claim);
        assert!(guests(run.path()).unwrap().is_empty());
        RunDirLock::acquire(run.path(), "it's web1").unwrap();
    }

    #[test]
    fn the_log_and_its_rotations_go_with_the_claim_and_nothing_else_does() {
        let run = tempfile::tempdir().unwrap();
        let claim = RunDirLock::acquire(run.path(), "web1").unwrap();
        for name in ["log", "log.1", "log.23", "logs", "log.old"] {
            std::fs::write(claim.path().join(name), "").unwrap();
        }
        drop(claim);
        let mut left: Vec<_> = std::fs::read_dir(run.path().join("web1"))
            .unwrap()
            .flatten()
            .map(|one| one.file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["log.old", "logs"]);
    }

    #[test]
    fn claims_that_come_and_go_at_once_succeed_or_find_the_guest_claimed() {
        const ROUNDS: usize = 2000;
        let run = tempfile::tempdir().unwrap();
        let claims = || {
            for _ in 0..ROUNDS {
                match RunDirLock::acquire(run.path(), "web1") {
                    Ok(claim) => {
                        let listener = claim.listen("monitor").unwrap();
                        assert!(claim.socket("monitor").exists() && claim.socket(LOCK_FILE).exists());
                        drop((listener, claim));
                    }
                    Err(error) => assert!(matches!(error, RunDirError::Taken { .. }), "{error}"),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(claims);
            }
        });
        assert!(guests(run.path()).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let run = tempfile::tempdir().unwrap();
        std::fs::write(run.path().join("web1"), "").unwrap();
        assert!(matches!(RunDirLock::acquire(run.path(), "web1"), Err(RunDirError::NotOurs(_))));
    }

    #[test]
    fn a_name_that_would_leave_the_run_directory_is_refused() {
        let run = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a\nb"] {
            assert!(matches!(RunDirLock::acquire(run.path(), name), Err(RunDirError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn a_run_directory_too_deep_for_a_socket_is_refused_before_anything_is_made_in_it() {
        let run = tempfile::tempdir().unwrap();
        let deep = run.path().join("d".repeat(90));
        assert!(matches!(RunDirLock::acquire(&deep, "web1"), Err(RunDirError::TooDeep(_))));
    }
}
