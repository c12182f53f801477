//! QEMU's arguments for an interface, taptrail's and libvirt's, as properties that compare equal where
//! they mean the same.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;
use taptrail_guest::qemu::{Additions, CommandLine, NicOnCommandLine, Ports};
use taptrail_guest::spec::{Backend, NicSpec, Vhost};
use taptrail_record::{GuestId, MacAddr};
use uuid::Uuid;

/// The properties of a netdev or a device.
pub(crate) type Properties = BTreeMap<String, String>;

/// A NIC on a command line: its netdev and its device.
#[derive(Debug, Clone)]
pub(crate) struct Nic {
    pub(crate) netdev: Properties,
    pub(crate) device: Properties,
}

/// What of libvirt's command line the comparison needs.
#[derive(Debug)]
pub(crate) struct LibvirtCommand {
    program: String,
    machine: String,
    pub(crate) nics: Vec<Nic>,
}

impl LibvirtCommand {
    /// What libvirt makes of the domain in NAME.xml, with the newest QEMU: NAME.ARCHITECTURE-latest.args,
    /// or the one that is there.
    pub(crate) fn of_domain(xml: &Path) -> Option<Self> {
        let name = format!("{}.", xml.file_stem()?.to_str()?);
        let is_its = |path: &PathBuf| {
            let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            file.starts_with(&name) && file.ends_with(".args")
        };
        let paths = std::fs::read_dir(xml.parent()?).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<PathBuf> = paths.filter(is_its).collect();
        all.sort_by_key(|path| (!path.to_str().unwrap().ends_with("-latest.args"), path.clone()));
        let text = std::fs::read_to_string(all.first()?).unwrap();
        Some(Self::read(&text))
    }

    fn read(text: &str) -> Self {
        let words = shell_words(text);
        let program = words.iter().find(|word| word.contains("/qemu-system-")).unwrap().clone();
        let values = |option: &str| -> Vec<&String> {
            words.windows(2).filter(|pair| pair[0] == option).map(|pair| &pair[1]).collect()
        };
        let netdevs: Vec<Properties> =
            values("-netdev").into_iter().map(|text| properties(text, "type")).collect();
        let nic = |text: &String| {
            let device = properties(text, "driver");
            let netdev = netdevs.iter().find(|netdev| netdev.get("id") == device.get("netdev"))?.clone();
            Some(Nic { netdev, device })
        };
        let machine = values("-machine")[0].split(',').next().unwrap().to_owned();
        Self { program, machine, nics: values("-device").into_iter().filter_map(nic).collect() }
    }

    /// What taptrail gives to the same QEMU for an interface.
    pub(crate) fn with_taptrail(&self, spec: &NicSpec) -> Nic {
        let command = CommandLine::parse(&self.program, ["-M", &self.machine].map(OsString::from)).unwrap();
        let mut spec = spec.clone();
        command.virtio_bus().settle(&mut spec).unwrap();
        let of_queues = |from: i32| (from..).take(usize::from(spec.queues.get())).collect::<Vec<i32>>();
        let is_vdpa = matches!(spec.backend, Backend::Vdpa(_));
        let nic = NicOnCommandLine {
            id: spec.id.as_ref().map_or_else(|| "nic0".to_owned(), ToString::to_string),
            netdev_id: "net0".to_owned(),
            mac: spec.mac.unwrap_or(MacAddr::kvm([0, 0, 1])),
            fds: if is_vdpa { vec![10] } else { of_queues(10) },
            vhost_fds: if spec.vhost == Vhost::Off { Vec::new() } else { of_queues(600) },
            bus: None,
            spec,
        };
        let words = command.with(&Additions {
            guest: &GuestId { name: "judged".into(), uuid: Uuid::nil() },
            monitor_fd: 3,
            nics: &[nic],
            ports: &Ports::default(),
            sandbox: false,
        });
        let value = |option: &str| {
            let at = words.iter().position(|word| word == option).unwrap();
            words[at + 1].to_str().unwrap()
        };
        Nic { netdev: properties(value("-netdev"), "type"), device: properties(value("-device"), "driver") }
    }
}

/// The words of a command line that libvirt wrote for a shell: quoted by `'`, lines joined by `\`.
fn shell_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.replace("\\\n", " ").chars() {
        match c {
            '\'' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// The properties of an option's value, in QEMU's JSON or its `name=value` form. The first of the latter
/// may lack its name.
fn properties(text: &str, implied: &str) -> Properties {
    let given: Vec<(String, String)> = if text.starts_with('{') {
        let Value::Object(object) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        let plain = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        object.into_iter().map(|(name, value)| (name, plain(value))).collect()
    } else {
        // No value of these tests has a comma.
        let pair = |part: &str| match part.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (implied.to_owned(), part.to_owned()),
        };
        text.split(',').map(pair).collect()
    };
    given.into_iter().filter_map(|(name, value)| equal_form(name, &value)).collect()
}

/// A property in the one form for all that mean the same; none for QEMU's own default.
fn equal_form(name: String, value: &str) -> Option<(String, String)> {
    let value = match name.as_str() {
        // Numbers of descriptors, or names: how many there are.
        "fd" | "fds" | "vhostfd" | "vhostfds" => {
            let count = value.split(':').count().to_string();
            return Some((name.trim_end_matches('s').to_owned(), count));
        }
        // QEMU takes a slot and a function in hex, with 0x or without.
        "addr" => {
            let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
            let (slot, function) = value.split_once('.').unwrap_or((value, "0"));
            match (number(slot), number(function)) {
                (Some(slot), Some(function)) => format!("{slot:x}.{function:x}"),
                // Another property of this name.
                _ => value.to_owned(),
            }
        }
        // The root bus, where a device goes without a bus.
        "bus" if matches!(value, "pci.0" | "pcie.0") => return None,
        _ => match value {
            "true" => "on".to_owned(),
            "false" => "off".to_owned(),
            other => other.to_owned(),
        },
    };
    Some((name, value))
}
