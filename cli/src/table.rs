// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables for people: columns that fit the terminal. Where output is no terminal, nothing is cut off.

use std::io::{IsTerminal as _, Write as _};

/// Blanks between two columns.
const GAP: usize = 2;
/// A column that has to give way keeps this width.
const LEAST: usize = 8;

/// How a column stands, and whether it may be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    /// Numbers.
    Right,
    /// Left; the first to be cut off where the terminal is too narrow.
    Long,
}

/// A table: a heading and an alignment for each column, and rows.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    heading: bool,
    gap: usize,
}

impl Table {
    pub(crate) fn new(columns: Vec<(&'static str, Align)>, heading: bool) -> Self {
        Self { columns, rows: Vec::new(), heading, gap: GAP }
    }

    /// With so many blanks between two columns.
    pub(crate) fn gap(self, gap: usize) -> Self {
        Self { gap, ..self }
    }

    /// Adds a row. An empty cell is shown as `-`.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Prints it to standard output.
    pub(crate) fn print(&self) {
        let mut stdout = std::io::stdout().lock();
        // Nobody reads it any more.
        let _ = stdout.write_all(self.text(width()).as_bytes());
    }

    /// The lines of the table, in at most `width` columns if that is possible.
    pub(crate) fn text(&self, width: Option<usize>) -> String {
        let widths = self.widths(width);
        let mut text = String::new();
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        for row in self.heading.then_some(&heading).into_iter().chain(&self.rows) {
            let cells = row.iter().zip(&self.columns).zip(&widths).map(|((cell, (_, align)), width)| {
                let cell = cut(cell, *width);
                let blanks = " ".repeat(width - cell.chars().count());
                if *align == Align::Right { blanks + &cell } else { cell + &blanks }
            });
            let line = cells.collect::<Vec<_>>().join(&" ".repeat(self.gap));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let width = |index: usize, (name, _): &(&str, Align)| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
            let heading = if self.heading { name.chars().count() } else { 0 };
            cells.max().unwrap_or(0).max(heading)
        };
        let mut widths: Vec<usize> =
            self.columns.iter().enumerate().map(|(index, column)| width(index, column)).collect();
        let Some(limit) = limit else { return widths };
        // The last long column gives way first, then those before it.
        for (index, (_, align)) in self.columns.iter().enumerate().rev() {
            let all = widths.iter().sum::<usize>() + self.gap * widths.len().saturating_sub(1);
            let over = all.saturating_sub(limit);
            if *align == Align::Long && over > 0 {
                widths[index] = widths[index].saturating_sub(over).max(LEAST.min(widths[index]));
            }
        }
        widths
    }
}

/// A cell in at most `width` characters; one that was cut off ends in `…`.
fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The width of the terminal; `None` if standard output is none.
pub(crate) fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_columns_give_way() {
        let mut table =
            Table::new(vec![("NAME", Align::Left), ("SIZE", Align::Right), ("SOURCE", Align::Long)], true);
        table.row(vec!["a".into(), "10G".into(), "/a/very/long/path.img".into()]);
        table.row(vec!["bcdef".into(), "512".into(), String::new()]);
        assert_eq!(
            table.text(None),
            "NAME   SIZE  SOURCE\na       10G  /a/very/long/path.img\nbcdef   512  -\n"
        );
        assert_eq!(table.text(Some(24)), "NAME   SIZE  SOURCE\na       10G  /a/very/lo…\nbcdef   512  -\n");
        assert!(table.text(Some(5)).contains("/a/very…"));
    }
}
