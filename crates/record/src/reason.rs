use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// Why a guest started or stopped: one bare word of a `VIRT_CONTROL` record.
///
/// libvirt has more words than are named here (`migrated`, `saved`, `restored`, `from-snapshot` …)
/// and may add new ones, so any word of letters, digits, `-` and `_` is valid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(CompactString);

impl Reason {
    /// Start: the guest was booted.
    pub const BOOTED: Self = Self(CompactString::const_new("booted"));
    /// Stop: the guest shut itself down.
    pub const SHUTDOWN: Self = Self(CompactString::const_new("shutdown"));
    /// Stop: the host ended the guest.
    pub const DESTROYED: Self = Self(CompactString::const_new("destroyed"));
    /// Stop: the guest or its QEMU crashed.
    pub const CRASHED: Self = Self(CompactString::const_new("crashed"));
    /// Stop: the guest never started, or QEMU ended without an event.
    pub const FAILED: Self = Self(CompactString::const_new("failed"));
    /// Gone: a watcher saw that QEMU's process had ended, and knows no reason.
    pub const EXITED: Self = Self(CompactString::const_new("exited"));
    /// Stop: neither supervisor nor watcher saw the guest's end.
    pub const UNKNOWN: Self = Self(CompactString::const_new("unknown"));

    /// Whether the stop was regular: by the guest itself or by the host.
    pub fn is_orderly(&self) -> bool {
        *self == Self::SHUTDOWN || *self == Self::DESTROYED
    }

    /// The longest reason, in bytes.
    const MAX: usize = 64;

    /// The reason in this word.
    pub(crate) fn from_ascii(word: &[u8]) -> Option<Self> {
        let good = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
        if word.is_empty() || word.len() > Self::MAX || !word.iter().all(good) {
            return None;
        }
        CompactString::from_utf8(word).ok().map(Self)
    }

    /// The word in a record.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text can't be the reason of a start or stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' can't be a reason: 1 to 64 letters, digits, '-' or '_' are needed")]
pub struct ReasonError(String);

impl FromStr for Reason {
    type Err = ReasonError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_ascii(text.as_bytes()).ok_or_else(|| ReasonError(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Reason {
    type Error = ReasonError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0.into()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_bare_word() {
        assert_eq!("booted".parse(), Ok(Reason::BOOTED));
        assert_eq!("from-snapshot".parse::<Reason>().unwrap().as_str(), "from-snapshot");
        for text in ["", "a b", "a=b", "\"booted\"", "é", &"a".repeat(65)] {
            assert!(text.parse::<Reason>().is_err(), "{text}");
        }
    }
}
