//! The kernel's auditing, auditd, its log and its rules.

use std::fs::File;
use std::io;
use std::path::Path;

use taptrail_guest::chain;
use taptrail_kernel::audit::{Audit, AuditError, AuditStatus};
use taptrail_source::host_log_paths;

use super::check::Weight::{Essential, Useful};
use super::check::{Area, Check, Subject};
use super::system::{System, is_absent, run};
use crate::cli::Job;

const SWITCH: Subject = Subject {
    area: Area::Auditing,
    id: "audit",
    purpose: "records of libvirt's guests, which libvirt writes only while the kernel audits; run --audit required",
    needs: &[(Job::Run, Useful), (Job::Watch, Essential), (Job::Verify, Useful), (Job::BridgeHelper, Useful)],
};
const DAEMON: Subject = Subject {
    area: Area::Auditing,
    id: "audit-daemon",
    purpose: "an audit log that goes on (without it: watch --kernel)",
    needs: &[(Job::Run, Useful), (Job::Watch, Essential), (Job::Verify, Useful), (Job::BridgeHelper, Useful)],
};
const QUEUE: Subject = Subject {
    area: Area::Auditing,
    id: "audit-queue",
    purpose: "a trail without gaps",
    needs: &[(Job::Run, Useful), (Job::Watch, Useful), (Job::Verify, Useful), (Job::BridgeHelper, Useful)],
};
const LOG: Subject = Subject {
    area: Area::Auditing,
    id: "audit-log",
    purpose: "the records of libvirt and of the kernel",
    needs: &[(Job::Watch, Essential), (Job::Verify, Useful), (Job::Read, Useful), (Job::Archive, Useful)],
};
const RULES: Subject = Subject {
    area: Area::Auditing,
    id: "audit-rules",
    purpose: "opens of devices as the kernel sees them: a macvtap's true number, opens that no manager records",
    needs: &[(Job::Watch, Useful), (Job::Verify, Useful), (Job::Read, Useful)],
};

/// The way out where the kernel keeps its audit status from this process.
const AS_ROOT: &str = "run doctor as root, outside of containers";

/// Where auditctl(8) is.
const AUDITCTL: [&str; 2] = ["/usr/sbin/auditctl", "/sbin/auditctl"];

/// Where auditd(8) is.
const AUDITD: [&str; 2] = ["/usr/sbin/auditd", "/sbin/auditd"];

/// The key of the packaged rules.
const KEY: &str = "key=taptrail";

pub(super) fn checks(system: &System, log: &Path) -> Vec<Check> {
    let status = Audit::with_readlog(None).and_then(|mut audit| audit.status());
    let arguments = system.read("/proc/cmdline").unwrap_or_default();
    let name = |pid| system.read(format!("/proc/{pid}/comm")).ok();
    let auditd = system.program(AUDITD);
    let mut checks = state(&status, &arguments, auditd.as_deref(), name);
    checks.push(audit_log(log));
    checks.push(rules(system, status.as_ref().ok()));
    checks
}

/// The switch, the daemon and the queue.
fn state(
    status: &Result<AuditStatus, AuditError>,
    arguments: &str,
    auditd: Option<&Path>,
    name: impl FnOnce(u32) -> Option<String>,
) -> Vec<Check> {
    let off = off_by_argument(arguments);
    let status = match status {
        Ok(status) => status,
        Err(AuditError::Unsupported) => {
            let (found, way_out) = match off {
                Some(argument) => (
                    format!(
                        "the kernel was booted with '{argument}', and has no auditing until the next boot"
                    ),
                    format!("take '{argument}' out of the kernel's arguments, and reboot"),
                ),
                None => (
                    "the kernel has no auditing".to_owned(),
                    "boot a kernel with CONFIG_AUDIT, as distributions' are".to_owned(),
                ),
            };
            return vec![SWITCH.missing(found, way_out)];
        }
        Err(error) => {
            let found = chain(error);
            return vec![
                SWITCH.unknown(found.clone(), AS_ROOT),
                DAEMON.unknown(found.clone(), AS_ROOT),
                QUEUE.unknown(found, AS_ROOT),
            ];
        }
    };
    vec![switch(status, off), daemon(status, auditd, name), queue(status)]
}

