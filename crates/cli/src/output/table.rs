//! Tables whose columns are as wide as what is in them.

use super::Style;

/// The space between two columns.
const GAP: &str = "  ";

/// To which side the cells of a column lean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// One cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell with a style.
    pub fn styled(text: impl Into<String>, style: Style) -> Cell {
        Cell { text: text.into(), style }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.to_string(), style: Style::Plain }
    }
}

/// Rows under a heading. A table without rows prints nothing.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    headed: bool,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), headed: true, rows: Vec::new() }
    }

    /// A table without a heading.
    pub fn without_heading(columns: &[Align]) -> Table {
        let columns = columns.iter().map(|align| ("", *align)).collect();
        Table { columns, headed: false, rows: Vec::new() }
    }

    /// Adds a row, which has as many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = cells.into_iter().collect();
        row.resize_with(self.columns.len(), Cell::default);
        self.rows.push(row);
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines.
    pub fn render(&self, colours: bool) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let heading = self.columns.iter().map(|(name, _)| Cell::styled(*name, Style::Head)).collect();
        let lines: Vec<&Vec<Cell>> =
            self.headed.then_some(&heading).into_iter().chain(self.rows.iter()).collect();
        let width = |column: usize| lines.iter().map(|row| width(&row[column].text)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for row in lines {
            text.push_str(self.render_row(row, &widths, colours).trim_end());
            text.push('\n');
        }
        text
    }

    fn render_row(&self, row: &[Cell], widths: &[usize], colours: bool) -> String {
        let cells = row.iter().zip(&self.columns).zip(widths).map(|((cell, (_, align)), full)| {
            let space = " ".repeat(full - width(&cell.text));
            let painted = match cell.text.is_empty() {
                true => String::new(),
                false => cell.style.paint(colours, &cell.text),
            };
            match align {
                Align::Left => painted + &space,
                Align::Right => space + &painted,
            }
        });
        cells.collect::<Vec<_>>().join(GAP)
    }
}

/// How many columns of a terminal a text takes, counted as one a character.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colours() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("STATE", Align::Left)]);
        table.row(["größe".into(), 5.into(), Cell::styled("active", Style::Good)]);
        table.row(["b".into(), 12345.into(), Cell::styled("", Style::Bad)]);
        assert_eq!(table.render(false), "NAME    SIZE  STATE\ngröße      5  active\nb      12345\n");
        let coloured = table.render(true);
        assert!(coloured.contains("      5  \u{1b}[32mactive\u{1b}[0m\n"), "{coloured:?}");
    }

    #[test]
    fn an_empty_table_prints_nothing() {
        assert_eq!(Table::new(&[("NAME", Align::Left)]).render(false), "");
    }
}
