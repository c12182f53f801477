//! The machine's audit configuration, borrowed for one test.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use rustix::fs::FlockOperation;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use taptrail_kernel::audit::{Audit, AuditStatus};

/// Held by every test that reads or changes the machine's auditing, in any program.
const LOCK: &str = "/run/lock/taptrail-audit.lock";

/// Whether tests may turn auditing on.
pub(crate) fn may_enable() -> bool {
    let set = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if !set("CI", "true") && !set("TAPTRAIL_TEST_AUDIT", "1") {
        eprintln!("not run: this test turns auditing on, which needs CI=true or TAPTRAIL_TEST_AUDIT=1");
        return false;
    }
    // A test's own auditd has ended once its lock is ours.
    let _lock = lock();
    let daemon = Audit::with_readlog(None).unwrap().status().unwrap().daemon;
    if daemon.is_some() {
        eprintln!("not run: this test turns auditing, which is that of an auditd that runs already");
    }
    daemon.is_none()
}

fn lock() -> File {
    let lock = File::options().create(true).append(true).open(LOCK).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

/// The machine's audit configuration, locked until it is dropped, and then restored.
pub(crate) struct Machine {
    before: AuditStatus,
    rules: Vec<Vec<&'static str>>,
    _lock: File,
}

impl Machine {
    /// Waits for the machine and turns auditing on or off.
    pub(crate) fn with_auditing(on: bool) -> Self {
        let lock = lock();
        let before = Audit::with_readlog(None).unwrap().status().unwrap();
        assert!(!before.locked || before.enabled == on, "auditing is locked (auditctl -e 2)");
        let machine = Self { before, rules: Vec::new(), _lock: lock };
        if before.enabled != on {
            auditctl(&["-e", if on { "1" } else { "0" }]);
        }
        machine
    }

    /// Adds a rule: `list,action` and the rest of it.
    pub(crate) fn add_rule(&mut self, rule: &[&'static str]) {
        auditctl(&[&["-a"], rule].concat());
        self.rules.push(rule.to_vec());
    }

    pub(crate) fn remove_rules(&mut self) {
        for rule in self.rules.drain(..) {
            auditctl(&[&["-d"], rule.as_slice()].concat());
        }
    }

    /// Registers as the audit daemon and reads nothing, with the smallest buffer there is: after a
    /// few records the kernel waits for it with each.
    pub(crate) fn stuck_daemon(&self) -> OwnedFd {
        assert_eq!(self.before.daemon, None, "an audit daemon runs");
        let socket = audit_socket(0);
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1).unwrap();
        // struct audit_status: mask AUDIT_STATUS_PID, enabled, failure, pid and four words more.
        let status = [0x0004, 0, 0, std::process::id(), 0, 0, 0, 0];
        // nlmsghdr: length, AUDIT_SET with NLM_F_REQUEST, sequence, port.
        let message: Vec<u8> = [48_u32, u32::from_ne_bytes([0xE9, 0x03, 1, 0]), 1, 0]
            .into_iter()
            .chain(status)
            .flat_map(u32::to_ne_bytes)
            .collect();
        rustix::net::send(&socket, &message, SendFlags::empty()).unwrap();
        let daemon = Audit::with_readlog(None).unwrap().status().unwrap().daemon;
        assert_eq!(daemon, Some(std::process::id()));
        socket
    }

    pub(crate) fn set_rate_limit(&self, limit: u32) {
        auditctl(&["-r", &limit.to_string()]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.remove_rules();
        let before = self.before;
        let mut all = vec![["-r".to_owned(), before.rate_limit.to_string()]];
        if !before.locked {
            all.push(["-e".to_owned(), u32::from(before.enabled).to_string()]);
        }
        for [option, value] in all {
            // Every setting is restored, even if restoring another one failed.
            let done = Command::new("auditctl").args([&option, &value]).output();
            if !done.is_ok_and(|done| done.status.success()) {
                eprintln!("auditctl {option} {value} failed: the machine's auditing is not as it was");
            }
        }
        if before.lost == 0 {
            drop(Command::new("auditctl").arg("--reset-lost").output());
        }
    }
}

fn auditctl(args: &[&str]) {
    let done = Command::new("auditctl").args(args).output().expect("auditctl (package auditd) is needed");
    assert!(done.status.success(), "auditctl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A socket in the multicast group of logged records, in this network namespace.
pub(crate) fn readlog_socket() -> OwnedFd {
    audit_socket(1)
}

fn audit_socket(groups: u32) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::AUDIT))
            .unwrap();
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups)).unwrap();
    socket
}

/// Runs `body` in a new thread, whose changes to itself end with it.
pub(crate) fn on_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Drops capabilities of this thread.
pub(crate) fn drop_capabilities(which: CapabilitySet) {
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(which);
    sets.permitted.remove(which);
    sets.inheritable.remove(which);
    set_capabilities(None, sets).unwrap();
}

/// Runs `body` in a child process, which has only one thread, and returns its output.
pub(crate) fn in_child(body: impl FnOnce() -> String) -> String {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // SAFETY: the child uses std and the allocator, which glibc keeps usable over fork(2), touches
    // no lock that another thread of this test may hold, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let said = body();
        let written = rustix::io::write(&writer, said.as_bytes()).is_ok();
        // SAFETY: ends the child without running what belongs to its parent.
        unsafe { libc::_exit(i32::from(!written)) }
    }
    drop(writer);
    let mut said = String::new();
    File::from(reader).read_to_string(&mut said).unwrap();
    // SAFETY: waits for our own child; no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    said
}
