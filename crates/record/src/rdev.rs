use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::number::hex_digit;

/// A device number, `MAJOR:MINOR`; in records upper-case hex of at least two digits (`0A:C8`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rdev {
    /// The driver's number.
    pub major: u32,
    /// The device's number within the driver.
    pub minor: u32,
}

impl Rdev {
    /// `/dev/net/tun`: 10:200 (Documentation/admin-guide/devices.txt).
    pub const TUN: Self = Self { major: 10, minor: 200 };
    /// `/dev/vhost-net`: 10:238 (Documentation/admin-guide/devices.txt).
    pub const VHOST_NET: Self = Self { major: 10, minor: 238 };

    /// The number in this text.
    pub(crate) fn from_ascii(text: &[u8]) -> Option<Self> {
        let colon = text.iter().position(|&byte| byte == b':')?;
        let number = |digits: &[u8]| {
            if digits.is_empty() || digits.len() > 8 {
                return None;
            }
            digits.iter().try_fold(0_u32, |number, &byte| Some(number << 4 | u32::from(hex_digit(byte)?)))
        };
        Some(Self { major: number(&text[..colon])?, minor: number(&text[colon + 1..])? })
    }
}

/// The text is not a device number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a device number: MAJOR:MINOR in hex is needed")]
pub struct RdevError(String);

impl FromStr for Rdev {
    type Err = RdevError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_ascii(text.as_bytes()).ok_or_else(|| RdevError(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Rdev {
    type Error = RdevError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Rdev> for String {
    fn from(rdev: Rdev) -> Self {
        rdev.to_string()
    }
}

impl fmt::Display for Rdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}:{:02X}", self.major, self.minor)
    }
}

impl fmt::Debug for Rdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_number_is_upper_case_hex_of_two_digits_at_least() {
        assert_eq!(Rdev::TUN.to_string(), "0A:C8");
        assert_eq!(Rdev::VHOST_NET.to_string(), "0A:EE");
        assert_eq!(Rdev { major: 246, minor: 0x1_0002 }.to_string(), "F6:10002");
        assert_eq!("f6:02".parse(), Ok(Rdev { major: 246, minor: 2 }));
    }

    #[test]
    fn an_unknown_device_number_is_not_a_number() {
        for text in ["?", "", "0A", ":", "0A:", "0A:C8:1", "+A:C8", "123456789:0"] {
            assert!(text.parse::<Rdev>().is_err(), "{text}");
        }
    }
}
