use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use crate::Style;

/// Blanks between columns.
const GAP: u16 = 2;

/// A table without lines, as `ps` has: a header, and rows whose columns stand two blanks apart.
#[derive(Debug)]
pub(crate) struct Plain(Table);

impl Plain {
    /// A table as wide as its cells.
    pub(crate) fn new(style: &Style, header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        table.set_content_arrangement(ContentArrangement::Disabled);
        if style.color {
            table.enforce_styling();
        }
        if !header.is_empty() {
            table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        }
        Self(table)
    }

    /// A table that folds its cells into the style's width, if it has one.
    pub(crate) fn folded(style: &Style, header: &[&str]) -> Self {
        let Self(mut table) = Self::new(style, header);
        if let Some(width) = style.width {
            // The last column's gap is not shown.
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.saturating_add(GAP));
        }
        Self(table)
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.0.add_row(cells.into_iter().collect::<Vec<Cell>>());
    }

    /// A row of several lines, and a free line below it.
    pub(crate) fn block(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.row(cells);
        self.row([cell("")]);
    }

    /// Whether it is no wider than the style's width.
    pub(crate) fn fits(&self, style: &Style) -> bool {
        let widths = self.0.column_max_content_widths();
        let all: usize = widths.into_iter().map(|width| usize::from(width + GAP)).sum();
        style.width.is_none_or(|width| all <= usize::from(width.saturating_add(GAP)))
    }

    /// The lines, without blanks at their ends.
    pub(crate) fn lines(mut self) -> Vec<String> {
        for column in self.0.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        self.0.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// All lines, each ended; free ones at the end are left out.
    pub(crate) fn text(self) -> String {
        let mut lines = self.lines();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect()
    }
}

pub(crate) fn cell(text: impl ToString) -> Cell {
    Cell::new(text)
}

pub(crate) fn number(value: impl ToString) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

pub(crate) fn good(text: &str) -> Cell {
    Cell::new(text).fg(Color::DarkGreen)
}

pub(crate) fn warning(text: &str) -> Cell {
    Cell::new(text).fg(Color::DarkYellow)
}

pub(crate) fn bad(text: &str) -> Cell {
    Cell::new(text).fg(Color::DarkRed)
}
