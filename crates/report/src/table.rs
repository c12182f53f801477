use std::fmt;

use compact_str::{CompactString, ToCompactString as _};
use unicode_width::UnicodeWidthStr as _;

use crate::Style;
use crate::fold::fold_name;

/// Number of blanks between columns.
const COLUMN_GAP: usize = 2;

/// Folding makes no column narrower than this, in columns of a terminal.
const MIN_COLUMN_WIDTH: usize = 8;

/// A table without lines, like that of `ps`: a header, and rows whose columns stand two blanks
/// apart.
#[derive(Debug)]
pub(crate) struct Table {
    /// Row by row, the header's first.
    cells: Vec<Cell>,
    /// The width of each column's widest cell.
    widths: Vec<usize>,
    color: bool,
    /// Whether some cell has several lines.
    multiline: bool,
}

/// One cell: one or more lines, with one colour and one alignment.
#[derive(Debug)]
pub(crate) struct Cell {
    text: CompactString,
    /// In columns of a terminal.
    width: usize,
    /// Whether it has several lines.
    multiline: bool,
    right: bool,
    color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Color {
    Default,
    Bold,
    Green,
    Yellow,
    Red,
}

impl Color {
    /// The escape sequences that switch it on and off.
    fn escapes(self) -> (&'static str, &'static str) {
        match self {
            Self::Default => ("", ""),
            Self::Bold => ("\x1b[1m", "\x1b[0m"),
            Self::Green => ("\x1b[38;5;2m", "\x1b[39m"),
            Self::Yellow => ("\x1b[38;5;3m", "\x1b[39m"),
            Self::Red => ("\x1b[38;5;1m", "\x1b[39m"),
        }
    }
}

impl Cell {
    /// The same at the right of its column.
    pub(crate) fn aligned_right(self) -> Self {
        Self { right: true, ..self }
    }
}

impl Table {
    /// A table of as many columns as the header has names.
    pub(crate) fn new(style: &Style, header: &[&str]) -> Self {
        let mut table = Self::without_header(style, header.len());
        table.row(header.iter().map(|name| Cell { color: Color::Bold, ..cell(*name) }));
        table
    }

    /// A table without a header.
    pub(crate) fn without_header(style: &Style, columns: usize) -> Self {
        Self { cells: Vec::new(), widths: vec![0; columns], color: style.color, multiline: false }
    }

    /// Reserves memory for so many rows.
    pub(crate) fn reserve_rows(&mut self, rows: usize) {
        self.cells.reserve_exact(rows.saturating_mul(self.widths.len()));
    }

    /// Adds a row. Extra cells are left out, and missing ones are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut cells = cells.into_iter();
        for width in &mut self.widths {
            let cell = cells.next().unwrap_or_else(|| cell(""));
            *width = (*width).max(cell.width);
            self.multiline |= cell.multiline;
            self.cells.push(cell);
        }
    }

    /// Adds a row of several lines, and an empty line below it.
    pub(crate) fn block(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.row(cells);
        self.row([]);
    }

    /// Whether it is no wider than the style's width.
    pub(crate) fn fits(&self, style: &Style) -> bool {
        style.width.is_none_or(|width| self.width() <= usize::from(width))
    }

    /// Drops columns in an order, until the table is at most `slack` wider than the style's width.
    /// `names` are the columns in their order. Returns those that were dropped.
    pub(crate) fn drop_columns<C: Copy + PartialEq>(
        &mut self,
        style: &Style,
        names: &[C],
        order: &[C],
        slack: usize,
    ) -> Vec<C> {
        let mut kept: Vec<_> = (0..self.widths.len()).collect();
        let mut dropped = Vec::new();
        let width = |kept: &[usize]| {
            kept.iter().map(|at| self.widths[*at] + COLUMN_GAP).sum::<usize>().saturating_sub(COLUMN_GAP)
        };
        let fits = |kept: &[usize]| style.width.is_none_or(|most| width(kept) <= usize::from(most) + slack);
        for name in order {
            if fits(&kept) {
                break;
            }
            let before = kept.len();
            kept.retain(|at| names.get(*at) != Some(name));
            dropped.extend((kept.len() < before).then_some(*name));
        }
        if dropped.is_empty() {
            return dropped;
        }
        let columns = self.widths.len();
        let cells = std::mem::take(&mut self.cells).into_iter().enumerate();
        self.cells = cells.filter(|(at, _)| kept.contains(&(at % columns))).map(|(_, cell)| cell).collect();
        self.widths = kept.iter().map(|at| self.widths[*at]).collect();
        dropped
    }

