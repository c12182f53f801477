//! The running kernel: its version, drivers and features.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::thread::CapabilitySet;
use taptrail_guest::chain;
use taptrail_guest::filter::{FilterChoice, Store};
use taptrail_kernel::clock;
use taptrail_kernel::filter::{Attachment, FilterError, InterfaceFilter, Nft};
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::{PidFd, ProcessId, same_file};
use taptrail_kernel::process::landlock_version;
use taptrail_record::MacAddr;

use super::check::Weight::{Essential, Useful};
use super::check::{Area, Check, Subject};
use super::feature::{Feature, Features};
use super::rights::Rights;
use super::system::{System, is_absent};
use crate::cli::Job;

/// The first kernel with mount_setattr(2), which makes QEMU's own /dev.
const PRIVATE_DEV: (u32, u32) = (5, 12);
/// The first kernel on which the BPF program was tried.
const BPF: (u32, u32) = (6, 1);
/// The first kernel with Landlock's right that taptrail needs (`LANDLOCK_ACCESS_FS_REFER`).
const LANDLOCK_REFER: u32 = 2;
/// The first kernel with nftables' egress hook: what a guest with a macvtap sends, and what one with a
/// tap receives.
const EGRESS: (u32, u32) = (5, 16);

const KERNEL: Subject = Subject {
    area: Area::Kernel,
    id: "kernel",
    purpose: "QEMU's own /dev, without the host's devices",
    needs: &[(Job::Run, Essential)],
};
const PIDFD: Subject = Subject {
    area: Area::Kernel,
    id: "pidfd",
    purpose: "ends of processes, without mistaking one process for another",
    needs: &[(Job::Run, Essential), (Job::Watch, Essential), (Job::Verify, Essential)],
};
const KCMP: Subject = Subject {
    area: Area::Kernel,
    id: "kcmp",
    purpose: "the proof that QEMU has a descriptor, and finding copies of it",
    needs: &[(Job::Run, Essential), (Job::Watch, Useful), (Job::Verify, Useful)],
};
const TUN: Subject = Subject {
    area: Area::Kernel,
    id: "tun",
    purpose: "tap devices",
    needs: &[(Job::Run, Essential), (Job::BridgeHelper, Essential)],
};
const VHOST_NET: Subject = Subject {
    area: Area::Kernel,
    id: "vhost-net",
    purpose: "vhost=on, by which the kernel moves frames instead of QEMU",
    needs: &[(Job::Run, Useful)],
};
const MACVTAP: Subject = Subject {
    area: Area::Kernel,
    id: "macvtap",
    purpose: "interfaces of --nic macvtap=LOWER",
    needs: &[(Job::Run, Useful)],
};
const BRIDGE: Subject = Subject {
    area: Area::Kernel,
    id: "bridge",
    purpose: "interfaces of --nic bridge=BR",
    needs: &[(Job::Run, Useful), (Job::BridgeHelper, Essential)],
};
const NFT: Subject = Subject {
    area: Area::Kernel,
    id: "nft-netdev",
    purpose: "filter=, and set-filter",
    needs: &[(Job::Run, Useful)],
};
const LANDLOCK: Subject = Subject {
    area: Area::Kernel,
    id: "landlock",
    purpose: "a QEMU that can't look into other processes",
    needs: &[(Job::Run, Useful)],
};
const CGROUP: Subject = Subject {
    area: Area::Kernel,
    id: "cgroup2",
    purpose: "limits of a guest's unit, taptrail@.service",
    needs: &[(Job::Run, Useful)],
};
const BPF_SUBJECT: Subject = Subject {
    area: Area::Kernel,
    id: "bpf",
    purpose: "--bpf, by which the kernel reports each last close",
    needs: &[(Job::Run, Useful), (Job::Watch, Useful)],
};
const CLOCK: Subject = Subject {
    area: Area::Kernel,
    id: "clock",
    purpose: "times that can be compared with those of other hosts",
    needs: &[
        (Job::Run, Useful),
        (Job::Watch, Useful),
        (Job::Read, Useful),
        (Job::Archive, Useful),
        (Job::BridgeHelper, Useful),
    ],
};

