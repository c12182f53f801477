//! Text as roff: what the `roff` crate leaves to its users.

use roff::{Inline, Roff, bold, roman};

/// Columns of an example, on a terminal of 80.
const EXAMPLE_WIDTH: usize = 70;

/// Text whose words in backticks are bold.
pub(super) fn inline(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(n, part)| if n % 2 == 0 { roman(part) } else { bold(part) }).collect()
}

/// A paragraph of its own.
pub(super) fn paragraph(roff: &mut Roff, text: &str) {
    roff.control("PP", []).text(inline(text));
}

/// An entry of a list: its word, and what it means.
pub(super) fn entry(roff: &mut Roff, tag: Vec<Inline>, text: &str) {
    roff.control("TP", []).text(tag);
    paragraphs(roff, text);
}

/// The paragraphs of an entry.
pub(super) fn paragraphs(roff: &mut Roff, text: &str) {
    for (n, paragraph) in text.split("\n\n").enumerate() {
        if n > 0 {
            roff.control("IP", []);
        }
        roff.text(inline(&paragraph.replace('\n', " ")));
    }
}

/// Lines that stay as they are. A command that is longer than a line goes on in the next one, as a
/// shell reads it.
pub(super) fn example(roff: &mut Roff, lines: &[String]) {
    roff.control("PP", []).control("RS", ["2"]).control("EX", []);
    for line in lines {
        for line in wrapped(line) {
            roff.text([roman(line)]);
        }
    }
    roff.control("EE", []).control("RE", []);
}

/// A command in lines of at most [`EXAMPLE_WIDTH`] columns, where blanks outside of quotes allow it.
fn wrapped(command: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words(command) {
        let last = lines.last().map_or(0, |line| line.chars().count());
        // A blank before the word, and a blank and a backslash after it.
        if last > 0 && last + 1 + word.chars().count() + 2 > EXAMPLE_WIDTH {
            lines.push(format!("    {word}"));
        } else if let Some(line) = lines.last_mut() {
            line.push_str(if last > 0 { " " } else { "" });
            line.push_str(word);
        }
    }
    let last = lines.len() - 1;
    for line in &mut lines[..last] {
        line.push_str(" \\");
    }
    lines
}

/// The words of a command, with their quotes.
fn words(command: &str) -> Vec<&str> {
    let (mut words, mut start, mut quoted) = (Vec::new(), 0, false);
    for (at, character) in command.char_indices() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => {
                words.push(&command[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    words.push(&command[start..]);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_goes_on_in_the_next_line_but_not_within_quotes() {
        let command =
            "taptrail lake sql s3://logs/lake who --mac 52:54:00:12:34:56 --at 'tue 14:05' | duckdb";
        let lines = wrapped(command);
        assert_eq!(
            lines,
            [
                r"taptrail lake sql s3://logs/lake who --mac 52:54:00:12:34:56 \",
                "    --at 'tue 14:05' | duckdb"
            ]
        );
        assert_eq!(wrapped("taptrail list"), ["taptrail list"]);
    }

    #[test]
    fn what_is_in_backticks_is_bold() {
        assert_eq!(inline("see `taptrail adopt`"), [roman("see "), bold("taptrail adopt")]);
    }
}
