//! Markdown as roff, as far as this repository's documents use it. What is not known here is an
//! error, so that no page lacks anything.

use anyhow::{Result, bail};
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, italic, roman};

use super::pages::page_of;
use super::text::example;

/// Headings of columns that need no name in front of what stands in them.
const UNNAMED: [&str; 3] = ["", "Says", "Value"];

/// The documents that a text refers to, and that have no page of their own.
#[derive(Debug, Default)]
pub(super) struct Links {
    documents: Vec<String>,
}

impl Links {
    /// Their names, in order.
    pub(super) fn documents(mut self) -> Vec<String> {
        self.documents.sort();
        self.documents.dedup();
        self.documents
    }
}

/// Converts a document. Its title is left out: a page has its own.
pub(super) fn convert(markdown: &str, links: &mut Links) -> Result<Roff> {
    let mut converter = Converter {
        roff: Roff::new(),
        line: Vec::new(),
        strong: false,
        emphasis: false,
        lists: Vec::new(),
        item_begins: false,
        link: None,
        code: None,
        columns: Vec::new(),
        row: Vec::new(),
        links,
    };
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        converter.take(event)?;
    }
    Ok(converter.roff)
}

struct Converter<'a> {
    roff: Roff,
    /// The line that is being put together.
    line: Vec<Inline>,
    strong: bool,
    emphasis: bool,
    /// Of each list that is open, the number of its next item; `None` for bullets.
    lists: Vec<Option<u64>>,
    /// The item's first paragraph stands beside its bullet.
    item_begins: bool,
    /// The target of a link, and where its text begins in the line.
    link: Option<(String, usize)>,
    /// The language of a block of code, and its text.
    code: Option<(String, String)>,
    /// The headings of a table's columns.
    columns: Vec<String>,
    row: Vec<Vec<Inline>>,
    links: &'a mut Links,
}

