//! Tables and JSON as users get them.

#![allow(clippy::unwrap_used)]

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, Event, GuestId, MacAddr, Rdev, Reason, Record};
use taptrail_report::{
    AddressRow, Columns, DeviceRow, GuestRow, HeldDeviceRow, ManagerRow, NicRow, ProcessGuest, ProcessRow,
    Style, TrailSummary, UnseenReport, UnseenRow, Verified, VerifiedRow, guest_table, json, nic_table,
    other_hosts_line, trail_table, unseen_lines, verify_table,
};
use taptrail_trail::{Content, Entry, Holding, Report, State, Trail};
use uuid::Uuid;

#[path = "../../../tests/e2e/world/contract.rs"]
mod contract;

const STYLE: Style = Style { width: None, color: false, utc: true, at: None };

fn tun() -> Device {
    Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into()))
}

fn macvtap() -> Device {
    Device::new("/dev/tap7", Some(Rdev { major: 246, minor: 2 }), Some("macvtap0".into()))
}

fn vhost() -> Device {
    Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None)
}

/// A guest with a two-queue tap from its start, a macvtap that was hot-plugged and hot-unplugged,
/// and a hot-plug that failed.
fn trail(hosts: [&str; 2]) -> Report {
    let (first, second) = (MacAddr::kvm([0, 0, 1]), MacAddr::kvm([0, 0, 2]));
    let pid = Some(4711);
    let guest = |name: &str| GuestId { name: name.into(), uuid: Uuid::from_u128(1) };
    let ok = |event| Record::success(guest("web1"), event);
    let open = |mac, device, queue| Event::Open { mac, device, queue: Some(queue) };
    let close = |mac, device, queue| Event::Close { mac, device, queue: Some(queue) };
    let no_vhost = Device::new("/dev/vhost-net", None, None);
    let records = [
        ok(open(first, tun(), 0)),
        ok(open(first, tun(), 1)),
        Record::failed(guest("web1"), open(first, no_vhost, 0), Some(2)),
        ok(Event::Start { mac: first, vm_pid: pid, fds: Some(2) }),
        ok(Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid }),
        ok(open(second, macvtap(), 0)),
        ok(Event::Attach { mac: second, vm_pid: pid, fds: Some(1) }),
        ok(close(second, macvtap(), 0)),
        ok(Event::Detach { mac: second, vm_pid: pid, fds: Some(1), forced: true }),
        ok(open(second, macvtap(), 0)),
        Record::failed(guest("web1"), Event::Attach { mac: second, vm_pid: pid, fds: Some(1) }, None),
        ok(close(second, macvtap(), 0)),
        Record::success(guest("\x1b[31mevil\n"), open(first, tun(), 0)),
    ];
    let begin: Timestamp = "2026-11-23T23:59:50.017Z".parse().unwrap();
    let last = records.len();
    let mut trail = Trail::new();
    for (line, record) in (1..).zip(records) {
        let host = hosts[usize::from(line == last)].into();
        let time = begin + SignedDuration::from_secs(i64::try_from(line).unwrap());
        let serial = u32::try_from(line).ok();
        trail.feed(&Entry {
            host,
            time,
            serial,
            source: "ledger".into(),
            line: line as u64,
            writer: None,
            credentials: None,
            content: Content::Record(record),
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
        });
    }
    let mut report = trail.finish();
    report.input.unreadable = 1;
    report
}

fn guests() -> Vec<GuestRow> {
    let since = "2026-11-23T20:31:05.017Z".parse().ok();
    let web = GuestRow {
        name: "web1".into(),
        uuid: Uuid::from_u128(0x2ea4_e9f1_1c4a_4c49_a5a1_0bbb_bf2a_1b0e),
        pid: Some(4711),
        state: "running".into(),
        since,
        nics: 2,
        supervisor: None,
        run_dir: None,
    };
    let other = GuestRow {
        name: "db é 名".into(),
        pid: None,
        state: "starting".into(),
        since: None,
        nics: 0,
        ..web.clone()
    };
    vec![web, other]
}

