//! Which versions of libvirt, QEMU and auditd are recorded, as these say themselves.

use anyhow::{Context, Result};

use super::programs::VIRSH;
use crate::programs::{AUDITCTL, must};
use crate::suites::Daemons;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    /// The main daemon's name.
    daemon: &'static str,
    libvirt: String,
    qemu: String,
    audit: String,
}

impl Versions {
    /// Asks the daemon that runs, and auditctl.
    pub(super) fn ask(daemons: &Daemons) -> Result<Self> {
        let said = must(VIRSH, &["-c", daemons.uri, "version", "--daemon"])?;
        let audit = must(AUDITCTL, &["-v"])?;
        Self::parse(daemons.name(), &said, &audit)
            .with_context(|| format!("virsh printed no versions: {said}"))
    }

    fn parse(daemon: &'static str, virsh: &str, auditctl: &str) -> Option<Self> {
        let after = |begin: &str| virsh.lines().find_map(|line| line.strip_prefix(begin)).map(str::trim);
        Some(Self {
            daemon,
            libvirt: after("Running against daemon:")?.to_owned(),
            qemu: after("Running hypervisor: QEMU")?.to_owned(),
            audit: auditctl.split_whitespace().last()?.to_owned(),
        })
    }

    /// The recordings' folder: `libvirt-11.3`, or `libvirt-11.3-virtqemud` of modular daemons.
    pub(super) fn folder(&self) -> String {
        let version = self.libvirt.strip_suffix(".0").unwrap_or(&self.libvirt);
        match self.daemon {
            "libvirtd" => format!("libvirt-{version}"),
            modular => format!("libvirt-{version}-{modular}"),
        }
    }

    /// One line for a recording's notes.
    pub(super) fn note(&self) -> String {
        let Self { daemon, libvirt, qemu, audit } = self;
        format!("libvirt {libvirt} ({daemon}), QEMU {qemu}, auditd {audit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
Compiled against library: libvirt 11.3.0
Using library: libvirt 11.3.0
Using API: QEMU 11.3.0
Running hypervisor: QEMU 10.0.13
Running against daemon: 11.3.0";

    #[test]
    fn the_daemon_and_the_hypervisor_say_their_versions() {
        let versions = Versions::parse("libvirtd", SAID, "auditctl version 4.0.2").unwrap();
        assert_eq!(versions.folder(), "libvirt-11.3");
        assert_eq!(versions.note(), "libvirt 11.3.0 (libvirtd), QEMU 10.0.13, auditd 4.0.2");
        let point = SAID.replace("daemon: 11.3.0", "daemon: 11.3.10");
        let modular = Versions::parse("virtqemud", &point, "auditctl version 4.0.2").unwrap();
        assert_eq!(modular.folder(), "libvirt-11.3.10-virtqemud");
    }

    #[test]
    fn a_daemon_that_says_no_version_has_none() {
        assert_eq!(
            Versions::parse("libvirtd", "Using library: libvirt 11.3.0", "auditctl version 4.0.2"),
            None
        );
    }
}
