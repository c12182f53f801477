use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::number::hex_digit;

/// An Ethernet address, which identifies an interface of a guest.
///
/// Parsed in either case, as six two-digit hex numbers with `:` between; always written in lower
/// case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// A group address (broadcast included): no interface can own one.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// `00:00:00:00:00:00`, which no interface can own either.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// The address for the host's end of a tap: the guest's with its first byte `0xFE`.
    ///
    /// A bridge takes the lowest address of its ports as its own; the high first byte keeps it from
    /// taking a guest's. The host's end must also differ from the guest's own address.
    pub fn host_side(self) -> Self {
        let mut bytes = self.0;
        bytes[0] = 0xFE;
        Self(bytes)
    }

    /// The address in this text.
    pub(crate) fn from_ascii(text: &[u8]) -> Option<Self> {
        let text: &[u8; 17] = text.try_into().ok()?;
        let mut bytes = [0; 6];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let at = index * 3;
            if index > 0 && text[at - 1] != b':' {
                return None;
            }
            *byte = hex_digit(text[at])? << 4 | hex_digit(text[at + 1])?;
        }
        Some(Self(bytes))
    }

    /// The address that a user wrote in any usual form: `52:54:00:12:34:56`, `52-54-00-12-34-56`,
    /// `5254.0012.3456`, `525400123456`, in either case. Records have only the first form: see
    /// [`FromStr`].
    ///
    /// # Errors
    ///
    /// The text has none of these forms.
    pub fn from_any_form(text: &str) -> Result<Self, MacAddrError> {
        let (separator, group) = match text.as_bytes() {
            [_, _, separator @ (b':' | b'-'), ..] => (*separator, 2),
            [_, _, _, _, b'.', ..] => (b'.', 4),
            _ => (b':', 12),
        };
        let mut digits = Vec::with_capacity(12);
        for part in text.as_bytes().split(|byte| *byte == separator) {
            if part.len() != group || digits.len() == 12 {
                return Err(MacAddrError::of(text));
            }
            digits.extend(part.iter().map_while(|digit| hex_digit(*digit)));
        }
        let digits: [u8; 12] = digits.try_into().map_err(|_| MacAddrError::of(text))?;
        let mut bytes = [0; 6];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }

    /// An address in QEMU's and KVM's customary range `52:54:00`, with the given last three bytes.
    pub fn kvm(tail: [u8; 3]) -> Self {
        Self([0x52, 0x54, 0x00, tail[0], tail[1], tail[2]])
    }
}

/// The text is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a MAC address: six two-digit hex numbers with ':' between are needed")]
pub struct MacAddrError(String);

impl MacAddrError {
    fn of(text: &str) -> Self {
        Self(text.chars().take(64).collect())
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_ascii(text.as_bytes()).ok_or_else(|| MacAddrError::of(text))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = MacAddrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Large trails write millions of addresses, and formatting six numbers takes ten times as
        // long.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b':'; 17];
        for (place, byte) in text.chunks_mut(3).zip(self.0) {
            place[0] = DIGITS[usize::from(byte >> 4)];
            place[1] = DIGITS[usize::from(byte & 0xF)];
        }
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_either_case_and_written_in_lower() {
        let mac: MacAddr = "52:54:00:AB:cd:0F".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        assert_eq!(mac.host_side().to_string(), "fe:54:00:ab:cd:0f");
    }

    #[test]
    fn a_user_may_write_an_address_in_any_usual_form() {
        let mac = MacAddr([0x52, 0x54, 0x00, 0xab, 0xcd, 0x0f]);
        for text in [
            "52:54:00:ab:cd:0f",
            "52:54:00:AB:CD:0F",
            "52-54-00-ab-cd-0f",
            "5254.00ab.cd0f",
            "5254.00AB.CD0F",
            "525400abcd0f",
            "525400ABCD0F",
        ] {
            assert_eq!(MacAddr::from_any_form(text), Ok(mac), "{text}");
        }
        for text in [
            "",
            ":",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:11",
            "52:54:00:ab:cd:0f:",
            "52:54:00:ab:cd-0f",
            "52-54-00-ab-cd:0f",
            "52:54:0:ab:cd:0ff",
            "5254.00ab",
            "5254.00ab.cd0f.1122",
            "5254:00ab:cd0f",
            "525400abcd0",
            "525400abcd0f1",
            "525400abcd0g",
            "+25400abcd0f",
            "52540\u{e9}abcd0",
        ] {
            let error = MacAddr::from_any_form(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{text}' is not a MAC")), "{error}");
        }
    }

    #[test]
    fn what_is_not_six_two_digit_numbers_is_refused() {
        for text in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:11",
            "52:54:0:ab:cd:0f",
            "+5:54:00:ab:cd:0f",
            "52-54-00-ab-cd-0f",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }
}