impl Converter<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Start(tag) => self.start(tag)?,
            Event::End(tag) => self.end(tag)?,
            Event::Text(text) => match &mut self.code {
                Some((_, code)) => code.push_str(&text),
                None => self.push(&text),
            },
            Event::Code(text) => self.line.push(bold(text.as_ref())),
            Event::SoftBreak => self.push(" "),
            Event::HardBreak => self.line.push(Inline::LineBreak),
            // What is for whoever writes documents, and not for readers.
            Event::Html(text) | Event::InlineHtml(text) if text.trim_start().starts_with("<!--") => {}
            other => bail!("{other:?} can't be converted to a manual page"),
        }
        Ok(())
    }

    fn push(&mut self, text: &str) {
        self.line.push(match (self.strong, self.emphasis) {
            (true, _) => bold(text),
            (_, true) => italic(text),
            _ => roman(text),
        });
    }

    fn start(&mut self, tag: Tag<'_>) -> Result<()> {
        match tag {
            Tag::Paragraph | Tag::HtmlBlock | Tag::Heading { .. } => self.flush(),
            Tag::Emphasis => self.emphasis = true,
            Tag::Strong => self.strong = true,
            Tag::Link { dest_url, .. } => self.link = Some((dest_url.into_string(), self.line.len())),
            Tag::CodeBlock(kind) => {
                self.flush();
                let language = match kind {
                    CodeBlockKind::Fenced(language) => language.into_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                self.code = Some((language, String::new()));
            }
            Tag::List(first) => {
                self.flush();
                if !self.lists.is_empty() {
                    self.roff.control("RS", []);
                }
                self.lists.push(first);
            }
            Tag::Item => {
                match self.lists.last_mut() {
                    Some(Some(number)) => {
                        self.roff.control("IP", [format!("{number}.").as_str(), "4"]);
                        *number += 1;
                    }
                    _ => {
                        self.roff.control("IP", ["\\(bu", "2"]);
                    }
                }
                self.item_begins = true;
            }
            Tag::Table(_) => {
                self.flush();
                self.columns.clear();
            }
            Tag::TableHead | Tag::TableRow => self.row.clear(),
            Tag::TableCell => {}
            other => bail!("{other:?} can't be converted to a manual page"),
        }
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) -> Result<()> {
        match tag {
            TagEnd::Paragraph => self.flush(),
            TagEnd::Heading(level) => {
                let heading = plain(&std::mem::take(&mut self.line));
                match level {
                    HeadingLevel::H1 => {}
                    HeadingLevel::H2 => {
                        self.roff.control("SH", [heading.to_uppercase().as_str()]);
                    }
                    _ => {
                        self.roff.control("SS", [heading.as_str()]);
                    }
                }
            }
            TagEnd::Emphasis => self.emphasis = false,
            TagEnd::Strong => self.strong = false,
            TagEnd::Link => self.end_link(),
            TagEnd::CodeBlock => {
                let (language, code) = self.code.take().unwrap_or_default();
                self.write_code(&language, &code);
            }
            TagEnd::List(_) => {
                self.lists.pop();
                if !self.lists.is_empty() {
                    self.roff.control("RE", []);
                }
            }
            TagEnd::Item => self.flush(),
            TagEnd::TableCell => self.row.push(std::mem::take(&mut self.line)),
            TagEnd::TableHead => self.columns = self.row.drain(..).map(|cell| plain(&cell)).collect(),
            TagEnd::TableRow => self.write_row(),
            _ => {}
        }
        Ok(())
    }

    /// Writes what was put together as a paragraph.
    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        if !std::mem::take(&mut self.item_begins) {
            self.roff.control(if self.lists.is_empty() { "PP" } else { "IP" }, []);
        }
        self.roff.text(line);
    }

    /// A link to a document that is a page becomes the page's name, to any other the document's.
    fn end_link(&mut self) {
        let Some((target, begin)) = self.link.take() else { return };
        let file = target.split('#').next().unwrap_or_default();
        let name = file.rsplit('/').next().unwrap_or_default();
        if let Some((page, section)) = page_of(name) {
            let text = plain(&self.line[begin..]);
            // The document's name says no more than the page's.
            if text == name || text == page {
                self.line.truncate(begin);
                self.line.extend([bold(page), roman(format!("({section})"))]);
            } else {
                self.line.extend([roman(" (see "), bold(page), roman(format!("({section}))"))]);
            }
        } else if target.contains("://") {
            self.line.push(roman(format!(" ({target})")));
        } else if name.ends_with(".md") {
            self.links.documents.push(name.to_owned());
        }
    }

    fn write_code(&mut self, language: &str, code: &str) {
        self.roff.control(if self.lists.is_empty() { "PP" } else { "IP" }, []);
        example(&mut self.roff, matches!(language, "sh" | "console"), code.lines());
    }

    /// A row as an entry of a list: the first column is what is explained.
    fn write_row(&mut self) {
        let mut cells = self.row.drain(..);
        let first = cells.next().unwrap_or_default();
        self.roff.control("TP", []).text(first);
        // What the one other column of a table is needs no name, unless the first has none either.
        let is_plain = self.columns.len() == 2 && !self.columns[0].is_empty();
        let mut body: Vec<Inline> = Vec::new();
        for (column, cell) in self.columns.iter().skip(1).zip(cells) {
            if cell.is_empty() {
                continue;
            }
            if !body.is_empty() {
                body.push(Inline::LineBreak);
            }
            if !is_plain && !UNNAMED.contains(&column.as_str()) {
                body.push(roman(format!("{column}: ")));
            }
            body.extend(cell);
        }
        // An entry without a text would take the next one's.
        self.roff.text(if body.is_empty() { vec![roman("\u{a0}")] } else { body });
    }
}

/// The text without its styles.
fn plain(line: &[Inline]) -> String {
    let text = line.iter().map(|part| match part {
        Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text.as_str(),
        Inline::LineBreak => " ",
    });
    text.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roff(markdown: &str) -> String {
        convert(markdown, &mut Links::default()).unwrap().to_roff()
    }

    #[test]
    fn a_table_becomes_a_list() {
        let text = "| Key | Says | When left out |\n|---|---|---|\n| `a` | one | none |\n| `b` | two | |\n";
        assert_eq!(roff(text), ".TP\n\\fBa\\fR\none\n.br\nWhen left out: none\n.TP\n\\fBb\\fR\ntwo\n");
    }

    #[test]
    fn a_link_to_a_page_is_its_name_and_comments_are_left_out() {
        let text =
            "# Title\n\n<!-- for writers -->\n\nSee [records.md](records.md#values) and [the API](api.md).\n";
        let mut links = Links::default();
        let roff = convert(text, &mut links).unwrap().to_roff();
        assert_eq!(roff, ".PP\nSee \\fBtaptrail\\-records\\fR(7) and the API.\n");
        assert_eq!(links.documents(), ["api.md"]);
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for text in ["> quoted\n", "![picture](report.png)\n", "<b>bold</b>\n", "<div>\n"] {
            assert!(convert(text, &mut Links::default()).is_err(), "{text}");
        }
    }
}
