use compact_str::format_compact;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use taptrail_record::{Device, MacAddr};

use crate::Style;
use crate::style::Clock;
use crate::table::{Cell, Plain, cell, good, number, told, warning};
use crate::text::{NONE, shown};

/// An interface of a guest, with the devices that QEMU holds for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRow {
    /// What names it.
    pub mac: MacAddr,
    /// Where its frames go: `bridge=br0`, `tap=NAME`, `macvtap=LOWER`.
    pub backend: String,
    /// What the guest sees: `virtio-net-pci` …
    pub model: String,
    /// How many queues it has.
    pub queues: u32,
    /// Whether QEMU has vhost-net for it.
    pub vhost: bool,
    /// The host's interface behind it.
    pub ifname: Option<String>,
    /// `held`, `unplugging`, `revoked`, `kept` …
    pub state: String,
    /// When QEMU was seen to hold its devices.
    #[serde(with = "millis")]
    pub since: Option<Timestamp>,
    /// One for each open(2).
    pub devices: Vec<DeviceRow>,
}

/// One open device of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// What was opened; its members stand beside `queue` in JSON.
    #[serde(flatten)]
    pub device: Device,
    /// Which queue it serves, from 0.
    pub queue: u32,
    /// The descriptor's number in QEMU, once it was seen there.
    pub qemu_fd: Option<i32>,
    /// Of a released one: why that is no proof that nobody holds it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// A table of a guest's interfaces, a row for each kind of device.
pub fn nic_table(nics: &[NicRow], style: &Style) -> String {
    if nics.is_empty() {
        return "No interfaces\n".to_owned();
    }
    let clock = Clock::new(style);
    let header = [
        "MAC", "BACKEND", "IFNAME", "MODEL", "QUEUES", "VHOST", "STATE", "SINCE", "DEVICE", "PATH", "RDEV",
        "FDS",
    ];
    let mut table = Plain::new(style, &header);
    for nic in nics {
        let mut left = vec![
            told(nic.mac),
            cell(shown(&nic.backend)),
            cell(nic.ifname.as_deref().map_or(NONE.into(), shown)),
            cell(shown(&nic.model)),
            number(nic.queues),
            cell(if nic.vhost { "yes" } else { "no" }),
            state(nic, &shown(&nic.state)),
            cell(clock.maybe(nic.since)),
        ];
        let groups = grouped(&nic.devices);
        if groups.is_empty() {
            table.row(left.into_iter().chain([NONE; 4].map(cell)));
            continue;
        }
        for (device, fds) in groups {
            let width = left.len();
            let rdev = device.rdev.map_or(NONE.to_owned(), |rdev| rdev.to_string());
            let right = [cell(device.kind.as_str()), cell(shown(&device.path)), cell(rdev), cell(fds)];
            table.row(left.into_iter().chain(right));
            // The interface is told once, beside its first device.
            left = (0..width).map(|_| cell("")).collect();
        }
    }
    if table.fits(style) { table.text() } else { stacked(nics, &clock, style) }
}

/// The same in three columns of several lines each, for 80 columns.
fn stacked(nics: &[NicRow], clock: &Clock, style: &Style) -> String {
    let header = ["MAC\nBACKEND\nMODEL", "STATE\nSINCE\nIFNAME QUEUES", "DEVICE\nPATH\nRDEV FDS"];
    let mut table = Plain::new(style, &header);
    for nic in nics {
        let mut parts = Vec::from_iter(nic.ifname.as_deref().map(shown));
        parts.push(format_compact!("x{}", nic.queues));
        parts.extend(nic.vhost.then(|| "vhost".into()));
        let since = clock.maybe(nic.since);
        let device = |(device, fds): &(&Device, String)| {
            let rdev = device.rdev.map_or(String::new(), |rdev| format!("{rdev} "));
            format!("{}\n{}\n{rdev}{fds}", device.kind, shown(&device.path))
        };
        let devices: Vec<_> = grouped(&nic.devices).iter().map(device).collect();
        table.block([
            cell(format!("{}\n{}\n{}", nic.mac, shown(&nic.backend), shown(&nic.model))),
            state(nic, &format!("{}\n{since}\n{}", shown(&nic.state), parts.join(" "))),
            cell(devices.join("\n")),
        ]);
    }
    table.folded(style).text()
}

fn state(nic: &NicRow, text: &str) -> Cell {
    if nic.state == "held" { good(text) } else { warning(text) }
}

/// The devices that differ, each with the descriptors of all its queues.
fn grouped(devices: &[DeviceRow]) -> Vec<(&Device, String)> {
    let mut groups: Vec<(&Device, String)> = Vec::new();
    for row in devices {
        let fd = row.qemu_fd.map_or("?".to_owned(), |fd| fd.to_string());
        match groups.iter_mut().find(|(device, _)| **device == row.device) {
            Some((_, fds)) => {
                fds.push(',');
                fds.push_str(&fd);
            }
            None => groups.push((&row.device, fd)),
        }
    }
    groups
}

/// An optional time in JSON: RFC 3339, UTC, milliseconds.
pub(crate) mod millis {
    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.collect_str(&format_args!("{time:.3}")),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        Option::deserialize(from)
    }
}
