//! The rights of the caller: namespaces and capabilities, and what they let it see.

use std::io;

use rustix::thread::{CapabilitySet, capabilities};
use taptrail_guest::Dirs;
use taptrail_kernel::proc::sees_all_processes;
use taptrail_witness::scan::{Scan, Scanner, Sources};

use super::check::Weight::{Essential, Useful};
use super::check::{Area, Check, Subject};
use super::system::System;
use crate::cli::Job;

/// The rights of this process.
#[derive(Debug)]
pub(super) struct Rights {
    pub(super) effective: CapabilitySet,
    /// Whether it is in the initial user namespace; None if /proc does not say.
    pub(super) initial_user_namespace: Option<bool>,
}

impl Rights {
    pub(super) fn of(system: &System) -> Self {
        let effective = capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
        let map = system.read("/proc/self/uid_map").ok();
        Self { effective, initial_user_namespace: map.map(|map| is_initial(&map)) }
    }
}

/// Whether a uid_map(5) is that of the initial user namespace: all numbers, as they are. A namespace
/// below it can have the same map only if its maker had all rights.
fn is_initial(map: &str) -> bool {
    let fields: Vec<_> = map.split_ascii_whitespace().collect();
    fields == ["0", "0", "4294967295"]
}

/// Capabilities that are needed together.
struct Group {
    subject: Subject,
    /// Their names.
    name: &'static str,
    needed: CapabilitySet,
    /// One that stands for all of them.
    instead: CapabilitySet,
}

const fn subject(
    id: &'static str,
    purpose: &'static str,
    needs: &'static [(Job, super::check::Weight)],
) -> Subject {
    Subject { area: Area::Rights, id, purpose, needs }
}

const GROUPS: [Group; 11] = [
    Group {
        subject: subject(
            "cap-net-admin",
            "links, taps and filters; which network namespace a tap is in",
            &[(Job::Run, Essential), (Job::Watch, Useful), (Job::Verify, Useful)],
        ),
        name: "CAP_NET_ADMIN",
        needed: CapabilitySet::NET_ADMIN,
        instead: CapabilitySet::empty(),
    },
    Group {
        subject: subject(
            "cap-own-dev",
            "QEMU's own /dev (without it: --no-private-dev); looking into network namespaces",
            &[(Job::Run, Essential), (Job::Watch, Useful), (Job::Verify, Useful)],
        ),
        name: "CAP_SYS_ADMIN and CAP_MKNOD",
        needed: CapabilitySet::SYS_ADMIN.union(CapabilitySet::MKNOD),
        instead: CapabilitySet::empty(),
    },
    Group {
        subject: subject(
            "cap-sys-ptrace",
            "the descriptors of processes of other users: QEMU with --user, libvirt's QEMUs",
            &[(Job::Run, Useful), (Job::Watch, Essential), (Job::Verify, Essential)],
        ),
        name: "CAP_SYS_PTRACE",
        needed: CapabilitySet::SYS_PTRACE,
        instead: CapabilitySet::empty(),
    },
    Group {
        subject: subject(
            "cap-dac-read-search",
            "logs and ledgers that belong to others",
            &[(Job::Watch, Useful), (Job::Verify, Useful), (Job::Read, Useful), (Job::Archive, Useful)],
        ),
        name: "CAP_DAC_READ_SEARCH",
        needed: CapabilitySet::DAC_READ_SEARCH,
        instead: CapabilitySet::DAC_OVERRIDE,
    },
    Group {
        subject: subject(
            "cap-audit-write",
            "records in the kernel's audit (--audit, --emit-audit); the ledger has them all the same",
            &[(Job::Run, Useful), (Job::Watch, Useful)],
        ),
        name: "CAP_AUDIT_WRITE",
        needed: CapabilitySet::AUDIT_WRITE,
        instead: CapabilitySet::empty(),
    },
    Group {
        subject: subject(
            "cap-audit-control",
            "the kernel's audit status: whether auditing is on, and whether records were lost",
            &[(Job::Run, Useful), (Job::Watch, Useful)],
        ),
        name: "CAP_AUDIT_CONTROL",
        needed: CapabilitySet::AUDIT_CONTROL,
        instead: CapabilitySet::empty(),
    },
    Group {
        subject: subject(
            "cap-audit-read",
            "reading records back from the kernel, which proves them; watch --kernel",
            &[(Job::Run, Useful), (Job::Watch, Useful)],
        ),
        name: "CAP_AUDIT_READ",
        needed: CapabilitySet::AUDIT_READ,
        instead: CapabilitySet::empty(),
    },
    Group {
        subject: subject("cap-net-raw", "filters that learn addresses (ip-learning=)", &[(Job::Run, Useful)]),
        name: "CAP_NET_RAW",
        needed: CapabilitySet::NET_RAW,
        instead: CapabilitySet::empty(),
    },
    Group {
        subject: subject("cap-qemu-user", "run --user", &[(Job::Run, Useful)]),
        name: "CAP_SETUID, CAP_SETGID, CAP_SETPCAP and CAP_KILL",
        needed: CapabilitySet::SETUID
            .union(CapabilitySet::SETGID)
            .union(CapabilitySet::SETPCAP)
            .union(CapabilitySet::KILL),
        instead: CapabilitySet::empty(),
    },
    Group {
        subject: subject(
            "cap-sys-resource",
            "run --limit, above this process's own limits",
            &[(Job::Run, Useful)],
        ),
        name: "CAP_SYS_RESOURCE",
        needed: CapabilitySet::SYS_RESOURCE,
        instead: CapabilitySet::empty(),
    },
    Group {
        subject: subject("cap-bpf", "--bpf", &[(Job::Run, Useful), (Job::Watch, Useful)]),
        name: "CAP_BPF and CAP_PERFMON",
        needed: CapabilitySet::BPF.union(CapabilitySet::PERFMON),
        instead: CapabilitySet::SYS_ADMIN,
    },
];

