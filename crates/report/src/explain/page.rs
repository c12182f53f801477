//! Text for people: lines folded into a width, and values behind their labels.

use std::fmt::Write as _;

use crate::Style;
use crate::fold::fold;
use crate::text::escape_name;

/// The column of the values, behind their labels.
const VALUE_COLUMN: usize = 12;

/// A line is not folded into less.
const MIN_WIDTH: usize = 20;

/// A text in the making.
pub(super) struct Page {
    text: String,
    width: Option<usize>,
    color: bool,
}

impl Page {
    pub(super) fn new(style: &Style) -> Self {
        Self { text: String::new(), width: style.width.map(usize::from), color: style.color }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// An empty line between two parts; none at the beginning.
    pub(super) fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A heading.
    pub(super) fn head(&mut self, line: &str) {
        let (on, off) = if self.color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        for part in fold(line, self.width_behind(0)) {
            // Writing to a String can't fail.
            let _ = writeln!(self.text, "{on}{part}{off}");
        }
    }

    /// A line, folded.
    pub(super) fn line(&mut self, line: &str) {
        for part in fold(line, self.width_behind(0)) {
            let _ = writeln!(self.text, "{part}");
        }
    }

    /// A value behind its label, folded. An empty label continues the one before.
    pub(super) fn row(&mut self, label: &str, value: &str) {
        let mut label = label;
        for part in fold(value, self.width_behind(VALUE_COLUMN)) {
            let _ = writeln!(self.text, "{label:VALUE_COLUMN$}{part}");
            label = "";
        }
    }

    /// As [`row`](Self::row), not folded: what is to be copied, or was folded before.
    pub(super) fn whole_row(&mut self, label: &str, value: &str) {
        let mut label = label;
        for part in value.lines() {
            let _ = writeln!(self.text, "{label:VALUE_COLUMN$}{part}");
            label = "";
        }
    }

    /// Lines as they are, below each other and `indent` columns from the edge.
    pub(super) fn lines(&mut self, indent: usize, text: &str) {
        for line in text.lines() {
            let _ = writeln!(self.text, "{:indent$}{line}", "");
        }
    }

    /// A line, folded, `indent` columns from the edge.
    pub(super) fn folded(&mut self, indent: usize, line: &str) {
        for part in fold(line, self.width_behind(indent)) {
            let _ = writeln!(self.text, "{:indent$}{part}", "");
        }
    }

    /// The columns that are left for values.
    pub(super) fn value_width(&self) -> Option<u16> {
        self.width.map(|_| u16::try_from(self.width_behind(VALUE_COLUMN)).unwrap_or(u16::MAX))
    }

    fn width_behind(&self, indent: usize) -> usize {
        self.width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(MIN_WIDTH))
    }
}

/// Names in one line, safe for a terminal; of many, the first.
pub(crate) fn names<'a>(all: impl ExactSizeIterator<Item = &'a str>) -> String {
    const MAX_NAMES: usize = 8;
    let more = all.len().saturating_sub(MAX_NAMES);
    let mut names: Vec<_> = all.take(MAX_NAMES).map(|name| escape_name(name).into_string()).collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}