fn nics() -> Vec<NicRow> {
    let row = |device: Device, queue, qemu_fd| DeviceRow { device, queue, qemu_fd, doubt: None };
    let tap = NicRow {
        mac: Some(MacAddr::kvm([0, 0, 1])),
        backend: "bridge=br0".into(),
        model: "virtio-net-pci".into(),
        queues: 2,
        vhost: true,
        ifname: Some("vnet0".into()),
        state: "held".into(),
        since: "2026-11-23T20:31:05.017Z".parse().ok(),
        devices: vec![
            row(tun(), 0, Some(30)),
            row(tun(), 1, Some(31)),
            row(vhost(), 0, Some(32)),
            row(vhost(), 1, None),
        ],
        addresses: Some(vec![
            AddressRow {
                ip: [192, 0, 2, 5].into(),
                server: Some([192, 0, 2, 1].into()),
                until: "2026-11-23T21:31:05.017Z".parse().ok(),
            },
            AddressRow { ip: [192, 0, 2, 6].into(), server: None, until: None },
        ]),
    };
    let kept = NicRow {
        mac: Some(MacAddr::kvm([0, 0, 2])),
        backend: "macvtap=eth0,mode=vepa".into(),
        model: "e1000e".into(),
        queues: 1,
        vhost: false,
        ifname: Some("macvtap0".into()),
        state: "kept".into(),
        devices: vec![row(macvtap(), 0, Some(33))],
        addresses: Some(Vec::new()),
        ..tap.clone()
    };
    let bare = NicRow {
        mac: Some(MacAddr::kvm([0, 0, 3])),
        ifname: None,
        since: None,
        devices: Vec::new(),
        addresses: None,
        ..kept.clone()
    };
    vec![tap, kept, bare]
}

#[test]
fn a_trail() {
    insta::assert_snapshot!(trail_table(&trail(["h1", "h1"]), &Columns::Sessions, &STYLE));
}

#[test]
fn a_trail_of_two_hosts() {
    insta::assert_snapshot!(trail_table(&trail(["h1", "h2"]), &Columns::Sessions, &STYLE));
}

// Shows 9.6.
#[test]
fn tables_fit_a_terminal_of_80_columns() {
    let narrow = Style { width: Some(80), ..STYLE };
    let texts = [
        trail_table(&trail(["h1", "h2"]), &Columns::Sessions, &narrow),
        guest_table(&guests(), &narrow),
        nic_table(&nics(), &narrow),
    ];
    for text in texts {
        let wide = |line: &&str| line.chars().count() > 80 && !line.starts_with("    ");
        assert_eq!(text.lines().find(wide), None, "{text}");
        insta::assert_snapshot!(text);
    }
}

#[test]
fn a_trail_in_colour() {
    let text = trail_table(&trail(["h1", "h1"]), &Columns::Sessions, &Style { color: true, ..STYLE });
    insta::assert_snapshot!(text.replace('\x1b', "ESC"));
}

#[test]
fn an_empty_trail() {
    assert_eq!(
        trail_table(&Report::default(), &Columns::Sessions, &STYLE),
        "No holdings\n\nno session held; 0 findings; 0 records read\n"
    );
}

// Shows 9.2.
#[test]
fn guests_of_a_host() {
    insta::assert_snapshot!(guest_table(&guests(), &STYLE));
    insta::assert_snapshot!(json(&guests()).unwrap());
    assert_eq!(guest_table(&[], &STYLE), "No guests\n");
}

// Shows 9.1.
#[test]
fn interfaces_of_a_guest() {
    insta::assert_snapshot!(nic_table(&nics(), &STYLE));
    insta::assert_snapshot!(json(&nics()[..1]).unwrap());
    assert_eq!(nic_table(&[], &STYLE), "No interfaces\n");
}

#[test]
fn rows_read_back_from_their_json() {
    assert_eq!(serde_json::from_str::<Vec<NicRow>>(&json(&nics()).unwrap()).unwrap(), nics());
    assert_eq!(serde_json::from_str::<Vec<GuestRow>>(&json(&guests()).unwrap()).unwrap(), guests());
}

