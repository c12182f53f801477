//! Programs that taptrail runs, the bridge helper, and systemd's units.

use std::error::Error as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, getxattr, statvfs};
use taptrail_bridge_helper::acl::{ACL_FILE, Acl, AclError};
use taptrail_guest::chain;
use taptrail_kernel::link::{Link, Links};

use super::check::Weight::{Essential, Useful};
use super::check::{Area, Check, Status, Subject};
use super::reach::{Need, Reach};
use super::system::{System, run};
use crate::cli::Job;
use crate::run_config::PROGRAM_DIRS;

const QEMU: Subject = Subject {
    area: Area::Programs,
    id: "qemu",
    purpose: "guests",
    needs: &[(Job::Run, Essential), (Job::BridgeHelper, Useful)],
};
const HELPER: Subject = Subject {
    area: Area::Programs,
    id: "bridge-helper",
    purpose: "taps for unprivileged users' QEMUs, with a record of each request",
    needs: &[(Job::BridgeHelper, Essential)],
};
const ACL: Subject = Subject {
    area: Area::Programs,
    id: "bridge-acl",
    purpose: "the bridges that the helper may use",
    needs: &[(Job::BridgeHelper, Essential)],
};

/// Debian's package of the QEMU for guests of this machine's architecture.
const QEMU_PACKAGE: &str = if cfg!(target_arch = "aarch64") { "qemu-system-arm" } else { "qemu-system-x86" };

/// Where docs/bridge-helper.md installs the helper.
const HELPER_PATHS: [&str; 2] =
    ["/usr/libexec/taptrail-bridge-helper", "/usr/local/libexec/taptrail-bridge-helper"];

pub(super) fn checks(system: &System) -> Vec<Check> {
    let mut checks = vec![qemu(system), helper(system)];
    checks.push(acl(system, &bridges()));
    checks.extend(units(system));
    checks
}

fn qemu(system: &System) -> Check {
    let names = [format!("qemu-system-{}", std::env::consts::ARCH), "qemu-kvm".to_owned()];
    let paths = names.iter().flat_map(|name| PROGRAM_DIRS.iter().map(move |dir| Path::new(dir).join(name)));
    let Some(path) = system.program(paths) else {
        return QEMU.missing(
            format!("no {} in {}", names.join(" or "), PROGRAM_DIRS.join(", ")),
            format!(
                "apt-get install {QEMU_PACKAGE}, or dnf install qemu-kvm; a QEMU elsewhere is started by its path"
            ),
        );
    };
    match run(&path, &["--version"]) {
        Ok((status, said)) if status.success() => {
            let line = said.lines().next().unwrap_or_default().trim();
            let version = line.strip_prefix("QEMU emulator version ").unwrap_or(line);
            QEMU.ok(format!("{} is QEMU {version}", path.display()))
        }
        Ok((status, _)) => {
            QEMU.missing(format!("{} --version fails: {status}", path.display()), "install it again")
        }
        Err(error) => QEMU.unknown(format!("{} can't be run: {error}", path.display()), "run doctor as root"),
    }
}

/// The rights of a program's file (capabilities(7), `struct vfs_cap_data` of linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileRights {
    permitted: u64,
    effective: bool,
}

impl FileRights {
    fn parse(value: &[u8]) -> Option<Self> {
        /// `VFS_CAP_REVISION_2` and `_3`; the third has the uid of a user namespace's root behind.
        const REVISIONS: [(u32, usize); 2] = [(0x0200_0000, 20), (0x0300_0000, 24)];
        let word = |at: usize| value.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let magic = word(0)?;
        if !REVISIONS.contains(&(magic & 0xFF00_0000, value.len())) {
            return None;
        }
        let permitted = u64::from(word(4)?) | u64::from(word(12)?) << 32;
        Some(Self { permitted, effective: magic & 1 == 1 })
    }
}

/// The helper's two capabilities (linux/capability.h).
const NEEDED: [(u32, &str); 2] = [(12, "cap_net_admin"), (29, "cap_audit_write")];

/// Whether the helper is installed.
pub(super) fn has_helper(checks: &[Check]) -> bool {
    let is_gone = |check: &Check| check.status == Status::Missing && check.found.starts_with(NO_HELPER);
    !checks.iter().any(|check| check.subject.id == HELPER.id && is_gone(check))
}

const NO_HELPER: &str = "no taptrail-bridge-helper is installed";

