//! Reads the guest's name and uuid from a QEMU's command line. Any process may write anything
//! there.

use std::ffi::OsString;

use compact_str::CompactString;
use uuid::Uuid;

/// The longest name that is accepted, in bytes; libvirt's and taptrail's are shorter.
const MAX_NAME_BYTES: usize = 1024;

/// The name and the uuid. If an option is given twice, the last one counts, as for QEMU.
pub(crate) fn identity(arguments: &[OsString]) -> (Option<CompactString>, Option<Uuid>) {
    let value = |option: &str| {
        let is = |argument: &OsString| {
            let text = argument.to_str().and_then(|text| text.strip_prefix('-'));
            text.is_some_and(|text| text == option || text.strip_prefix('-') == Some(option))
        };
        let at = arguments.iter().rposition(is)?;
        arguments.get(at + 1)?.to_str()
    };
    let name = value("name").and_then(name).filter(|name| (1..=MAX_NAME_BYTES).contains(&name.len()));
    (name.map(CompactString::from), value("uuid").and_then(|uuid| uuid.parse().ok()))
}

/// `guest=` of `-name`, or its first part without a key; `,,` stands for a comma.
fn name(value: &str) -> Option<String> {
    let mut parts = vec![String::new()];
    let mut rest = value.chars().peekable();
    while let Some(next) = rest.next() {
        let doubled = next == ',' && rest.next_if_eq(&',').is_some();
        match parts.last_mut() {
            Some(part) if next != ',' || doubled => part.push(next),
            _ => parts.push(String::new()),
        }
    }
    let guest = parts.iter().rev().find_map(|part| part.strip_prefix("guest=")).map(str::to_owned);
    guest.or_else(|| parts.into_iter().next().filter(|first| !first.contains('=')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> (Option<String>, bool) {
        let (name, uuid) = identity(&arguments.iter().map(OsString::from).collect::<Vec<_>>());
        (name.map(Into::into), uuid.is_some())
    }

    #[test]
    fn a_guest_is_named_as_qemu_reads_it() {
        const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";
        for (arguments, name, uuid) in [
            (&["qemu", "-name", "guest=web1,debug-threads=on", "-uuid", UUID][..], Some("web1"), true),
            (&["qemu", "--name", "web1", "--uuid", "no"], Some("web1"), false),
            (&["qemu", "-name", "process=x,guest=a,,b=c"], Some("a,b=c"), false),
            (&["qemu", "-name", "debug-threads=on"], None, false),
            (&["qemu", "-name", "a", "-name", "b"], Some("b"), false),
            (&["qemu", "-name"], None, false),
            (&["qemu", "-name", ""], None, false),
            (&[], None, false),
        ] {
            assert_eq!(of(arguments), (name.map(str::to_owned), uuid), "{arguments:?}");
        }
        assert_eq!(of(&["qemu", "-name", &"x".repeat(MAX_NAME_BYTES + 1)]), (None, false));
    }
}
