//! `t VERSION AS OF 7`: versions of tables in the tokens of a statement.
//!
//! ```text
//!   FROM t VERSION AS OF 'gold'   ──►   FROM "t VERSION AS OF 'gold'" AS t
//! ```
//!
//! Why on tokens: no dialect of the parser reads this beside ordinary syntax (the one that does takes
//! numbers only), and the planner behind it forgets the version. A name of a table has no space, so the
//! version can travel as a part of the name, shows up in plans, and is read back by [`split`].

use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use lakebed_core::{Error, Result};
use lakebed_storage::At;

const VERSION: &str = " VERSION AS OF ";
const TIMESTAMP: &str = " TIMESTAMP AS OF ";

/// Moves every version into the name before it.
pub(crate) fn fold_versions(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match version_at(&tokens, at) {
            Some((suffix, next)) if fold_into_last(&mut out, &suffix, &tokens[next..]) => at = next,
            _ => {
                out.push(token.clone());
                at += 1;
            }
        }
    }
    out
}

/// The suffix that the tokens from `at` on make, and where they end.
fn version_at(tokens: &[TokenWithSpan], at: usize) -> Option<(String, usize)> {
    let mut words = Significant { tokens, at };
    let mut first = words.next()?;
    if is_keyword(first, Keyword::FOR) {
        first = words.next()?;
    }
    let kind = match first {
        _ if is_keyword(first, Keyword::VERSION) => VERSION,
        _ if is_keyword(first, Keyword::TIMESTAMP) => TIMESTAMP,
        _ => return None,
    };
    if !is_keyword(words.next()?, Keyword::AS) || !is_keyword(words.next()?, Keyword::OF) {
        return None;
    }
    let value = match words.next()? {
        Token::Number(number, _) if kind == VERSION => number.clone(),
        Token::SingleQuotedString(text) => format!("'{text}'"),
        _ => return None,
    };
    Some((format!("{kind}{value}"), words.at))
}

/// Appends the suffix to the name that ends `out`, and gives the table its own name again unless an alias
/// follows in `rest`. False where no name stands there.
fn fold_into_last(out: &mut Vec<TokenWithSpan>, suffix: &str, rest: &[TokenWithSpan]) -> bool {
    let last = out.iter().rposition(|token| !is_space(&token.token));
    let Some(TokenWithSpan { token: Token::Word(word), span }) = last.and_then(|at| out.get(at))
    else {
        return false;
    };
    let (name, span) = (word.value.clone(), *span);
    out.truncate(last.map_or(0, |at| at));
    out.push(TokenWithSpan::new(quoted(&format!("{name}{suffix}")), span));
    if !has_alias(rest) {
        out.push(TokenWithSpan::new(Token::make_keyword("AS"), span));
        out.push(TokenWithSpan::new(quoted(&name), span));
    }
    true
}

fn has_alias(rest: &[TokenWithSpan]) -> bool {
    match (Significant { tokens: rest, at: 0 }).next() {
        Some(Token::Word(Word { keyword: Keyword::AS, quote_style: None, .. })) => true,
        Some(Token::Word(word)) => {
            word.quote_style.is_some() || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword)
        }
        _ => false,
    }
}

fn quoted(name: &str) -> Token {
    Token::make_word(name, Some('"'))
}

/// Whether a token is a keyword, written without quotes.
pub(crate) fn is_keyword(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.keyword == keyword)
}

fn is_space(token: &Token) -> bool {
    matches!(token, Token::Whitespace(_))
}

/// Tokens that are no white space.
struct Significant<'a> {
    tokens: &'a [TokenWithSpan],
    at: usize,
}

impl<'a> Iterator for Significant<'a> {
    type Item = &'a Token;

    fn next(&mut self) -> Option<&'a Token> {
        loop {
            let token = &self.tokens.get(self.at)?.token;
            self.at += 1;
            if !is_space(token) {
                return Some(token);
            }
        }
    }
}

/// A name as the statement has it, and the version that it names.
///
/// # Errors
/// `InvalidArgument` for a version that is no number, or a time that cannot be read.
pub(crate) fn split(name: &str) -> Result<(&str, At)> {
    if let Some((table, version)) = name.split_once(VERSION) {
        let at = match unquoted(version) {
            Some(tag) => At::Tag(tag.to_owned()),
            None => At::Version(version.parse().map_err(|_| {
                Error::invalid(format!("version `{version}` of `{table}` is not a number"))
            })?),
        };
        return Ok((table, at));
    }
    if let Some((table, time)) = name.split_once(TIMESTAMP) {
        let time = unquoted(time).unwrap_or(time);
        return Ok((table, At::AsOf(time_of(time)?)));
    }
    Ok((name, At::Latest))
}

fn unquoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.strip_suffix('\'')
}

pub(crate) fn time_of(text: &str) -> Result<chrono::DateTime<chrono::Utc>> {
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    // Without a zone it is UTC, as everywhere in SQL here.
    let formats = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
    let naive = formats
        .iter()
        .find_map(|format| chrono::NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| text.parse::<chrono::NaiveDate>().ok()?.and_hms_opt(0, 0, 0));
    naive
        .map(|time| time.and_utc())
        .ok_or_else(|| Error::invalid(format!("time `{text}` is not like `2026-01-01T00:00:00Z`")))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn folded(sql: &str) -> String {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap();
        let tokens = fold_versions(tokens);
        let text: Vec<String> =
            tokens.iter().map(|token| token.token.to_string()).filter(|t| t != " ").collect();
        text.join(" ")
    }

    #[test]
    fn versions_move_into_names() {
        for (sql, expected) in [
            ("FROM t VERSION AS OF 7", r#"FROM "t VERSION AS OF 7" AS "t""#),
            ("FROM t version as of 7 x", r#"FROM "t VERSION AS OF 7" x"#),
            ("FROM t VERSION AS OF 7 AS x", r#"FROM "t VERSION AS OF 7" AS x"#),
            (
                "FROM a.t FOR VERSION AS OF 'gold' WHERE",
                r#"FROM a . "t VERSION AS OF 'gold'" AS "t" WHERE"#,
            ),
            (
                "FROM t TIMESTAMP AS OF '2026-01-01' JOIN u",
                r#"FROM "t TIMESTAMP AS OF '2026-01-01'" AS "t" JOIN u"#,
            ),
            ("SELECT version AS of FROM t", "SELECT version AS of FROM t"),
            ("SELECT 1 AS version", "SELECT 1 AS version"),
            ("SELECT timestamp '2026-01-01'", "SELECT timestamp '2026-01-01'"),
        ] {
            assert_eq!(folded(sql), expected);
        }
    }

    #[test]
    fn versions_come_back_out_of_names() {
        assert_eq!(split("t").unwrap(), ("t", At::Latest));
        assert_eq!(split("t VERSION AS OF 7").unwrap(), ("t", At::Version(7)));
        assert_eq!(split("t VERSION AS OF '7'").unwrap(), ("t", At::Tag("7".into())));
        for time in ["2026-01-01T00:00:00Z", "2026-01-01", "2026-01-01 00:00:00"] {
            let name = format!("t TIMESTAMP AS OF '{time}'");
            let (_, at) = split(&name).unwrap();
            let At::AsOf(found) = at else { panic!("{time}") };
            assert_eq!(found.to_rfc3339(), "2026-01-01T00:00:00+00:00");
        }
        assert!(split("t VERSION AS OF 1.5").is_err());
        assert!(split("t TIMESTAMP AS OF 'soon'").is_err());
    }
}
