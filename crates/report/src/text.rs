use compact_str::{CompactString, format_compact};
use jiff::SignedDuration;
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

/// A duration in its two largest units: `16.7s`, `3m12s`, `2h05m`, `12d04h`.
pub(crate) fn duration(long: SignedDuration) -> CompactString {
    let (seconds, millis) = (long.as_secs(), long.as_millis());
    match seconds {
        ..1 => format_compact!("{millis}ms"),
        1..60 => format_compact!("{seconds}.{}s", long.subsec_millis() / 100),
        60..3600 => format_compact!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format_compact!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format_compact!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
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
    fn a_duration_has_its_two_largest_units() {
        let words = [0, 40, 1_000, 16_790, 59_999, 60_000, 192_000, 7_500_000, 86_400_000, 1_052_000_000];
        let words = words.map(|millis| duration(SignedDuration::from_millis(millis)));
        assert_eq!(
            words,
            ["0ms", "40ms", "1.0s", "16.7s", "59.9s", "1m00s", "3m12s", "2h05m", "1d00h", "12d04h"]
        );
    }

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
