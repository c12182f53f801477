use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network interface's name on the host, valid as the kernel's `dev_valid_name()` says: 1 to 15
/// bytes, not `.` or `..`, without `/`, `:` or white space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_valid(text: &str) -> bool {
        // The kernel accepts '%' in a name, but on creation `%d` asks it to choose a number.
        let bad =
            |b: u8| b == b'/' || b == b':' || b == b'%' || b == 0 || b.is_ascii_whitespace() || b == 0x0B;
        !(text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.bytes().any(bad))
    }
}

/// The text can't be an interface's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' can't be an interface's name: 1 to 15 bytes without '/', ':', '%' or white space are needed")]
pub struct IfNameError(String);

impl FromStr for IfName {
    type Err = IfNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !Self::is_valid(text) {
            return Err(IfNameError(text.chars().take(64).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for IfName {
    type Error = IfNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_the_kernel_does() {
        for name in ["vnet0", "br-lan.10", "é", "a23456789012345"] {
            assert!(name.parse::<IfName>().is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a:b", "a b", "vnet%d", "a234567890123456"] {
            assert!(name.parse::<IfName>().is_err(), "{name}");
        }
    }
}
