//! How answers are printed: aligned columns for people.

use serde_json::Value;

use crate::exit::Exit;

/// Prints JSON, indented.
pub(crate) fn print_json(value: &Value) -> Result<(), Exit> {
    print(&format!("{value:#}"))
}

/// Prints rows under their titles, in columns as wide as they need to be.
pub(crate) fn print_table(titles: &[&str], rows: &[Vec<String>]) -> Result<(), Exit> {
    print(&table(titles, rows))
}

/// Prints text and a line end. A reader that closed its end, such as `head`, is a quiet success.
pub(crate) fn print(text: &str) -> Result<(), Exit> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Exit::failed(format!("write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A value as a cell of a table.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().flat_map(escape_control).collect(),
        other => other.to_string(),
    }
}

/// Names are checked by the server, but what goes to a terminal is checked once more: an escape
/// sequence could rewrite what is on it.
fn escape_control(character: char) -> Vec<char> {
    match character.is_control() {
        true => character.escape_default().collect(),
        false => vec![character],
    }
}

fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = titles.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    std::iter::once(line(&titles))
        .chain(rows.iter().map(|row| line(row)))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["id", "n"], &rows), "id    n\na     1\nlong  2");
        assert_eq!(table(&["id"], &[]), "id");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(cell(&Value::from("a\u{1b}[2Jb")), "a\\u{1b}[2Jb");
        assert_eq!(cell(&Value::Null), "-");
        assert_eq!(cell(&Value::from(3)), "3");
    }
}
