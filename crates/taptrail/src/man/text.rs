//! Pages as roff: what the `roff` crate leaves to its users. xtask makes its pages with this file,
//! too.

use roff::{Inline, Roff, bold, roman};

/// Columns of an example, on a terminal of 80.
const EXAMPLE_WIDTH: usize = 70;

/// Bytes of a line of a page's source.
const SOURCE_WIDTH: usize = 80;

/// Bytes of a line, where preconv(1) and mandoc(1) have written what is not ASCII as `\[u2026]`.
fn source_width(line: &str) -> usize {
    line.chars().map(|character| if character.is_ascii() { 1 } else { 8 }).sum()
}

/// What a page begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Title<'a> {
    pub(crate) name: &'a str,
    /// The manual's section.
    pub(crate) section: char,
    pub(crate) version: &'a str,
    /// Year, month and day.
    pub(crate) date: &'a str,
    /// What the page is about, in half a line.
    pub(crate) about: &'a str,
}

/// The beginning of a page.
pub(crate) fn begin(title: Title<'_>) -> Roff {
    let Title { name, section, version, date, about } = title;
    let mut roff = Roff::new();
    let (upper, section, version) = (name.to_uppercase(), section.to_string(), format!("taptrail {version}"));
    roff.control("TH", [upper.as_str(), &section, date, &version, "taptrail manual"]);
    // No hyphens at the ends of lines, and no blanks to fill them: words are found, and copied.
    roff.control("nr", ["HY", "0"]).control("nh", []).control("ad", ["l"]);
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    roff
}

/// The last section of a page: other pages, as name and section.
pub(crate) fn see_also<'a>(roff: &mut Roff, pages: impl IntoIterator<Item = (&'a str, char)>) {
    let mut text = Vec::new();
    for (name, section) in pages {
        if !text.is_empty() {
            text.push(roman(", "));
        }
        text.extend([bold(name), roman(format!("({section})"))]);
    }
    roff.control("SH", ["SEE ALSO"]).text(text);
}

/// The page's source, in short lines.
pub(crate) fn source(roff: &Roff) -> String {
    let (mut text, mut as_is, mut after_heading) = (String::new(), false, false);
    for line in roff.render().lines() {
        // A heading begins a paragraph by itself.
        if after_heading && line == ".PP" {
            continue;
        }
        after_heading = line.starts_with(".SH") || line.starts_with(".SS");
        as_is = (as_is || line == ".EX") && line != ".EE";
        if as_is || line.starts_with('.') || source_width(line) <= SOURCE_WIDTH {
            text.push_str(line);
        } else {
            text.push_str(&short_lines(line).join("\n"));
        }
        text.push('\n');
    }
    text
}

/// Breaks a line of a page's source at blanks. A backslash at a line's end joins it with the next
/// one, so that no sentence seems to end there, and an entry's word stays one line.
fn short_lines(line: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split_inclusive(' ') {
        if let Some(last) = lines.last_mut() {
            if !last.is_empty() && source_width(last) + source_width(word) >= SOURCE_WIDTH {
                last.push('\\');
                lines.push(word.to_owned());
            } else {
                last.push_str(word);
            }
        }
    }
    lines
}

/// Text whose words in backticks are bold.
pub(crate) fn inline(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(n, part)| if n % 2 == 0 { roman(part) } else { bold(part) }).collect()
}

/// A paragraph of its own.
pub(crate) fn paragraph(roff: &mut Roff, text: &str) {
    roff.control("PP", []).text(inline(text));
}

/// An entry of a list: its word, and what it means.
pub(crate) fn entry(roff: &mut Roff, tag: Vec<Inline>, text: &str) {
    roff.control("TP", []).text(tag);
    paragraphs(roff, text);
}

/// The paragraphs of an entry.
pub(crate) fn paragraphs(roff: &mut Roff, text: &str) {
    for (n, paragraph) in text.split("\n\n").enumerate() {
        if n > 0 {
            roff.control("IP", []);
        }
        roff.text(inline(&paragraph.replace('\n', " ")));
    }
}

/// Lines that stay as they are. One that is too long goes on further in, a `command` as a shell
/// reads it.
pub(crate) fn example<'a>(roff: &mut Roff, command: bool, lines: impl IntoIterator<Item = &'a str>) {
    roff.control("RS", ["2"]).control("EX", []);
    for line in lines {
        for line in folded(line, command) {
            roff.text([roman(line)]);
        }
    }
    roff.control("EE", []).control("RE", []);
}

/// A line in lines of at most [`EXAMPLE_WIDTH`] columns, where blanks outside of quotes allow it.
fn folded(line: &str, command: bool) -> Vec<String> {
    let columns = |text: &str| text.chars().count();
    if columns(line) <= EXAMPLE_WIDTH {
        return vec![line.to_owned()];
    }
    // A comment behind a command stands before it.
    if command && let Some((before, comment)) = line.rsplit_once(" # ") {
        let mut lines = folded(&format!("# {}", comment.trim()), false);
        lines.extend(folded(before.trim_end(), command));
        return lines;
    }
    // A blank and a backslash.
    let width = EXAMPLE_WIDTH - if command { 2 } else { 0 };
    let mut lines = vec![String::new()];
    for word in words(line) {
        let last = lines.last().map_or(0, |line| columns(line));
        if last > 0 && last + 1 + columns(word) > width {
            lines.push(format!("    {word}"));
        } else if let Some(line) = lines.last_mut() {
            line.push_str(if last > 0 { " " } else { "" });
            line.push_str(word);
        }
    }
    let last = lines.len() - 1;
    if command {
        lines[..last].iter_mut().for_each(|line| line.push_str(" \\"));
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
        assert_eq!(
            folded(command, true),
            [
                r"taptrail lake sql s3://logs/lake who --mac 52:54:00:12:34:56 --at \",
                "    'tue 14:05' | duckdb"
            ]
        );
        assert_eq!(folded("taptrail list", true), ["taptrail list"]);
        let command = "ausearch -m VIRT_RESOURCE --raw | grep ' reason=bridge-open ' | grep 'res=failed'  # refused ones";
        assert_eq!(
            folded(command, true),
            [
                "# refused ones",
                "ausearch -m VIRT_RESOURCE --raw | grep ' reason=bridge-open ' | grep \\",
                "    'res=failed'"
            ]
        );
        let record = "virt=kvm resrc=net reason=open vm=\"web1\" uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e res=success";
        let lines = folded(record, false);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.len() <= EXAMPLE_WIDTH && !line.ends_with('\\')), "{lines:?}");
    }

    #[test]
    fn a_source_line_is_short_and_a_heading_begins_a_paragraph() {
        let sentence =
            "This sentence has as many words as are needed for it to reach the eightieth byte. Another";
        assert_eq!(
            short_lines(sentence),
            [
                "This sentence has as many words as are needed for it to reach the eightieth \\",
                "byte. Another"
            ]
        );
        let mut roff = Roff::new();
        roff.control("SH", ["NAME"])
            .control("PP", [])
            .text([roman("a")])
            .control("PP", [])
            .text([roman("b")]);
        let source = source(&roff);
        assert!(source.ends_with(".SH NAME\na\n.PP\nb\n"), "{source}");
    }

    #[test]
    fn what_is_in_backticks_is_bold() {
        assert_eq!(inline("see `taptrail adopt`"), vec![roman("see "), bold("taptrail adopt")]);
    }
}
