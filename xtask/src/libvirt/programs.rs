//! The programs that a recording needs.

use crate::programs::{AUDITCTL, AUDITD, IP, NFT};
use crate::suites::Daemons;

/// libvirt runs it, for filters.
const EBTABLES: &str = "/usr/sbin/ebtables";
pub(super) const MODPROBE: &str = "/sbin/modprobe";
pub(super) const RMMOD: &str = "/sbin/rmmod";
pub(super) const VIRSH: &str = "/usr/bin/virsh";

/// The programs in addition to libvirt's daemons.
const TOOLS: [&str; 8] = [AUDITCTL, AUDITD, EBTABLES, IP, MODPROBE, NFT, RMMOD, VIRSH];

/// All programs that a recording needs.
pub(super) fn required(daemons: &Daemons) -> impl Iterator<Item = &'static str> + use<> {
    let helpers = daemons.helpers.iter().map(|helper| helper.program);
    TOOLS.into_iter().chain([daemons.main]).chain(helpers)
}
