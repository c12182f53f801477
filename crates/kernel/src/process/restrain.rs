//! What a supervisor gives up for good once its guest is there.
//!
//! Capabilities are a thread's, and so is this: the driver's thread keeps what the rest of a guest's life needs, others
//! give up all of theirs. The system calls that none of them needs any more are refused to the whole process.
//!
//! No Landlock: it takes from who is under it the right to look into a process that is not
//! (`hook_ptrace_access_check()` in security/landlock/task.c), and a supervisor has to see what QEMU holds.

use std::collections::BTreeMap;
use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::lower::drop_bounding_set;

/// What hot-plug, hot-unplug and the guest's end take:
///
/// - links, taps and filters: `NET_ADMIN`;
/// - records, and the proof that they were logged: `AUDIT_WRITE`, `AUDIT_CONTROL` (which asking for the audit's state takes);
/// - kcmp(2) and `/proc/PID/fd` of a QEMU that has another user: `SYS_PTRACE`, `DAC_READ_SEARCH`; its end: `KILL`.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::AUDIT_CONTROL)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::KILL);

/// Refused from then on, with EPERM: nft, the only program that is run yet, needs none of it either.
const REFUSED: &[libc::c_long] = &[
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
    // Other processes: looking, by kcmp(2) and /proc, is all that is done.
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
    // The clock, by which records are told.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
];

/// `BPF_MAP_LOOKUP_ELEM` of include/uapi/linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: u64 = 1;

/// What of bpf(2) is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BpfLeft {
    /// Nothing.
    Nothing,
    /// To read elements of maps that are open already, which takes no capability: what a program that was loaded
    /// before counts.
    MapLookups,
}

/// Keeps what a supervisor needs for the rest of its guest's life; `no_new_privs` keeps an exec from giving any of the
/// rest back. The calling thread's capabilities, and the system calls of all threads.
///
/// To be called when QEMU has been started and before its guest runs.
///
/// # Errors
/// When the kernel refuses, as one without seccomp does.
pub fn restrain(bpf: BpfLeft) -> io::Result<()> {
    drop_bounding_set(KEPT)?;
    keep(KEPT)?;
    let program = filter(bpf).map_err(io::Error::other)?;
    // Sets no_new_privs first, without which the kernel takes no filter.
    apply_filter_all_threads(&program).map_err(io::Error::other)
}

/// Gives up all capabilities of the calling thread.
///
/// # Errors
/// When the kernel refuses, for which there is no reason.
pub fn renounce() -> io::Result<()> {
    keep(CapabilitySet::empty())
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

fn filter(bpf: BpfLeft) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    // Without a rule of its own a call is refused whatever its arguments are.
    let refused_bpf = match bpf {
        BpfLeft::Nothing => Vec::new(),
        BpfLeft::MapLookups => {
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

    /// In a process of its own: nothing of it can be taken back.
    fn in_a_child(test: impl FnOnce()) {
        // SAFETY: the child calls nothing that waits for another thread of this test, and ends without unwinding.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).is_ok();
            // SAFETY: ends the child, and nothing of the parent's is run.
            unsafe { libc::_exit(i32::from(!passed)) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0, "what the child says stands above");
    }

    #[test]
    fn what_is_kept_is_all_there_is() {
        let mut other = std::process::Command::new("/bin/sleep").arg("60").uid(65_534).spawn().unwrap();
        in_a_child(|| {
            restrain(BpfLeft::Nothing).unwrap();
            let sets = capabilities(None).unwrap();
            assert_eq!((sets.effective, sets.permitted), (KEPT, KEPT));
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
            restrain(BpfLeft::MapLookups).unwrap();
            // No descriptor, no map: it came as far as that.
            assert_ne!(bpf(BPF_MAP_LOOKUP_ELEM), libc::EPERM);
            let others = (0..64).filter(|command| *command != BPF_MAP_LOOKUP_ELEM);
            assert!(others.into_iter().all(|command| bpf(command) == libc::EPERM));
        });
    }

    #[test]
    fn who_renounces_has_nothing() {
        in_a_child(|| {
            renounce().unwrap();
            assert_eq!(capabilities(None).unwrap().permitted, CapabilitySet::empty());
        });
    }
}
