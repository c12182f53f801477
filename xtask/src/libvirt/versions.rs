//! Which versions of libvirt, QEMU and auditd are recorded, as these say themselves.

use anyhow::{Context, Result};

use super::programs::{AUDITCTL, VIRSH, must};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    libvirt: String,
    qemu: String,
    audit: String,
}

impl Versions {
    /// Asks the daemon that runs, and auditctl.
    pub(super) fn ask(uri: &str) -> Result<Self> {
        let said = must(VIRSH, &["-c", uri, "version", "--daemon"])?;
        let audit = must(AUDITCTL, &["-v"])?;
        Self::parse(&said, &audit).with_context(|| format!("virsh told no versions: {said}"))
    }

    fn parse(virsh: &str, auditctl: &str) -> Option<Self> {
        let after = |begin: &str| virsh.lines().find_map(|line| line.strip_prefix(begin)).map(str::trim);
        Some(Self {
            libvirt: after("Running against daemon:")?.to_owned(),
            qemu: after("Running hypervisor: QEMU")?.to_owned(),
            audit: auditctl.split_whitespace().last()?.to_owned(),
        })
    }

    /// The recordings' folder: `libvirt-11.3`.
    pub(super) fn folder(&self) -> String {
        format!("libvirt-{}", self.libvirt.strip_suffix(".0").unwrap_or(&self.libvirt))
    }

    /// One line for a recording's notes.
    pub(super) fn note(&self) -> String {
        format!("libvirt {}, QEMU {}, auditd {}", self.libvirt, self.qemu, self.audit)
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
        let versions = Versions::parse(SAID, "auditctl version 4.0.2").unwrap();
        assert_eq!(versions.folder(), "libvirt-11.3");
        assert_eq!(versions.note(), "libvirt 11.3.0, QEMU 10.0.13, auditd 4.0.2");
        let point = SAID.replace("daemon: 11.3.0", "daemon: 11.3.10");
        assert_eq!(Versions::parse(&point, "4.0.2").unwrap().folder(), "libvirt-11.3.10");
    }

    #[test]
    fn a_daemon_that_says_no_version_has_none() {
        assert_eq!(Versions::parse("Using library: libvirt 11.3.0", "auditctl version 4.0.2"), None);
    }
}