pub(super) fn checks(system: &System, rights: &Rights, nft: Option<&Path>) -> Vec<Check> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let features = Features::of(system, &release);
    let version = version(&release);
    vec![
        kernel(&release, version),
        pidfd(),
        kcmp(),
        device(system, TUN, &TUN_NODE, features.of_driver("CONFIG_TUN", "tun", Some("tun"))),
        device(
            system,
            VHOST_NET,
            &VHOST_NET_NODE,
            features.of_driver("CONFIG_VHOST_NET", "vhost_net", Some("vhost-net")),
        ),
        driver(
            MACVTAP,
            "macvtap",
            "CONFIG_MACVTAP",
            features.of_driver("CONFIG_MACVTAP", "macvtap", Some("macvtap")),
        ),
        driver(BRIDGE, "bridge", "CONFIG_BRIDGE", features.of_driver("CONFIG_BRIDGE", "bridge", None)),
        nftables(&features, version, rights, nft),
        landlock(),
        cgroup(system),
        bpf(system, &features, version, rights),
        synchronized(),
    ]
}

/// The first two numbers of a release such as `6.1.0-28-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &str, version: Option<(u32, u32)>) -> Check {
    let found = format!("Linux {release}");
    match version {
        None => KERNEL.unknown(found, "use a kernel whose release begins with its version"),
        Some(version) if version < PRIVATE_DEV => KERNEL.missing(
            format!("{found} is older than 5.12"),
            "boot Linux 5.12 or newer, or start guests with --no-private-dev",
        ),
        Some(_) => KERNEL.ok(found),
    }
}

fn pidfd() -> Check {
    match ProcessId::of(std::process::id()).and_then(PidFd::open) {
        Ok(_) => PIDFD.ok("pidfd_open(2) works"),
        Err(error) if is_unsupported(&error) => {
            PIDFD.missing("the kernel has no pidfd_open(2)", "boot Linux 5.6 or newer")
        }
        Err(error) => PIDFD.unknown(format!("pidfd_open(2) failed: {error}"), SECCOMP),
    }
}

/// The way out where a system call is refused that needs no rights.
const SECCOMP: &str = "run it outside of the container or the sandbox that refuses the system call";

fn is_unsupported(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::NOSYS)
}

fn kcmp() -> Check {
    let own = std::process::id();
    match same_file(own, 0, own, 0) {
        Ok(_) => KCMP.ok("kcmp(2) works"),
        Err(error) if is_unsupported(&error) => {
            KCMP.missing("the kernel has no kcmp(2)", "boot a kernel with CONFIG_KCMP, as distributions' are")
        }
        // Nothing is wrong but standard input.
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::BADF) => {
            KCMP.ok("kcmp(2) works")
        }
        Err(error) => KCMP.unknown(format!("kcmp(2) failed: {error}"), SECCOMP),
    }
}

/// A character device of a fixed number.
struct Node {
    path: &'static str,
    number: (u32, u32),
    module: &'static str,
    option: &'static str,
}

const TUN_NODE: Node = Node { path: "/dev/net/tun", number: (10, 200), module: "tun", option: "CONFIG_TUN" };
const VHOST_NET_NODE: Node =
    Node { path: "/dev/vhost-net", number: (10, 238), module: "vhost_net", option: "CONFIG_VHOST_NET" };

