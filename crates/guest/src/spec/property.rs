//! Properties of a NIC that are passed on to QEMU's device: one table for the keys of a SPEC, the
//! elements of libvirt's `<interface>`, and QEMU's names.

use std::fmt;

use serde_json::Value;

use super::Key;
use super::error::{Problem, quoted};
use crate::qemu::model::Model;

/// A property of QEMU's device that an interface may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Property(u8);

/// What a property is set to.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `on` or `off`.
    Switch,
    /// A number from the first to the last of these.
    Number(u32, u32),
    /// One of these words, each with QEMU's.
    Words(&'static [(&'static str, &'static str)]),
    /// A slot of the root bus, and its function: `05`, `1f.2`.
    Slot,
    /// A device of the channel subsystem: `fe.0.0001`.
    DeviceNumber,
    /// The file of an option ROM: an absolute path, or `off` for none.
    Rom,
}

/// Which models have a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Models {
    /// All, or those that QEMU says.
    Any,
    Virtio,
    Pci,
    Ccw,
}

/// Where libvirt's `<interface>` has a property.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InXml {
    /// The element, and the elements around it within the interface.
    pub(crate) path: &'static [&'static str],
    pub(crate) attribute: &'static str,
    /// Values and what they are in a SPEC; without any, they are the same.
    pub(crate) words: &'static [(&'static str, &'static str)],
}

#[derive(Debug)]
struct Definition {
    key: &'static str,
    qemu: &'static str,
    kind: Kind,
    models: Models,
    xml: InXml,
}

/// The sizes of a queue that virtio-net has.
const SIZES: Kind = Kind::Words(&[("256", "256"), ("512", "512"), ("1024", "1024")]);

/// A property of all models, or of those that QEMU says.
const fn any(
    key: &'static str,
    qemu: &'static str,
    kind: Kind,
    path: &'static [&'static str],
    attribute: &'static str,
) -> Definition {
    Definition { models: Models::Any, ..driver(key, qemu, kind, path, attribute) }
}

/// An attribute of `<driver>`, or of an element in it.
const fn driver(
    key: &'static str,
    qemu: &'static str,
    kind: Kind,
    path: &'static [&'static str],
    attribute: &'static str,
) -> Definition {
    Definition { key, qemu, kind, models: Models::Virtio, xml: InXml { path, attribute, words: &[] } }
}

const DRIVER: &[&str] = &["driver"];
const HOST: &[&str] = &["driver", "host"];
const GUEST: &[&str] = &["driver", "guest"];