fn helper(system: &System) -> Check {
    // Not `System::program`: one that nobody may run is installed, too.
    let is_file = |path: &&&str| fs::metadata(system.path(path)).is_ok_and(|file| file.is_file());
    let Some(path) = HELPER_PATHS.iter().find(is_file).map(Path::new) else {
        return HELPER.missing(
            format!("{NO_HELPER} ({})", HELPER_PATHS.join(", ")),
            "nothing, unless unprivileged users start QEMU: taptrail-bridge-helper(8) says how it is installed",
        );
    };
    match helper_rights(system, path) {
        Ok(text) => HELPER.ok(format!("{}, {text}", path.display())),
        Err(HelperFault::Missing { found, way_out }) => {
            HELPER.missing(format!("{} {found}", path.display()), way_out)
        }
        Err(HelperFault::Unknown(error)) => {
            HELPER.unknown(format!("{} can't be looked at: {error}", path.display()), "run doctor as root")
        }
    }
}

enum HelperFault {
    Missing { found: String, way_out: String },
    Unknown(io::Error),
}

impl From<io::Error> for HelperFault {
    fn from(error: io::Error) -> Self {
        Self::Unknown(error)
    }
}

fn helper_rights(system: &System, path: &Path) -> Result<String, HelperFault> {
    let shown = path.display();
    let missing =
        |found: &str, way_out: String| Err(HelperFault::Missing { found: found.to_owned(), way_out });
    let setcap = format!("setcap cap_net_admin,cap_audit_write+ep {shown}");
    let real = system.path(path);
    let file = fs::metadata(&real)?;
    let mode = file.mode() & 0o7777;
    if file.uid() != 0 {
        // A new owner takes the capabilities.
        return missing(
            "can be changed by others than root",
            format!("chown root {shown}; chmod {:04o} {shown}; {setcap}", mode & 0o755),
        );
    }
    if mode & 0o022 != 0 {
        return missing("can be changed by others than root", format!("chmod {:04o} {shown}", mode & !0o022));
    }
    if statvfs(&real).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::NOSUID)) {
        return missing(
            "is on a file system that is mounted nosuid",
            format!(
                "mount -o remount,suid \"$(findmnt -no TARGET -T {shown})\", and no nosuid for it in /etc/fstab"
            ),
        );
    }
    let rights = if mode & 0o4000 != 0 {
        "setuid root"
    } else {
        let mut value = [0; 64];
        let rights = match getxattr(&real, "security.capability", &mut value[..]) {
            Ok(length) => FileRights::parse(&value[..length.min(value.len())]),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => None,
            Err(error) => return Err(HelperFault::Unknown(error.into())),
        };
        match describe(rights) {
            Ok(text) => text,
            Err(found) => return missing(&found, setcap),
        }
    };
    let reach = Reach::of(system, path, Need::Run)?;
    if let Reach::Nobody { path: closed, mode } = &reach {
        let found = if closed == path {
            "can't be run by users".to_owned()
        } else {
            format!("can't be run by users: {} is closed to them", closed.display())
        };
        return missing(&found, format!("chmod {:04o} {}", mode | 0o755, closed.display()));
    }
    Ok(format!("{rights}{}", reach.restriction(system)))
}

fn describe(rights: Option<FileRights>) -> Result<&'static str, String> {
    let rights = rights.ok_or("has neither file capabilities nor setuid")?;
    if !rights.effective {
        return Err("has capabilities that are not effective".to_owned());
    }
    let missing: Vec<_> =
        NEEDED.iter().filter(|(bit, _)| rights.permitted & 1 << bit == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        Ok("with file capabilities")
    } else {
        Err(format!("lacks {}", missing.join(", ")))
    }
}

/// The bridges of this network namespace. Not by /sys/class/net, which may be another namespace's.
fn bridges() -> Vec<String> {
    let links = Links::open().and_then(|mut links| links.all()).unwrap_or_default();
    let is_bridge = |link: &Link| link.kind.as_deref() == Some("bridge");
    let mut names: Vec<_> = links.into_iter().filter(is_bridge).map(|link| link.name).collect();
    names.sort();
    names
}

fn acl(system: &System, bridges: &[String]) -> Check {
    let check = judge_acl(&Acl::read(Path::new(ACL_FILE)), bridges);
    if check.status != Status::Ok {
        return check;
    }
    // The helper reads it as its caller.
    match Reach::of(system, Path::new(ACL_FILE), Need::Read) {
        Ok(Reach::Nobody { path, mode }) => {
            let open = if path == Path::new(ACL_FILE) { 0o644 } else { 0o755 };
            ACL.missing(
                format!(
                    "{ACL_FILE} can't be read by users, whom the helper refuses then: {} has mode {mode:04o}",
                    path.display()
                ),
                format!("chmod {:04o} {}", mode | open, path.display()),
            )
        }
        Ok(reach) => Check { found: format!("{}{}", check.found, reach.restriction(system)), ..check },
        Err(error) => ACL.unknown(format!("{ACL_FILE} can't be looked at: {error}"), "run doctor as root"),
    }
}

