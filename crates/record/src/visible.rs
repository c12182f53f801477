//! Which characters of a text from outside are shown unescaped, in tables, errors and JSON.

use std::borrow::Cow;

/// Whether a character neither controls a terminal, nor is invisible, nor looks like a blank: names
/// that differ only by such a character would look alike.
///
/// Not visible are: controls and surrogates (Cc, Cs), format characters (Cf), separators (Z) except
/// the blank, characters to be ignored if a font has no glyph (`Default_Ignorable_Code_Point`:
/// fillers, variation selectors, tags), and the Braille pattern without dots (Unicode 16,
/// `DerivedGeneralCategory.txt` and `DerivedCoreProperties.txt`).
pub fn is_visible(c: char) -> bool {
    if matches!(c, ' '..='~') {
        return true;
    }
    !(c.is_control()
        || c.is_whitespace()
        || matches!(
            c,
            '\u{AD}' | '\u{34F}' | '\u{600}'..='\u{605}' | '\u{61C}' | '\u{6DD}' | '\u{70F}'
            | '\u{890}'..='\u{891}' | '\u{8E2}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
            | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{110BD}' | '\u{110CD}' | '\u{13430}'..='\u{1343F}'
            | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}'
        ))
}

/// The text with each character that is not [visible](is_visible) as its number, as in
/// `web1\u{200b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_visible(c) { shown.push(c) } else { shown.extend(c.escape_default()) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_seen_is_shown_as_it_is() {
        for text in ["web1", "a b~!", "名 é", "naïve", "Ω", "🐧", "e\u{301}", ""] {
            assert_eq!(visible(text), text);
        }
    }

    #[test]
    fn names_that_look_alike_are_shown_differently() {
        let invisible = [
            0xAD, 0x34F, 0x61C, 0x9B, 0xA0, 0x115F, 0x180E, 0x2007, 0x200B, 0x2028, 0x202E, 0x202F, 0x2066,
            0x2800, 0x3000, 0x3164, 0xFE0F, 0xFEFF, 0xFFA0, 0xFFF9, 0x1D173, 0xE0001, 0xE0041, 0xE0100, 0x7F,
            0x1B, 0x0A,
        ];
        for c in invisible.map(|c| char::from_u32(c).unwrap_or_default()) {
            let shown = visible(&format!("web1{c}")).into_owned();
            assert!(shown.starts_with("web1\\") && shown.is_ascii(), "{shown}");
        }
        assert_eq!(visible("a\nb\u{202e}c"), "a\\nb\\u{202e}c");
    }
}
