use std::net::Ipv4Addr;

use compact_str::format_compact;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use taptrail_record::{Device, MacAddr};

use crate::Style;
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Cell, Table, cell, display, good, number, warning};
use crate::text::{NONE, escape_name};

/// An interface of a guest, with the devices that QEMU holds for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRow {
    /// Its address, which names it; none where no source has it.
    pub mac: Option<MacAddr>,
    /// The network backend: `bridge=br0`, `tap=NAME`, `macvtap=LOWER`; `?` if not known.
    pub backend: String,
    /// The device model (frontend): `virtio-net-pci` …; `?` if not known.
    pub model: String,
    /// Its number of queues.
    pub queues: u32,
    /// Whether QEMU uses vhost-net for it.
    pub vhost: bool,
    /// The host interface behind it.
    pub ifname: Option<String>,
    /// `held`, `unplugging`, `revoked`, `kept` …
    pub state: String,
    /// When the supervisor first saw QEMU hold its devices.
    #[serde(with = "millis")]
    pub since: Option<Timestamp>,
    /// Its devices, one for each open(2).
    pub devices: Vec<DeviceRow>,
    /// The addresses that its filter has learnt; none where it learns none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<AddressRow>>,
}

/// An address that the filter of an interface has learnt, and lets the guest use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRow {
    /// The address.
    pub ip: Ipv4Addr,
    /// The DHCP server that gave it, or its relay; none for the address from which the guest sent
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Ipv4Addr>,
    /// When its lease ends unless it is prolonged, if it does.
    #[serde(default, with = "millis", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// One open device of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// The device; in JSON its members stand beside `queue`.
    #[serde(flatten)]
    pub device: Device,
    /// The queue that it serves, from 0.
    pub queue: u32,
    /// The descriptor's number in QEMU, once the supervisor has seen it there.
    pub qemu_fd: Option<i32>,
    /// Why the close of a released device does not show that nobody holds it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// A table of a guest's interfaces, a row for each kind of device.
pub fn nic_table(nics: &[NicRow], style: &Style) -> String {
    if nics.is_empty() {
        return "No interfaces\n".to_owned();
    }
    let clock = TimeFormat::new(style);
    let header = [
        "MAC", "BACKEND", "IFNAME", "MODEL", "QUEUES", "VHOST", "STATE", "SINCE", "DEVICE", "PATH", "RDEV",
        "FDS",
    ];
    let mut table = Table::new(style, &header);
    for nic in nics {
        let mut left = vec![
            nic.mac.map_or_else(|| cell(NONE), display),
            cell(escape_name(&nic.backend)),
            cell(nic.ifname.as_deref().map_or(NONE.into(), escape_name)),
            cell(escape_name(&nic.model)),
            number(nic.queues),
            cell(if nic.vhost { "yes" } else { "no" }),
            state(nic, &escape_name(&nic.state)),
            cell(clock.optional(nic.since)),
        ];
        let groups = grouped(&nic.devices);
        if groups.is_empty() {
            table.row(left.into_iter().chain([NONE; 4].map(cell)));
            continue;
        }
        for (device, fds) in groups {
            let width = left.len();
            let rdev = device.rdev.map_or(NONE.to_owned(), |rdev| rdev.to_string());
            let right = [cell(device.kind.as_str()), cell(escape_name(&device.path)), cell(rdev), cell(fds)];
            table.row(left.into_iter().chain(right));
            // The interface's columns are filled once, beside its first device.
            left = (0..width).map(|_| cell("")).collect();
        }
    }
    let mut text = if table.fits(style) { table.text() } else { stacked(nics, &clock, style) };
    text.extend(nics.iter().flat_map(|nic| learnt(nic, &clock)));
    text
}

/// Lines with the addresses that an interface's filter has learnt.
fn learnt(nic: &NicRow, clock: &TimeFormat) -> Vec<String> {
    let Some(addresses) = &nic.addresses else { return Vec::new() };
    let mac = nic.mac.map_or(NONE.to_owned(), |mac| mac.to_string());
    if addresses.is_empty() {
        return vec![format!("{mac} has learnt no address yet\n")];
    }
    let line = |address: &AddressRow| {
        let from = match address.server {
            Some(server) => format!("leased by {server}"),
            None => "the first that the guest sent from".to_owned(),
        };
        let until = address.until.map(|until| format!(", until {}", clock.optional(Some(until))));
        format!("    {}: {from}{}\n", address.ip, until.unwrap_or_default())
    };
    std::iter::once(format!("{mac} has learnt\n")).chain(addresses.iter().map(line)).collect()
}

/// The same in three columns of several lines each, for 80 columns.
fn stacked(nics: &[NicRow], clock: &TimeFormat, style: &Style) -> String {
    let header = ["MAC\nBACKEND\nMODEL", "STATE\nSINCE\nIFNAME QUEUES", "DEVICE\nPATH\nRDEV FDS"];
    let mut table = Table::new(style, &header);
    for nic in nics {
        let mut parts = Vec::from_iter(nic.ifname.as_deref().map(escape_name));
        parts.push(format_compact!("x{}", nic.queues));
        parts.extend(nic.vhost.then(|| "vhost".into()));
        let since = clock.optional(nic.since);
        let device = |(device, fds): &(&Device, String)| {
            let rdev = device.rdev.map_or(String::new(), |rdev| format!("{rdev} "));
            format!("{}\n{}\n{rdev}{fds}", device.kind, escape_name(&device.path))
        };
        let devices: Vec<_> = grouped(&nic.devices).iter().map(device).collect();
        let mac = nic.mac.map_or(NONE.to_owned(), |mac| mac.to_string());
        table.block([
            cell(format!("{mac}\n{}\n{}", escape_name(&nic.backend), escape_name(&nic.model))),
            state(nic, &format!("{}\n{since}\n{}", escape_name(&nic.state), parts.join(" "))),
            cell(devices.join("\n")),
        ]);
    }
    table.folded(style).text()
}

fn state(nic: &NicRow, text: &str) -> Cell {
    if nic.state == "held" { good(text) } else { warning(text) }
}

/// The distinct devices, each with the descriptors of all its queues.
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
