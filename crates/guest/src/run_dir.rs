//! A guest's directory under the run directory: claimed by its supervisor, known to its clients.

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

/// Where things lie: overridden by options or by `TAPTRAIL_STATE_DIR` and `TAPTRAIL_RUN_DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// What outlives a boot: the ledger. `/var/lib/taptrail`.
    pub state: PathBuf,
    /// What does not: sockets and locks, a directory for each guest. `/run/taptrail`.
    pub run: PathBuf,
}

impl Default for Dirs {
    fn default() -> Self {
        Self { state: "/var/lib/taptrail".into(), run: "/run/taptrail".into() }
    }
}

/// For files in directories that are ours: a symbolic link there is somebody's trap.
pub const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// The file by whose lock a guest is claimed.
pub(crate) const LOCK_FILE: &str = "lock";

/// How long who claims a guest waits for one who is about to let go of it: a dead supervisor's last
/// threads, a supervisor that removes what was its own, or who settles what an earlier one left
/// behind.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// The run directory lies too deep for a socket in it.
    #[error("Socket path {path} is too long: {SUN_PATH} bytes are the system's limit; use a shorter run directory", path = .0.display())]
    TooDeep(PathBuf),
    /// Others could replace what is in the directory.
    #[error("Run directory {path} is not a directory that only its owner, us, can write to: remove it", path = .0.display())]
    NotOurs(PathBuf),
    /// Another supervisor has the guest.
    #[error("Guest '{name}' is {}", .supervisor.as_ref().map_or("being started, ended or recovered by another process: try again".to_owned(), |pid| format!("already running: its supervisor has pid {pid}")))]
    Taken {
        /// The guest's name.
        name: String,
        /// What its lock file says.
        supervisor: Option<u32>,
    },
    /// A QEMU is there that another state directory has on record.
    #[error("Guest '{name}' runs on: its QEMU serves {monitor}, and this state directory has it not on record; `taptrail adopt` takes it up with the --state-dir that has, or end QEMU and try again", monitor = monitor.display())]
    MonitorInUse {
        /// The guest's name.
        name: String,
        /// Its monitor.
        monitor: PathBuf,
    },
    /// The system refused.
    #[error("{what} {path} failed", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Refuses a guest name that can't be a file's.
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

/// The file that has the supervisor's and QEMU's words under `--background`.
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
        // It was there, and whose it was may have removed it since: the look below tells.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(failed("Making"))?,
    }
    let found = std::fs::symlink_metadata(&path).map_err(failed("Looking at"))?;
    let ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if found.is_dir() && ours { Ok(path) } else { Err(RunDirError::NotOurs(path)) }
}

/// The names of all guests that have a directory, in order; whether anybody is behind one, its
/// API tells.
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

/// The pid of who has the guest, by its own word in the lock's file.
pub(crate) fn supervisor(run: &Path, guest: &str) -> Option<u32> {
    holder(&run.join(guest).join(LOCK_FILE))
}

fn holder(lock: &Path) -> Option<u32> {
    std::fs::read_to_string(lock).ok()?.trim().parse().ok()
}

/// A guest's directory, ours as long as this lives; emptied and removed on drop.
///
/// ```text
///   who comes:  make directory ─▶ open lock ─▶ flock ─▶ is the path still this file? ─▶ ours
///                    ▲ not there │    │ held, but not for long   │ no
///                    └───────────┴────┴──────────────────────────┘
///   who goes:   remove all that was ours ─▶ remove lock ─▶ remove directory, if it is empty
/// ```
///
/// The lock's file is removed last, and by who has it alone: until then nothing in the directory is
/// another's, and after that nothing in it is touched. What is removed between two of these steps
/// is looked for again by who comes; what a crash between them leaves is the next one's.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    // Locked; the lock goes with the descriptor, however the process ends.
    lock: File,
    keep_log: bool,
    keep_monitor: bool,
}

/// Why a lock is not ours.
enum LockError {
    /// What we looked at has been removed, or will be: look again.
    Retry,
    /// Somebody has it who lives.
    Held,
    Failed(RunDirError),
}

impl Claim {
    /// Claims the directory as the guest's supervisor, or says who has it.
    pub(crate) fn take(run: &Path, guest: &str) -> Result<Self, RunDirError> {
        let mut claim = Self::take_for_recovery(run, guest)?;
        // It may be a dead supervisor's, who let others pass.
        set_mode(&claim.path, |mode| mode & 0o700)?;
        let path = claim.path.join(LOCK_FILE);
        writeln!(claim.lock, "{}", std::process::id()).map_err(|source| RunDirError::Io {
            what: "Writing",
            path,
            source,
        })?;
        Ok(claim)
    }

