//! Statements about materialized views that the parser does not read.
//!
//! ```text
//!   REFRESH MATERIALIZED VIEW ns.v FULL    ──► CALL "refresh materialized view"(ns.v, true)
//!   CREATE MATERIALIZED VIEW … WITH NO DATA ──► CREATE MATERIALIZED VIEW …
//!   SHOW MATERIALIZED VIEWS [WHERE …] [LIMIT n] ──► SELECT name FROM materialized_views() …
//!   DESCRIBE MATERIALIZED VIEW v           ──► SELECT query FROM materialized_views(v)
//! ```
//!
//! Made uniform on tokens, like versions of tables.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, Value,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use lakebed_core::{Error, ErrorKind, Result};

use crate::parse::simple_name;
use crate::time_travel::is_keyword;

/// A name with a space is no function's.
const REFRESH: &str = "refresh materialized view";

/// The tokens of a statement in the words of the parser.
///
/// # Errors
/// `InvalidArgument` for a REFRESH that is not understood.
pub(crate) fn uniform(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let words: Vec<TokenWithSpan> = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::SemiColon))
        .cloned()
        .collect();
    let [first, second, third, rest @ ..] = words.as_slice() else { return Ok(tokens) };
    let is = |token: &TokenWithSpan, keyword| is_keyword(&token.token, keyword);
    if !is(second, Keyword::MATERIALIZED) {
        return Ok(tokens);
    }
    let made = match &first.token {
        _ if is(first, Keyword::REFRESH) && is(third, Keyword::VIEW) => refresh(rest)?,
        _ if is(first, Keyword::CREATE) && is(third, Keyword::VIEW) => {
            let kept = tokens.len() - data_clause(&tokens).map_or(0, |(len, _)| len);
            return Ok(tokens.into_iter().take(kept).collect());
        }
        _ if is(first, Keyword::SHOW) && is(third, Keyword::VIEWS) => {
            let at = rest.iter().position(|token| is(token, Keyword::LIMIT));
            let (condition, limit) = rest.split_at(at.unwrap_or(rest.len()));
            let list = "SELECT name FROM materialized_views() ";
            [words_of(list), plain(condition), words_of(" ORDER BY name "), plain(limit)].concat()
        }
        _ if (is(first, Keyword::DESCRIBE) || is(first, Keyword::DESC))
            && is(third, Keyword::VIEW) =>
        {
            let list = words_of("SELECT query FROM materialized_views(");
            [list, plain(rest), words_of(")")].concat()
        }
        _ => return Ok(tokens),
    };
    let span = first.span;
    Ok(made.into_iter().map(|token| TokenWithSpan::new(token, span)).collect())
}

/// `name [FULL]`, or `name WITH (full = true)` as the SDKs of LanceDB write it.
fn refresh(rest: &[TokenWithSpan]) -> Result<Vec<Token>> {
    let plain = plain(rest);
    let (name, is_full) = match plain.as_slice() {
        [name @ .., last] if is_keyword(last, Keyword::FULL) => (name, true),
        [name @ .., with, Token::LParen, full, Token::Eq, value, Token::RParen]
            if is_keyword(with, Keyword::WITH) && is_keyword(full, Keyword::FULL) =>
        {
            let is_full = match value {
                value if is_keyword(value, Keyword::TRUE) => true,
                value if is_keyword(value, Keyword::FALSE) => false,
                _ => return Err(wrong()),
            };
            (name, is_full)
        }
        name => (name, false),
    };
    let is_name = |(at, token): (usize, &Token)| match at % 2 {
        0 => matches!(token, Token::Word(_)),
        _ => *token == Token::Period,
    };
    if name.len() % 2 == 0 || !name.iter().enumerate().all(is_name) {
        return Err(wrong());
    }
    let begin = [Token::make_keyword("CALL"), Token::make_word(REFRESH, Some('"')), Token::LParen];
    let end =
        [Token::Comma, Token::make_keyword(if is_full { "TRUE" } else { "FALSE" }), Token::RParen];
    Ok([&begin, name, &end].concat())
}

fn wrong() -> Error {
    Error::invalid("REFRESH MATERIALIZED VIEW takes the name of one, and FULL to replace all rows")
}

fn plain(tokens: &[TokenWithSpan]) -> Vec<Token> {
    tokens.iter().map(|token| token.token.clone()).collect()
}

/// Tokens of text of ours.
fn words_of(text: &str) -> Vec<Token> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize().unwrap_or_default();
    tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect()
}

