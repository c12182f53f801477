//! `truth.json`: the steps of a scenario, and the descriptors that QEMUs held meanwhile.

use serde::Serialize;

use super::descriptors::Kind;
use super::intervals::Interval;
use super::poller::{Process, Seen};

#[derive(Debug, Serialize)]
pub(super) struct Truth {
    pub(super) scenario: String,
    pub(super) what: String,
    pub(super) t0: f64,
    pub(super) t1: f64,
    pub(super) steps: Vec<Step>,
    pub(super) processes: Vec<Process>,
    pub(super) fd_intervals: Vec<FdInterval>,
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) notes: Vec<String>,
}

/// One command.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    pub(super) t: f64,
    pub(super) t_end: f64,
    pub(super) cmd: String,
    pub(super) rc: i32,
    pub(super) out: String,
    /// The guest and the MAC of an interface that this plugs in.
    #[serde(skip)]
    pub(super) plugs: Option<(String, String)>,
}

/// The devices that the guests held after a step.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    pub(super) t: f64,
    pub(super) after: String,
    pub(super) qemu: Vec<Held>,
}

#[derive(Debug, Serialize)]
pub(super) struct Held {
    pub(super) pid: u32,
    pub(super) uuid: String,
    /// `30 /dev/net/tun vnet0`
    pub(super) devfds: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct FdInterval {
    pid: u32,
    uuid: String,
    fd: u32,
    link: String,
    rdev: String,
    kind: &'static str,
    ifname: Option<String>,
    ifindex: Option<u32>,
    if_mac: Option<String>,
    netdev: Option<String>,
    guest_mac: Option<String>,
    /// The source of the MAC.
    guest_mac_from: Option<&'static str>,
    first: f64,
    last: f64,
}

/// A hot-plugged descriptor may be seen up to this many seconds after virsh has ended, because the
/// scan began before.
const LATE: f64 = 0.1;

/// The intervals, each with the interface's MAC. It is from QEMU's command line for descriptors
/// that a guest starts with, and otherwise from the hot-plug during which they appeared: there is
/// one at a time.
pub(super) fn fd_intervals(seen: &Seen, steps: &[Step]) -> Vec<FdInterval> {
    seen.intervals.iter().filter_map(|interval| fd_interval(interval, seen, steps)).collect()
}

fn fd_interval(interval: &Interval, seen: &Seen, steps: &[Step]) -> Option<FdInterval> {
    let (descriptor, interface) = (&interval.descriptor, &interval.interface);
    let process = seen.processes.iter().find(|process| process.pid == descriptor.pid)?;
    let plugged = steps.iter().find_map(|step| {
        let (guest, mac) = step.plugs.as_ref()?;
        let during = interval.first >= step.t && interval.first <= step.t_end + LATE;
        (during && *guest == process.uuid).then(|| mac.clone())
    });
    let (netdev, guest_mac, guest_mac_from) = match plugged {
        Some(mac) => (None, Some(mac), Some("hot-plug")),
        None => match process.command_line.nic(descriptor.fd) {
            Some(nic) => (Some(nic.netdev.clone()), nic.mac.clone(), Some("command line")),
            None => (None, None, None),
        },
    };
    Some(FdInterval {
        pid: descriptor.pid,
        uuid: process.uuid.clone(),
        fd: descriptor.fd,
        link: descriptor.link.clone(),
        rdev: descriptor.rdev.clone(),
        kind: Kind::of(&descriptor.link)?.name(),
        ifname: interface.name.clone(),
        ifindex: interface.index,
        if_mac: interface.mac.clone(),
        netdev,
        guest_mac,
        guest_mac_from,
        first: interval.first,
        last: interval.last,
    })
}

#[cfg(test)]
mod tests {
    use super::super::command_line::CommandLine;
    use super::super::descriptors::{Descriptor, Interface};
    use super::*;

    const GUEST: &str = "7a7a0000-0000-4000-8000-000000000001";

    fn vhost(fd: u32, first: f64) -> Interval {
        let descriptor = Descriptor {
            pid: 7,
            fd,
            link: "/dev/vhost-net".to_owned(),
            rdev: "0A:EE".to_owned(),
            interface: None,
        };
        Interval { descriptor, interface: Interface::default(), first, last: first + 1.0 }
    }

    fn macs(intervals: Vec<Interval>) -> Vec<Option<String>> {
        let netdev = r#"{"type":"tap","vhostfd":"32","id":"hostnet0"}"#;
        let device = r#"{"netdev":"hostnet0","mac":"52:54:00:00:00:01"}"#;
        let line = ["-uuid", GUEST, "-netdev", netdev, "-device", device].join("\0");
        let process = Process {
            pid: 7,
            uuid: GUEST.to_owned(),
            first_seen: 1.0,
            last_seen: 9.0,
            command_line: CommandLine::parse(line.as_bytes()).unwrap(),
        };
        let step = |t: f64, guest: &str, mac: &str| Step {
            t,
            t_end: t + 0.5,
            cmd: String::new(),
            rc: 0,
            out: String::new(),
            plugs: Some((guest.to_owned(), mac.to_owned())),
        };
        let steps = [step(3.0, "another", "52:54:00:00:00:03"), step(5.0, GUEST, "52:54:00:00:00:02")];
        let seen = Seen { processes: vec![process], intervals, looks: 9, longest_gap: 0.1 };
        fd_intervals(&seen, &steps).into_iter().map(|found| found.guest_mac).collect()
    }

    #[test]
    fn a_descriptors_mac_is_from_the_command_line_or_the_hot_plug() {
        let macs: Vec<_> =
            macs(vec![vhost(32, 1.0), vhost(33, 2.0), vhost(32, 5.1), vhost(34, 5.55), vhost(35, 7.0)]);
        let mac = |last: u8| Some(format!("52:54:00:00:00:0{last}"));
        // The number 32 is used again by a NIC that was plugged in.
        assert_eq!(macs, [mac(1), None, mac(2), mac(2), None]);
    }

    #[test]
    fn another_guests_hot_plug_does_not_count() {
        assert_eq!(macs(vec![vhost(33, 3.2)]), [None]);
    }
}
