use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};
use taptrail_record::is_visible;

/// A trail's [`Report`](taptrail_trail::Report), or rows of guests or interfaces, as indented JSON
/// with a newline at its end. In strings, characters that are not [visible](is_visible) are
/// escaped.
///
/// # Errors
///
/// None for the types of this crate and [`taptrail_trail`].
pub fn json(value: &(impl Serialize + ?Sized)) -> Result<String, serde_json::Error> {
    let mut text = Vec::new();
    write_pretty(&mut text, value)?;
    text.push(b'\n');
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

/// The same on one line, without a newline.
///
/// # Errors
///
/// As those of [`json`].
pub fn json_line(value: &(impl Serialize + ?Sized)) -> Result<String, serde_json::Error> {
    let mut text = Vec::new();
    write_line(&mut text, value)?;
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

pub(crate) fn write_pretty(
    out: impl io::Write,
    value: &(impl Serialize + ?Sized),
) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(out, Visible(PrettyFormatter::new())))
}

pub(crate) fn write_line(
    out: impl io::Write,
    value: &(impl Serialize + ?Sized),
) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(out, Visible(CompactFormatter)))
}

/// Writes a line of JSON lines.
pub(crate) fn write_jsonl(out: &mut impl io::Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    // Serializing is many small writes, which a vector takes faster than a buffered output.
    let mut line = Vec::with_capacity(LINE_BYTES);
    write_line(&mut line, value)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// Bytes for which a line of JSON lines has room at first: a holding with its proofs takes some 900.
const LINE_BYTES: usize = 2048;

/// Escapes invisible characters in strings. A JSON parser gets the original string.
struct Visible<F>(F);

macro_rules! as_inner {
    ($($name:ident($($first:ident: bool)?),)+) => {
        $(fn $name<W: ?Sized + io::Write>(&mut self, out: &mut W $(, $first: bool)?) -> io::Result<()> {
            self.0.$name(out $(, $first)?)
        })+
    };
}

impl<F: Formatter> Formatter for Visible<F> {
    as_inner! {
        begin_array(), end_array(), begin_array_value(first: bool), end_array_value(),
        begin_object(), end_object(), begin_object_key(first: bool), end_object_key(),
        begin_object_value(), end_object_value(),
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        // Nearly all texts are plain, and all that are written pass here.
        if is_plain(text) {
            return out.write_all(text.as_bytes());
        }
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !is_visible(*c)) {
            out.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }
}

/// Whether all characters are of visible ASCII. There is no branch in the loop, so that the compiler
/// can compare many bytes at once.
#[inline]
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_seen_is_escaped_and_read_back_as_it_was() {
        let value = serde_json::json!({ "a\u{202e}": ["web1\u{200b}", "\u{e0041}\u{1b}\"\n", "名"], "b": [], "c": {} });
        let (pretty, line) = (json(&value).unwrap(), json_line(&value).unwrap());
        assert_eq!(line, r#"{"a\u202e":["web1\u200b","\udb40\udc41\u001b\"\n","名"],"b":[],"c":{}}"#);
        for text in [&pretty, &line] {
            assert!(text.chars().all(|c| is_visible(c) || c == '\n'), "{text}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap(), value);
        }
        let plain = serde_json::json!({ "a": [1, "b", { "c": null }] });
        assert_eq!(json(&plain).unwrap(), serde_json::to_string_pretty(&plain).unwrap() + "\n");
    }
}
