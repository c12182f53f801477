use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::field_reader::{mac, uuid};
use crate::pairs::{Pair, Pairs, Value, lossy_text};
use crate::{Device, MacAddr, Rdev};

/// The readable part of an invalid record: one that lost its end, or that the manager could not
/// send to the kernel's audit. It names a guest, interface or device, and claims nothing of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fragment {
    /// The guest's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<CompactString>,
    /// The guest's uuid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// The device.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::stored::maybe_device"
    )]
    pub device: Option<Device>,
}

impl Fragment {
    /// Reads a text in the grammar of [`parse_text`](crate::parse_text), up to where it is cut.
    ///
    /// The end of a name without quotes, as `ausearch -i` prints it, is unknown: neither the name
    /// nor the pairs behind it are read.
    ///
    /// ```
    /// let cut = "virt=kvm resrc=net reason=open vm=\"w\" uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e net=52:5";
    /// let fragment = taptrail_record::Fragment::of(cut.as_bytes());
    /// assert_eq!(fragment.name.as_deref(), Some("w"));
    /// assert!(fragment.uuid.is_some() && fragment.mac.is_none());
    /// ```
    pub fn of(text: &[u8]) -> Self {
        let mut fragment = Self::default();
        let (mut path, mut rdev, mut dev) = (None, None, None);
        let mut name_end = None;
        for pair in Pairs::new(text) {
            let Ok(Pair { key, value, start, end }) = pair else { break };
            // Hex at the end of the text may be incomplete.
            let string = || value.string().filter(|_| end < text.len() || !matches!(value, Value::Bare(_)));
            if key == b"vm" {
                let Some(name) = string().filter(|name| is_encoded(value, name)) else { break };
                fragment.name = Some(lossy_text(&name));
                name_end = Some(end);
                continue;
            }
            // Pairs before the name are skipped, and only the uuid may follow it.
            match (name_end, fragment.uuid) {
                (None, _) => continue,
                (Some(name_end), None) => {
                    fragment.uuid = uuid(value.bytes());
                    if key != b"uuid" || start != name_end + 1 || fragment.uuid.is_none() {
                        fragment.uuid = None;
                        break;
                    }
                    continue;
                }
                (Some(_), Some(_)) => {}
            }
            match key {
                b"net" | b"old-net" | b"new-net" => fragment.mac = fragment.mac.or_else(|| mac(value)),
                b"path" => path = path.or_else(|| string().map(|path| lossy_text(&path))),
                b"rdev" => rdev = rdev.or_else(|| whole_rdev(value.bytes())),
                b"dev" => dev = dev.or_else(|| string().map(|dev| lossy_text(&dev))),
                _ => {}
            }
        }
        fragment.device = path.map(|path| Device::new(path, rdev, dev));
        fragment
    }
}

/// Whether a name is encoded as libaudit does it, so that its end is known: it writes hex only if
/// needed.
fn is_encoded(value: Value<'_>, name: &[u8]) -> bool {
    !matches!(value, Value::Bare(_)) || crate::encode::needs_hex(name)
}

/// A device number that is not cut: it has at least two digits on either side.
fn whole_rdev(text: &[u8]) -> Option<Rdev> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    (colon >= 2 && text.len() >= colon + 3).then(|| Rdev::from_ascii(text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";

    fn of(text: &str) -> Fragment {
        Fragment::of(text.as_bytes())
    }

    #[test]
    fn an_unsent_open_names_all_its_parts() {
        let text = format!(
            "virt=kvm resrc=net reason=open vm=\"i-1\" uuid={UUID} net=fa:16:3e:b9:9b:ec \
             path=\"/dev/net/tun\" rdev=0A:C8"
        );
        let fragment = of(&text);
        assert_eq!(fragment.name.unwrap(), "i-1");
        assert_eq!(fragment.uuid.unwrap().to_string(), UUID);
        assert_eq!(fragment.mac.unwrap().to_string(), "fa:16:3e:b9:9b:ec");
        assert_eq!(fragment.device, Some(Device::new("/dev/net/tun", Some(Rdev::TUN), None)));
        let cut = format!("vm=\"i-1\" uuid={UUID} path=2F6465762F20 rdev=0A:C8");
        assert!(of(&cut).device.is_some());
        assert_eq!(of(&cut[..cut.find(" rdev").unwrap()]).device, None);
        // One byte less, and the number may be any.
        assert_eq!(of(&text[..text.len() - 1]).device, Some(Device::new("/dev/net/tun", None, None)));
    }

    #[test]
    fn a_change_names_its_interface() {
        for macs in [
            "old-net=\"?\" new-net=\"52:54:00:00:00:01\"",
            "old-net=\"52:54:00:00:00:01\" new-net=\"?\"",
            "old-net='52:54:00:00:00:01' new-net='?'",
            "old-net=? new-net=52:54:00:00:00:01",
        ] {
            let text =
                format!("resrc=net reason=start vm=776562207365727665722031 uuid={UUID} {macs} exe=\"/u");
            let fragment = of(&text);
            assert_eq!(fragment.name.unwrap(), "web server 1", "{macs}");
            assert_eq!(fragment.mac.unwrap().to_string(), "52:54:00:00:00:01", "{macs}");
        }
    }

    #[test]
    fn no_uuid_within_a_name_is_believed() {
        for text in [
            format!("virt=kvm vm=\"x uuid={UUID} net=52:54:00:00:00:01"),
            format!("virt=kvm op=start reason=booted vm=x uuid={UUID} vm-pid=3"),
            format!("virt=kvm op=start reason=booted vm=4142 uuid={UUID} vm-pid=3"),
            format!("vm=\"x\" other=1 uuid={UUID}"),
            format!("uuid={UUID} net=52:54:00:00:00:01"),
            format!("vm=\"x\" uuid={} net=52:54:00:00:00:01", &UUID[..35]),
        ] {
            let fragment = of(&text);
            assert_eq!((fragment.uuid, fragment.mac, fragment.device), (None, None, None), "{text}");
        }
    }
}