static TABLE: [Definition; Property::COUNT] = [
    any("boot", "bootindex", Kind::Number(1, i32::MAX.cast_unsigned()), &["boot"], "order"),
    any("acpi-index", "acpi-index", Kind::Number(1, 16383), &["acpi"], "index"),
    any("rom", "romfile", Kind::Rom, &["rom"], "file"),
    any("rom-bar", "rombar", Kind::Words(&[("on", "1"), ("off", "0")]), &["rom"], "bar"),
    driver("rx-queue-size", "rx_queue_size", SIZES, DRIVER, "rx_queue_size"),
    driver("tx-queue-size", "tx_queue_size", SIZES, DRIVER, "tx_queue_size"),
    Definition {
        key: "tx-mode",
        qemu: "tx",
        kind: Kind::Words(&[("bh", "bh"), ("timer", "timer")]),
        models: Models::Virtio,
        xml: InXml { path: DRIVER, attribute: "txmode", words: &[("iothread", "bh"), ("timer", "timer")] },
    },
    driver("ioeventfd", "ioeventfd", Kind::Switch, DRIVER, "ioeventfd"),
    driver("event-idx", "event_idx", Kind::Switch, DRIVER, "event_idx"),
    driver("iommu", "iommu_platform", Kind::Switch, DRIVER, "iommu"),
    driver("ats", "ats", Kind::Switch, DRIVER, "ats"),
    driver("packed", "packed", Kind::Switch, DRIVER, "packed"),
    driver("page-per-vq", "page-per-vq", Kind::Switch, DRIVER, "page_per_vq"),
    driver("rss", "rss", Kind::Switch, DRIVER, "rss"),
    driver("hash", "hash", Kind::Switch, DRIVER, "rss_hash_report"),
    Definition {
        key: "failover",
        qemu: "failover",
        kind: Kind::Switch,
        models: Models::Virtio,
        xml: InXml { path: &["teaming"], attribute: "type", words: &[("persistent", "on")] },
    },
    driver("csum", "csum", Kind::Switch, HOST, "csum"),
    driver("gso", "gso", Kind::Switch, HOST, "gso"),
    driver("host-tso4", "host_tso4", Kind::Switch, HOST, "tso4"),
    driver("host-tso6", "host_tso6", Kind::Switch, HOST, "tso6"),
    driver("host-ecn", "host_ecn", Kind::Switch, HOST, "ecn"),
    driver("host-ufo", "host_ufo", Kind::Switch, HOST, "ufo"),
    driver("mrg-rxbuf", "mrg_rxbuf", Kind::Switch, HOST, "mrg_rxbuf"),
    driver("guest-csum", "guest_csum", Kind::Switch, GUEST, "csum"),
    driver("guest-tso4", "guest_tso4", Kind::Switch, GUEST, "tso4"),
    driver("guest-tso6", "guest_tso6", Kind::Switch, GUEST, "tso6"),
    driver("guest-ecn", "guest_ecn", Kind::Switch, GUEST, "ecn"),
    driver("guest-ufo", "guest_ufo", Kind::Switch, GUEST, "ufo"),
    Definition { models: Models::Pci, ..any("address", "addr", Kind::Slot, &["address"], "slot") },
    Definition { models: Models::Ccw, ..any("devno", "devno", Kind::DeviceNumber, &["address"], "devno") },
];

impl Property {
    /// How many there are.
    pub(crate) const COUNT: usize = 30;

    /// Every property, in canonical order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).zip(&TABLE).map(|(index, _)| Self(index))
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    fn definition(self) -> &'static Definition {
        // Only `all` and `first` make one.
        &TABLE[self.index()]
    }

    /// Its key in a SPEC.
    pub fn as_str(self) -> &'static str {
        self.definition().key
    }

    /// The name of QEMU's property.
    pub(crate) fn qemu_name(self) -> &'static str {
        self.definition().qemu
    }

    /// Where libvirt's `<interface>` has it.
    pub(crate) fn in_xml(self) -> InXml {
        self.definition().xml
    }

    /// Whether a model has it, as far as is known here.
    pub(crate) fn is_of(self, model: &Model) -> bool {
        match self.definition().models {
            Models::Any => true,
            Models::Virtio => model.is_virtio(),
            Models::Pci => model.is_pci(),
            Models::Ccw => model.is_ccw(),
        }
    }

    /// Whether it is the NIC's place: on the root bus, or in the channel subsystem.
    pub(crate) fn is_place(self) -> bool {
        matches!(self.definition().kind, Kind::Slot | Kind::DeviceNumber)
    }

    /// Whether it is the NIC's place in the channel subsystem.
    pub(crate) fn is_device_number(self) -> bool {
        matches!(self.definition().kind, Kind::DeviceNumber)
    }

    /// The words that it takes; none if it takes a number.
    pub fn words(self) -> Vec<&'static str> {
        match self.definition().kind {
            Kind::Switch => vec!["on", "off"],
            Kind::Words(words) => words.iter().map(|(word, _)| *word).collect(),
            Kind::Rom => vec!["off"],
            Kind::Number(..) | Kind::Slot | Kind::DeviceNumber => Vec::new(),
        }
    }

    /// Whether a value is the path of a file, which QEMU opens.
    pub(crate) fn is_path(self, text: &str) -> bool {
        matches!(self.definition().kind, Kind::Rom) && text != "off"
    }

    /// Checks a value.
    pub(super) fn check(self, text: &str) -> Result<String, Problem> {
        let key = Key::Device(self);
        match self.definition().kind {
            Kind::Number(min, max) => super::value::number(key, text, min..=max).map(drop)?,
            Kind::Slot => check_slot(key, text)?,
            Kind::DeviceNumber => check_device_number(key, text)?,
            _ if self.words().contains(&text) => {}
            Kind::Rom => drop(super::value::path(text)?),
            Kind::Switch | Kind::Words(_) => {
                return Err(Problem::Choice { key, text: quoted(text), choices: self.words() });
            }
        }
        Ok(text.to_owned())
    }

    /// The value as QEMU takes it in JSON.
    pub(crate) fn qemu_value(self, text: &str) -> Value {
        let number = |text: &str| text.parse::<u32>().map_or_else(|_| text.into(), Value::from);
        match self.definition().kind {
            Kind::Switch => Value::Bool(text == "on"),
            Kind::Number(..) => number(text),
            Kind::Words(words) => {
                number(words.iter().find(|(word, _)| *word == text).map_or(text, |(_, qemu)| qemu))
            }
            Kind::Rom if text == "off" => "".into(),
            Kind::Rom | Kind::Slot | Kind::DeviceNumber => text.into(),
        }
    }
}

