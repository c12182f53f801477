//! The guest that a QEMU's command line names. Any process may write anything there.

use std::ffi::OsString;

use compact_str::CompactString;
use uuid::Uuid;

/// The name and the uuid that a process claims for its guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimedGuest {
    /// Its name: any text of 1 to [`MAX_NAME_BYTES`](Self::MAX_NAME_BYTES) bytes.
    pub name: Option<CompactString>,
    /// Its uuid.
    pub uuid: Option<Uuid>,
}

impl ClaimedGuest {
    /// The longest name that is accepted, in bytes; libvirt's and taptrail's are shorter.
    pub const MAX_NAME_BYTES: usize = 1024;

    /// The guest of `-name` and `-uuid`. If an option is given twice, the last one counts, as for
    /// QEMU.
    pub fn of_qemu(arguments: &[OsString]) -> Self {
        let value = |option: &str| {
            let is = |argument: &OsString| {
                let text = argument.to_str().and_then(|text| text.strip_prefix('-'));
                text.is_some_and(|text| text == option || text.strip_prefix('-') == Some(option))
            };
            let at = arguments.iter().rposition(is)?;
            arguments.get(at + 1)?.to_str()
        };
        let uuid = value("uuid").and_then(|uuid| uuid.parse().ok());
        Self::new(value("name").and_then(name).as_deref(), uuid)
    }

    /// A guest of this name, unless it is empty or too long.
    pub fn new(name: Option<&str>, uuid: Option<Uuid>) -> Self {
        let name = name.filter(|name| (1..=Self::MAX_NAME_BYTES).contains(&name.len()));
        Self { name: name.map(CompactString::from), uuid }
    }
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
    use std::os::unix::ffi::OsStringExt as _;

    use proptest::prelude::*;

    use super::*;

    fn of(arguments: &[&str]) -> (Option<String>, bool) {
        let all: Vec<_> = arguments.iter().map(OsString::from).collect();
        let ClaimedGuest { name, uuid } = ClaimedGuest::of_qemu(&all);
        (name.map(Into::into), uuid.is_some())
    }

    #[test]
    fn a_guest_is_named_as_qemu_reads_it() {
        const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";
        for (arguments, name, uuid) in [
            (&["qemu", "-name", "guest=web1,debug-threads=on", "-uuid", UUID][..], Some("web1"), true),
            (&["qemu", "--name", "web1", "--uuid", "no"], Some("web1"), false),
            (&["qemu", "-name", "process=x,guest=a,,b=c"], Some("a,b=c"), false),
            (&["qemu", "-name", "a,,,debug-threads=on"], Some("a,"), false),
            (&["qemu", "-name", "debug-threads=on"], None, false),
            (&["qemu", "-name", "a", "-name", "b"], Some("b"), false),
            (&["qemu", "-name"], None, false),
            (&["qemu", "-name", ""], None, false),
            (&[], None, false),
        ] {
            assert_eq!(of(arguments), (name.map(str::to_owned), uuid), "{arguments:?}");
        }
        assert_eq!(of(&["qemu", "-name", &"x".repeat(ClaimedGuest::MAX_NAME_BYTES + 1)]), (None, false));
    }

    proptest! {
        #[test]
        fn no_command_line_makes_it_panic(
            arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
            name in "(guest=|process=|,){0,3}[a-z,=]{0,20}",
        ) {
            let mut arguments: Vec<_> = arguments.into_iter().map(OsString::from_vec).collect();
            arguments.extend([OsString::from("-name"), OsString::from(name)]);
            let name = ClaimedGuest::of_qemu(&arguments).name;
            prop_assert!(name.is_none_or(|name| (1..=ClaimedGuest::MAX_NAME_BYTES).contains(&name.len())));
        }
    }
}
