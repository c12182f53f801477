//! The text below the options of `--help`, taken apart: examples, exit codes, other lists, and
//! paragraphs.

/// A part of such a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Block {
    Paragraph(String),
    /// Commands, a line each.
    Example(Vec<String>),
    /// Words and what they mean.
    List(Vec<(String, String)>),
}

/// The parts below one heading.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notes {
    /// As it is written, without its colon; `None` for paragraphs that have none.
    pub(super) heading: Option<String>,
    pub(super) blocks: Vec<Block>,
}

pub(super) const EXAMPLES: &str = "Examples";
pub(super) const EXIT_CODES: &str = "Exit codes";

/// Takes a text apart. A heading is one or two words with a colon at the beginning of a paragraph.
pub(super) fn parse(text: &str) -> Vec<Notes> {
    let mut all: Vec<Notes> = Vec::new();
    for paragraph in text.split("\n\n") {
        let mut lines = paragraph.lines();
        let first = lines.next().unwrap_or_default();
        let (heading, rest) = match first.split_once(':') {
            Some((word, rest)) if is_heading(word) => (Some(word), rest.trim()),
            _ => (None, first),
        };
        let heading = heading.map(|word| if word == "Example" { EXAMPLES } else { word });
        let indented: Vec<&str> = lines.collect();
        let mut blocks = Vec::new();
        match heading {
            Some(EXIT_CODES) if !rest.is_empty() => blocks.push(Block::List(codes(rest))),
            // What the example shows.
            Some(EXAMPLES) if !rest.is_empty() => {
                blocks.push(Block::Paragraph(format!("{}:", capital(rest.trim_end_matches(':')))))
            }
            _ if !rest.is_empty() => blocks.push(Block::Paragraph(rest.to_owned())),
            _ => {}
        }
        match heading {
            Some(EXAMPLES) => {
                blocks.push(Block::Example(indented.iter().map(|line| line.trim().to_owned()).collect()))
            }
            _ if indented.is_empty() => {}
            _ => blocks.push(Block::List(list(&indented))),
        }
        // Paragraphs without a heading belong together; one about exit codes, to these.
        let joins = |last: &Notes| match last.heading.as_deref() {
            None => heading.is_none(),
            Some(of) => heading.is_none() && of == EXIT_CODES && rest.contains("exit code"),
        };
        match all.last_mut() {
            Some(last) if joins(last) => last.blocks.extend(blocks),
            _ => all.push(Notes { heading: heading.map(str::to_owned), blocks }),
        }
    }
    all.retain(|notes| !notes.blocks.is_empty());
    all
}

/// A meaning without the full stop of its only sentence: entries are no sentences.
fn without_stop(meaning: &str) -> String {
    let is_single = !meaning.contains(". ");
    meaning.strip_suffix('.').filter(|_| is_single).unwrap_or(meaning).to_owned()
}

fn is_heading(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.chars().skip(1).all(|character| character.is_ascii_lowercase() || character == ' ')
        && word.split(' ').count() <= 2
}

/// `0 success; 2 wrong arguments`, as a list.
fn codes(text: &str) -> Vec<(String, String)> {
    let mut codes: Vec<(String, String)> = Vec::new();
    for part in text.split("; ") {
        match part.split_once(' ') {
            Some((code, meaning)) if code.chars().all(|digit| digit.is_ascii_digit()) => {
                codes.push((code.to_owned(), meaning.to_owned()));
            }
            _ => {
                if let Some((_, meaning)) = codes.last_mut() {
                    meaning.push_str("; ");
                    meaning.push_str(part);
                }
            }
        }
    }
    codes.into_iter().map(|(code, meaning)| (code, without_stop(&meaning))).collect()
}

/// Lines of a word, blanks, and its meaning; a meaning goes on in lines that are further in.
fn list(lines: &[&str]) -> Vec<(String, String)> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let least = lines.iter().map(|line| indent(line)).min().unwrap_or_default();
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in lines {
        let text = line.trim();
        match entries.last_mut() {
            Some((_, meaning)) if indent(line) > least => {
                meaning.push(' ');
                meaning.push_str(text);
            }
            _ => {
                let (word, meaning) = text.split_once("  ").unwrap_or((text, ""));
                entries.push((word.to_owned(), meaning.trim().to_owned()));
            }
        }
    }
    entries
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_codes_lists_and_paragraphs_are_told_apart() {
        let text = "Example: what web1 held\n  taptrail trail --guest web1\n\nVerdicts:\n  accounted  a record \
                    grants it\n  missing    no process\n             holds it\n\nFILE is a log: compressed or \
                    not.\n\nExit codes: 0 success; 1 one thing; or another; 2 wrong arguments\n\n`taptrail run` has \
                    QEMU's exit code.\n\nTIME is a time.";
        let heading = |word: &str| Some(word.to_owned());
        let pair = |word: &str, meaning: &str| (word.to_owned(), meaning.to_owned());
        assert_eq!(
            parse(text),
            [
                Notes {
                    heading: heading("Examples"),
                    blocks: vec![
                        Block::Paragraph("What web1 held:".to_owned()),
                        Block::Example(vec!["taptrail trail --guest web1".to_owned()]),
                    ],
                },
                Notes {
                    heading: heading("Verdicts"),
                    blocks: vec![Block::List(vec![
                        pair("accounted", "a record grants it"),
                        pair("missing", "no process holds it"),
                    ])],
                },
                Notes {
                    heading: None,
                    blocks: vec![Block::Paragraph("FILE is a log: compressed or not.".to_owned())],
                },
                Notes {
                    heading: heading("Exit codes"),
                    blocks: vec![
                        Block::List(vec![
                            pair("0", "success"),
                            pair("1", "one thing; or another"),
                            pair("2", "wrong arguments"),
                        ]),
                        Block::Paragraph("`taptrail run` has QEMU's exit code.".to_owned()),
                    ],
                },
                Notes { heading: None, blocks: vec![Block::Paragraph("TIME is a time.".to_owned())] },
            ]
        );
    }
}