/// A device, without opening it: each open(2) of one is to have a record.
fn device(system: &System, subject: Subject, node: &Node, feature: Feature) -> Check {
    let Node { path, number, module, option } = node;
    match feature {
        Feature::Absent => {
            return subject.missing(format!("the kernel has no driver {module}"), without(module, option));
        }
        Feature::Barred => return subject.missing(barred(module), load_at_boot(module)),
        Feature::Present | Feature::Loadable | Feature::Unknown => {}
    }
    let file = match fs::metadata(system.path(path)) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => {
            return subject.missing(
                format!("there is no {path}"),
                format!(
                    "modprobe {module}, or in a container give it the host's device; by hand: mknod {path} c {} {}",
                    number.0, number.1
                ),
            );
        }
        Err(error) => return subject.unknown(format!("{path} can't be seen: {error}"), AS_ROOT),
    };
    let is_it = file.file_type().is_char_device()
        && (rustix::fs::major(file.rdev()), rustix::fs::minor(file.rdev())) == *number;
    if !is_it {
        return subject.missing(
            format!("{path} is not the character device {}:{}", number.0, number.1),
            format!("remove it, and mknod {path} c {} {}", number.0, number.1),
        );
    }
    // The kernel asks the device's control group, too (`inode_permission()` in fs/namei.c).
    match accessat(CWD, system.path(path), Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => subject.ok(match feature {
            Feature::Loadable => format!("{path} may be opened, which loads the module {module}"),
            _ => format!("{path} may be opened"),
        }),
        Err(error) if rustix::process::geteuid().is_root() => subject.missing(
            format!("{path} may not be opened, not even by root: {error}"),
            "allow it in the control group of this container or unit (DeviceAllow=)",
        ),
        Err(error) => {
            subject.unknown(format!("{path} is there, and may not be opened by this user: {error}"), AS_ROOT)
        }
    }
}

const AS_ROOT: &str = "run doctor as root";

fn without(module: &str, option: &str) -> String {
    format!(
        "boot a kernel with {option}, or install its module {module} (of some distributions, a package linux-modules-extra)"
    )
}

fn barred(module: &str) -> String {
    format!("the module {module} is not loaded, and this kernel loads none until the next boot")
}

fn load_at_boot(module: &str) -> String {
    format!("echo {module} >/etc/modules-load.d/taptrail.conf, boot without 'nomodule', and reboot")
}

/// A driver of links.
fn driver(subject: Subject, module: &str, option: &str, feature: Feature) -> Check {
    match feature {
        Feature::Present => subject.ok(format!("the kernel has the driver {module}")),
        Feature::Loadable => {
            subject.ok(format!("the kernel loads the module {module} when it is first used"))
        }
        Feature::Absent => {
            subject.missing(format!("the kernel has no driver {module}"), without(module, option))
        }
        Feature::Barred => subject.missing(barred(module), load_at_boot(module)),
        Feature::Unknown => subject.unknown(
            "neither the kernel's configuration nor its list of modules can be read here",
            format!(
                "run doctor on the host, outside of a container; or `zgrep {option} /proc/config.gz /boot/config-*`"
            ),
        ),
    }
}

fn nftables(features: &Features, version: Option<(u32, u32)>, rights: &Rights, nft: Option<&Path>) -> Check {
    let nft = match nft.map(|path| Ok(Nft::at(path))).unwrap_or_else(Nft::discover) {
        Ok(nft) if nft.path().is_file() => nft,
        Ok(nft) => {
            return NFT.missing(
                format!("there is no {}", nft.path().display()),
                "give --nft the path of the program nft",
            );
        }
        Err(error) => return NFT.missing(chain(&error), "apt-get install nftables, or dnf install nftables"),
    };
    let feature = features.of_driver("CONFIG_NF_TABLES", "nf_tables", None);
    match feature {
        Feature::Absent => {
            return NFT.missing("the kernel has no nftables", without("nf_tables", "CONFIG_NF_TABLES"));
        }
        Feature::Barred => return NFT.missing(barred("nf_tables"), load_at_boot("nf_tables")),
        Feature::Loadable => {
            // Trying it would load the module.
            return NFT.ok(format!(
                "{} is there, and was not tried: the kernel loads the module nf_tables when it is first used",
                nft.path().display()
            ));
        }
        Feature::Unknown => {
            return NFT.unknown(
                format!("{}; whether the kernel has nftables can't be seen here", nft.path().display()),
                "run doctor on the host, outside of a container",
            );
        }
        Feature::Present => {}
    }
    if !rights.effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN) {
        return NFT.unknown(
            format!(
                "{}; to set a filter in a network namespace of its own needs CAP_SYS_ADMIN and CAP_NET_ADMIN",
                nft.path().display()
            ),
            AS_ROOT,
        );
    }
    let tried =
        NetNs::with_new(|| (try_filter(&nft, Attachment::Tap), try_filter(&nft, Attachment::Macvtap)));
    match tried {
        Err(error) => {
            NFT.unknown(format!("a network namespace to try a filter in can't be made: {error}"), SECCOMP)
        }
        Ok((Ok(()), Ok(()))) => {
            NFT.ok(format!("{} sets a filter, on taps and macvtaps", nft.path().display()))
        }
        Ok((Ok(()), Err(error))) => NFT.missing(
            format!(
                "what a guest with a tap sends can be filtered, what it receives and macvtaps can't: {}",
                chain(&error)
            ),
            if version.is_some_and(|version| version < EGRESS) {
                "boot Linux 5.16 or newer".to_owned()
            } else {
                "boot a kernel with CONFIG_NETFILTER_EGRESS, and use nft 1.0.1 or newer".to_owned()
            },
        ),
        Ok((Err(error), _)) => NFT.missing(
            format!("a filter can't be set: {}", chain(&error)),
            "boot a kernel with CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_INGRESS, as distributions' are",
        ),
    }
}