fn switch(status: &AuditStatus, off: Option<&str>) -> Check {
    let locked = if status.locked { ", and locked until the next boot" } else { "" };
    match (status.enabled, off) {
        (true, _) => SWITCH.ok(format!("on{locked}")),
        (false, Some(argument)) => SWITCH.missing(
            format!("off, as the kernel was booted with '{argument}'"),
            format!("auditctl -e 1, and take '{argument}' out of the kernel's arguments"),
        ),
        (false, None) => SWITCH.missing(format!("off{locked}"), "auditctl -e 1, or boot with 'audit=1'"),
    }
}

/// The kernel's argument that switches auditing off (kernel-parameters.txt).
fn off_by_argument(arguments: &str) -> Option<&str> {
    arguments.split_ascii_whitespace().find(|argument| matches!(*argument, "audit=0" | "audit=off"))
}

fn daemon(status: &AuditStatus, auditd: Option<&Path>, name: impl FnOnce(u32) -> Option<String>) -> Check {
    match status.daemon {
        Some(pid) => {
            let name = name(pid).map_or_else(|| "a process".to_owned(), |name| name.trim_end().to_owned());
            DAEMON.ok(format!("{name} (pid {pid}) receives the records"))
        }
        None => DAEMON.missing(
            "no process receives the kernel's records: none is stored",
            match auditd {
                Some(_) => {
                    "systemctl enable --now auditd, or `service auditd start` where systemd does not run"
                }
                None => "apt-get install auditd, or dnf install audit; then systemctl enable --now auditd",
            },
        ),
    }
}

fn queue(status: &AuditStatus) -> Check {
    let AuditStatus { backlog, backlog_limit, lost, rate_limit, .. } = *status;
    let limit =
        if backlog_limit == 0 { "no limit".to_owned() } else { format!("a limit of {backlog_limit}") };
    let state = format!("{lost} lost since the boot, {backlog} waiting with {limit}");
    if lost > 0 {
        // What is lost stays lost: until the next boot the trail has this gap.
        return QUEUE.missing(
            format!("{lost} records were lost since the boot; {backlog} are waiting, with {limit}"),
            "auditctl -b 8192 and 'audit_backlog_limit=8192' as the kernel's argument; `auditctl --reset-lost` begins to count anew",
        );
    }
    if rate_limit > 0 {
        return QUEUE.missing(
            format!("at most {rate_limit} records a second are kept; {state}"),
            "auditctl -r 0, and no '-r' in /etc/audit/rules.d",
        );
    }
    QUEUE.ok(state)
}

