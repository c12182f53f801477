/// What stands for nothing.
pub(crate) const NONE: &str = "-";

/// The longest text of a cell, in characters; libvirt's names may have thousands.
const LONGEST: usize = 120;

/// A text from outside as a terminal may get it: what would move the cursor, change colours or turn
/// the writing direction is shown by its number.
pub(crate) fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            safe.push('…');
            break;
        }
        if c.is_control() || is_invisible(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    if safe.is_empty() {
        safe.push_str("''");
    }
    safe
}

/// Zero-width and direction characters, line and paragraph separators (Unicode, general category Cf
/// of the block General Punctuation, and U+2028, U+2029), and the byte order mark.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{061C}')
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
        assert_eq!(shown(&"n".repeat(500)).chars().count(), LONGEST + 1);
    }
}
