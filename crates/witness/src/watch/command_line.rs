//! Reads from a QEMU's command line which descriptors it was started with for which interface
//! (`-netdev` and `-device`).
//!
//! A process may write anything there. This only decides which of several descriptors that QEMU
//! really holds belongs to which of several interfaces that its manager has recorded.

use std::collections::HashMap;
use std::ffi::OsString;

use serde_json::{Map, Value};
use taptrail_record::MacAddr;

/// The most options that are read; no machine has as many slots.
const MAX_OPTIONS: usize = 1024;

/// A network backend that a QEMU was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Netdev {
    /// `tap`, `user`, `stream`, `vhost-user`, and others.
    pub(crate) kind: String,
    /// The device path of a vhost-vdpa backend.
    pub(crate) path: Option<String>,
}

impl Netdev {
    /// Whether it has a raw network device.
    pub(super) fn is_raw(&self) -> bool {
        matches!(&*self.kind, "tap" | "bridge")
    }

    /// Whether it is a vDPA device.
    pub(super) fn is_vdpa(&self) -> bool {
        self.kind == "vhost-vdpa"
    }
}

/// The backends that QEMU was started with, by the interface's MAC.
pub(crate) fn netdevs(arguments: &[OsString]) -> HashMap<MacAddr, Vec<Netdev>> {
    by_interface(arguments, |netdev| {
        let kind = netdev.get("type")?.to_owned();
        Some(Netdev { kind, path: netdev.get("vhostdev").map(str::to_owned) })
    })
}

/// The descriptors that QEMU was started with, by the interface's MAC.
pub(crate) fn descriptors(arguments: &[OsString]) -> HashMap<MacAddr, Vec<u32>> {
    let numbers = by_interface(arguments, |netdev| {
        let lists = ["fd", "fds", "vhostfd", "vhostfds"].map(|key| netdev.get(key).unwrap_or_default());
        let numbers = lists.iter().flat_map(|list| list.split(':'));
        Some(numbers.filter_map(|number| number.parse().ok()).collect::<Vec<u32>>())
    });
    numbers.into_iter().map(|(mac, lists)| (mac, lists.concat())).collect()
}

/// What `read` reads of the backend of each interface.
fn by_interface<T>(arguments: &[OsString], read: impl Fn(&Options) -> Option<T>) -> HashMap<MacAddr, Vec<T>> {
    let backend = |netdev: Options| Some((netdev.get("id")?.to_owned(), read(&netdev)?));
    let mut backends: HashMap<_, _> = values(arguments, "netdev").filter_map(backend).collect();
    let mut all: HashMap<_, Vec<_>> = HashMap::new();
    for device in values(arguments, "device") {
        let Some(mac) = device.get("mac").and_then(|mac| mac.parse().ok()) else { continue };
        // QEMU connects a backend to one NIC. A command line that names one for many would otherwise
        // take a thousand times its memory.
        all.entry(mac).or_default().extend(device.get("netdev").and_then(|id| backends.remove(id)));
    }
    all.retain(|_, backends| !backends.is_empty());
    all
}

/// The values of an option, the first [`MAX_OPTIONS`].
fn values<'a>(arguments: &'a [OsString], option: &'static str) -> impl Iterator<Item = Options> + 'a {
    let is =
        move |text: &str| text.strip_prefix('-').is_some_and(|text| text.trim_start_matches('-') == option);
    let pairs = arguments.windows(2).filter_map(|pair| Some((pair[0].to_str()?, pair[1].to_str()?)));
    pairs.filter(move |(text, _)| is(text)).map(|(_, value)| Options::of(value)).take(MAX_OPTIONS)
}

/// The keys of one option, which QEMU takes as JSON or as `key=value` pairs.
struct Options {
    json: Map<String, Value>,
}