    /// Claims the directory for as long as it takes to settle what was left in it: who wants it
    /// meanwhile waits.
    pub(crate) fn take_for_recovery(run: &Path, guest: &str) -> Result<Self, RunDirError> {
        check_name(guest)?;
        let path = run.join(guest);
        let longest = path.join("monitor");
        if longest.as_os_str().len() >= SUN_PATH {
            return Err(RunDirError::TooDeep(longest));
        }
        let lock_path = path.join(LOCK_FILE);
        let end = Instant::now() + CLAIM_TIMEOUT;
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

    /// Refuses to take its monitor from a QEMU that runs.
    pub(crate) fn check_monitor_unused(&mut self, guest: &str) -> Result<(), RunDirError> {
        let monitor = self.path.join("monitor");
        let Ok(address) = SocketAddrUnix::new(&monitor) else { return Ok(()) };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connected = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .and_then(|socket| connect(&socket, &address));
        match connected {
            // So many have connected that it takes no more.
            Ok(()) | Err(Errno::AGAIN) => {
                self.leave(true);
                Err(RunDirError::MonitorInUse { name: guest.to_owned(), monitor })
            }
            Err(_) => Ok(()),
        }
    }

    /// A listening socket of this name in the directory, which only root and the owner reach. What a dead supervisor
    /// left under this name is removed.
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

    /// Lets all users reach the API's socket, and nothing else: they can pass through the directories, but can't list
    /// them, and whatever else is there has no mode for them. Who may call is then decided by who they are.
    pub(crate) fn admit_others(&self) -> Result<(), RunDirError> {
        let run = self.path.parent().unwrap_or(&self.path);
        for (path, more) in [(run, 0o011), (&self.path, 0o011), (&self.path.join("api"), 0o666)] {
            set_mode(path, |mode| mode | more)?;
        }
        Ok(())
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a socket in the directory.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves a log file, and so the directory, where they are: the guest did not end well in the
    /// background, and its output is all there is.
    pub(crate) fn keep_log(&mut self) {
        self.keep_log = true;
    }

    /// Leaves the monitor's socket, QEMU's output and the log where they are, or not: QEMU runs on,
    /// for another supervisor to take up.
    pub(crate) fn leave(&mut self, leave: bool) {
        self.keep_monitor = leave;
        self.keep_log = leave;
    }
}

/// Changes the mode of what is ours, where it has to be.
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
    /// What is not there any more has been removed between two looks.
    fn of(error: RunDirError) -> Self {
        match &error {
            RunDirError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Self::Retry,
            _ => Self::Failed(error),
        }
    }
}

/// The lock's file, locked, empty, and there.
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
    // Who had it before may have removed the file between our open and our lock.
    let ours = lock.metadata().map_err(failed("Looking at"))?;
    let there = std::fs::symlink_metadata(path).map_err(failed("Looking at"))?;
    if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
        return Err(LockError::Retry);
    }
    lock.set_len(0).map_err(failed("Writing"))?;
    Ok(lock)
}

/// Who has the lock has written its pid into it, as supervisors do, and runs. The last threads of
/// one that has just died may have it a moment longer; who will let go of it soon has it empty.
fn is_holder_alive(path: &Path) -> bool {
    holder(path).is_some_and(|pid| ProcessId::of(pid).is_ok_and(|process| process.is_alive()))
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Nothing depends on any of it: the next claim cleans up too.
        let _ = self.lock.set_len(0);
        let log: &[&str] = if self.keep_log { &[] } else { &["log", "log.1"] };
        let qemus: &[&str] = if self.keep_monitor { &[] } else { &["monitor", "output"] };
        // The lock is the last: with it goes the right to what is there.
        for name in ["api"].iter().chain(log).chain(qemus).chain(&[LOCK_FILE]) {
            let _ = std::fs::remove_file(self.path.join(name));
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
        let claim = Claim::take(run.path(), "it's web1").unwrap();
        assert_eq!(guests(run.path()).unwrap(), ["it's web1"]);
        let error = Claim::take(run.path(), "it's web1").unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(claim);
        assert!(guests(run.path()).unwrap().is_empty());
        Claim::take(run.path(), "it's web1").unwrap();
    }

    #[test]
    fn claims_that_come_and_go_at_once_succeed_or_find_the_guest_claimed() {
        const ROUNDS: usize = 2000;
        let run = tempfile::tempdir().unwrap();
        let claims = || {
            for _ in 0..ROUNDS {
                match Claim::take(run.path(), "web1") {
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
        assert!(matches!(Claim::take(run.path(), "web1"), Err(RunDirError::NotOurs(_))));
    }

    #[test]
    fn a_name_that_would_leave_the_run_directory_is_refused() {
        let run = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a\nb"] {
            assert!(matches!(Claim::take(run.path(), name), Err(RunDirError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn a_run_directory_too_deep_for_a_socket_is_refused_before_anything_is_made_in_it() {
        let run = tempfile::tempdir().unwrap();
        let deep = run.path().join("d".repeat(90));
        assert!(matches!(Claim::take(&deep, "web1"), Err(RunDirError::TooDeep(_))));
    }
}
