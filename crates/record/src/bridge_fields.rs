//! The pairs of the records about the bridge helper's taps.

use std::fmt::Write as _;

use compact_str::CompactString;

use crate::number::decimal;
use crate::pairs::{Pairs, Value, lossy_text};
use crate::{Outcome, ParseError, Rdev, RecordType, Requester};

/// Whether a text is one of `VIRT_RESOURCE` that begins with `head`.
pub(crate) fn is_one(head: &str, record_type: RecordType, text: &[u8]) -> bool {
    let rest = text.strip_prefix(head.as_bytes());
    record_type == RecordType::VIRT_RESOURCE
        && rest.is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b' '))
}

/// Appends a bare pair, if there is a value.
pub(crate) fn pair(text: &mut String, key: &str, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        // Writing to a String can't fail.
        let _ = write!(text, " {key}={value}");
    }
}

/// A number that a record must have.
pub(crate) fn required_number(key: &'static str, value: Option<u32>) -> Result<u32, ParseError> {
    value.ok_or(ParseError::Missing { key })
}

/// The keys that are read.
const KEYS: [&str; 16] = [
    "bridge",
    "path",
    "rdev",
    "dev",
    "refusal",
    "errno",
    "req-uid",
    "req-auid",
    "req-pid",
    "req-start",
    "claimed-vm",
    "claimed-uuid",
    "last-seen",
    "netns",
    "ifindex",
    "res",
];

/// The pairs of a text with these keys, each at most once.
pub(crate) struct Fields<'a>([Option<Value<'a>>; KEYS.len()]);

impl<'a> Fields<'a> {
    pub(crate) fn read(text: &'a [u8]) -> Result<Self, ParseError> {
        let mut values = [None; KEYS.len()];
        for pair in Pairs::new(text) {
            let pair = pair?;
            let Some(at) = KEYS.iter().position(|key| key.as_bytes() == pair.key) else { continue };
            if values[at].replace(pair.value).is_some() {
                return Err(ParseError::Duplicate { key: KEYS[at] });
            }
        }
        Ok(Self(values))
    }

    fn get(&self, key: &str) -> Option<Value<'a>> {
        KEYS.iter().position(|known| *known == key).and_then(|at| self.0[at])
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<CompactString>, ParseError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let bytes = value.string().ok_or_else(|| ParseError::value(key.as_bytes(), value.bytes()))?;
        Ok(Some(lossy_text(&bytes)))
    }

    pub(crate) fn bare(&self, key: &str) -> Result<Option<&'a [u8]>, ParseError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bare(word)) => Ok(Some(word)),
            Some(value) => Err(ParseError::value(key.as_bytes(), value.bytes())),
        }
    }

    pub(crate) fn number<T: TryFrom<u64>>(&self, key: &str) -> Result<Option<T>, ParseError> {
        let Some(word) = self.bare(key)? else { return Ok(None) };
        decimal(word).map(Some).ok_or_else(|| ParseError::value(key.as_bytes(), word))
    }

    pub(crate) fn rdev(&self) -> Result<Option<Rdev>, ParseError> {
        match self.bare("rdev")? {
            None | Some(b"?") => Ok(None),
            Some(word) => Rdev::from_ascii(word).map(Some).ok_or_else(|| ParseError::value(b"rdev", word)),
        }
    }

    /// The outcome; without one, the text was cut off.
    pub(crate) fn outcome(&self) -> Result<Outcome, ParseError> {
        match self.bare("res")? {
            Some(b"success") => Ok(Outcome::Success),
            Some(b"failed") => Ok(Outcome::Failed),
            None => Err(ParseError::Truncated),
            Some(word) if b"success".starts_with(word) || b"failed".starts_with(word) => {
                Err(ParseError::Truncated)
            }
            Some(word) => Err(ParseError::value(b"res", word)),
        }
    }

    /// The caller of the helper.
    pub(crate) fn requester(&self) -> Result<Requester, ParseError> {
        Ok(Requester {
            uid: required_number("req-uid", self.number("req-uid")?)?,
            auid: required_number("req-auid", self.number("req-auid")?)?,
            pid: required_number("req-pid", self.number("req-pid")?)?,
        })
    }
}