fn judge_acl(acl: &Result<Acl, AclError>, bridges: &[String]) -> Check {
    let acl = match acl {
        Ok(acl) => acl,
        Err(error) => {
            let cause =
                error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
            return match cause {
                Some(io::ErrorKind::NotFound) => ACL.missing(
                    format!("there is no {ACL_FILE}: every bridge is refused"),
                    format!("mkdir -p /etc/qemu; echo 'allow br0' >{ACL_FILE}"),
                ),
                Some(io::ErrorKind::PermissionDenied) => ACL.unknown(chain(error), "run doctor as root"),
                _ => ACL.missing(chain(error), "correct it: taptrail-bridge-helper(8) has the grammar"),
            };
        }
    };
    let (allowed, refused): (Vec<_>, Vec<_>) =
        bridges.iter().partition(|bridge| acl.allows(bridge.as_bytes()));
    let list = |names: &[&String]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    match () {
        () if bridges.is_empty() => ACL.unknown(
            format!("{ACL_FILE} can be used, and there is no bridge here to try it with"),
            "ip link add br0 type bridge, and run doctor again",
        ),
        () if allowed.is_empty() => ACL.missing(
            format!("{ACL_FILE} allows none of the bridges here: {}", list(&refused)),
            format!("echo 'allow {}' >>{ACL_FILE}", refused[0]),
        ),
        () => ACL.ok(format!("{ACL_FILE} allows {}", list(&allowed))),
    }
}

/// A packaged unit, and the jobs that it is useful for.
struct Unit {
    subject: Subject,
    name: &'static str,
    /// A template is started for each guest, and not enabled itself.
    template: bool,
}

const fn unit(
    id: &'static str,
    name: &'static str,
    purpose: &'static str,
    needs: &'static [(Job, super::check::Weight)],
) -> Unit {
    Unit { subject: Subject { area: Area::Programs, id, purpose, needs }, name, template: false }
}

const UNITS: [Unit; 5] = [
    unit(
        "unit-watch",
        "taptrail-watch.service",
        "a watcher that runs from the boot on",
        &[(Job::Watch, Useful)],
    ),
    unit(
        "unit-recover",
        "taptrail-recover.service",
        "accounts that are closed after a power cut, before guests start",
        &[(Job::Run, Useful)],
    ),
    Unit {
        subject: Subject {
            area: Area::Programs,
            id: "unit-guest",
            purpose: "guests as services",
            needs: &[(Job::Run, Useful)],
        },
        name: "taptrail@.service",
        template: true,
    },
    unit(
        "unit-prune",
        "taptrail-prune.timer",
        "a ledger that does not grow for ever",
        &[(Job::Run, Useful), (Job::Watch, Useful)],
    ),
    unit("unit-archive", "taptrail-archive.timer", "archiving each hour", &[(Job::Archive, Useful)]),
];

/// Where units are, in systemd's order (systemd.unit(5)).
const UNIT_DIRS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

const SYSTEMCTL: [&str; 2] = ["/usr/bin/systemctl", "/bin/systemctl"];

fn units(system: &System) -> Vec<Check> {
    let runs = system.exists("/run/systemd/system").unwrap_or(false);
    let systemctl = system.program(SYSTEMCTL).filter(|_| runs);
    UNITS.iter().map(|unit| unit.check(system, systemctl.as_deref())).collect()
}

impl Unit {
    fn check(&self, system: &System, systemctl: Option<&Path>) -> Check {
        let name = self.name;
        let files = UNIT_DIRS.iter().map(|dir| PathBuf::from(dir).join(name));
        let Some(file) = files.into_iter().find(|file| system.exists(file).unwrap_or(false)) else {
            return match systemctl {
                Some(_) => self.subject.missing(
                    format!("{name} is not installed"),
                    format!(
                        "install the package, or packaging/{name} of the source tree in /etc/systemd/system; systemctl enable --now {name}"
                    ),
                ),
                None => self.subject.unknown(
                    format!("{name} is not installed, and systemd does not run here"),
                    "run doctor on the host, or start the command by what starts services here",
                ),
            };
        };
        let Some(systemctl) = systemctl else {
            return self.subject.unknown(
                format!("{} is there, and systemd does not run here", file.display()),
                "run doctor on the host, outside of a container",
            );
        };
        if self.template {
            return self.subject.ok(format!("{} is installed", file.display()));
        }
        match run(systemctl, &["show", "--property=ActiveState,UnitFileState", "--", name]) {
            Ok((status, said)) if status.success() => self.judge(&said),
            Ok((status, _)) => {
                self.subject.unknown(format!("systemctl show {name} failed: {status}"), "run doctor as root")
            }
            Err(error) => {
                self.subject.unknown(format!("systemctl can't be run: {error}"), "run doctor as root")
            }
        }
    }

