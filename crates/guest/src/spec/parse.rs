use std::borrow::Cow;
use std::ops::Range;
use std::str::FromStr;

use super::error::{Fault, Problem, SpecError, quoted};
use super::{Given, Key, NicSpec, PartialSpec, closest};

/// The longest SPEC, in bytes.
pub const SPEC_LIMIT: usize = 4096;

impl FromStr for NicSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|fault| SpecError::new(&text[..text.floor_char_boundary(SPEC_LIMIT)], fault))
    }
}

impl TryFrom<String> for NicSpec {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

fn parse(text: &str) -> Result<NicSpec, Fault> {
    draft(text)?.finish(0..text.len()).map_err(|fault| match fault.help {
        None if text[fault.span.clone()].contains(",,") => fault.help(COMMAS),
        _ => fault,
    })
}

/// The keys and values of a text, whatever they are together.
pub(super) fn draft(text: &str) -> Result<PartialSpec<'_>, Fault> {
    if text.len() > SPEC_LIMIT {
        let end = text.floor_char_boundary(SPEC_LIMIT);
        return Err(Fault::new(end..end, Problem::TooLong { limit: SPEC_LIMIT }));
    }
    if text.is_empty() {
        return Err(Fault::new(0..0, Problem::Empty));
    }
    if let Some((at, control)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(Fault::new(at..at + control.len_utf8(), Problem::ControlCharacter));
    }
    let mut draft = PartialSpec::default();
    for span in pairs(text) {
        give_pair(&mut draft, text, span)?;
    }
    Ok(draft)
}

/// A value as it is written: QEMU's own options have a comma doubled, too.
pub(super) fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

const COMMAS: &str = "',' stands between pairs, ',,' for a comma in a value";

/// The places between single commas.
fn pairs(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut pairs = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b',', Some(b',')) => at += 2,
            (b',', _) => {
                pairs.push(start..at);
                at += 1;
                start = at;
            }
            _ => at += 1,
        }
    }
    pairs.push(start..text.len());
    pairs
}

fn give_pair<'t>(draft: &mut PartialSpec<'t>, text: &'t str, span: Range<usize>) -> Result<(), Fault> {
    let pair = &text[span.clone()];
    if pair.is_empty() {
        return Err(Fault::new(span, Problem::NoPair).help(COMMAS));
    }
    let (word, value) = pair.split_once('=').unwrap_or((pair, ""));
    let key_span = span.start..span.start + word.len();
    let Ok(key) = word.parse::<Key>() else {
        let fault = Fault::new(key_span, Problem::UnknownKey(quoted(word)));
        return Err(match closest(word, Key::all().map(Key::as_str)) {
            Some(meant) => fault.help(format!("did you mean '{meant}'?")),
            None => {
                let keys = Key::OWN.map(Key::as_str).join(", ");
                fault.help(format!("the keys are {keys}, and the device's own, such as boot"))
            }
        });
    };
    let value_span = span.end - value.len()..span.end;
    // As in QEMU's own options, a doubled comma is one comma of the value.
    let value =
        if value.contains(",,") { Cow::Owned(value.replace(",,", ",")) } else { Cow::Borrowed(value) };
    draft.give(key, Given { key_span, value_span, value })
}
