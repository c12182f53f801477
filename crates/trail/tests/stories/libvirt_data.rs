//! Real libvirt logs, each compared with what was seen in QEMU's `/proc/PID/fd` meanwhile.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;
use taptrail_record::{DeviceKind, MacAddr, Rdev};
use taptrail_trail::{Certainty, Holding, Report, State, Trail};
use uuid::Uuid;

use crate::audit_log;

/// A vhost-net that does not exist: libvirt records its open as failed and as successful.
const NO_VHOST: [&str; 2] = ["open-failed", "contradictory-open"];

/// The findings of each folder, without [`NO_VHOST`], which it has so many times.
const EXPECTED: &[(&str, usize, &[&str])] = &[
    ("libvirt-11.3/04-update-bridge", 0, &[]),
    ("libvirt-11.3/05-daemon-restart", 0, &["daemon-restarted", "daemon-restarted", "unknown-device-number"]),
    (
        "libvirt-11.3/11-hotplug-fails",
        0,
        &[
            "attach-failed",
            "attach-failed",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
        ],
    ),
    ("libvirt-11.3-virtqemud/02-hotplug-queues", 0, &[]),
    (
        "libvirt-11.3-virtqemud/05-daemon-restart",
        0,
        &["daemon-restarted", "daemon-restarted", "unknown-device-number"],
    ),
    ("libvirt-11.3-virtqemud/16-kernel-rules", 0, &[]),
    ("libvirt-12.9/01-bridge-tap", 1, &[]),
    ("libvirt-12.9/02-macvtap", 3, &["unmanaged-open"]),
    ("libvirt-12.9/04-multiqueue", 2, &["unmanaged-open"]),
    ("libvirt-12.9/06-hotplug", 6, &[]),
    ("libvirt-12.9/13-save-restore", 6, &[]),
    ("libvirt-12.9/14-daemon-restart", 3, &["daemon-restarted", "daemon-restarted"]),
    ("libvirt-12.9/14b-qmp-passthrough", 2, &["unmanaged-open", "unmanaged-open", "unmanaged-open"]),
    ("libvirt-12.9/15-update-bridge", 1, &["unmanaged-open", "unmanaged-open"]),
    (
        "libvirt-12.9/26-passt",
        2,
        &["grant-without-open", "grant-without-open", "grant-without-open", "grant-without-open"],
    ),
    (
        "libvirt-12.9/27-vhostuser",
        2,
        &[
            "false-start",
            "false-start",
            "false-start",
            "false-start",
            "grant-without-open",
            "grant-without-open",
            "open-without-grant",
            "open-without-grant",
        ],
    ),
    (
        "libvirt-12.9/32-snapshot",
        10,
        &[
            "unknown-device-number",
            "unknown-device-number",
            "unknown-device-number",
            "unknown-device-number",
            "unknown-device-number",
        ],
    ),
    ("libvirt-12.9/47-verify-same-mac", 2, &["duplicate-mac"]),
    ("libvirt-9.0/01-bridge-tap", 1, &[]),
    ("libvirt-9.0/02-macvtap", 1, &["unknown-device-number"]),
    ("libvirt-9.0/02b-macvtap-fail", 0, &["grant-without-open", "false-start"]),
    ("libvirt-9.0/03-ethernet", 3, &["open-failed", "false-start", "unknown-device-number"]),
    ("libvirt-9.0/04-multiqueue", 2, &["unknown-device-number"]),
    ("libvirt-9.0/05-two-nics-model", 1, &[]),
    ("libvirt-9.0/06-hotplug", 6, &["unknown-device-number"]),
    ("libvirt-9.0/06b-detach-noguest", 2, &["detach-failed"]),
    (
        "libvirt-9.0/07-fail-nwfilter",
        2,
        &[
            "open-failed",
            "false-start",
            "false-start",
            "open-without-grant",
            "open-without-grant",
            "unknown-device-number",
        ],
    ),
    (
        "libvirt-9.0/08-fail-qemu",
        3,
        &[
            "false-start",
            "false-start",
            "false-start",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
        ],
    ),
    ("libvirt-9.0/09-vhost-absent", 2, &["open-failed", "false-start", "open-without-grant"]),
    ("libvirt-9.0/11-kill9", 1, &[]),
    ("libvirt-9.0/12-shutdown", 1, &[]),
    (
        "libvirt-9.0/13-save-restore",
        6,
        &["unknown-device-number", "unknown-device-number", "unknown-device-number"],
    ),
    ("libvirt-9.0/14-daemon-restart", 2, &["daemon-restarted"]),
    (
        "libvirt-9.0/15-update-bridge",
        1,
        &["attach-failed", "reattached-without-open", "reattached-without-open"],
    ),
    (
        "libvirt-9.0/16-same-mac",
        5,
        &["duplicate-mac", "duplicate-mac", "duplicate-mac", "unknown-device-number"],
    ),
    ("libvirt-9.0/17-names", 9, &[]),
    ("libvirt-9.0/19-rename-redefine", 3, &[]),
    ("libvirt-9.0/23-quote-injection", 2, &[]),
    ("libvirt-9.0-kernel-rules/02-macvtap", 1, &[]),
    ("libvirt-9.0-kernel-rules/02c-macvtap-relpath", 1, &[]),
    ("libvirt-9.0-kernel-rules/04-multiqueue", 2, &[]),
    (
        "libvirt-9.0-kernel-rules/07-fail-nwfilter",
        2,
        &["open-failed", "false-start", "false-start", "open-without-grant", "open-without-grant"],
    ),
    (
        "libvirt-9.0-kernel-rules/08-fail-qemu",
        3,
        &[
            "false-start",
            "false-start",
            "false-start",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
        ],
    ),
    ("libvirt-9.0-kernel-rules/08c-fail-hook", 1, &["false-start", "open-without-grant"]),
    // Its log ends a moment after the open: the trail can't know that nothing follows.
    ("libvirt-9.0-kernel-rules/08d-daemon-killed-mid-start", 1, &[]),
    ("libvirt-9.0-vhost/v1-tap-vhost", 0, &[]),
    ("libvirt-9.0-vhost/v2-mq2", 0, &[]),
    ("libvirt-9.0-vhost/v3-macvtap-vhost", 0, &["unknown-device-number"]),
    ("libvirt-9.0-vhost/v9-kill9", 0, &[]),
    ("libvirt-9.0-vhost-plug/01-three-nics", 0, &["unknown-device-number"]),
    ("libvirt-9.0-vhost-plug/02-hotplug-queues", 0, &[]),
    (
        "libvirt-9.0-vhost-plug/03-hotplug-macvtap",
        0,
        &["unknown-device-number", "unknown-device-number", "unknown-device-number"],
    ),
    ("libvirt-9.0-vhost-plug/04-update-bridge", 0, &["reattached-without-open", "reattached-without-open"]),
    (
        "libvirt-9.0-vhost-plug/05-daemon-restart",
        0,
        &["daemon-restarted", "daemon-restarted", "unknown-device-number"],
    ),
    ("libvirt-9.0-vhost-plug/06-killed-unseen", 0, &["daemon-restarted", "unknown-device-number"]),
    ("libvirt-9.0-vhost-plug/07-two-guests", 0, &["unknown-device-number"]),
    (
        "libvirt-9.0-vhost-plug/08-vhost-moved",
        2,
        &[
            "open-failed",
            "open-failed",
            "false-start",
            "open-without-grant",
            "open-without-grant",
            "unknown-device-number",
        ],
    ),
    (
        "libvirt-9.0-vhost-plug/09-vhost-no-module",
        2,
        &[
            "open-failed",
            "open-failed",
            "false-start",
            "open-without-grant",
            "open-without-grant",
            "unknown-device-number",
        ],
    ),
    (
        "libvirt-9.0-vhost-plug/10-boot-fails",
        0,
        &[
            "false-start",
            "false-start",
            "false-start",
            "false-start",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
        ],
    ),
    (
        "libvirt-9.0-vhost-plug/11-hotplug-fails",
        0,
        &[
            "attach-failed",
            "attach-failed",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
            "open-without-grant",
        ],
    ),
    ("libvirt-9.0-vhost-plug/12-same-mac", 0, &["ambiguous-release", "duplicate-mac"]),
    ("libvirt-9.0-vhost-plug/13-filter", 0, &[]),
    ("libvirt-9.0-vhost-plug/14-save-restore", 0, &["unknown-device-number", "unknown-device-number"]),
    ("libvirt-9.0-vhost-plug/15-ethernet", 0, &[]),
    ("libvirt-9.0-vhost-plug/16-kernel-rules", 0, &[]),
];

