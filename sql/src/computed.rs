//! Columns that are kept computed, in SQL.
//!
//! ```text
//!   ALTER TABLE docs ADD COLUMN words AS words(text) AUTO REFRESH EVERY 10 SECONDS
//!     ──►  ALTER TABLE docs ADD COLUMN words "kept computed 10" AS (words(text))
//!   CALL refresh('docs', 'words')
//! ```
//!
//! Why on tokens: the parser wants a type, which such a column has from what computes it, and knows nothing
//! of refreshing. No type of SQL has a space in its name, so the words can travel in that.

use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, DataType as AstType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgOperator, FunctionArguments, ObjectNamePart, Value,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};
use lakebed_core::{Error, Result, TableId};

use crate::calls::candidates;
use crate::expression::{self, Bound};
use crate::names::Scope;
use crate::search::value_of;
use crate::time_travel::is_keyword;

const KEPT: &str = "kept computed";
/// Thirty days.
const SECONDS_MAX: u64 = 30 * 86_400;

/// A column that is kept computed.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptColumn {
    /// Its name.
    pub name: String,
    /// What computes it, as text of storage's own dialect.
    pub expression: String,
    /// The same as the call of a function that may be registered.
    pub call: Option<FunctionCall>,
    /// Seconds between two refreshes at least, of one that refreshes itself.
    pub refresh_every: Option<u64>,
}

/// A call of a function that may be registered.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionCall {
    /// What the name may mean, the likeliest first.
    pub candidates: Vec<TableId>,
    /// The arguments in their order, some with the names of parameters.
    pub arguments: Vec<(Option<String>, CallArgument)>,
}

/// An argument of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallArgument {
    /// A column.
    Column(String),
    /// A constant.
    Constant(serde_json::Value),
}

/// Makes a column with `AS` and without a type into one that the parser reads.
///
/// # Errors
/// `InvalidArgument` for an interval that is none.
pub(crate) fn fold_kept(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let words: Vec<usize> = (0..tokens.len())
        .filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_) | Token::EOF))
        .collect();
    let is = |n: usize, keyword: Keyword| {
        words.get(n).is_some_and(|at| is_keyword(&tokens[*at].token, keyword))
    };
    if !is(0, Keyword::ALTER) || !is(1, Keyword::TABLE) {
        return Ok(tokens);
    }
    let Some(add) = (2..words.len()).find(|n| is(*n, Keyword::ADD)) else { return Ok(tokens) };
    let name = if is(add + 1, Keyword::COLUMN) { add + 2 } else { add + 1 };
    let is_named = words.get(name).is_some_and(|at| matches!(tokens[*at].token, Token::Word(_)));
    if !is_named || !is(name + 1, Keyword::AS) {
        return Ok(tokens);
    }
    let mut end = words.len();
    while end > 0 && tokens[words[end - 1]].token == Token::SemiColon {
        end -= 1;
    }
    let (every, end) = refresh_every(&tokens, &words[..end])?;
    let Some(first) = words.get(name + 2).filter(|_| end > name + 2) else { return Ok(tokens) };
    let kept = match every {
        None => KEPT.to_owned(),
        Some(every) => format!("{KEPT} {every}"),
    };
    let plain = |token| TokenWithSpan::new(token, Span::empty());
    let head = tokens[..=words[name]].iter().cloned();
    let made = [Token::make_word(&kept, Some('"')), Token::make_keyword("AS"), Token::LParen];
    let spaced = made.into_iter().flat_map(|token| [plain(space()), plain(token)]);
    let body = tokens[*first..=words[end - 1]].iter().cloned();
    Ok(head.chain(spaced).chain(body).chain([plain(Token::RParen)]).collect())
}

fn space() -> Token {
    Token::Whitespace(datafusion::sql::sqlparser::tokenizer::Whitespace::Space)
}

/// What `AUTO REFRESH [EVERY n SECONDS]` at the end says, and where the expression before it ends.
fn refresh_every(tokens: &[TokenWithSpan], words: &[usize]) -> Result<(Option<u64>, usize)> {
    let end = words.len();
    let token = |back: usize| Some(&tokens[*words.get(end.checked_sub(back)?)?].token);
    let says = |back: usize, text: &str| match token(back) {
        Some(Token::Word(word)) => {
            word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text)
        }
        _ => false,
    };
    if says(1, "REFRESH") && says(2, "AUTO") {
        return Ok((Some(0), end - 2));
    }
    let is_seconds = says(1, "SECONDS") || says(1, "SECOND");
    if !(is_seconds && says(3, "EVERY") && says(4, "REFRESH") && says(5, "AUTO")) {
        return Ok((None, end));
    }
    let seconds = match token(2) {
        Some(Token::Number(number, _)) => number.parse::<u64>().ok(),
        _ => None,
    };
    let seconds =
        seconds.filter(|seconds| (1..=SECONDS_MAX).contains(seconds)).ok_or_else(|| {
            Error::invalid(format!("AUTO REFRESH EVERY takes 1 to {SECONDS_MAX} SECONDS"))
        })?;
    Ok((Some(seconds), end - 5))
}

