//! The kernel's records of a process, and records of other resources than network devices, in each
//! shape of a log.

use taptrail_trail::Content;

use crate::parsed_line::LogProgram;
use crate::scan::Scanner;

/// As Linux 6.18 wrote it, and as its sources say of SELinux and AppArmor (security/selinux/avc.c,
/// security/apparmor/audit.c).
const ABEND: &str = "auid=4294967295 uid=107 gid=107 ses=4294967295 pid=29269 comm=\"qemu-system-x86\" \
                     exe=\"/usr/bin/qemu-system-x86_64\" sig=11 res=1";
const SELINUX: &str = "avc:  denied  { open } for  pid=29269 comm=\"qemu-kvm\" path=\"/dev/net/tun\" \
                       dev=\"devtmpfs\" ino=105 scontext=system_u:system_r:svirt_t:s0:c392,c662 \
                       tcontext=system_u:object_r:tun_tap_device_t:s0 tclass=chr_file permissive=0";
const APPARMOR: &str = "apparmor=\"DENIED\" operation=\"open\" class=\"file\" \
                        profile=\"libvirt-2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e\" name=\"/dev/vhost-net\" pid=29269 \
                        comm=\"qemu-system-x86\" requested_mask=\"wr\" denied_mask=\"wr\" fsuid=64055 ouid=0";
const DISK: &str = "pid=9 uid=0 auid=4294967295 ses=4294967295 msg='virt=kvm resrc=disk reason=attach vm=\"w\" \
                    uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e old-disk=\"?\" new-disk=\"/srv/w.qcow2\" \
                    exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'";

/// A record in each shape that keeps it.
fn shapes(name: &str, number: u16, body: &str) -> Vec<String> {
    let json = body.replace('"', "\\\"");
    vec![
        format!("type={name} msg=audit(1795460187.056:2976): {body}"),
        format!("node=h1 type={name} msg=audit(1795460187.056:2976): {body}"),
        format!("type={name} msg=audit(1795460187.056:2976): {body}\x1dAUID=\"unset\" UID=\"qemu\""),
        format!("type=UNKNOWN[{number}] msg=audit(1795460187.056:2976): {body}"),
        format!("audispd: type={name} msg=audit(1795460187.056:2976): {body}"),
        format!("Nov 23 18:56:27 h1 audisp-syslog[2]: type={name} msg=audit(1795460187.056:2976): {body}"),
        format!("Nov 23 18:56:27 h1 kernel: audit: type={number} audit(1795460187.056:2976): {body}"),
        format!("[    1.0] audit: type={number} audit(1795460187.056:2976): {body}"),
        format!("Nov 23 18:56:27 h1 audit[29269]: {name} {body}"),
        format!(
            "{{\"_TRANSPORT\":\"audit\",\"__REALTIME_TIMESTAMP\":\"1795460187056000\",\"_AUDIT_TYPE\":\"{number}\",\
             \"_AUDIT_ID\":\"2976\",\"_HOSTNAME\":\"h1\",\"MESSAGE\":\"{name} {json}\"}}"
        ),
    ]
}

fn contents(scanner: &Scanner, line: &str) -> Vec<Content> {
    let batch = scanner.lines(line.as_bytes(), 0);
    assert!(batch.unreadable.is_empty(), "{line}: {:?}", batch.unreadable);
    batch.found.into_iter().map(|(_, found)| found.content).collect()
}

// Shows 10.3.
#[test]
fn a_signal_and_a_refusal_are_read_in_every_shape() {
    let scanner = Scanner::new();
    for line in shapes("ANOM_ABEND", 1701, ABEND) {
        let contents = contents(&scanner, &line);
        let [Content::Abend(abend)] = &contents[..] else { panic!("{line}: {contents:?}") };
        assert_eq!((abend.pid, abend.signal), (29269, 11), "{line}");
    }
    let by_name = SELINUX.replace("path=\"/dev/net/tun\"", "name=\"tun\"");
    for (body, path) in [(SELINUX, "/dev/net/tun"), (APPARMOR, "/dev/vhost-net"), (&by_name, "tun")] {
        for line in shapes("AVC", 1400, body) {
            let contents = contents(&scanner, &line);
            let [Content::Denial(denial)] = &contents[..] else { panic!("{line}: {contents:?}") };
            assert_eq!((denial.pid, &*denial.device.path), (29269, path), "{line}");
        }
    }
}