/// How many of the last tokens say WITH DATA or WITH NO DATA, and whether there is to be data.
fn data_clause(tokens: &[TokenWithSpan]) -> Option<(usize, bool)> {
    let mut words = tokens
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, token)| !matches!(token.token, Token::Whitespace(_) | Token::SemiColon));
    let mut next = |keyword| {
        let (at, token) = words.next()?;
        is_keyword(&token.token, keyword).then_some(at)
    };
    next(Keyword::DATA)?;
    let (at, token) = words.next()?;
    if is_keyword(&token.token, Keyword::WITH) {
        return Some((tokens.len() - at, true));
    }
    let (at, with) = words.next().filter(|_| is_keyword(&token.token, Keyword::NO))?;
    is_keyword(&with.token, Keyword::WITH).then_some((tokens.len() - at, false))
}

/// The text of a view's query without WITH [NO] DATA at its end, and whether it is to be filled.
pub(crate) fn without_data(query: &str) -> (String, bool) {
    let tokens = Tokenizer::new(&GenericDialect {}, query).tokenize_with_location();
    let Some((tokens, (len, fill))) =
        tokens.ok().and_then(|tokens| data_clause(&tokens).map(|found| (tokens, found)))
    else {
        return (query.to_owned(), true);
    };
    let begin = tokens
        .get(tokens.len().saturating_sub(len))
        .and_then(|token| crate::named::offset(query, token.span.start));
    let text = begin.and_then(|begin| query.get(..begin)).unwrap_or(query);
    (text.trim_end().to_owned(), fill)
}

/// What a CALL of this file's making asks for: a view, and whether all its rows are replaced.
///
/// # Errors
/// `NotImplemented` for a call that somebody wrote who is not this file.
pub(crate) fn refreshed(call: &Function) -> Option<Result<(ObjectName, bool)>> {
    if simple_name(&call.name) != Some(REFRESH) {
        return None;
    }
    let strange =
        || Some(Err(Error::new(ErrorKind::NotImplemented, "use REFRESH MATERIALIZED VIEW")));
    let FunctionArguments::List(list) = &call.args else { return strange() };
    let [
        FunctionArg::Unnamed(FunctionArgExpr::Expr(name)),
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(full))),
    ] = list.args.as_slice()
    else {
        return strange();
    };
    let name = match name {
        Expr::Identifier(ident) => ObjectName::from(vec![ident.clone()]),
        Expr::CompoundIdentifier(parts) => ObjectName::from(parts.clone()),
        _ => return strange(),
    };
    match full.value {
        Value::Boolean(full) => Some(Ok((name, full))),
        _ => strange(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> Result<String> {
        let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().unwrap();
        let tokens = uniform(tokens)?;
        let words: Vec<String> = tokens
            .iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_)))
            .map(|token| token.token.to_string())
            .collect();
        Ok(words.join(" "))
    }

    #[test]
    fn statements_are_put_into_words_of_the_parser() {
        let call = "CALL \"refresh materialized view\" (";
        for (text, expected) in [
            ("refresh materialized view v", format!("{call} v , FALSE )")),
            ("REFRESH MATERIALIZED VIEW ns.\"a b\" FULL;", format!("{call} ns . \"a b\" , TRUE )")),
            (
                "REFRESH MATERIALIZED VIEW \"v\" WITH (full = true)",
                format!("{call} \"v\" , TRUE )"),
            ),
            (
                "SHOW MATERIALIZED VIEWS WHERE name > 'x' LIMIT 3",
                "SELECT name FROM materialized_views ( ) WHERE name > 'x' ORDER BY name LIMIT 3"
                    .to_owned(),
            ),
            (
                "describe materialized view v",
                "SELECT query FROM materialized_views ( v )".to_owned(),
            ),
            ("SELECT 1 AS a", "SELECT 1 AS a".to_owned()),
            (
                "CREATE MATERIALIZED VIEW v AS SELECT a FROM t WITH NO DATA ;",
                "CREATE MATERIALIZED VIEW v AS SELECT a FROM t".to_owned(),
            ),
        ] {
            assert_eq!(made(text).unwrap(), expected);
        }
        for wrong in ["v w", "v FULL FULL", "", "v.", "v WITH (full = 1)", "f(1)"] {
            assert!(made(&format!("REFRESH MATERIALIZED VIEW {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_query_says_whether_it_is_run_at_once() {
        for (text, query, fill) in [
            ("SELECT a FROM t", "SELECT a FROM t", true),
            ("SELECT a FROM t WITH DATA", "SELECT a FROM t", true),
            ("SELECT 'ä' AS a\nFROM t with\nno data", "SELECT 'ä' AS a\nFROM t", false),
            ("SELECT no, data FROM t", "SELECT no, data FROM t", true),
        ] {
            assert_eq!(without_data(text), (query.to_owned(), fill));
        }
    }
}