/// The column that a definition declares; nothing where it is kept by nothing.
///
/// # Errors
/// `InvalidArgument` for an expression that is not understood.
pub(crate) fn kept_column(scope: &Scope, column: &ColumnDef) -> Result<Option<KeptColumn>> {
    let AstType::Custom(name, _) = &column.data_type else { return Ok(None) };
    let [ObjectNamePart::Identifier(word)] = name.0.as_slice() else { return Ok(None) };
    let Some(every) = word.value.strip_prefix(KEPT) else { return Ok(None) };
    let [option] = column.options.as_slice() else { return Ok(None) };
    let ColumnOption::Generated { generation_expr: Some(expr), .. } = &option.option else {
        return Ok(None);
    };
    Ok(Some(KeptColumn {
        name: column.name.value.clone(),
        expression: expression::text(expr, None, &Bound::default())?,
        call: called(scope, expr)?,
        refresh_every: every.trim().parse().ok(),
    }))
}

/// An expression as a call; nothing where it is more than the call of a function on columns and constants.
fn called(scope: &Scope, expr: &Expr) -> Result<Option<FunctionCall>> {
    let Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = expr else {
        return Ok(None);
    };
    let candidates = candidates(name, scope)?;
    if candidates.is_empty() {
        return Ok(None);
    }
    let mut arguments = Vec::with_capacity(list.args.len());
    for argument in &list.args {
        let (name, value) = match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (None, value),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), operator }
                if *operator != FunctionArgOperator::Colon =>
            {
                (Some(name.value.clone()), value)
            }
            _ => return Ok(None),
        };
        let Some(value) = argument_of(value) else { return Ok(None) };
        arguments.push((name, value));
    }
    Ok(Some(FunctionCall { candidates, arguments }))
}

fn argument_of(expr: &Expr) -> Option<CallArgument> {
    match expr {
        Expr::Identifier(ident) => Some(CallArgument::Column(ident.value.clone())),
        Expr::CompoundIdentifier(parts) => {
            let path: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
            Some(CallArgument::Column(path.join(".")))
        }
        _ => {
            let constant = match value_of(expr)? {
                Value::Null => serde_json::Value::Null,
                Value::Boolean(value) => (*value).into(),
                Value::SingleQuotedString(text) => text.clone().into(),
                Value::Number(number, _) => serde_json::from_str(number).ok()?,
                _ => return None,
            };
            Some(CallArgument::Constant(constant))
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::{AlterTableOperation, Statement as Ast};
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;
    use lakebed_core::DatabaseName;

    use super::*;

    fn kept(sql: &str) -> Option<KeptColumn> {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap();
        let tokens = fold_kept(tokens).unwrap();
        let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens);
        let Ok(Ast::AlterTable(alter)) = parser.parse_statement() else { panic!("{sql}") };
        let [AlterTableOperation::AddColumn { column_def, .. }] = alter.operations.as_slice()
        else {
            panic!("{sql}")
        };
        let scope = Scope::new(&DatabaseName::default_database(), None).unwrap();
        kept_column(&scope, column_def).unwrap()
    }

    #[test]
    fn a_column_without_a_type_is_kept() {
        let column = kept("ALTER TABLE d ADD COLUMN n AS a + 1 ;").unwrap();
        assert_eq!((column.name.as_str(), column.refresh_every), ("n", None));
        assert_eq!((column.expression.as_str(), column.call), ("`a` + 1", None));
        assert_eq!(kept("ALTER TABLE d ADD COLUMN n AS length(a)").unwrap().call, None);
        let column = kept("alter table d add n as words(text) auto refresh").unwrap();
        assert_eq!(column.refresh_every, Some(0));
        let call = column.call.unwrap();
        assert_eq!(call.candidates[0].text(), "words");
        assert_eq!(call.arguments, [(None, CallArgument::Column("text".to_owned()))]);
        let sql =
            "ALTER TABLE d ADD COLUMN n AS f(t, word => 'a', n => 2) AUTO REFRESH EVERY 9 SECONDS";
        let column = kept(sql).unwrap();
        assert_eq!(column.refresh_every, Some(9));
        let call = column.call.unwrap();
        assert_eq!(call.arguments.len(), 3);
        assert_eq!(
            call.arguments[2],
            (Some("n".to_owned()), CallArgument::Constant(serde_json::json!(2)))
        );
    }

    #[test]
    fn other_columns_are_left_alone() {
        for sql in [
            "ALTER TABLE d ADD COLUMN n INT",
            "ALTER TABLE d ADD COLUMN n INT GENERATED ALWAYS AS (a + 1)",
        ] {
            assert_eq!(kept(sql), None, "{sql}");
        }
        let sql = "ALTER TABLE d ADD COLUMN n AS a AUTO REFRESH EVERY 0 SECONDS";
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap();
        assert!(fold_kept(tokens).is_err());
    }
}
