use bstr::ByteSlice as _;

use crate::visible::is_visible;

/// Why a line or a text is not a valid record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The line is longer than any that auditd writes.
    #[error("Line of {len} bytes is too long: an audit record has {max} at most")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// `type=` is missing where it must stand.
    #[error("Line is no audit record: 'type=' is missing")]
    NoType,
    /// `msg=audit(SECONDS.MILLIS:SERIAL):` is missing or malformed.
    #[error("Record has no valid 'msg=audit(SECONDS.MILLIS:SERIAL):'")]
    Stamp,
    /// The end is missing: a quote is not closed, or `res=` was cut off. The outcome is unknown,
    /// which is never a success.
    #[error("Record is cut off")]
    Truncated,
    /// A pair that the record must have is missing.
    #[error("Record has no '{key}='")]
    Missing {
        /// The pair's key.
        key: &'static str,
    },
    /// The record has a pair twice, and it is unknown which of them is valid.
    #[error("Record has '{key}=' twice")]
    Duplicate {
        /// The pair's key.
        key: &'static str,
    },
    /// The pairs are not in the order in which guest managers write them, so the limits of a name
    /// or of another program's text are unknown.
    #[error("Record's fields are not in the order in which guest managers write them")]
    Order,
    /// A decoded text can be parsed in more than one way: a name or a path imitates pairs.
    #[error("Record can be read in more than one way")]
    Ambiguous,
    /// A pair's value is not of its kind.
    #[error("Record has an invalid '{key}={value}'")]
    Value {
        /// The pair's key, as in the record; cut.
        key: String,
        /// The value, as in the record; cut.
        value: String,
    },
}

impl ParseError {
    pub(crate) fn value(key: &[u8], value: &[u8]) -> Self {
        Self::Value { key: excerpt(key), value: excerpt(value) }
    }
}

/// The first bytes of a value from outside, safe to show.
fn excerpt(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(64)];
    cut.to_str_lossy().chars().map(|c| if is_visible(c) { c } else { '\u{fffd}' }).collect()
}
