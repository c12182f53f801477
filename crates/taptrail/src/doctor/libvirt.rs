//! libvirt's daemons: whether they record, and where their logs are.

use std::fs;

use super::check::Weight::{Essential, Useful};
use super::check::{Area, Check, Subject};
use super::system::{System, is_absent};
use crate::cli::Job;

const DAEMON: Subject = Subject {
    area: Area::Libvirt,
    id: "libvirt",
    purpose: "records of libvirt's guests",
    needs: &[(Job::Watch, Useful)],
};
const LEVEL: Subject = Subject {
    area: Area::Libvirt,
    id: "libvirt-audit",
    purpose: "records of libvirt's guests",
    needs: &[(Job::Watch, Essential), (Job::Verify, Useful)],
};
const LOGS: Subject = Subject {
    area: Area::Libvirt,
    id: "libvirt-logs",
    purpose: "the reason why a guest of libvirt's did not start, which no record has",
    needs: &[(Job::Read, Useful)],
};

/// libvirt's daemons that run QEMU, and their settings.
const DAEMONS: [(&str, &str, &str); 2] = [
    ("libvirtd", "/usr/sbin/libvirtd", "/etc/libvirt/libvirtd.conf"),
    ("virtqemud", "/usr/sbin/virtqemud", "/etc/libvirt/virtqemud.conf"),
];

const GUEST_LOGS: &str = "/var/log/libvirt/qemu";

pub(super) fn checks(system: &System) -> Vec<Check> {
    let installed: Vec<_> =
        DAEMONS.iter().filter(|(_, program, _)| system.program([program]).is_some()).collect();
    if installed.is_empty() {
        let way_out = "nothing, unless guests are libvirt's: apt-get install libvirt-daemon-system";
        return vec![DAEMON.missing("no libvirtd and no virtqemud is installed", way_out)];
    }
    let names: Vec<_> = installed.iter().map(|(name, ..)| *name).collect();
    let mut checks = vec![DAEMON.ok(format!("{} installed", names.join(" and ")))];
    checks.extend(installed.iter().map(|(name, _, settings)| level(system, name, settings)));
    checks.push(guest_logs(system));
    checks
}

/// Whether a daemon writes records.
fn level(system: &System, name: &str, settings: &str) -> Check {
    let text = match system.read(settings) {
        Ok(text) => text,
        Err(error) if is_absent(&error) => String::new(),
        Err(error) => {
            return LEVEL.unknown(format!("{settings} can't be read: {error}"), "run doctor as root");
        }
    };
    let own_log = match setting(&text, "audit_logging") {
        Some("1") => "; records are in its own log, too (audit_logging = 1)",
        _ => "",
    };
    match setting(&text, "audit_level") {
        Some("0") => LEVEL.missing(
            format!("{name} writes no records: audit_level = 0 in {settings}"),
            format!("take that line out, and systemctl restart {name} (guests run on)"),
        ),
        Some("2") => {
            LEVEL.ok(format!("{name} does not start unless the kernel audits (audit_level = 2){own_log}"))
        }
        Some("1") | None => LEVEL.ok(format!("{name} writes records while the kernel audits{own_log}")),
        Some(other) => {
            LEVEL.unknown(format!("{settings} has audit_level = {other}"), "libvirt knows 0, 1 and 2")
        }
    }
}

/// A number in libvirt's settings, of which the first counts (`virConfGetValue()` in
/// src/util/virconf.c).
fn setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split('#').next()?.split_once('=')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn guest_logs(system: &System) -> Check {
    match fs::read_dir(system.path(GUEST_LOGS)) {
        Ok(entries) => {
            let is_log =
                |entry: &fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "log");
            let count = entries.flatten().filter(is_log).count();
            LOGS.ok(format!("{GUEST_LOGS} has the logs of {count} guests"))
        }
        Err(error) if is_absent(&error) => LOGS
            .missing(format!("there is no {GUEST_LOGS}"), "nothing: libvirt makes it with the first guest"),
        Err(error) => LOGS.unknown(format!("{GUEST_LOGS} can't be read: {error}"), "run doctor as root"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::super::check::Status;
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn of(root: &Path) -> Vec<(&'static str, Status, String)> {
        let checks = checks(&System::at(root)).into_iter();
        checks.map(|check| (check.subject.id, check.status, check.found)).collect()
    }

    #[test]
    fn a_host_without_libvirt_is_told_once() {
        let root = tempfile::tempdir().unwrap();
        let found = of(root.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, Status::Missing);
    }

    #[test]
    fn the_level_of_each_daemon_is_read() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "usr/sbin/libvirtd", "");
        put(root, "usr/sbin/virtqemud", "");
        put(
            root,
            "etc/libvirt/virtqemud.conf",
            "#audit_level = 2\naudit_level = 0 # off\naudit_logging = 1\n",
        );
        let found = of(root);
        assert_eq!(found[0].2, "libvirtd and virtqemud installed");
        assert_eq!(found[1].1, Status::Ok, "without a file, libvirt's default holds");
        assert!(found[2].1 == Status::Missing && found[2].2.contains("virtqemud.conf"), "{found:?}");
        assert_eq!(found[3].1, Status::Missing);
        put(root, "etc/libvirt/virtqemud.conf", "audit_level=1\naudit_logging=1\n");
        put(root, "var/log/libvirt/qemu/web1.log", "");
        put(root, "var/log/libvirt/qemu/web1.log.0", "");
        let found = of(root);
        assert!(found[2].1 == Status::Ok && found[2].2.contains("its own log"), "{found:?}");
        assert!(found[3].1 == Status::Ok && found[3].2.contains("1 guests"), "{found:?}");
    }

    #[test]
    fn the_first_of_two_settings_counts() {
        assert_eq!(setting("#audit_level = 2\n  audit_level=0\naudit_level = 1\n", "audit_level"), Some("0"));
        assert_eq!(setting("audit_levels = 0\n", "audit_level"), None);
    }
}