/// A guest with its tap, a copy of that in another process, a VPN, and a device that no process
/// holds.
fn verified() -> Verified {
    let report = trail(["h1", "h1"]);
    let holding = report.holdings.iter().find(|holding| holding.state == State::Held).cloned();
    let lost = holding.clone().map(|holding| Holding { device: macvtap(), queues: Some(1), ..holding });
    let process = |pid, exe: &str, program| ProcessRow {
        pid,
        start_time: 778_899,
        started: "2026-11-23T23:59:50.120Z".parse().ok(),
        parent: Some(1),
        uid: Some(64055),
        exe: Some(exe.to_owned()),
        program,
        netns: Some(4_026_531_840),
        manager: None,
    };
    let tap = |dev: &str, fds: &[i32]| HeldDeviceRow {
        kind: "tun",
        path: "/dev/net/tun".to_owned(),
        rdev: Rdev::TUN,
        dev: Some(dev.to_owned()),
        netns: Some(4_026_531_840),
        mac: "fe:54:00:00:00:01".parse().ok(),
        bridge: Some("br0".to_owned()),
        lower: None,
        fds: fds.to_vec(),
    };
    let web1 = || ProcessGuest {
        name: Some("web1".to_owned()),
        uuid: Some(Uuid::from_u128(1)),
        known_by: "libvirt",
    };
    let row = |verdict, process, device| VerifiedRow {
        verdict,
        text: None,
        process: Some(process),
        guest: None,
        device: Some(device),
        queues: 1,
        shared_with: Vec::new(),
        matched_by: None,
        holding: None,
    };
    let manager = ManagerRow {
        kind: "virt-qemu-run",
        pid: None,
        path: Some("/tmp/virt-qemu-run-X".to_owned()),
        uid: None,
        known_by: "command-line",
    };
    let qemu = process(4711, "/usr/bin/qemu-system-x86_64", "qemu");
    let qemu = ProcessRow { manager: Some(manager), ..qemu };
    let devices = vec![
        VerifiedRow {
            guest: Some(web1()),
            queues: 2,
            shared_with: vec![4800],
            matched_by: Some("name"),
            holding: holding.clone(),
            ..row("accounted", qemu.clone(), tap("vnet0", &[31, 32]))
        },
        // A user's, who can name a guest as another's.
        VerifiedRow {
            guest: Some(ProcessGuest { uuid: None, known_by: "command-line", ..web1() }),
            matched_by: Some("bridge-helper"),
            ..row("accounted", process(5100, "/usr/bin/qemu-system-x86_64", "qemu"), tap("tap0", &[12]))
        },
        VerifiedRow {
            guest: Some(web1()),
            ..row(
                "unaudited-kind",
                qemu,
                HeldDeviceRow { kind: "vfio", path: "/dev/vfio/12".to_owned(), ..bare() },
            )
        },
        VerifiedRow {
            text: Some("Process 4800 (/tmp/\x1b[31mx) has a copy of /dev/net/tun (vnet0)".to_owned()),
            shared_with: vec![4711],
            holding,
            ..row("held-by-another", process(4800, "/tmp/\x1b[31mx", "other"), tap("vnet0", &[0]))
        },
        row("ignored", process(900, "/usr/sbin/openvpn", "vpn"), tap("tun0", &[5])),
        VerifiedRow {
            verdict: "missing",
            text: Some("52:54:00:00:00:01 of guest 'web1' is told to hold /dev/tap7".to_owned()),
            process: None,
            guest: None,
            device: None,
            queues: 1,
            shared_with: Vec::new(),
            matched_by: None,
            holding: lost.clone(),
        },
        VerifiedRow {
            verdict: "unknown",
            text: None,
            process: None,
            guest: None,
            device: None,
            queues: 1,
            shared_with: Vec::new(),
            matched_by: None,
            holding: lost.map(|holding| Holding { pid: Some(1), ..holding }),
        },
    ];
    let counts = [
        "accounted",
        "unaccounted",
        "missing",
        "unknown",
        "held-after-release",
        "held-by-another",
        "unaudited-kind",
        "ignored",
    ];
    let count = |verdict: &&'static str| devices.iter().filter(|row| row.verdict == *verdict).count() as u64;
    Verified {
        counts: counts.iter().map(|verdict| (*verdict, count(verdict))).collect(),
        devices,
        in_motion: 1,
        processes: 212,
        unseen: UnseenReport {
            processes: (1..=11).map(|pid| unseen(pid, "permission")).collect(),
            crowded: vec![unseen(4800, "crowded")],
            places: 2,
            outside: true,
            copies: 3,
        },
        namespaces: [(4_026_531_840, "own".to_owned())].into(),
        trail: Some(TrailSummary {
            begins: "2026-11-23T20:31:05.017Z".parse().ok(),
            records: 14,
            other_hosts: vec!["h2".to_owned(), "h\x1b3".to_owned()],
        }),
    }
}

