use std::fmt;
use std::str::FromStr;

/// QEMU's id of a NIC: a letter, then letters, digits, `-`, `.` or `_` (QEMU's
/// `id_wellformed()`), 128 bytes at most.
///
/// QEMU itself sets no limit; ours keeps every SPEC that is read within the one for its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicId(String);

impl NicId {
    /// The longest id, in bytes.
    pub const LIMIT: usize = 128;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text can't be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' can't be an id: a letter is needed, then up to 127 letters, digits, '-', '.' or '_'")]
pub struct NicIdError(String);

impl FromStr for NicId {
    type Err = NicIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let follows = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let sound = text.len() <= Self::LIMIT
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(follows);
        if sound { Ok(Self(text.to_owned())) } else { Err(NicIdError(text.chars().take(64).collect())) }
    }
}

impl fmt::Display for NicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_as_qemu_does() {
        for id in ["n", "net0", "ua-web.front_1"] {
            assert!(id.parse::<NicId>().is_ok(), "{id}");
        }
        for id in ["", "0net", "-a", "a b", "a,b", "é", &"a".repeat(129)] {
            assert!(id.parse::<NicId>().is_err(), "{id}");
        }
    }
}