/// Whether auditd's log can be read.
fn audit_log(log: &Path) -> Check {
    let shown = log.display();
    let readable =
        "run doctor as root, or set log_group= in /etc/audit/auditd.conf to a group of this user's";
    match File::open(log).and_then(|file| file.metadata()) {
        Ok(file) if !file.is_file() => {
            LOG.missing(format!("{shown} is no file"), "set log_file= in /etc/audit/auditd.conf")
        }
        Ok(file) => {
            let rotations = host_log_paths(Some(log)).map_or(0, |paths| paths.len().saturating_sub(1));
            LOG.ok(format!("{shown} can be read: {}, and {rotations} older", size(file.len())))
        }
        Err(error) if is_absent(&error) => LOG.missing(
            format!("there is no {shown}"),
            "start auditd (see audit-daemon); where the log is elsewhere, --log or log_file= in /etc/audit/auditd.conf name it",
        ),
        Err(error) => LOG.unknown(format!("{shown} can't be read: {error}"), readable),
    }
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

fn rules(system: &System, status: Option<&AuditStatus>) -> Check {
    let way_out = "install -m 640 /usr/share/taptrail/audit/taptrail.rules /etc/audit/rules.d/ (in the source tree: packaging/taptrail.rules), then augenrules --load";
    let Some(status) = status else {
        return RULES.unknown("which rules are loaded can't be seen here", AS_ROOT);
    };
    let way_out = if status.locked {
        format!("{way_out}: from the next boot, as the rules are locked")
    } else {
        way_out.to_owned()
    };
    let Some(auditctl) = system.program(AUDITCTL) else {
        return RULES.unknown(
            "there is no auditctl, which lists the rules that are loaded",
            "apt-get install auditd, or dnf install audit",
        );
    };
    match run(&auditctl, &["-l"]) {
        Ok((status, said)) if status.success() => match count(&said) {
            0 => RULES.missing("none of taptrail's rules is loaded", way_out),
            count => RULES.ok(format!("{count} of taptrail's rules are loaded")),
        },
        Ok((status, _)) => RULES.unknown(format!("auditctl -l failed: {status}"), AS_ROOT),
        Err(error) => RULES.unknown(format!("auditctl can't be run: {error}"), "run auditctl -l"),
    }
}

/// The number of taptrail's rules in the output of `auditctl -l`.
fn count(rules: &str) -> usize {
    rules.lines().filter(|rule| rule.split_ascii_whitespace().any(|word| word == KEY)).count()
}

/// The rows about what can be read: a log, or the ledger.
pub(super) fn log_is_readable(log: &Path) -> io::Result<()> {
    File::open(log).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    const ON: AuditStatus = AuditStatus {
        enabled: true,
        locked: false,
        daemon: Some(812),
        rate_limit: 0,
        backlog_limit: 8192,
        backlog: 0,
        lost: 0,
    };

    fn of(status: AuditStatus, arguments: &str) -> Vec<(Status, String)> {
        let found = state(&Ok(status), arguments, None, |pid| Some(format!("auditd-{pid}\n")));
        found.into_iter().map(|check| (check.status, check.found)).collect()
    }

    #[test]
    fn the_kernels_status_says_what_is_there() {
        let all = of(ON, "quiet");
        assert!(all.iter().all(|(status, _)| *status == Status::Ok), "{all:?}");
        assert_eq!(all[1].1, "auditd-812 (pid 812) receives the records");
        let none = of(AuditStatus { enabled: false, daemon: None, lost: 3, ..ON }, "quiet");
        assert!(none.iter().all(|(status, _)| *status == Status::Missing), "{none:?}");
        assert!(none[2].1.contains("3 records were lost"), "{none:?}");
        let stopped = AuditStatus { daemon: None, ..ON };
        for (auditd, begin) in
            [(None, "apt-get install"), (Some(Path::new("/sbin/auditd")), "systemctl enable")]
        {
            let way_out = daemon(&stopped, auditd, |_| None).way_out.unwrap();
            assert!(way_out.starts_with(begin), "{way_out}");
        }
        let limited = of(AuditStatus { rate_limit: 100, ..ON }, "");
        assert_eq!(limited[2].0, Status::Missing);
    }

    #[test]
    fn an_argument_of_the_kernels_that_switches_auditing_off_is_named() {
        let off = of(AuditStatus { enabled: false, ..ON }, "root=/dev/vda audit=0 quiet");
        assert!(off[0].1.contains("'audit=0'"), "{off:?}");
        let none = state(&Err(AuditError::Unsupported), "audit=off", None, |_| None);
        assert_eq!(none.len(), 1, "without auditing there is no daemon and no queue to ask for");
        assert!(none[0].status == Status::Missing && none[0].found.contains("'audit=off'"), "{none:?}");
        assert_eq!(off_by_argument("audit=1 audit_backlog_limit=0"), None);
    }

    #[test]
    fn a_status_that_is_refused_is_unknown() {
        let refused = state(&Err(AuditError::StatusRefused), "", None, |_| None);
        assert_eq!(refused.len(), 3);
        assert!(refused.iter().all(|check| check.status == Status::Unknown), "{refused:?}");
    }

    #[test]
    fn rules_are_counted_by_their_key() {
        let listed = "-a always,exit -F arch=b64 -S open,creat -F devmajor=0xa -F key=taptrail\n\
                      -w /etc/passwd -p wa -k taptrails\n-a always,exit -F key=taptrail2\n";
        assert_eq!((count(listed), count("No rules\n")), (1, 0));
    }

    #[test]
    fn a_log_is_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        assert_eq!(audit_log(&log).status, Status::Missing);
        std::fs::write(&log, "x\n").unwrap();
        std::fs::write(dir.path().join("audit.log.1"), "").unwrap();
        let check = audit_log(&log);
        assert!(check.status == Status::Ok && check.found.ends_with("2 bytes, and 1 older"), "{check:?}");
        assert_eq!(audit_log(dir.path()).status, Status::Missing);
    }
}