/// Sets a guest's filter on the loopback of the thread's network namespace.
fn try_filter(nft: &Nft, attachment: Attachment) -> Result<(), FilterError> {
    let no_mac_spoofing = FilterChoice::new(vec!["no-mac-spoofing".to_owned()]);
    let rules = no_mac_spoofing.rules(&Store::shipped(), MacAddr([0x52, 0x54, 0, 0, 0, 1]));
    let (Ok(ifname), Ok(rules)) = ("lo".parse(), rules) else { return Ok(()) };
    // The loopback is the first link of each network namespace.
    let filter = InterfaceFilter { ifindex: 1, ifname, attachment, rules: rules.into() };
    nft.apply(&filter)?;
    nft.remove(filter.ifindex)
}

fn landlock() -> Check {
    match landlock_version() {
        0 => LANDLOCK.missing(
            "the kernel has no Landlock, or it is off",
            "boot Linux 5.19 or newer with CONFIG_SECURITY_LANDLOCK, and with 'landlock' in its argument lsm=",
        ),
        version if version < LANDLOCK_REFER => LANDLOCK.missing(
            format!("the kernel's Landlock is of version {version}, and is not used"),
            "boot Linux 5.19 or newer",
        ),
        version => LANDLOCK.ok(format!("version {version}")),
    }
}

