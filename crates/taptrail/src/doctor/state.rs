//! The state and run directories, and the ledger.

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat, statvfs};
use taptrail_guest::{Dirs, chain};
use taptrail_ledger::{Ledger, LedgerError};

use super::audit::{log_is_readable, size};
use super::check::Weight::{Essential, Useful};
use super::check::{Area, Check, Subject};
use super::system::is_absent;
use crate::cli::Job;

const STATE_DIR: Subject = Subject {
    area: Area::State,
    id: "state-dir",
    purpose: "the ledger",
    needs: &[(Job::Run, Essential), (Job::Watch, Essential)],
};
const RUN_DIR: Subject = Subject {
    area: Area::State,
    id: "run-dir",
    purpose: "sockets, locks and logs of guests",
    needs: &[(Job::Run, Essential)],
};
const LEDGER: Subject = Subject {
    area: Area::State,
    id: "ledger",
    purpose: "the records of taptrail's guests and of the watcher",
    needs: &[
        (Job::Run, Essential),
        (Job::Watch, Essential),
        (Job::Verify, Useful),
        (Job::Read, Useful),
        (Job::Archive, Useful),
    ],
};
const CHAIN: Subject = Subject {
    area: Area::State,
    id: "ledger-chain",
    purpose: "records that nobody changed",
    needs: &[
        (Job::Run, Useful),
        (Job::Watch, Useful),
        (Job::Verify, Useful),
        (Job::Read, Useful),
        (Job::Archive, Useful),
    ],
};
const TRAIL: Subject = Subject {
    area: Area::State,
    id: "trail",
    purpose: "answers without a FILE",
    needs: &[(Job::Verify, Essential), (Job::Read, Essential), (Job::Archive, Essential)],
};

/// The space that a directory is to have left: a ledger grows by some KiB for each start of a guest,
/// and a full one refuses to start any. The logs of a guest take 2 MiB of the run directory.
const STATE_SPACE_BYTES: u64 = 100 << 20;
const RUN_SPACE_BYTES: u64 = 16 << 20;

/// The largest ledger whose records are all checked: that takes some 100 ms.
const MAX_CHECKED_BYTES: u64 = 16 << 20;

pub(super) fn checks(dirs: &Dirs, log: &Path) -> Vec<Check> {
    let mut checks = vec![
        directory(STATE_DIR, &dirs.state, STATE_SPACE_BYTES),
        directory(RUN_DIR, &dirs.run, RUN_SPACE_BYTES),
    ];
    let opened = Ledger::open_to_read(&dirs.state);
    checks.push(trail(log, &dirs.state, &opened));
    checks.extend(ledger(dirs, opened));
    checks
}

/// A directory of taptrail's, which the first command makes.
fn directory(subject: Subject, path: &Path, space: u64) -> Check {
    let shown = path.display();
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return to_be_made(subject, path, space),
        Err(error) => {
            return subject.unknown(format!("{shown} can't be seen: {error}"), "run doctor as root");
        }
    };
    let (uid, mode) = (file.uid(), file.mode() & 0o7777);
    let own = rustix::process::geteuid().as_raw();
    if !file.is_dir() {
        return subject.missing(format!("{shown} is no directory"), format!("remove {shown}"));
    }
    if (uid != 0 && uid != own) || mode & 0o022 != 0 {
        return subject.missing(
            format!("{shown} can be changed by others (owner {uid}, mode {mode:04o}), and is not used"),
            format!("chown root {shown}; chmod go-w {shown}"),
        );
    }
    if let Err(error) = writable(path) {
        return if own == 0 {
            subject.missing(format!("{shown} can't be written to: {error}"), "mount its file system writable")
        } else {
            subject
                .unknown(format!("{shown} is not for this user to write to: {error}"), "run doctor as root")
        };
    }
    with_space(subject, path, space, format!("{shown}, owner {uid}, mode {mode:04o}"))
}

/// A directory that is not there yet: whether it can be made decides its nearest parent.
fn to_be_made(subject: Subject, path: &Path, space: u64) -> Check {
    let shown = path.display();
    let Some(parent) = path.ancestors().skip(1).find(|parent| parent.is_dir()) else {
        return subject
            .unknown(format!("{shown} is not there, and its parents can't be seen"), "run doctor as root");
    };
    match writable(parent) {
        Ok(()) => with_space(subject, parent, space, format!("{shown} is made by the first command")),
        Err(error) if rustix::process::geteuid().is_root() => subject.missing(
            format!("{shown} is not there, and can't be made in {}: {error}", parent.display()),
            "mount the file system writable, or name another directory",
        ),
        Err(error) => subject.unknown(
            format!("{shown} is not there, and this user can't make it in {}: {error}", parent.display()),
            "run doctor as root",
        ),
    }
}