// Shows 9.5, 10.2.
#[test]
fn each_log_has_its_findings_and_no_others() {
    for (folder, no_vhost, findings) in EXPECTED {
        let report = report(&data().join(folder));
        let mut reported: Vec<_> = report.findings.iter().map(|finding| finding.kind.as_str()).collect();
        let mut expected = NO_VHOST.repeat(*no_vhost);
        expected.extend(*findings);
        reported.sort_unstable();
        expected.sort_unstable();
        assert_eq!(reported, expected, "{folder}");
    }
}

#[test]
fn no_log_is_forgotten() {
    let folders: Vec<_> = EXPECTED.iter().map(|(folder, ..)| data().join(folder)).collect();
    let mut known = folders.clone();
    known.sort();
    assert_eq!(known, self::folders());
}

// Shows 9.5, 10.1.
#[test]
fn what_is_reported_as_held_is_what_was_seen() {
    for folder in folders() {
        let report = report(&folder);
        let mut held: Vec<_> = report.holdings.iter().filter(|holding| is_or_was_held(holding)).collect();
        for device in devices(&folder) {
            let Some(at) = held.iter().position(|holding| device.is(holding)) else {
                // A scan every 20 ms sees some devices that QEMU had for a moment, and whose grant
                // is not recorded.
                let for_a_moment = device.last - device.first < 0.3 || device.in_vain;
                assert!(for_a_moment, "{device:?} is not reported in {}", folder.display());
                continue;
            };
            let holding = held.remove(at);
            // The count is known only where audit rules have the kernel record each open.
            let counted = has_kernel_rules(&folder);
            let queues = counted.then(|| u32::try_from(device.queues).unwrap());
            assert_eq!(holding.queues, queues, "{device:?}");
            let certainty = if device.like_another { Certainty::Ambiguous } else { Certainty::Inferred };
            assert_eq!(holding.certainty, certainty, "{device:?}");
        }
        assert!(held.is_empty(), "{held:?} was not held in {}", folder.display());
    }
}

