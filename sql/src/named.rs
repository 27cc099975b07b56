//! Parameters by name: `$low` takes its value from the column `low` of what comes with the statement.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};
use lakebed_core::{Error, Limits, Result, nearest_names};

/// The text with `$1`, `$2` and so on in the place of names, by the order of the columns.
///
/// # Errors
/// `InvalidArgument` for a name that no column has, a column that is not used, or text that is no SQL.
pub fn number_names(text: &str, columns: &[&str], limits: &Limits) -> Result<String> {
    // What is longer is refused where it is parsed.
    if text.len() > limits.sql_statement_bytes_max {
        return Ok(text.to_owned());
    }
    let mut used: BTreeSet<usize> = BTreeSet::new();
    let mut marks = 0;
    let tokens = Tokenizer::new(&GenericDialect {}, text)
        .tokenize_with_location()
        .map_err(|error| Error::invalid(format!("the statement is no SQL: {error}")))?;
    let mut numbered = String::with_capacity(text.len());
    let mut copied = 0;
    for token in &tokens {
        let Token::Placeholder(mark) = &token.token else { continue };
        let Some(name) = mark.strip_prefix('$') else {
            used.insert(marks);
            marks += 1;
            continue;
        };
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            used.extend(name.parse::<usize>().ok().and_then(|number| number.checked_sub(1)));
            continue;
        }
        let at = columns.iter().position(|column| *column == name).ok_or_else(|| {
            let near = nearest_names(name, columns.iter().copied());
            Error::invalid(format!("parameter {mark} has no value{near}"))
        })?;
        used.insert(at);
        let begin = offset(text, token.span.start)
            .filter(|begin| text.get(*begin..).is_some_and(|rest| rest.starts_with(mark.as_str())))
            .ok_or_else(|| Error::internal("a parameter is not where it was read"))?;
        numbered.push_str(text.get(copied..begin).unwrap_or_default());
        numbered.push_str(&format!("${}", at + 1));
        copied = begin + mark.len();
    }
    numbered.push_str(text.get(copied..).unwrap_or_default());
    if let Some(unused) = (0..columns.len()).find(|at| !used.contains(at)) {
        return Err(Error::invalid(format!(
            "the statement does not use parameter ${}, `{}`",
            unused + 1,
            columns.get(unused).copied().unwrap_or_default()
        )));
    }
    Ok(numbered)
}

/// Where a line and a column of characters, both from 1, lie in bytes.
pub(crate) fn offset(text: &str, at: Location) -> Option<usize> {
    let (line, column) = (usize::try_from(at.line).ok()?, usize::try_from(at.column).ok()?);
    let before: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let rest = text.get(before..)?;
    let within = rest.char_indices().nth(column.checked_sub(1)?).map_or(rest.len(), |(at, _)| at);
    Some(before + within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_numbers() {
        let limits = Limits::default();
        let numbered = |text: &str| number_names(text, &["low", "hi"], &limits);
        for (text, expected) in [
            ("SELECT 'ä $low' , $hi\n  + $low", "SELECT 'ä $low' , $2\n  + $1"),
            ("SELECT $1, $2 -- $low", "SELECT $1, $2 -- $low"),
            ("SELECT ?, ?", "SELECT ?, ?"),
        ] {
            assert_eq!(numbered(text).unwrap(), expected);
        }
        let error = numbered("SELECT $lo").unwrap_err();
        assert!(error.message().contains("$lo") && error.message().contains("low"), "{error}");
        for few in ["SELECT 1", "SELECT $low", "SELECT ?", "SELECT $1"] {
            let error = numbered(few).unwrap_err();
            assert!(error.message().contains("does not use"), "{few}: {error}");
        }
    }
}
