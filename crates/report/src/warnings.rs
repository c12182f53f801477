use std::fmt::Write as _;

use taptrail_trail::Unreadable;

use crate::text::{cut, escape_text};
use crate::trail::count;

/// The longest reason and note shown, in characters.
const MAX_REASON_CHARS: usize = 400;

/// Lines for people about lines that could not be read, each with its location: `first` are the
/// first of `all` such lines. `notes` are the assumptions made to read the rest.
pub fn warnings(first: &[Unreadable], all: u64, notes: &[String]) -> String {
    let mut text = String::new();
    for Unreadable { source, line, reason } in first {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{}:{line}: {}", escape_text(source), cut(reason, MAX_REASON_CHARS));
    }
    let more = all.saturating_sub(first.len() as u64);
    if more > 0 {
        let line = if first.is_empty() { "line" } else { "more line" };
        let _ = writeln!(text, "{} can't be read", count(more, line));
    }
    for note in notes {
        let _ = writeln!(text, "{}", cut(note, MAX_REASON_CHARS));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_are_listed_and_the_others_counted() {
        let one = |line, reason: &str| Unreadable { source: "a.log".into(), line, reason: reason.to_owned() };
        assert_eq!(warnings(&[], 0, &[]), "");
        assert_eq!(
            warnings(
                &[one(3, "Record is cut off"), one(9, "\u{1b}[31m")],
                5,
                &["a.log: 2026 is taken".to_owned()]
            ),
            "a.log:3: Record is cut off\na.log:9: \\u{1b}[31m\n3 more lines can't be read\na.log: 2026 is taken\n"
        );
        assert_eq!(warnings(&[], 1, &[]), "1 line can't be read\n");
    }
}