fn cgroup(system: &System) -> Check {
    let mounts = match system.read("/proc/self/mounts") {
        Ok(mounts) => mounts,
        Err(error) => return CGROUP.unknown(format!("the mounts can't be read: {error}"), "mount /proc"),
    };
    match cgroup_mount(&mounts) {
        Some("/sys/fs/cgroup") => CGROUP.ok("/sys/fs/cgroup"),
        Some(path) => CGROUP.ok(format!("{path}, beside version 1")),
        None => CGROUP.missing(
            "no control groups of version 2 are mounted",
            "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

/// Where control groups of version 2 are mounted (proc_mounts(5)).
fn cgroup_mount(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let path = fields.nth(1)?;
        (fields.next() == Some("cgroup2")).then_some(path)
    })
}

/// What the BPF program needs, without loading it.
fn bpf(system: &System, features: &Features, version: Option<(u32, u32)>, rights: &Rights) -> Check {
    if version.is_some_and(|version| version < BPF) {
        return BPF_SUBJECT.missing("this kernel is older than 6.1", "boot Linux 6.1 or newer");
    }
    match system.exists("/sys/kernel/btf/vmlinux") {
        Ok(true) => {}
        Ok(false) => {
            return BPF_SUBJECT.missing(
                "this kernel does not describe its own types: there is no /sys/kernel/btf/vmlinux",
                "boot a kernel with CONFIG_DEBUG_INFO_BTF, as Debian's are",
            );
        }
        Err(error) => {
            return BPF_SUBJECT.unknown(format!("/sys/kernel/btf/vmlinux can't be seen: {error}"), AS_ROOT);
        }
    }
    const TRACING: &str = "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS";
    // The function is there with the option alone (kernel/trace/ftrace.c).
    let traces = match features.option(TRACING) {
        Some(value) => Some(value != "n"),
        None => system.has_symbol("register_ftrace_direct"),
    };
    if traces == Some(false) {
        return BPF_SUBJECT.missing(
            format!("this kernel can't trace its functions: {TRACING} is not set"),
            format!("boot a kernel with {TRACING}, as Debian's are"),
        );
    }
    let (bpf, both) = (CapabilitySet::SYS_ADMIN, CapabilitySet::BPF | CapabilitySet::PERFMON);
    if !rights.effective.contains(bpf) && !rights.effective.contains(both) {
        return BPF_SUBJECT.unknown(
            "the kernel describes its types; whether it loads the program can't be seen without CAP_BPF and CAP_PERFMON",
            AS_ROOT,
        );
    }
    if traces.is_none() {
        return BPF_SUBJECT.unknown(
            "the kernel describes its types; whether it can trace its functions can't be seen here",
            "try it: `taptrail watch --bpf` says whether the kernel takes the program",
        );
    }
    BPF_SUBJECT.ok("the kernel describes its types, and can trace its functions")
}

fn synchronized() -> Check {
    match clock::is_synchronized() {
        Ok(true) => CLOCK.ok("a time daemon keeps it synchronised"),
        Ok(false) => CLOCK.missing(
            "no time daemon keeps it synchronised, as the kernel says",
            "apt-get install chrony, or systemctl enable --now systemd-timesyncd",
        ),
        Err(error) => {
            CLOCK.unknown(format!("the kernel does not say whether it is synchronised: {error}"), SECCOMP)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        for (release, expected) in [
            ("6.1.0-28-amd64", Some((6, 1))),
            ("6.18.44-fc-v669", Some((6, 18))),
            ("7.0-rc1", Some((7, 0))),
            ("5.4", Some((5, 4))),
            ("next", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
        assert_eq!(kernel("5.10.0-32-amd64", version("5.10.0-32-amd64")).status, Status::Missing);
        assert_eq!(kernel("5.12.0", version("5.12.0")).status, Status::Ok);
        assert_eq!(kernel("next", None).status, Status::Unknown);
    }

    #[test]
    fn a_node_has_to_be_the_device() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path());
        let check = |feature| device(&system, TUN, &TUN_NODE, feature);
        let gone = check(Feature::Present);
        assert_eq!((gone.status, gone.found.as_str()), (Status::Missing, "there is no /dev/net/tun"));
        fs::create_dir_all(root.path().join("dev/net")).unwrap();
        fs::write(root.path().join("dev/net/tun"), "").unwrap();
        let other = check(Feature::Present);
        assert_eq!(other.status, Status::Missing);
        assert!(other.found.contains("is not the character device 10:200"), "{}", other.found);
        for (feature, says) in [(Feature::Absent, "has no driver"), (Feature::Barred, "loads none")] {
            let check = check(feature);
            assert!(check.status == Status::Missing && check.found.contains(says), "{}", check.found);
        }
    }

    #[test]
    fn what_no_list_shows_is_unknown() {
        for (feature, status) in [
            (Feature::Present, Status::Ok),
            (Feature::Loadable, Status::Ok),
            (Feature::Barred, Status::Missing),
            (Feature::Absent, Status::Missing),
            (Feature::Unknown, Status::Unknown),
        ] {
            assert_eq!(driver(MACVTAP, "macvtap", "CONFIG_MACVTAP", feature).status, status, "{feature:?}");
        }
    }

    #[test]
    fn control_groups_of_version_2_may_be_beside_version_1() {
        let beside =
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup_mount(beside), Some("/sys/fs/cgroup/unified"));
        assert_eq!(cgroup_mount("none /sys/fs/cgroup cgroup2 rw 0 0\n"), Some("/sys/fs/cgroup"));
        assert_eq!(cgroup_mount("cgroup /cgroup2 cgroup rw 0 0\n"), None);
    }
}