    /// Narrows columns in an order, each to a width at least, until the table fits the style's
    /// width, and folds their cells. `names` are the columns in their order. Other columns are never
    /// folded. A column may stand in the order again, with a smaller width.
    pub(crate) fn fold_columns<C: Copy + PartialEq>(
        &mut self,
        style: &Style,
        names: &[C],
        order: &[(C, usize)],
    ) {
        let Some(most) = style.width.map(usize::from) else { return };
        let before = self.widths.clone();
        for (name, least) in order {
            let excess = self.width().saturating_sub(most);
            let Some(column) = names.iter().position(|of| of == name).filter(|_| excess > 0) else {
                continue;
            };
            let width = self.widths[column];
            self.widths[column] = width.saturating_sub(excess).max(width.min(*least));
        }
        for (column, width) in before.into_iter().enumerate() {
            if self.widths[column] < width {
                self.fold_column(column);
            }
        }
    }

    /// The width of a column, from the left.
    pub(crate) fn column_width(&self, column: usize) -> usize {
        self.widths.get(column).copied().unwrap_or_default()
    }

    /// Folds what is wider than its column.
    fn fold_column(&mut self, column: usize) {
        let (columns, width) = (self.widths.len(), self.widths[column]);
        for cell in self.cells.iter_mut().skip(column).step_by(columns).filter(|cell| cell.width > width) {
            let lines: Vec<_> = cell.text.lines().flat_map(|line| fold_name(line, width)).collect();
            cell.text = lines.join("\n").into();
            cell.width = width;
            cell.multiline = true;
            self.multiline = true;
        }
    }

    /// Narrows the widest columns and folds their cells, until the table fits the style's width.
    pub(crate) fn folded(mut self, style: &Style) -> Self {
        let Some(most) = style.width.map(usize::from) else { return self };
        let mut cap = self.widths.iter().copied().max().unwrap_or_default();
        while self.width() > most && cap > MIN_COLUMN_WIDTH {
            cap -= 1;
            self.widths.iter_mut().for_each(|width| *width = cap.min(*width));
        }
        (0..self.widths.len()).for_each(|column| self.fold_column(column));
        self
    }

