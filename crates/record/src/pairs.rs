use std::borrow::Cow;

use compact_str::CompactString;

use crate::ParseError;
use crate::encode::from_hex;
use crate::scan::{find, find_either};

/// A pair's raw value. Its quotes decide its meaning: `"DEADBEEF"` is a name, `DEADBEEF` four bytes
/// in hex, and neither is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Between double quotes, which it can't contain itself.
    Quoted(&'a [u8]),
    /// A guest's name between single quotes, which it may contain itself; see [`Pairs`].
    Nested(&'a [u8]),
    /// Up to the next blank.
    Bare(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The value without its quotes.
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Self::Quoted(bytes) | Self::Nested(bytes) | Self::Bare(bytes) => bytes,
        }
    }

    /// The bytes of a string field: quoted, or decoded from hex; `None` if it is neither.
    pub(crate) fn string(self) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Quoted(bytes) | Self::Nested(bytes) => Some(Cow::Borrowed(bytes)),
            Self::Bare(hex) => from_hex(hex).map(Cow::Owned),
        }
    }
}

/// Bytes from outside as text; invalid UTF-8 is replaced.
pub(crate) fn lossy_text(bytes: &[u8]) -> CompactString {
    match std::str::from_utf8(bytes) {
        Ok(text) => CompactString::new(text),
        Err(_) => CompactString::from_utf8_lossy(bytes),
    }
}

/// One `key=value`, and its position in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: Value<'a>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The pairs of a text from left to right. Words without `=` are skipped.
///
/// libvirt of 2011 nested single quotes in those of `msg='…'`. Around an address they are part of a
/// bare word. A name between them may contain anything, so it ends at the first `' uuid=`, which
/// must follow it. A name that contains this has a second `uuid=` behind it, and the record is
/// refused.
#[derive(Debug, Clone)]
pub(crate) struct Pairs<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Pairs<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    #[inline(always)]
    fn pair(&mut self) -> Result<Option<Pair<'a>>, ParseError> {
        loop {
            let Some(blanks) = self.text[self.at..].iter().position(|&byte| byte != b' ') else {
                return Ok(None);
            };
            let start = self.at + blanks;
            let rest = &self.text[start..];
            let Some(equals) = find_either(b'=', b' ', rest) else {
                return Ok(None);
            };
            if rest[equals] == b' ' {
                self.at = start + equals;
                continue;
            }
            let key = &rest[..equals];
            let after = &rest[equals + 1..];
            let (value, len) = match after.first() {
                Some(b'"') => quoted(key, &after[1..])?,
                Some(b'\'') if key == b"vm" => nested(&after[1..])?,
                _ => {
                    let len = word(after);
                    (Value::Bare(&after[..len]), len)
                }
            };
            let end = start + equals + 1 + len;
            self.at = end;
            return Ok(Some(Pair { key, value, start, end }));
        }
    }
}

/// The number of bytes before the first space.
#[inline]
pub(crate) fn word(text: &[u8]) -> usize {
    find(b' ', text).unwrap_or(text.len())
}

/// The value behind an opening quote, and its length with both quotes.
#[inline]
fn quoted<'a>(key: &[u8], value: &'a [u8]) -> Result<(Value<'a>, usize), ParseError> {
    let close = find(b'"', value).ok_or(ParseError::Truncated)?;
    match value.get(close + 1) {
        None | Some(b' ') => Ok((Value::Quoted(&value[..close]), close + 2)),
        Some(_) => Err(ParseError::value(key, value)),
    }
}

#[cold]
fn nested(value: &[u8]) -> Result<(Value<'_>, usize), ParseError> {
    let close = memchr::memmem::find(value, b"' uuid=").ok_or(ParseError::Truncated)?;
    Ok((Value::Nested(&value[..close]), close + 2))
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, ParseError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.pair().transpose();
        if matches!(pair, Some(Err(_))) {
            self.at = self.text.len();
        }
        pair
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<Vec<(&[u8], Value<'_>)>, ParseError> {
        Pairs::new(text.as_bytes()).map(|pair| pair.map(|pair| (pair.key, pair.value))).collect()
    }

    #[test]
    fn a_quoted_value_ends_at_its_quote_and_a_bare_one_at_a_blank() {
        let expect: [(&[u8], _); 4] = [
            (b"vm", Value::Quoted(b"a res=failed'")),
            (b"x", Value::Bare(b"y=z\"")),
            (b"net", Value::Bare(b"'52'")),
            (b"empty", Value::Bare(b"")),
        ];
        assert_eq!(pairs("vm=\"a res=failed'\"  word x=y=z\" net='52' empty= ").unwrap(), expect);
    }

    #[test]
    fn a_nested_name_ends_where_the_uuid_follows() {
        let expect: [(&[u8], _); 2] =
            [(b"vm", Value::Nested(b"it's \"a' res=0")), (b"uuid", Value::Bare(b"7"))];
        assert_eq!(pairs("vm='it's \"a' res=0' uuid=7").unwrap(), expect);
        assert_eq!(pairs("vm='x' net=1"), Err(ParseError::Truncated));
    }

    #[test]
    fn an_open_quote_is_a_cut() {
        assert_eq!(pairs("a=1 vm=\"x'res=success"), Err(ParseError::Truncated));
        assert!(matches!(pairs("vm=\"a\"b"), Err(ParseError::Value { .. })));
    }

    #[test]
    fn a_pair_knows_where_it_stands() {
        let places: Vec<_> =
            Pairs::new(b" a=\"b c\" d=e").map(|pair| pair.map(|pair| (pair.start, pair.end))).collect();
        assert_eq!(places, [Ok((1, 8)), Ok((9, 12))]);
    }
}