const USER: Subject = subject(
    "user-namespace",
    "rights over the host's links, audit and processes",
    &[(Job::Run, Essential), (Job::Watch, Essential), (Job::Verify, Essential)],
);
const PROCESSES: Subject = subject(
    "pid-namespace",
    "all processes of the host, by the numbers that the kernel records",
    &[(Job::Run, Useful), (Job::Watch, Essential), (Job::Verify, Essential)],
);

const DESCRIPTORS: Subject = subject(
    "process-descriptors",
    "an answer about all processes: a device may be held by one that can't be looked into",
    &[(Job::Watch, Useful), (Job::Verify, Essential)],
);

/// The most processes that a line names.
const MAX_NAMED_PROCESSES: usize = 4;

pub(super) fn checks(rights: &Rights, dirs: &Dirs) -> Vec<Check> {
    let scanned = Scanner::new(Sources::of_host(&dirs.state)).scan();
    let mut checks = vec![user(rights), processes(), descriptors(scanned)];
    checks.extend(GROUPS.iter().map(|group| group.check(rights)));
    checks
}

fn user(rights: &Rights) -> Check {
    let uid = rustix::process::geteuid().as_raw();
    let who = if uid == 0 { "root".to_owned() } else { format!("uid {uid}") };
    match rights.initial_user_namespace {
        Some(true) => USER.ok(format!("{who}, in the host's user namespace")),
        Some(false) => USER.missing(
            format!("{who}, in a user namespace of its own: its rights end there"),
            "run doctor outside of the container",
        ),
        None => USER.unknown(format!("{who}; /proc/self/uid_map can't be read"), "mount /proc"),
    }
}

fn processes() -> Check {
    match sees_all_processes() {
        Ok(true) => PROCESSES.ok("the host's: all processes have their numbers here"),
        Ok(false) => PROCESSES.missing(
            "one of its own: most processes of the host can't be seen, and others have other numbers",
            "run doctor outside of the container",
        ),
        Err(error) => PROCESSES.unknown(format!("/proc can't be read: {error}"), "mount /proc"),
    }
}

