use compact_str::CompactString;
use taptrail_record::is_visible;

/// Stands in an empty cell.
pub(crate) const NONE: &str = "-";

/// The longest name shown, in characters; libvirt's names may have thousands.
const MAX_NAME_CHARS: usize = 120;

/// A name from outside, safe for a terminal: characters that are not [visible](is_visible) are
/// escaped, and it is cut at 120 characters.
pub fn escape_name(text: &str) -> CompactString {
    if text.is_empty() { "''".into() } else { cut(text, MAX_NAME_CHARS) }
}

/// As [`escape_name`], cut after `longest` characters.
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

/// As [`escape_name`], without a limit.
pub fn escape_text(text: &str) -> CompactString {
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

    // Shows 9.6.
    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        assert_eq!(escape_name("web1"), "web1");
        assert_eq!(escape_name("名 é"), "名 é");
        assert_eq!(escape_name("\x1b[31mred\r\n"), "\\u{1b}[31mred\\r\\n");
        assert_eq!(escape_name("a\u{202e}b\u{9b}"), "a\\u{202e}b\\u{9b}");
        assert_eq!(escape_name(""), "''");
        assert_eq!(escape_name(&"n".repeat(120)), "n".repeat(120));
        assert_eq!(escape_name(&"n".repeat(500)).chars().count(), MAX_NAME_CHARS + 1);
        assert_eq!(escape_text(&"\x1d\"".repeat(500)).len(), 7 * 500);
    }
}
