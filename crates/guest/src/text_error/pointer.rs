//! Renders a problem with a pointer into its text.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use taptrail_record::is_visible;

/// One problem and its place.
pub(crate) struct Pointer<'a> {
    /// What is wrong.
    pub(crate) title: &'a str,
    /// The text's file, when it has one.
    pub(crate) origin: Option<&'a str>,
    pub(crate) text: &'a str,
    /// The place, in bytes of the text.
    pub(crate) span: Range<usize>,
    /// More about the place.
    pub(crate) label: Option<&'a str>,
    /// The other place, if two contradict each other.
    pub(crate) beside: Option<Range<usize>>,
    /// What to write instead.
    pub(crate) help: Option<&'a str>,
}

impl Pointer<'_> {
    /// Several lines without a line break at the end; coloured for a terminal.
    pub(crate) fn render(&self, color: bool) -> String {
        let mut primary = AnnotationKind::Primary.span(within(self.text, &self.span));
        if let Some(label) = self.label {
            primary = primary.label(printable(label));
        }
        let mut snippet = Snippet::source(self.text).annotation(primary);
        if let Some(beside) = &self.beside {
            snippet = snippet.annotation(AnnotationKind::Context.span(within(self.text, beside)));
        }
        if let Some(origin) = self.origin {
            snippet = snippet.path(printable(origin));
        }
        let mut group: Group<'_> = Level::ERROR.primary_title(self.title).element(snippet);
        if let Some(help) = self.help {
            group = group.element(Level::HELP.message(printable(help)));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

/// `span` brought within `text` and to its characters' borders: the fields of an error are public,
/// and drawing it must not fail.
fn within(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    start..text.ceil_char_boundary(span.end).max(start)
}

/// The number of characters before byte `offset`.
pub(crate) fn characters_before(text: &str, offset: usize) -> usize {
    text[..text.floor_char_boundary(offset)].chars().count()
}

/// The byte at a line and column, both counted from 1, the column in characters.
pub(crate) fn offset(text: &str, line: u32, column: u32) -> usize {
    let lines_before = (line as usize).saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(lines_before).map(str::len).sum();
    let characters_before = (column as usize).saturating_sub(1);
    text[start..].char_indices().nth(characters_before).map_or(text.len(), |(at, _)| start + at)
}

/// `text` with invisible characters escaped: text from outside must not move the cursor.
pub(crate) fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_visible(c) { line.push(c) } else { line.extend(c.escape_default()) }
    }
    line
}
