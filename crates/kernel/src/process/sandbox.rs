//! Drops a supervisor's privileges for good after its guest was started.
//!
//! Capabilities are per thread: the driver's thread keeps those for the rest of the guest's
//! lifecycle, other threads drop all. System calls that no thread needs any more are refused to the
//! whole process.
//!
//! Landlock is not used: a process under Landlock can't inspect one that is not
//! (`hook_ptrace_access_check()` in security/landlock/task.c), and a supervisor has to read QEMU's
//! descriptors.

use std::collections::BTreeMap;
use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::privileges::drop_bounding_set;

/// The capabilities for hot-plug, hot-unplug and the guest's end:
///
/// - links, taps and filters: `NET_ADMIN`;
/// - sockets that see how a guest's addresses are learnt (`packet.rs`): `NET_RAW`;
/// - records, and the proof that they were logged: `AUDIT_WRITE`, `AUDIT_CONTROL` (for the audit's
///   status);
/// - kcmp(2) and `/proc/PID/fd` of a QEMU with another user: `SYS_PTRACE`, `DAC_READ_SEARCH`;
///   ending it: `KILL`.
const KEPT_CAPABILITIES: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::AUDIT_CONTROL)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::KILL);

/// System calls that are refused with EPERM: nft and ovs-vsctl, which are still started, need none of
/// them, and a script of the user's (`script.rs`) is told that it has none.
const REFUSED_SYSCALLS: &[libc::c_long] = &[
    // Mounts, namespaces, nodes, other users.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mknodat,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_open_by_handle_at,
    // Other processes are only inspected, by kcmp(2) and /proc.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_perf_event_open,
    // The kernel; bpf(2) is beside this list.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_fanotify_init,
    libc::SYS_syslog,
    libc::SYS_personality,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The clock, which gives records their times.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
];

/// `BPF_MAP_LOOKUP_ELEM` of include/uapi/linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: u64 = 1;

/// The use of bpf(2) that stays permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedBpf {
    /// No use of bpf(2) is permitted.
    Nothing,
    /// Reading elements of open maps, which needs no capability: the counts of a program that was
    /// loaded before.
    MapLookups,
}

/// Drops the calling thread's capabilities, and refuses system calls of all threads, except those
/// that a supervisor needs for the rest of its guest's lifecycle. `no_new_privs` prevents an exec
/// from regaining them.
///
/// Call it after QEMU was started and before its guest runs.
///
/// # Errors
///
/// The kernel refuses, for example without seccomp.
pub fn sandbox_after_start(bpf: AllowedBpf) -> io::Result<()> {
    drop_bounding_set(KEPT_CAPABILITIES)?;
    keep(KEPT_CAPABILITIES)?;
    let program = filter(bpf).map_err(io::Error::other)?;
    // Sets no_new_privs first, without which the kernel accepts no filter.
    apply_filter_all_threads(&program).map_err(io::Error::other)
}

/// Drops all capabilities of the calling thread.
///
/// # Errors
///
/// If capset(2) fails, which is not expected.
pub fn drop_all_capabilities() -> io::Result<()> {
    keep(CapabilitySet::empty())
}

/// Leaves this process nothing but to receive on its standard input, to send on its standard output,
/// to wait for both, to look at the clock, and to end; both are sockets. Any other system call kills
/// it.
///
/// # Errors
///
/// The kernel refuses, for example without seccomp.
pub fn sandbox_to_stdio() -> io::Result<()> {
    drop_all_capabilities()?;
    let program = stdio_filter().map_err(io::Error::other)?;
    apply_filter_all_threads(&program).map_err(io::Error::other)
}