fn unseen(pid: u32, why: &'static str) -> UnseenRow {
    UnseenRow { pid, name: (pid != 2).then(|| "a\x1b]".to_owned()), why }
}

/// The same with a count for each verdict, as the program has it.
fn counted() -> Verified {
    let mut verified = verified();
    verified.counts.extend([("hidden", 0), ("opening", 0)]);
    verified
}

/// A device of which only the open is known.
fn bare() -> HeldDeviceRow {
    HeldDeviceRow {
        kind: "vfio",
        path: String::new(),
        rdev: Rdev { major: 240, minor: 0 },
        dev: None,
        netns: None,
        mac: None,
        bridge: None,
        lower: None,
        fds: vec![40],
    }
}

#[test]
fn devices_beside_their_trail() {
    insta::assert_snapshot!(verify_table(&verified(), &STYLE));
    insta::assert_snapshot!(verify_table(&verified(), &Style { width: Some(80), ..STYLE }));
    insta::assert_snapshot!(json(&verified()).unwrap());
    let without = Verified { trail: None, devices: verified().devices.split_off(4), ..verified() };
    insta::assert_snapshot!("devices_without_a_trail", verify_table(&without, &STYLE));
    let lines: Vec<_> = unseen_lines(&verified().unseen)
        .into_iter()
        .chain(verified().trail.as_ref().and_then(other_hosts_line))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
    assert_eq!(unseen_lines(&UnseenReport::default()), Vec::<String>::new());
    let failed = UnseenReport { processes: vec![unseen(7, "failed")], ..UnseenReport::default() };
    assert!(failed.hides_devices() && unseen_lines(&failed)[0].contains("reading their descriptors failed"));
}

#[test]
fn rows_are_as_their_schemas_say() {
    let values = [
        ("list", serde_json::to_value(guests()).unwrap()),
        (
            "list",
            serde_json::to_value([GuestRow {
                supervisor: Some(812),
                run_dir: Some("/run/b".into()),
                ..guests().remove(0)
            }])
            .unwrap(),
        ),
        ("nics", serde_json::to_value(nics()).unwrap()),
        ("nic", serde_json::to_value(nics().remove(0)).unwrap()),
        ("verify", serde_json::to_value(counted()).unwrap()),
        ("verify", serde_json::to_value(Verified { trail: None, ..counted() }).unwrap()),
        ("trail", serde_json::to_value(trail(["h1", "h2"])).unwrap()),
    ];
    for (name, value) in &values {
        contract::assert_valid(name, value);
        for (place, changed) in contract::mutations(value) {
            assert!(
                !contract::faults(name, &changed).is_empty(),
                "{name}: a change of {place} is not noticed"
            );
        }
    }
}

#[test]
fn an_undocumented_field_is_named_with_the_schema_that_lacks_it() {
    let mut value = serde_json::to_value(counted()).unwrap();
    value["devices"][0]["holding"]["severity"] = 1.into();
    value["devices"][0]["process"]["manager"]["unit"] = "x".into();
    let faults = contract::faults("verify", &value);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("/devices/0/process/manager has the fields [\"unit\"]"), "{faults:?}");
    assert!(faults[1].contains("/devices/0/holding has the fields [\"severity\"]"), "{faults:?}");
    assert!(faults[1].contains("crates/report/schema/verify.json, or in defs.json"), "{faults:?}");
}