    /// The table's lines, without blanks at their ends.
    pub(crate) fn text(&self) -> String {
        let mut text =
            String::with_capacity(self.cells.len() / self.widths.len().max(1) * (self.width() + 1));
        for row in self.cells.chunks(self.widths.len().max(1)) {
            self.write_row(row, &mut text);
        }
        // Without the empty lines at the end.
        text.truncate(text.trim_end_matches('\n').len());
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    /// The rows one by one, each with its lines.
    pub(crate) fn rows(&self) -> impl Iterator<Item = String> {
        self.cells.chunks(self.widths.len().max(1)).map(|row| {
            let mut text = String::new();
            self.write_row(row, &mut text);
            text
        })
    }

    fn width(&self) -> usize {
        self.widths.iter().map(|width| width + COLUMN_GAP).sum::<usize>().saturating_sub(COLUMN_GAP)
    }

    fn write_row(&self, row: &[Cell], text: &mut String) {
        if !self.multiline {
            self.write_line(row.iter().map(|cell| (cell, cell.text.as_str(), cell.width)), text);
            return;
        }
        let height = row.iter().map(|cell| cell.text.lines().count()).max().unwrap_or_default();
        let mut cells: Vec<_> = row.iter().map(|cell| (cell, cell.text.lines())).collect();
        for _ in 0..height.max(1) {
            let parts = cells.iter_mut().map(|(cell, lines)| (*cell, lines.next().unwrap_or_default()));
            self.write_line(parts.map(|(cell, part)| (cell, part, columns(part))), text);
        }
    }

    fn write_line<'a>(&self, parts: impl Iterator<Item = (&'a Cell, &'a str, usize)>, text: &mut String) {
        for ((cell, part, width), column) in parts.zip(&self.widths) {
            let blanks = column.saturating_sub(width);
            let (on, off) = if self.color { cell.color.escapes() } else { ("", "") };
            text.push_str(on);
            if cell.right {
                pad(text, blanks);
                text.push_str(part);
                pad(text, COLUMN_GAP);
            } else {
                text.push_str(part);
                pad(text, blanks + COLUMN_GAP);
            }
            text.push_str(off);
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
}

fn pad(text: &mut String, mut blanks: usize) {
    const MANY: &str = "                                ";
    while blanks > MANY.len() {
        text.push_str(MANY);
        blanks -= MANY.len();
    }
    text.push_str(&MANY[..blanks]);
}

/// The width of a line in columns of a terminal.
fn columns(line: &str) -> usize {
    if line.is_ascii() { line.len() } else { line.width() }
}

pub(crate) fn cell(text: impl Into<CompactString>) -> Cell {
    let text = text.into();
    let multiline = text.contains('\n');
    let width = if multiline { text.lines().map(columns).max().unwrap_or_default() } else { columns(&text) };
    Cell { text, width, multiline, right: false, color: Color::Default }
}

/// As [`cell`], of any value that can be formatted.
pub(crate) fn display(value: impl fmt::Display) -> Cell {
    cell(value.to_compact_string())
}

pub(crate) fn number(value: impl fmt::Display) -> Cell {
    display(value).aligned_right()
}

pub(crate) fn good(text: &str) -> Cell {
    Cell { color: Color::Green, ..cell(text) }
}

pub(crate) fn warning(text: &str) -> Cell {
    Cell { color: Color::Yellow, ..cell(text) }
}

pub(crate) fn bad(text: &str) -> Cell {
    Cell { color: Color::Red, ..cell(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(width: u16) -> Style {
        Style { width: Some(width), ..Style::default() }
    }

    fn table(rows: &[[&str; 2]]) -> Table {
        let mut table = Table::new(&Style::default(), &["A", "B"]);
        rows.iter().for_each(|row| table.row(row.map(cell)));
        table
    }

    #[test]
    fn columns_are_as_wide_as_a_terminal_shows_their_cells() {
        let text = table(&[["名", "x"], ["e\u{301}", "y"], ["abcde", "z"]]).text();
        assert_eq!(text, "A      B\n名     x\ne\u{301}      y\nabcde  z\n");
    }

    #[test]
    fn cells_of_several_lines_stand_beside_each_other() {
        let mut table = table(&[]);
        table.block(["one\ntwo", "1\n\n3"].map(cell));
        table.block([cell("four"), number(4)]);
        assert_eq!(table.text(), "A     B\none   1\ntwo\n      3\n\nfour  4\n");
    }

    #[test]
    fn the_widest_columns_are_folded_first() {
        let table = table(&[["short", "many words in one cell"], ["x", "a-long-word-without-blanks"]]);
        assert!(table.fits(&style(33)) && !table.fits(&style(32)));
        let text = table.folded(&style(20)).text();
        assert_eq!(
            text,
            "A      B\nshort  many words in\n       one cell\nx      a-long-word-\n       without-\n       blanks\n"
        );
    }

    #[test]
    fn columns_are_dropped_in_an_order_until_the_rest_fits() {
        let rows = [["aaaa", "bbbbbbbb"]];
        let mut wide = table(&rows);
        assert_eq!(wide.drop_columns(&style(14), &['a', 'b'], &['a', 'b'], 0), []);
        let mut narrow = table(&rows);
        assert_eq!(narrow.drop_columns(&style(13), &['a', 'b'], &['x', 'a', 'b'], 0), ['a']);
        assert_eq!(narrow.text(), "B\nbbbbbbbb\n");
        assert_eq!(table(&rows).drop_columns(&style(13), &['a', 'b'], &['a'], 1), []);
    }

    #[test]
    fn only_columns_that_may_be_folded_are() {
        let mut folded = table(&[["two words", "one-long-name"]]);
        folded.fold_columns(&style(12), &['a', 'b'], &[('a', 8)]);
        assert_eq!(folded.text(), "A         B\ntwo       one-long-name\nwords\n");
    }

    #[test]
    fn a_terminal_of_no_width_gets_the_narrowest_table() {
        let text = table(&[["a cell that is long", "another that is long"]]).folded(&style(0)).text();
        assert!(text.lines().all(|line| line.len() <= 2 * MIN_COLUMN_WIDTH + COLUMN_GAP), "{text}");
        assert_eq!(Table::without_header(&Style::default(), 0).text(), "");
    }
}