/// Whether the descriptors of each process can be read, as `verify` reads them.
fn descriptors(scanned: io::Result<Scan>) -> Check {
    let scan = match scanned {
        Ok(scan) => scan,
        Err(error) => return DESCRIPTORS.unknown(format!("/proc can't be read: {error}"), "mount /proc"),
    };
    let (all, unseen) = (scan.processes, &scan.unseen.processes);
    if unseen.is_empty() {
        return DESCRIPTORS.ok(format!("those of all {all} processes here can be read"));
    }
    let named = unseen.iter().take(MAX_NAMED_PROCESSES).map(|process| match &process.name {
        Some(name) => format!("pid {} '{name}'", process.pid),
        None => format!("pid {}", process.pid),
    });
    let more = if unseen.len() > MAX_NAMED_PROCESSES { " and others" } else { "" };
    DESCRIPTORS.missing(
        format!(
            "those of {} of {all} processes can't be read: {}{more}",
            unseen.len(),
            named.collect::<Vec<_>>().join(", ")
        ),
        "run as root with all capabilities that these processes have, as outside of a container; `verify --ignore-pid PID` \
         answers without one",
    )
}

impl Group {
    fn check(&self, rights: &Rights) -> Check {
        let lacking = self.needed.difference(rights.effective);
        let has = lacking.is_empty() || (!self.instead.is_empty() && rights.effective.contains(self.instead));
        if has {
            return self.subject.ok(format!("{} held", self.name));
        }
        let names: Vec<_> = lacking.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
        let way_out = match rustix::process::geteuid().is_root() {
            true => {
                "in a unit, add it to CapabilityBoundingSet=; in a container, start the container with it"
            }
            false => "run it as root; in a unit with a user of its own, AmbientCapabilities=",
        };
        self.subject.missing(format!("not held: {}", names.join(", ")), way_out)
    }
}

#[cfg(test)]
mod tests {
    use taptrail_witness::scan::{Unseen, UnseenProcess, UnseenReason};

    use super::super::check::Status;
    use super::*;

    #[test]
    fn only_the_whole_map_is_that_of_the_initial_namespace() {
        assert!(is_initial("         0          0 4294967295\n"));
        assert!(!is_initial("         0       1000          1\n"));
        assert!(!is_initial("0 0 4294967294\n") && !is_initial(""));
    }

    #[test]
    fn processes_that_can_not_be_looked_into_are_named() {
        let process = |pid, name: Option<&str>| UnseenProcess {
            pid,
            name: name.map(ToOwned::to_owned),
            within: Vec::new(),
            why: UnseenReason::Permission,
        };
        let scan = |processes| {
            let unseen = Unseen { processes, ..Unseen::default() };
            descriptors(Ok(Scan { processes: 9, unseen, ..Scan::default() }))
        };
        assert_eq!(scan(Vec::new()).status, Status::Ok);
        let two = scan(vec![process(1, Some("init")), process(7, None)]);
        assert_eq!(two.status, Status::Missing);
        assert_eq!(two.found, "those of 2 of 9 processes can't be read: pid 1 'init', pid 7");
        let many = scan((0..9).map(|pid| process(pid, None)).collect());
        assert!(many.found.ends_with("pid 3 and others"), "{}", many.found);
        assert_eq!(descriptors(Err(io::ErrorKind::NotFound.into())).status, Status::Unknown);
    }

    #[test]
    fn capabilities_that_are_not_held_are_named() {
        let with = |effective| Rights { effective, initial_user_namespace: Some(true) };
        let all = with(CapabilitySet::all());
        assert!(GROUPS.iter().all(|group| group.check(&all).status == Status::Ok));
        let none = with(CapabilitySet::empty());
        for group in &GROUPS {
            let check = group.check(&none);
            assert_eq!(check.status, Status::Missing, "{}", group.name);
            for name in group.name.split([' ', ',']).filter(|word| word.starts_with("CAP_")) {
                assert!(check.found.contains(name), "{name} is not in: {}", check.found);
            }
        }
        let some = with(CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE);
        let found = |id| {
            let group = GROUPS.iter().find(|group| group.subject.id == id).unwrap();
            group.check(&some)
        };
        assert_eq!(found("cap-own-dev").found, "not held: CAP_MKNOD");
        // One that stands for others.
        assert_eq!(found("cap-bpf").status, Status::Ok);
        assert_eq!(found("cap-dac-read-search").status, Status::Ok);
    }
}