// Shows 10.10.
#[test]
fn the_kernels_events_show_the_nodes_of_macvtaps() {
    let mut seen = 0;
    for folder in
        folders().iter().filter(|folder| folder.parent().unwrap().ends_with("libvirt-9.0-kernel-rules"))
    {
        let (report, devices) = (report(folder), devices(folder));
        for holding in report.holdings.iter().filter(|holding| is_or_was_held(holding)) {
            let device = devices.iter().find(|device| device.is(holding)).unwrap();
            assert_eq!(
                (holding.device.path.as_str(), holding.device.rdev),
                (&*device.link, Some(device.rdev))
            );
            if holding.device.kind == DeviceKind::Macvtap {
                assert!(holding.device.dev.as_ref().unwrap().starts_with("macvtap"));
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 4);
}

/// Whether audit rules had the kernel record each open.
fn has_kernel_rules(folder: &Path) -> bool {
    let log = std::fs::read_to_string(folder.join("audit.log")).unwrap();
    log.contains(" rdev=f6:") || log.contains(" rdev=0a:c8")
}

fn is_or_was_held(holding: &Holding) -> bool {
    matches!(holding.state, State::Held | State::Released)
}

/// A device as it was seen, with all descriptors of it.
#[derive(Debug)]
struct Device {
    pid: u32,
    uuid: Uuid,
    mac: Option<MacAddr>,
    kind: DeviceKind,
    link: String,
    rdev: Rdev,
    queues: usize,
    /// Seconds since 1970.
    first: f64,
    /// When the command that granted it had ended.
    given: f64,
    last: f64,
    /// When the command that released it had ended.
    taken: f64,
    /// Whether it was held only during one command, which failed.
    in_vain: bool,
    /// Whether it ended while no daemon ran that could record the end.
    unseen: bool,
    /// Whether its guest had another interface with this MAC, released at another time.
    like_another: bool,
}

impl Device {
    /// Whether a holding can be this device. A boot's record comes after QEMU has the device, on a
    /// slow machine by many seconds, and before the command ends; a stop's comes up to two seconds
    /// after QEMU has closed it.
    fn is(&self, holding: &Holding) -> bool {
        let near = |time: Option<Timestamp>, at: f64, done: f64, late: f64| {
            let time = time.unwrap().as_duration().as_secs_f64();
            (at - 0.05..done.max(at + late)).contains(&time)
        };
        holding.guest.uuid == self.uuid
            && holding.pid == Some(self.pid)
            && holding.device.kind == self.kind
            && self.mac.is_none_or(|mac| mac == holding.mac)
            && near(holding.granted, self.first, self.given, 3.0)
            && match holding.released {
                None => self.unseen,
                // One of several interfaces with that MAC was released, and no record shows which.
                Some(time) if self.like_another => time.as_duration().as_secs_f64() >= self.last - 0.05,
                time => near(time, self.last, self.taken, 2.5),
            }
    }
}

fn devices(folder: &Path) -> Vec<Device> {
    #[derive(Deserialize)]
    struct Truth {
        steps: Vec<Step>,
        fd_intervals: Vec<Interval>,
    }
    #[derive(Deserialize)]
    struct Step {
        t: f64,
        t_end: Option<f64>,
        cmd: String,
        rc: Option<i32>,
    }
    #[derive(Deserialize)]
    struct Interval {
        pid: u32,
        uuid: Uuid,
        guest_mac: Option<MacAddr>,
        link: String,
        rdev: Rdev,
        ifname: Option<String>,
        netdev: Option<String>,
        first: f64,
        last: f64,
    }
    let text = std::fs::read_to_string(folder.join("truth.json")).unwrap();
    let mut truth: Truth = serde_json::from_str(&text).unwrap();
    truth.fd_intervals.sort_by(|a, b| a.first.total_cmp(&b.first));
    // The commands that were under way then, and when they ended.
    let during = |at: f64| {
        let ends = truth.steps.iter().filter_map(|step| Some((step, step.t_end?)));
        ends.filter(move |(step, end)| (step.t..=*end).contains(&at))
    };
    let done = |at: f64| during(at).map(|(_, end)| end).fold(at, f64::max);
    let ended = |cmd: &str| {
        truth.steps.iter().filter(|step| step.cmd == cmd).filter_map(|step| step.t_end).collect::<Vec<_>>()
    };
    // The times in which no daemon ran.
    let downs: Vec<_> = ended("kill -9 of libvirtd").into_iter().zip(ended("libvirtd started")).collect();
    let mut devices: Vec<(_, Device)> = Vec::new();
    for seen in truth.fd_intervals {
        // A device has one descriptor for each queue, all at one time.
        let key = (seen.pid, seen.link.clone(), seen.ifname, seen.netdev, seen.guest_mac);
        let known = devices.iter_mut().find(|(known, device)| *known == key && seen.first <= device.last);
        if let Some((_, device)) = known {
            device.queues += 1;
            device.last = device.last.max(seen.last);
            device.taken = done(device.last);
            continue;
        }
        let device = Device {
            pid: seen.pid,
            uuid: seen.uuid,
            mac: seen.guest_mac,
            kind: DeviceKind::of(&seen.link, Some(seen.rdev)),
            link: seen.link,
            rdev: seen.rdev,
            queues: 1,
            first: seen.first,
            given: done(seen.first),
            last: seen.last,
            taken: done(seen.last),
            in_vain: false,
            unseen: false,
            like_another: false,
        };
        devices.push((key, device));
    }
    let mut devices: Vec<_> = devices.into_iter().map(|(_, device)| device).collect();
    for at in 0..devices.len() {
        let one = &devices[at];
        let given_up_apart = |other: &Device| {
            (other.pid, other.mac, other.kind) == (one.pid, one.mac, one.kind)
                && (other.first <= one.last && one.first <= other.last)
                && (other.last - one.last).abs() > 0.5
        };
        let like_another = one.mac.is_some() && devices.iter().any(given_up_apart);
        let in_vain = during(one.first).any(|(step, end)| step.rc.unwrap_or(0) != 0 && one.last <= end);
        let unseen = downs.iter().any(|(from, to)| (*from..*to).contains(&one.last));
        let device = &mut devices[at];
        (device.like_another, device.in_vain, device.unseen) = (like_another, in_vain, unseen);
    }
    devices
}

pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt")
}

pub(crate) fn folders() -> Vec<PathBuf> {
    let inside = |folder: &Path| {
        let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let mut folders: Vec<_> = inside(&data()).iter().flat_map(|set| inside(set)).collect();
    folders.sort();
    folders
}

pub(crate) fn report(folder: &Path) -> Report {
    let mut trail = Trail::new();
    audit_log::entries(&folder.join("audit.log")).iter().for_each(|entry| trail.feed(entry));
    trail.finish()
}
