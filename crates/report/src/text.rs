use compact_str::CompactString;
use taptrail_record::is_visible;

/// What stands for nothing.
pub(crate) const NONE: &str = "-";

/// The longest text of a cell, in characters; libvirt's names may have thousands.
const LONGEST: usize = 120;

/// A name from outside as a terminal may get it: what can't be [seen](is_visible) is shown by its number. Cut where it is longer than names should be.
pub fn shown(text: &str) -> CompactString {
    if text.is_empty() { "''".into() } else { cut(text, LONGEST) }
}

/// As [`shown`], cut after as many characters as that.
pub(crate) fn cut(text: &str, longest: usize) -> CompactString {
    if text.len() <= longest && text.bytes().all(|b| (0x20..0x7F).contains(&b)) {
        return text.into();
    }
    let mut safe = CompactString::with_capacity(text.len().min(longest));
    let mut characters = text.chars();
    escape(characters.by_ref().take(longest), &mut safe);
    if characters.next().is_some() {
        safe.push('…');
    }
    safe
}

/// As [`shown`], however long.
pub fn whole(text: &str) -> CompactString {
    cut(text, usize::MAX)
}

fn escape(text: impl Iterator<Item = char>, safe: &mut CompactString) {
    for c in text {
        if is_visible(c) { safe.push(c) } else { safe.extend(c.escape_default()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        assert_eq!(shown("web1"), "web1");
        assert_eq!(shown("名 é"), "名 é");
        assert_eq!(shown("\x1b[31mred\r\n"), "\\u{1b}[31mred\\r\\n");
        assert_eq!(shown("a\u{202e}b\u{9b}"), "a\\u{202e}b\\u{9b}");
        assert_eq!(shown(""), "''");
        assert_eq!(shown(&"n".repeat(120)), "n".repeat(120));
        assert_eq!(shown(&"n".repeat(500)).chars().count(), LONGEST + 1);
        assert_eq!(whole(&"\x1d\"".repeat(500)).len(), 7 * 500);
    }
}
