//! The command line: `[--use-vnet] --br=BRIDGE --fd=N`, in any order. Of options given twice the
//! last one counts.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// What QEMU asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The bridge's name, unchecked.
    pub bridge: OsString,
    /// The number of the descriptor to answer over, not negative.
    pub fd: RawFd,
    /// Whether frames have a `struct virtio_net_hdr` in front.
    pub vnet_hdr: bool,
}

/// The command line is not one that QEMU or libvirt writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Usage: taptrail-bridge-helper [--use-vnet] --br=BRIDGE --fd=N")]
pub struct UsageError;

impl Arguments {
    /// Parses the arguments, without the program's own name.
    ///
    /// # Errors
    ///
    /// There is another argument, or the bridge or the descriptor is missing.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let (mut bridge, mut fd, mut vnet_hdr) = (None, None, false);
        for argument in arguments {
            let argument = argument.as_bytes();
            if argument == b"--use-vnet" {
                vnet_hdr = true;
            } else if let Some(name) = argument.strip_prefix(b"--br=") {
                bridge = Some(OsString::from_vec(name.to_vec()));
            } else if let Some(number) = argument.strip_prefix(b"--fd=") {
                fd = descriptor(number);
            } else {
                return Err(UsageError);
            }
        }
        Ok(Self { bridge: bridge.ok_or(UsageError)?, fd: fd.ok_or(UsageError)?, vnet_hdr })
    }

    /// The bridge's name as bytes.
    pub fn bridge(&self) -> &[u8] {
        OsStr::as_bytes(&self.bridge)
    }
}

/// A number as atoi(3) reads it: blanks before it and anything behind it are ignored, and no digits
/// are 0. None if it is negative or too large for a descriptor.
fn descriptor(text: &[u8]) -> Option<RawFd> {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let text = &text[start..];
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let mut number: RawFd = 0;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        number = number.checked_mul(10)?.checked_add(RawFd::from(digit - b'0'))?;
    }
    (!negative || number == 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(arguments: &[&str]) -> Option<(String, RawFd, bool)> {
        let parsed = Arguments::parse(arguments.iter().map(OsString::from)).ok()?;
        Some((parsed.bridge.into_string().unwrap(), parsed.fd, parsed.vnet_hdr))
    }

    #[test]
    fn the_order_does_not_matter_and_the_last_counts() {
        let expected = Some(("br0".to_owned(), 7, true));
        assert_eq!(parse(&["--use-vnet", "--fd=7", "--br=br0"]), expected);
        assert_eq!(parse(&["--br=br1", "--fd=8", "--br=br0", "--use-vnet", "--fd=7"]), expected);
        assert_eq!(parse(&["--br=", "--fd=3"]), Some((String::new(), 3, false)));
    }

    #[test]
    fn anything_else_is_refused() {
        for arguments in [
            &[][..],
            &["--br=br0"],
            &["--fd=7"],
            &["--br=br0", "--fd=-1"],
            &["--br=br0", "--fd=7", "--fd=-1"],
            &["--br=br0", "--fd=2147483648"],
            &["--br=br0", "--fd=4294967299"],
            &["--br", "br0", "--fd", "7"],
            &["--br=br0", "--fd=7", "--help"],
            &["--br=br0", "--fd=7", "--use-vnet=on"],
            &["--br=br0", "--fd=7", ""],
            &["--br=br0", "--fd=7", "br1"],
        ] {
            assert_eq!(parse(arguments), None, "{arguments:?}");
        }
    }

    #[test]
    fn a_descriptor_is_read_as_atoi_does() {
        for (text, number) in [
            ("7", Some(7)),
            (" \t\x0b+7x", Some(7)),
            ("007", Some(7)),
            ("0x7", Some(0)),
            ("x", Some(0)),
            ("", Some(0)),
            ("-0", Some(0)),
            ("- 1", Some(0)),
            ("-7", None),
            ("2147483647", Some(RawFd::MAX)),
            ("99999999999999999999", None),
        ] {
            assert_eq!(descriptor(text.as_bytes()), number, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_arguments_make_it_panic(
            arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..5),
            number in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            let _ = Arguments::parse(arguments.into_iter().map(OsString::from_vec));
            let fd = [b"--fd=".as_slice(), &number].concat();
            let all = [OsString::from("--br=br0"), OsString::from_vec(fd)];
            prop_assert!(Arguments::parse(all).is_ok_and(|found| found.fd >= 0) || descriptor(&number).is_none());
        }
    }
}
