//! Refuses SQL text whose evaluation could end the process, before it is parsed.
//!
//! Why: planning and evaluating an expression recurse once for each operator that applies to the result
//! of another, on the thread's stack, and a stack that overflows cannot be caught. A few kilobytes of
//! `a + 1 + 1 …` are enough (measured: 1,000 terms on a stack of 2 MiB). Parentheses are bounded by the
//! parser, chains are not. And some functions make a large value out of a small text, whose allocation
//! cannot be refused later.
//!
//! The depth is estimated from tokens: operators since the last `,`, `AND` or `OR` on this level of
//! parentheses or of `CASE … END`, added up over the open levels. That is never below the real depth but for the chain of
//! `AND` and `OR`, which is limited by itself.

use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use lakebed_core::{Error, Limits, Result};

/// Functions whose result is larger than their arguments by a factor that is an argument.
const MULTIPLYING: [&str; 12] = [
    "repeat",
    "lpad",
    "rpad",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "range",
    "generate_series",
    "gen_series",
    "space",
    "replicate",
];

/// The dialect of lance's own parser (`lance_datafusion::sql`, private), so that both see one text.
#[derive(Debug, Default)]
struct LanceDialect(GenericDialect);

impl Dialect for LanceDialect {
    fn is_identifier_start(&self, ch: char) -> bool {
        self.0.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.0.is_identifier_part(ch)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`'
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        self.0.supports_bitwise_shift_operators()
    }
}

/// One open level of parentheses, brackets, `CASE` or the text itself.
#[derive(Debug, Default)]
struct Level {
    is_case: bool,
    /// Operators since the last token that begins a new operand list.
    run: usize,
    /// `BETWEEN`s whose `AND` has not come.
    betweens: usize,
}

/// Checks an expression or a filter.
///
/// # Errors
/// `InvalidArgument` naming the limit `sql_depth_max` or `sql_terms_max`, the function that is not
/// allowed, or the place where the text is no SQL.
pub(crate) fn check_sql(sql: &str, limits: &Limits) -> Result<()> {
    let dialect = LanceDialect::default();
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize()
        .map_err(|error| Error::invalid(format!("the text is no SQL: {error}")))?;
    check_tokens(tokens.iter(), limits, true)
}

/// Checks the tokens of a whole statement. Functions that multiply are left to whoever sees where they
/// stand: as tables they are harmless.
///
/// # Errors
/// `InvalidArgument` naming the limit `sql_depth_max` or `sql_terms_max`.
pub fn check_statement<'a>(tokens: impl Iterator<Item = &'a Token>, limits: &Limits) -> Result<()> {
    check_tokens(tokens, limits, false)
}

/// Whether the result of a function is larger than its arguments by a factor that is an argument.
pub fn is_multiplying(function: &str) -> bool {
    MULTIPLYING.iter().any(|name| name.eq_ignore_ascii_case(function))
}

fn check_tokens<'a>(
    tokens: impl Iterator<Item = &'a Token>,
    limits: &Limits,
    is_expression: bool,
) -> Result<()> {
    let mut tokens = tokens.filter(|token| !matches!(token, Token::Whitespace(_))).peekable();
    let mut levels = vec![Level::default()];
    // What stays of the levels below the current one.
    let mut below = 0_usize;
    let mut terms = 0_usize;
    // Queries and tables that are combined; each is a step of recursion, whatever stands between.
    let mut combined = 0_usize;
    while let Some(token) = tokens.next() {
        let Some(level) = levels.last_mut() else { break };
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                // A call, a subscript or a group is one step deeper than what is around it.
                level.run += 1;
                below += level.run;
                levels.push(Level::default());
            }
            // One too many is left to the parser to say.
            Token::RParen | Token::RBracket | Token::RBrace => {
                while levels.len() > 1 {
                    let closed = levels.pop();
                    below -= levels.last().map_or(0, |level| level.run);
                    if closed.is_some_and(|level| !level.is_case) {
                        break;
                    }
                }
            }
            Token::Comma | Token::SemiColon => level.run = 0,
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::AND if level.betweens > 0 => level.betweens -= 1,
                Keyword::AND | Keyword::OR => {
                    terms += 1;
                    level.run = 0;
                }
                Keyword::CASE => {
                    level.run += 1;
                    below += level.run;
                    levels.push(Level { is_case: true, ..Level::default() });
                }
                Keyword::WHEN | Keyword::THEN | Keyword::ELSE if level.is_case => level.run = 0,
                // Elsewhere it is a column's name.
                Keyword::END if level.is_case => {
                    levels.pop();
                    below -= levels.last().map_or(0, |level| level.run);
                }
                Keyword::BETWEEN => {
                    level.betweens += 1;
                    // Chains of them are not cut by their own `AND`.
                    level.run += 1;
                    terms += 1;
                }
                Keyword::NOT
                | Keyword::IS
                | Keyword::IN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::RLIKE
                | Keyword::REGEXP
                | Keyword::SIMILAR
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::DIV
                | Keyword::XOR
                | Keyword::OVERLAPS => {
                    level.run += 1;
                }
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::JOIN
                    if !is_expression =>
                {
                    combined += 1;
                }
                _ if is_expression && matches!(tokens.peek(), Some(Token::LParen)) => {
                    refuse_multiplying(&word.value)?;
                }
                _ => {}
            },
            Token::Word(word) => {
                if is_expression && matches!(tokens.peek(), Some(Token::LParen)) {
                    refuse_multiplying(&word.value)?;
                }
            }
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::HexStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::Period
            | Token::EOF => {}
            // Every other token is an operator.
            _ => level.run += 1,
        }
        let depth = below + combined + levels.last().map_or(0, |level| level.run);
        if depth > limits.sql_depth_max {
            return Err(Error::invalid(format!(
                "the text nests or chains more than sql_depth_max = {} operators",
                limits.sql_depth_max
            )));
        }
        if terms > limits.sql_terms_max {
            return Err(Error::invalid(format!(
                "the text joins more than sql_terms_max = {} conditions; use `IN (…)`",
                limits.sql_terms_max
            )));
        }
    }
    Ok(())
}

fn refuse_multiplying(function: &str) -> Result<()> {
    match is_multiplying(function) {
        false => Ok(()),
        true => Err(Error::invalid(format!(
            "function `{function}` is not allowed: its result has no bound"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str) -> Result<()> {
        check_sql(sql, &Limits::default())
    }

    #[test]
    fn what_people_write_passes() {
        let ids: Vec<String> = (0..10_000).map(|id| id.to_string()).collect();
        let ors: Vec<String> =
            (0..900).map(|id| format!("(id = {id} AND name LIKE 'a%')")).collect();
        for sql in [
            "id = 1".to_owned(),
            format!("id IN ({})", ids.join(",")),
            ors.join(" OR "),
            "a BETWEEN 1 AND 2 AND b NOT BETWEEN 3 AND 4 OR c IS NOT NULL".to_owned(),
            "CASE WHEN a = 1 THEN 'x' WHEN a = 2 THEN 'y' ELSE 'z' END = 'x'".to_owned(),
            "`my column` == 'it''s' AND array_has(tags, 'night') AND meta['k'] = -1.5e3".to_owned(),
            "taken_at > timestamp '2026-01-01 00:00:00' AND arrow_cast(x, 'Int8') <> 3".to_owned(),
            format!("{}id = 1{}", "(".repeat(40), ")".repeat(40)),
        ] {
            check(&sql).unwrap_or_else(|error| panic!("{sql:.80}: {error}"));
        }
    }

    #[test]
    fn chains_are_refused_by_limit() {
        let many = |text: &str| text.repeat(1_000);
        for sql in [
            format!("a = 1{}", many(" + 1")),
            format!("a{}", many(" IS NULL")),
            format!("a{}", many("::int")),
            format!("a{}", many(" || 'x'")),
            format!("a{}", many(" IN (1)")),
            format!("a{}", many("[1]")),
            format!("a{}", many(" BETWEEN 1 AND 2")),
            format!("a = {}1", many("- ")),
            format!("{}a", many("NOT ")),
            format!("{}a{}", many("abs("), many(")")),
            format!("a = 1{}", many(" + CASE WHEN a THEN 1 ELSE 2 END")),
            format!("a = 1{}", many(" + (end)")),
            format!("a + (b{} + (c{}))", " + 1".repeat(150), " + 1".repeat(150)),
        ] {
            let error = check(&sql).unwrap_err();
            assert!(error.message().contains("sql_depth_max"), "{sql:.60}: {error}");
        }
        let error = check(&format!("a = 1{}", " OR a = 2".repeat(6_000))).unwrap_err();
        assert!(error.message().contains("sql_terms_max"), "{error}");
    }

    #[test]
    fn functions_that_multiply_are_refused() {
        for sql in
            ["repeat('a', 1000000000) = 'x'", "id = 1 OR `LPAD`('a', 9) = 'b'", "Range (1, 9)"]
        {
            let error = check(sql).unwrap_err();
            assert!(error.message().contains("not allowed"), "{sql}: {error}");
        }
        check("repeat = 1 AND `range` > 3").unwrap();
    }
}