#[test]
fn other_processes_and_other_files_are_passed_over() {
    let scanner = Scanner::new();
    let abend = ABEND.replace("qemu", "firefox");
    let image = SELINUX.replace("/dev/net/tun", "/srv/tun.img");
    let permissive = SELINUX.replace("permissive=0", "permissive=1");
    for (name, number, body) in [
        ("ANOM_ABEND", 1701, &abend[..]),
        ("AVC", 1400, &image),
        ("AVC", 1400, &permissive),
        ("AVC", 1400, "avc:  denied"),
        ("USER_AVC", 1107, SELINUX),
        ("SECCOMP", 1326, ABEND),
    ] {
        for line in shapes(name, number, body) {
            assert_eq!(contents(&scanner, &line), [], "{line}");
        }
    }
    // ausearch leaves the quotes out: a process's name may be anything.
    for body in [ABEND, SELINUX, APPARMOR] {
        let name = if body == ABEND { "ANOM_ABEND" } else { "AVC" };
        let line = format!("type={name} msg=audit(11/23/2026 18:56:27.056:2976) : {}", body.replace('"', ""));
        assert_eq!(contents(&scanner, &line), [], "{line}");
    }
}

#[test]
fn the_process_of_a_kernels_record_is_not_its_writer() {
    let line = &shapes("ANOM_ABEND", 1701, ABEND)[0];
    let found = &Scanner::new().lines(line.as_bytes(), 0).found[0].1;
    assert_eq!((found.writer, found.credentials, found.serial), (None, None, Some(2976)));
    assert_eq!((found.program, found.is_unauthenticated), (LogProgram::Auditd, false));
    let line = &shapes("ANOM_ABEND", 1701, ABEND)[6];
    assert!(Scanner::new().lines(line.as_bytes(), 0).found[0].1.is_unauthenticated, "{line}");
}

// Shows 10.55.
#[test]
fn other_resources_are_read_in_every_shape_where_they_are_asked_for() {
    let (without, with) = (Scanner::new(), Scanner::new().with_resources(true));
    for line in shapes("VIRT_RESOURCE", 2501, DISK) {
        assert_eq!(contents(&without, &line), [], "{line}");
        let batch = with.lines(line.as_bytes(), 0);
        let [(_, found)] = &batch.found[..] else { panic!("{line}: {batch:?}") };
        let Content::Resource(change) = &found.content else { panic!("{line}: {found:?}") };
        assert_eq!((&*change.resource, change.new.as_deref()), ("disk", Some("/srv/w.qcow2")), "{line}");
        assert_eq!((found.writer, found.credentials.map(|by| by.uid)), (Some(9), Some(0)), "{line}");
    }
    let cut = &DISK[..DISK.len() - 12];
    let line = &shapes("VIRT_RESOURCE", 2501, &format!("{cut}'"))[0];
    assert_eq!(with.lines(line.as_bytes(), 0).unreadable.len(), 1, "a record that is cut off");
    let label = DISK
        .replace("resrc=disk reason=attach ", "")
        .replace("old-disk=\"?\" new-disk=\"/srv/w.qcow2\"", "vm-ctx=a model=dac");
    for line in shapes("VIRT_MACHINE_ID", 2502, &label) {
        assert!(matches!(contents(&with, &line)[..], [Content::Resource(_)]), "{line}");
    }
}

// Shows 10.57.
#[test]
fn a_pci_device_of_the_hosts_is_read_in_every_shape_without_being_asked_for() {
    let record = |bus: &str, device: &str| {
        let was = "old-disk=\"?\" new-disk=\"/srv/w.qcow2\"";
        DISK.replace("resrc=disk", "resrc=dev").replace(was, &format!("bus={bus} device=\"{device}\""))
    };
    for line in shapes("VIRT_RESOURCE", 2501, &record("pci", "0000:65:00.1")) {
        let found = contents(&Scanner::new(), &line);
        let [Content::Resource(change)] = &found[..] else { panic!("{line}: {found:?}") };
        assert_eq!(change.host_pci(), Some("0000:65:00.1"), "{line}");
    }
    for line in shapes("VIRT_RESOURCE", 2501, &record("usb", "001.002")) {
        assert_eq!(contents(&Scanner::new(), &line), [], "{line}");
    }
}

/// What the fuzz target `log` checks: the scan skips no line that would be read, and records of
/// other resources change no other.
#[test]
fn the_scan_skips_nothing_whatever_is_changed() {
    let mut state = 0x5EED_u64;
    let mut random = |below: usize| {
        // xorshift64 (G. Marsaglia)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let all = [
        ("ANOM_ABEND", 1701, ABEND),
        ("AVC", 1400, SELINUX),
        ("AVC", 1400, APPARMOR),
        ("VIRT_RESOURCE", 2501, DISK),
    ];
    for (name, number, body) in all {
        for line in shapes(name, number, body) {
            for _ in 0..20 {
                let mut bytes = line.clone().into_bytes();
                for _ in 0..random(3) {
                    let at = random(bytes.len());
                    match random(3) {
                        0 => bytes[at] = b" \"=:[]{}'\\x0"[random(12)],
                        1 => drop(bytes.remove(at)),
                        _ => bytes.truncate(at.max(1)),
                    }
                }
                crate::fuzzing::log(&bytes);
            }
        }
    }
}
