//! Parses libvirt's log as relayed by KubeVirt's virt-launcher, in JSON or logfmt:
//! `{"component":"virt-launcher","msg":"…","pos":"virAuditSend:141","subcomponent":"libvirt",…}`.

use crate::parsed_line::{LineTime, LogProgram, ParsedLine};
use crate::shape::{Unreadable, libvirt};

/// Maximum number of pairs in a line.
const MAX_PAIRS: usize = 64;

/// Whether libvirt wrote the message.
pub(super) fn is<'a>(get: impl Fn(&str) -> Option<&'a str>) -> bool {
    get("component") == Some("virt-launcher") && get("subcomponent") == Some("libvirt")
}

pub(super) fn when<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<LineTime> {
    if get("component") != Some("virt-launcher") {
        return None;
    }
    super::moment(get("timestamp")?)
}

pub(super) fn parse<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Option<ParsedLine>, Unreadable> {
    let place = get("pos").and_then(|place| place.rsplit_once(':'));
    let message =
        get("msg").filter(|_| place.is_some_and(|(function, _)| libvirt::audits(function.as_bytes())));
    let content = libvirt::message(message.ok_or(Unreadable::Unknown)?.as_bytes())?;
    let when = when(&get).ok_or(Unreadable::Time);
    content.map(|content| Ok(ParsedLine::new(when?, LogProgram::Manager, content))).transpose()
}

/// Parses a line in logfmt: `component=virt-launcher level=warning msg="…" …`; `None` if another
/// component wrote it.
pub(in crate::shape) fn line(line: &[u8]) -> Option<Result<Option<ParsedLine>, Unreadable>> {
    let pairs = logfmt(std::str::from_utf8(line).ok()?)?;
    let get = |key: &str| {
        let mut values = pairs.iter().filter(|(name, _)| *name == key);
        values.next().filter(|_| values.next().is_none()).map(|(_, value)| value.as_str())
    };
    is(get).then(|| parse(get))
}

/// The pairs of a line that consists of pairs.
fn logfmt(mut line: &str) -> Option<Vec<(&str, String)>> {
    let mut pairs = Vec::new();
    while !line.is_empty() {
        let (key, rest) = line.split_once('=')?;
        if key.is_empty() || key.len() > 64 || pairs.len() == MAX_PAIRS || key.contains([' ', '"']) {
            return None;
        }
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, rest) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
                (value.to_owned(), rest)
            }
        };
        pairs.push((key, value));
        line = match rest.strip_prefix(' ') {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(pairs)
}

/// The value after an opening quote, and the text after the closing one.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                c @ ('"' | '\\') => value.push(c),
                'n' => value.push('\n'),
                't' => value.push('\t'),
                // libvirt's messages have no other escapes.
                _ => return None,
            },
            c => value.push(c),
        }
    }
    None
}
