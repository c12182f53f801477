use std::borrow::Cow;

use bstr::ByteSlice as _;
use compact_str::CompactString;

use crate::encode::from_hex;
use crate::number::decimal;
use crate::{ParseError, Rdev};

/// A pair's value as it stands. Quotes decide what it means: `"DEADBEEF"` is a name, `DEADBEEF` four
/// bytes, and where a number is due neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Between double quotes, which it can't hold itself.
    Quoted(&'a [u8]),
    /// Up to the next blank.
    Bare(&'a [u8]),
}

/// One `key=value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: Value<'a>,
}

/// The pairs of a text from left to right. Words without `=` are passed over.
#[derive(Debug, Clone)]
pub(crate) struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    fn pair(&mut self) -> Result<Option<Pair<'a>>, ParseError> {
        loop {
            self.rest = self.rest.trim_start_with(|c| c == ' ');
            if self.rest.is_empty() {
                return Ok(None);
            }
            let word_end = self.rest.find_byte(b' ').unwrap_or(self.rest.len());
            let Some(equals) = self.rest[..word_end].find_byte(b'=') else {
                self.rest = &self.rest[word_end..];
                continue;
            };
            let key = &self.rest[..equals];
            let Some(quoted) = self.rest[equals + 1..].strip_prefix(b"\"") else {
                let value = Value::Bare(&self.rest[equals + 1..word_end]);
                self.rest = &self.rest[word_end..];
                return Ok(Some(Pair { key, value }));
            };
            let close = quoted.find_byte(b'"').ok_or(ParseError::Truncated)?;
            let after = &quoted[close + 1..];
            if !(after.is_empty() || after.starts_with(b" ")) {
                return Err(ParseError::value(key, quoted));
            }
            self.rest = after;
            return Ok(Some(Pair { key, value: Value::Quoted(&quoted[..close]) }));
        }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.pair().transpose();
        if matches!(pair, Some(Err(_))) {
            self.rest = b"";
        }
        pair
    }
}

/// A record's pairs, to be asked by key.
pub(crate) struct Claims<'a>(Vec<Pair<'a>>);

impl<'a> Claims<'a> {
    pub(crate) fn read(text: &'a [u8]) -> Result<Self, ParseError> {
        let mut pairs = Vec::with_capacity(24);
        for pair in Pairs::new(text) {
            pairs.push(pair?);
        }
        Ok(Self(pairs))
    }

    /// The value of a pair that may stand once or not at all.
    pub(crate) fn get(&self, key: &'static str) -> Result<Option<Value<'a>>, ParseError> {
        let mut found = self.0.iter().filter(|pair| pair.key == key.as_bytes());
        let first = found.next().map(|pair| pair.value);
        if found.next().is_some() {
            return Err(ParseError::Duplicate { key });
        }
        Ok(first)
    }

    /// A string field: quoted, or hex when it is not. Bytes that are no UTF-8 are replaced, so that a
    /// name can always be shown; the uuid tells guests apart.
    pub(crate) fn string(&self, key: &'static str) -> Result<Option<CompactString>, ParseError> {
        let bytes = match self.get(key)? {
            None => return Ok(None),
            Some(Value::Quoted(bytes)) => Cow::Borrowed(bytes),
            Some(Value::Bare(hex)) => {
                Cow::Owned(from_hex(hex).ok_or_else(|| ParseError::value(key.as_bytes(), hex))?)
            }
        };
        Ok(Some(CompactString::from_utf8_lossy(&bytes)))
    }

    /// A bare word.
    pub(crate) fn word(&self, key: &'static str) -> Result<Option<&'a [u8]>, ParseError> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Bare(word)) => Ok(Some(word)),
            Some(Value::Quoted(text)) => Err(ParseError::value(key.as_bytes(), text)),
        }
    }

    /// A decimal number without sign.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &'static str) -> Result<Option<T>, ParseError> {
        let Some(word) = self.word(key)? else { return Ok(None) };
        decimal(word).map(Some).ok_or_else(|| ParseError::value(key.as_bytes(), word))
    }

    /// A process id; libvirt's 0 and -1 mean none.
    pub(crate) fn pid(&self, key: &'static str) -> Result<Option<u32>, ParseError> {
        match self.word(key)? {
            Some(b"-1") => Ok(None),
            _ => Ok(self.number::<u32>(key)?.filter(|&pid| pid != 0)),
        }
    }

    /// A device number, or `?`.
    pub(crate) fn rdev(&self, key: &'static str) -> Result<Option<Rdev>, ParseError> {
        match self.word(key)? {
            None | Some(b"?") => Ok(None),
            Some(word) => parsed(key, word).map(Some),
        }
    }

    /// A bare word of a type with its own grammar.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, key: &'static str) -> Result<Option<T>, ParseError> {
        self.word(key)?.map(|word| parsed(key, word)).transpose()
    }

    /// A quoted text of a type with its own grammar.
    pub(crate) fn quoted<T: std::str::FromStr>(&self, key: &'static str) -> Result<Option<T>, ParseError> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Quoted(text)) => parsed(key, text).map(Some),
            Some(Value::Bare(word)) => Err(ParseError::value(key.as_bytes(), word)),
        }
    }
}

fn parsed<T: std::str::FromStr>(key: &'static str, text: &[u8]) -> Result<T, ParseError> {
    let refuse = || ParseError::value(key.as_bytes(), text);
    text.to_str().map_err(|_| refuse())?.parse().map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<Vec<Pair<'_>>, ParseError> {
        Pairs::new(text.as_bytes()).collect()
    }

    #[test]
    fn a_quoted_value_ends_at_its_quote_and_a_bare_one_at_a_blank() {
        let expect = [
            Pair { key: b"vm", value: Value::Quoted(b"a res=failed'") },
            Pair { key: b"x", value: Value::Bare(b"y=z\"") },
            Pair { key: b"empty", value: Value::Bare(b"") },
        ];
        assert_eq!(pairs("vm=\"a res=failed'\"  word x=y=z\" empty= ").unwrap(), expect);
    }

    #[test]
    fn an_open_quote_is_a_cut() {
        assert_eq!(pairs("a=1 vm=\"x'res=success"), Err(ParseError::Truncated));
        assert!(matches!(pairs("vm=\"a\"b"), Err(ParseError::Value { .. })));
    }
}