fn stdio_filter() -> Result<BpfProgram, BackendError> {
    let on = |descriptor: libc::c_int| -> Result<Vec<SeccompRule>, BackendError> {
        let (size, number) = (SeccompCmpArgLen::Dword, u64::from(descriptor.unsigned_abs()));
        let condition = SeccompCondition::new(0, size, SeccompCmpOp::Eq, number)?;
        Ok(vec![SeccompRule::new(vec![condition])?])
    };
    // From exit on: how Rust ends a thread, and how the kernel resumes a wait after SIGCONT.
    let mut allowed: BTreeMap<i64, _> = [
        libc::SYS_ppoll,
        libc::SYS_clock_gettime,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_sigaltstack,
        libc::SYS_munmap,
        libc::SYS_futex,
        libc::SYS_restart_syscall,
    ]
    .map(|call| (call, Vec::new()))
    .into();
    #[cfg(target_arch = "x86_64")]
    allowed.insert(libc::SYS_poll, Vec::new());
    allowed.insert(libc::SYS_recvfrom, on(libc::STDIN_FILENO)?);
    allowed.insert(libc::SYS_sendto, on(libc::STDOUT_FILENO)?);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(allowed, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

fn keep(kept: CapabilitySet) -> io::Result<()> {
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    let sets = CapabilitySets {
        effective: effective & kept,
        permitted: permitted & kept,
        inheritable: inheritable & kept,
    };
    Ok(set_capabilities(None, sets)?)
}

fn filter(bpf: AllowedBpf) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, _> = REFUSED_SYSCALLS.iter().map(|call| (*call, Vec::new())).collect();
    // A call without a rule is refused for all arguments.
    let refused_bpf = match bpf {
        AllowedBpf::Nothing => Vec::new(),
        AllowedBpf::MapLookups => {
            let (size, other) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Ne);
            let command = SeccompCondition::new(0, size, other, BPF_MAP_LOOKUP_ELEM)?;
            vec![SeccompRule::new(vec![command])?]
        }
    };
    rules.insert(libc::SYS_bpf, refused_bpf);
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::CommandExt;

    use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

    use super::*;
    use crate::proc::raw_devices;

    /// Runs a test in a child process, because dropped privileges can't be regained.
    fn in_a_child(test: impl FnOnce()) {
        // SAFETY: the child calls nothing that waits for another thread of this test, and ends
        // without unwinding.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).is_ok();
            // SAFETY: ends the child, and nothing of the parent's is run.
            unsafe { libc::_exit(i32::from(!passed)) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0, "see the child's output above");
    }

    // Shows 5.36.
    #[test]
    fn only_the_kept_capabilities_and_calls_are_left() {
        let mut other = std::process::Command::new("/bin/sleep").arg("60").uid(65_534).spawn().unwrap();
        in_a_child(|| {
            sandbox_after_start(AllowedBpf::Nothing).unwrap();
            let sets = capabilities(None).unwrap();
            assert_eq!((sets.effective, sets.permitted), (KEPT_CAPABILITIES, KEPT_CAPABILITIES));
            assert_eq!(raw_devices(other.id()).unwrap(), [], "processes of others can be looked into");
            let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
            let refused = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            assert_eq!(refused, Err(rustix::io::Errno::PERM));
            // SAFETY: it is refused.
            assert_eq!(unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }, Err(rustix::io::Errno::PERM));
            assert!(std::process::Command::new("/bin/true").status().unwrap().success());
            assert_eq!((bpf(0), bpf(BPF_MAP_LOOKUP_ELEM)), (libc::EPERM, libc::EPERM));
        });
        other.kill().unwrap();
        other.wait().unwrap();
    }

    /// How bpf(2) fails without an attribute.
    fn bpf(command: u64) -> i32 {
        // SAFETY: the kernel refuses a size that no command has, and reads nothing.
        assert_eq!(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::null::<u8>(), 0) }, -1);
        io::Error::last_os_error().raw_os_error().unwrap()
    }

    #[test]
    fn maps_that_are_open_can_be_read_and_nothing_else_of_bpf_is_left() {
        in_a_child(|| {
            sandbox_after_start(AllowedBpf::MapLookups).unwrap();
            // It fails because there is no map, and not because of the filter.
            assert_ne!(bpf(BPF_MAP_LOOKUP_ELEM), libc::EPERM);
            let others = (0..64).filter(|command| *command != BPF_MAP_LOOKUP_ELEM);
            assert!(others.into_iter().all(|command| bpf(command) == libc::EPERM));
        });
    }

    /// The status of a child that has its standard input and output alone, and makes a system call
    /// with one argument and zeros.
    fn status_of_call(number: libc::c_long, argument: libc::c_int) -> i32 {
        // SAFETY: the child calls nothing that waits for another thread of this test, and ends
        // without unwinding.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let confined = sandbox_to_stdio();
            // SAFETY: the kernel refuses it, or touches no memory for it.
            unsafe { libc::syscall(number, argument, 0, 0, 0, 0, 0) };
            // SAFETY: ends the child, and nothing of the parent's is run.
            unsafe { libc::_exit(i32::from(confined.is_err())) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        status
    }

    // Shows 5.50.
    #[test]
    fn a_process_that_has_its_stdio_alone_is_killed_for_any_other_call() {
        assert_eq!(status_of_call(libc::SYS_recvfrom, libc::STDIN_FILENO), 0);
        assert_eq!(status_of_call(libc::SYS_sendto, libc::STDOUT_FILENO), 0);
        let refused = [
            (libc::SYS_recvfrom, libc::STDOUT_FILENO),
            (libc::SYS_sendto, libc::STDIN_FILENO),
            (libc::SYS_sendto, libc::STDERR_FILENO),
            (libc::SYS_read, libc::STDIN_FILENO),
            (libc::SYS_write, libc::STDERR_FILENO),
            (libc::SYS_openat, libc::AT_FDCWD),
            (libc::SYS_kill, 0),
            (libc::SYS_socket, libc::AF_UNIX),
            (libc::SYS_mmap, 0),
            (libc::SYS_clone, 0),
            (libc::SYS_execve, 0),
            (libc::SYS_ptrace, 0),
            (libc::SYS_setsockopt, libc::STDIN_FILENO),
        ];
        for (number, argument) in refused {
            let status = status_of_call(number, argument);
            assert!(libc::WIFSIGNALED(status), "call {number}: {status}");
            assert_eq!(libc::WTERMSIG(status), libc::SIGSYS, "call {number}");
        }
    }

    // Shows 5.36.
    #[test]
    fn no_capability_is_left_after_all_were_dropped() {
        in_a_child(|| {
            drop_all_capabilities().unwrap();
            assert_eq!(capabilities(None).unwrap().permitted, CapabilitySet::empty());
        });
    }
}
