//! The Debian releases whose libvirt can be recorded. One more line in [`SUITES`] is one more
//! version of libvirt.

/// A Debian release, as a minimal root file system for recording libvirt in the virtual machine.
#[derive(Debug)]
pub(crate) struct Suite {
    /// What `--suite` calls it.
    pub(crate) name: &'static str,
    /// Suites of Debian's archives. Of each package, the newest version in them is taken.
    pub(crate) archives: &'static [&'static str],
    libvirt: &'static Libvirt,
}

/// How a release packages libvirt, and which daemons it may have.
#[derive(Debug)]
pub(crate) struct Libvirt {
    packages: &'static [&'static str],
    /// The first of them whose main daemon is installed is used.
    daemons: &'static [Daemons],
}

/// A set of daemons that together are one libvirt.
#[derive(Debug)]
pub(crate) struct Daemons {
    /// The daemon that starts QEMU, opens its devices and writes the audit records.
    pub(crate) main: &'static str,
    /// Daemons that the main one needs, in the order in which they are started.
    pub(crate) helpers: &'static [Helper],
    /// The connection's URI, for `virsh -c`.
    pub(crate) uri: &'static str,
}

impl Daemons {
    /// The main daemon's name, without its directory.
    pub(crate) fn name(&self) -> &'static str {
        self.main.rsplit('/').next().unwrap_or(self.main)
    }
}

#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) program: &'static str,
    /// The socket that exists once it runs.
    pub(crate) socket: &'static str,
}

const VIRTLOGD: Helper = Helper { program: "/usr/sbin/virtlogd", socket: "/run/libvirt/virtlogd-sock" };

/// The daemons that Debian packages, though it builds the others, too.
const MONOLITHIC: Daemons =
    Daemons { main: "/usr/sbin/libvirtd", helpers: &[VIRTLOGD], uri: "qemu:///system" };

/// The daemons that other distributions package, and that libvirt's own build creates.
const MODULAR: Daemons = Daemons {
    main: "/usr/sbin/virtqemud",
    helpers: &[
        VIRTLOGD,
        Helper { program: "/usr/sbin/virtnwfilterd", socket: "/run/libvirt/virtnwfilterd-sock" },
        Helper { program: "/usr/sbin/virtnetworkd", socket: "/run/libvirt/virtnetworkd-sock" },
    ],
    uri: "qemu:///system?mode=direct",
};

/// Up to Debian 12: nearly everything is in one package.
const IN_ONE_PACKAGE: Libvirt = Libvirt {
    packages: &["libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients"],
    daemons: &[MODULAR, MONOLITHIC],
};

/// Since Debian 13: a package for each driver.
const IN_PACKAGES: Libvirt = Libvirt {
    packages: &[
        "libvirt-daemon",
        "libvirt-daemon-driver-network",
        "libvirt-daemon-driver-nwfilter",
        "libvirt-daemon-driver-qemu",
        "libvirt-daemon-log",
        "libvirt-clients",
    ],
    daemons: &[MODULAR, MONOLITHIC],
};

pub(crate) const SUITES: &[Suite] = &[
    Suite { name: "bookworm", archives: &["bookworm", "bookworm-security"], libvirt: &IN_ONE_PACKAGE },
    Suite { name: "trixie", archives: &["trixie", "trixie-security"], libvirt: &IN_PACKAGES },
    Suite { name: "trixie-backports", archives: &["trixie", "trixie-backports"], libvirt: &IN_PACKAGES },
    Suite { name: "sid", archives: &["sid"], libvirt: &IN_PACKAGES },
];

/// The daemons of this machine's own libvirt, which is recorded when no suite is named.
pub(crate) const INSTALLED: &Daemons = &MONOLITHIC;

/// The packages of every root file system in addition to libvirt: a shell, the devices' tools, QEMU
/// with its firmware, and auditd.
const SYSTEM: &[&str] = &[
    "auditd",
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "grep",
    "ipxe-qemu",
    "iproute2",
    "iptables",
    "kmod",
    "libc-bin",
    "nftables",
    "procps",
    "qemu-system-x86",
    "seabios",
    "util-linux",
];

impl Suite {
    /// The daemons that are installed, as `exists` says of their paths.
    pub(crate) fn daemons(&self, exists: impl Fn(&str) -> bool) -> Option<&'static Daemons> {
        self.libvirt.daemons.iter().find(|daemons| exists(daemons.main))
    }

    /// All packages that the root file system is made of, without those that they depend on.
    pub(crate) fn packages(&self) -> Vec<&'static str> {
        [SYSTEM, self.libvirt.packages].concat()
    }
}

/// The suite of this name.
pub(crate) fn named(name: &str) -> Option<&'static Suite> {
    SUITES.iter().find(|suite| suite.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_there_once_and_fit_for_directories() {
        for suite in SUITES {
            assert_eq!(SUITES.iter().filter(|other| other.name == suite.name).count(), 1, "{suite:?}");
            assert!(suite.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{suite:?}");
            assert_eq!(named(suite.name).map(|found| found.name), Some(suite.name));
        }
        assert!(named("potato").is_none());
    }

    #[test]
    fn every_suite_has_archives_and_each_package_once() {
        for suite in SUITES {
            assert!(!suite.archives.is_empty(), "{suite:?}");
            let mut packages = suite.packages();
            let count = packages.len();
            packages.sort_unstable();
            packages.dedup();
            assert_eq!(packages.len(), count, "{suite:?}");
            assert!(packages.contains(&"auditd") && packages.contains(&"libvirt-clients"), "{suite:?}");
        }
    }

    #[test]
    fn daemons_are_named_by_absolute_paths() {
        let all = SUITES.iter().flat_map(|suite| suite.libvirt.daemons);
        for daemons in all.chain([INSTALLED]) {
            assert!(daemons.main.starts_with("/usr/sbin/"), "{daemons:?}");
            assert!(daemons.uri.starts_with("qemu:///system"), "{daemons:?}");
            for helper in daemons.helpers {
                assert!(helper.program.starts_with('/') && helper.socket.starts_with("/run/"), "{helper:?}");
            }
        }
    }

    #[test]
    fn modular_daemons_are_used_where_they_are_installed() {
        let name = |suite: &Suite, installed: &[&str]| {
            suite.daemons(|path| installed.contains(&path)).map(Daemons::name)
        };
        for suite in SUITES {
            assert_eq!(name(suite, &["/usr/sbin/libvirtd"]), Some("libvirtd"));
            assert_eq!(name(suite, &["/usr/sbin/libvirtd", "/usr/sbin/virtqemud"]), Some("virtqemud"));
            assert_eq!(name(suite, &[]), None);
        }
    }
}