fn writable(path: &Path) -> io::Result<()> {
    Ok(accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
}

fn with_space(subject: Subject, path: &Path, space: u64, found: String) -> Check {
    let free = match statvfs(path) {
        Ok(mount) => mount.f_bavail.saturating_mul(mount.f_frsize),
        Err(error) => {
            return subject.unknown(
                format!("{found}; its space is not known: {}", io::Error::from(error)),
                "run doctor as root",
            );
        }
    };
    if free < space {
        return subject.missing(
            format!("{found}: only {} are free", size(free)),
            format!("make room: {} or more; for the ledger, `taptrail ledger prune`", size(space)),
        );
    }
    subject.ok(format!("{found}, {} free", size(free)))
}

/// Whether this host's trail can be read.
fn trail(log: &Path, state: &Path, ledger: &Result<Ledger, LedgerError>) -> Check {
    let file = Ledger::file(state);
    match (log_is_readable(log), ledger) {
        (Ok(()), Ok(_)) => TRAIL.ok("the audit log and the ledger can be read"),
        (Ok(()), Err(_)) => TRAIL.ok("the audit log can be read"),
        (Err(_), Ok(_)) => TRAIL.ok("the ledger can be read"),
        (Err(log_error), Err(error)) if is_absent(&log_error) && is_gone(error) => TRAIL.missing(
            format!("there is neither {} nor {}", log.display(), file.display()),
            "install auditd, or start a guest by `taptrail run`; logs of other hosts are named as FILE",
        ),
        (Err(_), Err(_)) => {
            TRAIL.unknown("neither the audit log nor the ledger can be read", "run doctor as root")
        }
    }
}

fn cause(error: &LedgerError) -> Option<io::ErrorKind> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

fn is_gone(error: &LedgerError) -> bool {
    matches!(cause(error), Some(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

fn ledger(dirs: &Dirs, opened: Result<Ledger, LedgerError>) -> Vec<Check> {
    let file = Ledger::file(&dirs.state);
    let shown = file.display();
    let ledger = match opened {
        Ok(ledger) => ledger,
        Err(error) if is_gone(&error) => {
            return vec![LEDGER.ok(format!("there is none: the first `run` or `watch` makes {shown}"))];
        }
        Err(error) if cause(&error) == Some(io::ErrorKind::PermissionDenied) => {
            return vec![LEDGER.unknown(chain(&error), "run doctor as root")];
        }
        Err(error) => {
            return vec![LEDGER.missing(
                chain(&error),
                "`taptrail ledger check` says more; move a ledger that can't be used aside, and the next command makes another",
            )];
        }
    };
    let (version, known, bytes) = (ledger.version(), Ledger::VERSION, ledger.bytes());
    let of = if version == known {
        format!("version {version}")
    } else {
        format!("version {version} of {known}, which the next command that writes makes it")
    };
    let opens = LEDGER.ok(format!("{shown}, {}, {of}", size(bytes)));
    vec![opens, records(&ledger, bytes)]
}

/// Whether the ledger is sound, and its records are as they were written.
fn records(ledger: &Ledger, bytes: u64) -> Check {
    const CHECK: &str = "taptrail ledger check";
    if bytes > MAX_CHECKED_BYTES {
        return CHAIN.unknown(
            format!("not checked, as it has more than {}", size(MAX_CHECKED_BYTES)),
            format!("{CHECK}, which takes some seconds"),
        );
    }
    let faults = match ledger.faults() {
        Ok(faults) => faults,
        Err(error) => return CHAIN.missing(chain(&error), CHECK),
    };
    if let [first, ..] = &faults[..] {
        return CHAIN.missing(format!("{} faults, the first: {first}", faults.len()), CHECK);
    }
    match ledger.check_chain(&[]) {
        Err(error) => CHAIN.missing(chain(&error), CHECK),
        Ok(None) => CHAIN.unknown(
            "it has no chain: an older taptrail made it",
            "the next command that writes to it adds one",
        ),
        Ok(Some(report)) if report.fault_count > 0 => CHAIN.missing(
            format!("{} records or rows of the chain were altered or removed", report.fault_count),
            CHECK,
        ),
        Ok(Some(report)) if report.outside_count > 0 => {
            CHAIN.unknown(format!("{} records are outside of the chain", report.outside_count), CHECK)
        }
        Ok(Some(report)) => CHAIN.ok(format!(
            "{} records are as the chain has them; a checkpoint that is kept elsewhere shows more",
            report.unchanged
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::check::Status;
    use super::*;

    fn dirs(root: &Path) -> Dirs {
        Dirs { state: root.join("state"), run: root.join("run") }
    }

    fn of(root: &Path) -> Vec<(&'static str, Status, String)> {
        let found = checks(&dirs(root), &root.join("audit.log")).into_iter();
        found.map(|check| (check.subject.id, check.status, check.found)).collect()
    }

    #[test]
    fn directories_that_are_not_there_yet_are_no_fault() {
        let root = tempfile::tempdir().unwrap();
        let found = of(root.path());
        assert!(found[0].1 == Status::Ok && found[0].2.contains("is made by the first command"), "{found:?}");
        assert_eq!(
            found.iter().map(|(id, status, _)| (*id, *status)).collect::<Vec<_>>()[2..],
            [("trail", Status::Missing), ("ledger", Status::Ok),]
        );
        assert!(!root.path().join("state").exists(), "nothing is made");
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let check = directory(STATE_DIR, &path, 0);
        assert!(check.status == Status::Missing && check.found.contains("0777"), "{check:?}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(directory(STATE_DIR, &path, 0).status, Status::Ok);
        let full = directory(STATE_DIR, &path, u64::MAX);
        assert!(full.status == Status::Missing && full.found.contains("are free"), "{full:?}");
    }

    #[test]
    fn a_ledger_is_opened_and_its_records_are_checked() {
        let root = tempfile::tempdir().unwrap();
        drop(Ledger::open(&root.path().join("state")).unwrap());
        let found = of(root.path());
        let ids: Vec<_> = found.iter().map(|(id, ..)| *id).collect();
        assert_eq!(ids, ["state-dir", "run-dir", "trail", "ledger", "ledger-chain"]);
        assert!(found.iter().all(|(_, status, _)| *status == Status::Ok), "{found:?}");
        fs::write(root.path().join("state/ledger.sqlite"), "no database").unwrap();
        let found = of(root.path());
        let last = found.last().unwrap();
        assert!(last.0 == "ledger" && last.1 == Status::Missing, "{found:?}");
    }
}