/// Whether a text is a hex number of a few digits, up to `most`.
fn is_hex(text: &str, digits: usize, most: u32) -> bool {
    let is_hex = (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex && u32::from_str_radix(text, 16).is_ok_and(|number| number <= most)
}

/// A subchannel set has 2 bits, a device 16. QEMU says which channel subsystem may have it.
fn check_device_number(key: Key, text: &str) -> Result<(), Problem> {
    let parts: Vec<&str> = text.split('.').collect();
    if let [subsystem, set, device] = parts[..]
        && is_hex(subsystem, 2, 0xfe)
        && is_hex(set, 1, 3)
        && is_hex(device, 4, 0xffff)
    {
        return Ok(());
    }
    Err(Problem::Form { key, text: quoted(text), form: "CSSID.SSID.DEVNO in hex, such as fe.0.0001," })
}

/// A slot has 5 bits, and a function 3; slot 0 is the host bridge's.
fn check_slot(key: Key, text: &str) -> Result<(), Problem> {
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    if is_hex(slot, 2, 0x1f) && is_hex(function, 2, 7) && slot.bytes().any(|byte| byte != b'0') {
        return Ok(());
    }
    Err(Problem::Form { key, text: quoted(text), form: "SLOT[.FUNCTION], 01 to 1f and 0 to 7," })
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_places_are_unique() {
        let mut keys: Vec<&str> = Key::all().map(Key::as_str).collect();
        let mut places: Vec<_> =
            Property::all().map(|of| (of.in_xml().path, of.in_xml().attribute)).collect();
        let mut names: Vec<_> = Property::all().map(Property::qemu_name).collect();
        let all = (keys.len(), places.len(), names.len());
        keys.sort_unstable();
        keys.dedup();
        places.sort_unstable();
        places.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!((keys.len(), places.len(), names.len()), all);
    }

    #[test]
    fn values_are_what_qemu_takes() {
        let of = |key: &str| Property::all().find(|of| of.as_str() == key).unwrap();
        for (key, text, value) in [
            ("boot", "1", Value::from(1)),
            ("rom", "off", "".into()),
            ("rom", "/srv/x.rom", "/srv/x.rom".into()),
            ("rom-bar", "off", 0.into()),
            ("rx-queue-size", "1024", 1024.into()),
            ("tx-mode", "bh", "bh".into()),
            ("packed", "on", true.into()),
            ("devno", "fe.0.00a1", "fe.0.00a1".into()),
        ] {
            let of = of(key);
            assert_eq!(of.qemu_value(&of.check(text).unwrap()), value, "{key}={text}");
        }
        for text in ["", "fe.0", "ff.0.0001", "fe.4.0001", "fe.0.10000", "fe.0.0001.", "fe.0.-001", "0x1.0.1"]
        {
            assert!(of("devno").check(text).is_err(), "devno={text}");
        }
        for (key, text) in [("boot", "0"), ("rom", "x.rom"), ("rx-queue-size", "300"), ("packed", "yes")] {
            assert!(of(key).check(text).is_err(), "{key}={text}");
        }
    }
}