impl Options {
    fn of(value: &str) -> Self {
        if value.starts_with('{') {
            return Self { json: serde_json::from_str(value).unwrap_or_default() };
        }
        // No value that is used here contains a comma, which would be doubled.
        let (kind, rest) = value.split_once(',').unwrap_or((value, ""));
        let kind = if kind.contains('=') { value } else { &*format!("type={kind},{rest}") };
        let pairs = kind.split(',').filter_map(|pair| pair.split_once('='));
        Self { json: pairs.map(|(key, value)| (key.to_owned(), Value::from(value))).collect() }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.json.get(key)?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> HashMap<MacAddr, Vec<u32>> {
        descriptors(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn both_ways_of_writing_options_are_read() {
        let all = of(&[
            "qemu-system-x86_64",
            "-netdev",
            r#"{"type":"tap","fds":"31:32","vhost":true,"vhostfds":"33:34","id":"hostnet0"}"#,
            "-device",
            r#"{"driver":"virtio-net-pci","mq":true,"netdev":"hostnet0","id":"net0","mac":"52:54:00:00:00:01"}"#,
            "-netdev",
            "tap,fd=35,id=hostnet1,vhost=on,vhostfd=36",
            "-device",
            "virtio-net-pci,netdev=hostnet1,id=net1,mac=52:54:00:00:00:02",
        ]);
        assert_eq!(all[&MacAddr::kvm([0, 0, 1])], [31, 32, 33, 34]);
        assert_eq!(all[&MacAddr::kvm([0, 0, 2])], [35, 36]);
    }

    #[test]
    fn what_an_interface_was_started_with_shows_whether_it_has_a_raw_device() {
        let mac = |last| format!("52:54:00:00:00:{last:02}");
        let device = |id: &str, last| format!("virtio-net-pci,netdev={id},mac={}", mac(last));
        let given = [
            r#"{"type":"stream","addr":{"type":"unix","path":"/p"},"server":false,"id":"hostnet0"}"#,
            r#"{"type":"vhost-vdpa","vhostdev":"/dev/fdset/0","id":"hostnet1"}"#,
            "user,id=hostnet2",
            r#"{"type":"tap","fd":"31","id":"hostnet3"}"#,
        ];
        let mut arguments = Vec::new();
        for (number, netdev) in (0..).zip(given) {
            arguments.extend(["-netdev".to_owned(), netdev.to_owned(), "-device".to_owned()]);
            arguments.push(device(&format!("hostnet{number}"), number));
        }
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let found = netdevs(&arguments);
        let backend = |last| {
            let netdev = &found[&MacAddr::kvm([0, 0, last])][0];
            (&*netdev.kind, netdev.is_raw(), netdev.path.as_deref())
        };
        assert_eq!(backend(0), ("stream", false, None));
        assert_eq!(backend(1), ("vhost-vdpa", false, Some("/dev/fdset/0")));
        assert_eq!(backend(2), ("user", false, None));
        assert_eq!(backend(3), ("tap", true, None));
        assert_eq!(netdevs(&[]), HashMap::new());
    }

    #[test]
    fn a_backend_is_that_of_one_interface_however_many_name_it() {
        let netdev = format!("tap,id=a,fds={},vhostdev={}", "3:".repeat(10_000), "x".repeat(10_000));
        let mut arguments = vec!["-netdev".to_owned(), netdev];
        for number in 0..1000_u16 {
            let [high, low] = number.to_be_bytes();
            let mac = MacAddr::kvm([0, high, low]);
            arguments.extend(["-device".to_owned(), format!("e1000,netdev=a,mac={mac}")]);
        }
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        assert_eq!(descriptors(&arguments).values().map(Vec::len).collect::<Vec<_>>(), [10_000]);
        assert_eq!(netdevs(&arguments).len(), 1);
    }

    #[test]
    fn other_options_are_skipped() {
        for arguments in [
            &["-netdev"][..],
            &["-netdev", "{", "-device", "{}"],
            &["-netdev", "tap,fd=x,id=a", "-device", "e1000,netdev=b,mac=52:54:00:00:00:01"],
            &["-netdev", "tap,fd=3", "-device", "e1000,mac=52:54:00:00:00:01"],
            &["-netdev", r#"{"id":7,"fd":[3]}"#, "-device", r#"{"netdev":7,"mac":"52:54:00:00:00:01"}"#],
            &["-device", "e1000,netdev=a,mac=no"],
        ] {
            assert_eq!(of(arguments), HashMap::new(), "{arguments:?}");
        }
        let unread = of(&["-netdev", "tap,fd=x,id=a", "-device", "e1000,netdev=a,mac=52:54:00:00:00:01"]);
        assert!(unread[&MacAddr::kvm([0, 0, 1])].is_empty());
    }
}
