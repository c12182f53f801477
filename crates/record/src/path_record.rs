use compact_str::CompactString;

use crate::device::{is_macvtap_node, is_vdpa_node};
use crate::kernel_open::string;
use crate::pairs::{Pairs, Value};
use crate::{DeviceKind, Line, Rdev, RecordType};

/// A character device that an open(2) named, from the kernel's `PATH` record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathRecord<'a> {
    /// The device's true number.
    pub rdev: Rdev,
    /// Its kind; [`DeviceKind::Unknown`] if it is not a raw network device.
    pub kind: DeviceKind,
    pub(crate) name: Value<'a>,
}

/// The bits of `mode=` with the file's type, and their value for a character device (inode(7)).
const S_IFMT: u32 = 0o170_000;
const S_IFCHR: u32 = 0o020_000;

impl<'a> PathRecord<'a> {
    /// Reads a line of type `PATH`; none if the file is not a character device, or is the parent
    /// directory.
    ///
    /// A macvtap and a vDPA device are recognised only by their full path: their numbers are assigned
    /// at run time.
    pub fn of(line: &Line<'a>) -> Option<Self> {
        if line.record_type != Some(RecordType::PATH) {
            return None;
        }
        let (mut name, mut mode, mut rdev, mut named) = (None, None, None, false);
        for pair in Pairs::new(line.pairs).map_while(Result::ok) {
            match pair.key {
                b"name" => name = Some(pair.value),
                b"mode" => mode = octal(pair.value.bytes()),
                b"rdev" => rdev = Rdev::from_ascii(pair.value.bytes()),
                b"nametype" => {
                    named = matches!(pair.value.bytes(), b"NORMAL" | b"CREATE");
                    break;
                }
                _ => {}
            }
        }
        if !named || mode? & S_IFMT != S_IFCHR {
            return None;
        }
        let (name, rdev) = (name?, rdev?);
        let kind = match (rdev, name) {
            (Rdev::TUN, _) => DeviceKind::Tun,
            (Rdev::VHOST_NET, _) => DeviceKind::VhostNet,
            (_, Value::Quoted(path)) if is_macvtap_node(path) => DeviceKind::Macvtap,
            (_, Value::Quoted(path)) if is_vdpa_node(path) => DeviceKind::VhostVdpa,
            _ => DeviceKind::Unknown,
        };
        Some(Self { rdev, kind, name })
    }

    /// The path that was opened, as given to the system call; invalid UTF-8 is replaced.
    pub fn path(&self) -> CompactString {
        string(self.name)
    }
}

fn octal(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok().and_then(|text| u32::from_str_radix(text, 8).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, rest: &str) -> Option<(DeviceKind, Rdev)> {
        let line = format!(
            "type=PATH msg=audit(1795459763.120:1918): item=0 name={name} inode=151 dev=00:06 ouid=0 ogid=0 \
             {rest} cap_fp=0\u{1d}OUID=\"root\""
        );
        PathRecord::of(&Line::parse(line.as_bytes()).unwrap()).map(|path| (path.kind, path.rdev))
    }

    #[test]
    fn a_device_is_known_by_its_number_and_a_macvtap_by_its_path() {
        let macvtap = Rdev { major: 246, minor: 2 };
        for (name, rdev, kind) in [
            ("\"/dev/net/tun\"", Rdev::TUN, DeviceKind::Tun),
            ("\"tun\"", Rdev::TUN, DeviceKind::Tun),
            ("(null)", Rdev::TUN, DeviceKind::Tun),
            ("2F6120", Rdev::VHOST_NET, DeviceKind::VhostNet),
            ("\"/dev/tap198\"", macvtap, DeviceKind::Macvtap),
            ("\"macvtap0\"", macvtap, DeviceKind::Unknown),
            ("\"/dev/vhost-vdpa-3\"", macvtap, DeviceKind::VhostVdpa),
            ("\"/dev/null\"", Rdev { major: 1, minor: 3 }, DeviceKind::Unknown),
        ] {
            let Rdev { major, minor } = rdev;
            let rest = format!("mode=020600 rdev={major:02x}:{minor:02x} nametype=NORMAL");
            assert_eq!(parse(name, &rest), Some((kind, rdev)), "{name}");
        }
    }

    #[test]
    fn only_a_character_device_itself_counts() {
        for rest in [
            "mode=0100600 rdev=0a:c8 nametype=NORMAL",
            "mode=060600 rdev=0a:c8 nametype=NORMAL",
            "mode=020600 rdev=0a:c8 nametype=PARENT",
            "mode=020600 rdev=0a:c8 nametype=UNKNOWN",
            "mode=020600 rdev=0a:c8",
            "rdev=0a:c8 nametype=NORMAL",
            "mode=020600 nametype=NORMAL",
        ] {
            assert_eq!(parse("\"/dev/net/tun\"", rest), None, "{rest}");
        }
        assert!(parse("\"/dev/net/tun\"", "mode=020666 rdev=0a:c8 nametype=CREATE").is_some());
    }
}