    /// The properties that systemctl(1) shows.
    fn judge(&self, properties: &str) -> Check {
        let name = self.name;
        let value = |key: &str| {
            properties.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or("?")
        };
        let (active, file) = (value("ActiveState"), value("UnitFileState"));
        let is_enabled =
            ["enabled", "enabled-runtime", "static", "linked", "indirect", "generated"].contains(&file);
        match active {
            "failed" => self.subject.missing(
                format!("{name} has failed"),
                format!("journalctl -u {name}, and systemctl restart {name}"),
            ),
            _ if is_enabled => self.subject.ok(format!("{name} is {file}, and {active}")),
            "active" => self.subject.missing(
                format!("{name} runs until the next boot, and is {file}"),
                format!("systemctl enable {name}"),
            ),
            _ => self.subject.missing(format!("{name} is {file}"), format!("systemctl enable --now {name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(magic: u32, permitted: u64, length: usize) -> Vec<u8> {
        let low = u32::try_from(permitted & 0xFFFF_FFFF).unwrap();
        let high = u32::try_from(permitted >> 32).unwrap();
        let words = [magic, low, 0, high, 0, 0];
        words.iter().flat_map(|word| word.to_le_bytes()).take(length).collect()
    }

    #[test]
    fn the_helper_needs_two_capabilities_that_are_effective() {
        let both = 1 << 12 | 1 << 29;
        let said = |value: &[u8]| describe(FileRights::parse(value));
        assert_eq!(said(&value(0x0200_0001, both, 20)).unwrap(), "with file capabilities");
        assert_eq!(said(&value(0x0300_0001, both | 1 << 37, 24)).unwrap(), "with file capabilities");
        assert_eq!(
            said(&value(0x0200_0000, both, 20)).unwrap_err(),
            "has capabilities that are not effective"
        );
        assert_eq!(said(&value(0x0200_0001, 1 << 12, 20)).unwrap_err(), "lacks cap_audit_write");
        for malformed in [&[][..], &[1, 2, 3], &value(0x0200_0001, both, 24), &value(0x0400_0001, both, 20)] {
            assert_eq!(FileRights::parse(malformed), None);
        }
    }

    #[test]
    fn the_acl_is_asked_for_the_bridges_that_are_there() {
        let acl = || Acl::parse(b"allow br0\ndeny br1\n").map(Ok::<_, AclError>).unwrap();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let check = judge_acl(&acl(), &names(&["br0", "br1"]));
        assert!(check.status == Status::Ok && check.found.ends_with("allows br0"), "{check:?}");
        assert_eq!(judge_acl(&acl(), &names(&["br1"])).status, Status::Missing);
        assert_eq!(judge_acl(&acl(), &[]).status, Status::Unknown);
        let read = |kind: io::ErrorKind| {
            let error = AclError::Read { path: ACL_FILE.into(), source: kind.into() };
            judge_acl(&Err(error), &names(&["br0"])).status
        };
        assert_eq!(read(io::ErrorKind::NotFound), Status::Missing);
        assert_eq!(read(io::ErrorKind::PermissionDenied), Status::Unknown);
        let wrong = Acl::parse(b"permit br0\n");
        assert!(wrong.is_err());
        assert_eq!(judge_acl(&wrong, &names(&["br0"])).status, Status::Missing);
    }

    #[test]
    fn a_unit_has_to_be_enabled() {
        let status = |properties: &str| UNITS[0].judge(properties).status;
        assert_eq!(status("ActiveState=active\nUnitFileState=enabled\n"), Status::Ok);
        assert_eq!(status("ActiveState=inactive\nUnitFileState=static\n"), Status::Ok);
        assert_eq!(status("ActiveState=active\nUnitFileState=disabled\n"), Status::Missing);
        assert_eq!(status("ActiveState=failed\nUnitFileState=enabled\n"), Status::Missing);
        assert_eq!(status(""), Status::Missing);
    }

    #[test]
    fn without_systemd_a_units_state_is_unknown() {
        let root = tempfile::tempdir().unwrap();
        let of = |system: &System| units(system).into_iter().map(|check| check.status).collect::<Vec<_>>();
        let system = System::at(root.path());
        assert_eq!(of(&system), [Status::Unknown; UNITS.len()]);
        fs::create_dir_all(root.path().join("etc/systemd/system")).unwrap();
        fs::write(root.path().join("etc/systemd/system/taptrail@.service"), "").unwrap();
        let check = units(&system).remove(2);
        assert!(check.status == Status::Unknown && check.found.contains("is there"), "{check:?}");
    }

    #[test]
    fn a_qemu_is_looked_for_where_run_looks() {
        let root = tempfile::tempdir().unwrap();
        let check = qemu(&System::at(root.path()));
        assert!(check.status == Status::Missing && check.found.contains("/usr/libexec"), "{check:?}");
    }
}
