//! KubeVirt's virt-launcher passes libvirt's log on, as JSON or as logfmt:
//! `{"component":"virt-launcher","msg":"…","pos":"virAuditSend:141","subcomponent":"libvirt",…}`.

use crate::found::{Found, Voice, When};
use crate::shape::{Unreadable, libvirt};

/// More pairs no line of it has.
const MAX_PAIRS: usize = 64;

/// Whether it is libvirt that speaks.
pub(super) fn is<'a>(get: impl Fn(&str) -> Option<&'a str>) -> bool {
    get("component") == Some("virt-launcher") && get("subcomponent") == Some("libvirt")
}

pub(super) fn when<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<When> {
    if get("component") != Some("virt-launcher") {
        return None;
    }
    super::moment(get("timestamp")?)
}

pub(super) fn found<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Found>, Unreadable> {
    let place = get("pos").and_then(|place| place.rsplit_once(':'));
    let message =
        get("msg").filter(|_| place.is_some_and(|(function, _)| libvirt::audits(function.as_bytes())));
    let content = libvirt::message(message.ok_or(Unreadable::Unknown)?.as_bytes())?;
    let when = when(&get).ok_or(Unreadable::Time);
    content.map(|content| Ok(Found::new(when?, Voice::Manager, content))).transpose()
}

/// A line in logfmt: `component=virt-launcher level=warning msg="…" …`; none where it is of nobody we know.
pub(in crate::shape) fn line(line: &[u8]) -> Option<Result<Option<Found>, Unreadable>> {
    let pairs = logfmt(std::str::from_utf8(line).ok()?)?;
    let get = |key: &str| {
        let mut values = pairs.iter().filter(|(name, _)| *name == key);
        values.next().filter(|_| values.next().is_none()).map(|(_, value)| value.as_str())
    };
    is(get).then(|| found(get))
}

/// The pairs of a line that has nothing else.
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

/// A value behind its opening quote, and what follows the closing one.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                c @ ('"' | '\\') => value.push(c),
                'n' => value.push('\n'),
                't' => value.push('\t'),
                // Nothing else is in what libvirt writes.
                _ => return None,
            },
            c => value.push(c),
        }
    }
    None
}
