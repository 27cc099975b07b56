//! Searches in SQL: `vector_search`, `text_search` and `hybrid_search` as tables.
//!
//! ```text
//!   FROM vector_search('frames', 'vector', ARRAY[0.1, 0.2], 10, '{"filter":"speed > 3"}') AS f
//!   FROM text_search('frames', 'a red car', 10)
//!   FROM hybrid_search('frames', 'vector', ARRAY[0.1, 0.2], 'a red car', 10)
//! ```
//!
//! A vector may also be a text, which a worker makes a vector of by the model that made the column; it does
//! so when the search is run, not when it is planned. The last argument may be left out; it is the rest of the request, in the words of the HTTP door's
//! query. A call is taken out of the statement before it is planned, and a table that runs the search
//! when it is read is put in its place, so the engine knows nothing of searching.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_schema::{DataType, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::sql::sqlparser::ast::{
    Array, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Statement as Ast, TableAlias,
    TableFactor, TableFunctionArgs, UnaryOperator, Value, VisitMut, VisitorMut,
};
use futures::TryStreamExt;
use lakebed_core::{DatabaseName, Error, Limits, QueryVectors, Result, Subject};
use lakebed_index::resident::Residents;
use lakebed_index::{Scorer, Search};
use lakebed_proto::search::{Embed, FullTextQuery, SearchRequest};
use lakebed_storage::{At, Snapshot, carry};

use crate::calls::Callees;
use crate::error::from_datafusion;
use crate::parse::simple_name;
use crate::rerank::scorer;

const VECTOR_SEARCH: &str = "vector_search";
const TEXT_SEARCH: &str = "text_search";
const HYBRID_SEARCH: &str = "hybrid_search";
/// Where the report stands in the metadata of the answer's schema.
const REPORT_KEY: &str = "lakebed:search";
/// A name with a space is no table's.
const PREFIX: &str = "search ";

/// A search that a statement calls.
#[derive(Debug)]
pub(crate) struct Called {
    /// The name of the table that stands for it.
    pub(crate) name: String,
    /// The table that is searched, as the statement names it.
    pub(crate) table: String,
    /// The search, its table not looked at.
    pub(crate) request: SearchRequest,
}

impl Called {
    /// The version that the options name.
    ///
    /// # Errors
    /// `InvalidArgument` when they name more than one.
    pub(crate) fn at(&self) -> Result<At> {
        let SearchRequest { version, tag, as_of, .. } = &self.request;
        match (version, tag, as_of) {
            (None, None, None) => Ok(At::Latest),
            (Some(version), None, None) => Ok(At::Version(*version)),
            (None, Some(tag), None) => Ok(At::Tag(tag.clone())),
            (None, None, Some(time)) => Ok(At::AsOf(*time)),
            _ => Err(Error::invalid("at most one of `version`, `tag` and `as_of` may be given")),
        }
    }
}

/// Takes the searches out of a statement and puts names in their places.
///
/// # Errors
/// `InvalidArgument` for arguments that are not understood.
pub(crate) fn take_searches(statement: &mut Ast) -> Result<Vec<Called>> {
    let mut calls = Calls { found: Vec::new() };
    match statement.visit(&mut calls) {
        ControlFlow::Continue(()) => Ok(calls.found),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Calls {
    found: Vec<Called>,
}

impl VisitorMut for Calls {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, alias, args, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let Some(function) = simple_name(name).map(str::to_ascii_lowercase) else {
            return ControlFlow::Continue(());
        };
        let is_search = matches!(&*function, VECTOR_SEARCH | TEXT_SEARCH | HYBRID_SEARCH);
        let Some(given) = args.take_if(|_| is_search) else {
            return ControlFlow::Continue(());
        };
        match called(&function, &given) {
            Ok((table, request)) => {
                let stand_in = format!("{PREFIX}{}", self.found.len());
                *name = ObjectName::from(vec![Ident::with_quote('"', stand_in.clone())]);
                alias.get_or_insert_with(|| alias_of(&function));
                self.found.push(Called { name: stand_in, table, request });
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error.context(function)),
        }
    }
}

pub(crate) fn alias_of(function: &str) -> TableAlias {
    TableAlias { explicit: true, name: Ident::new(function), columns: Vec::new(), at: None }
}

fn called(function: &str, given: &TableFunctionArgs) -> Result<(String, SearchRequest)> {
    let mut arguments = Vec::with_capacity(given.args.len());
    for argument in &given.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => arguments.push(expr),
            _ => return Err(Error::invalid("its arguments have no names")),
        }
    }
    match (function, arguments.as_slice()) {
        (VECTOR_SEARCH, [table, column, vector, k, rest @ ..]) if rest.len() <= 1 => {
            let mut request = options(rest.first().copied())?;
            request.vector_column = Some(text(column, "the column")?);
            (request.vector, request.embed) = vector_or_text(vector)?;
            request.k = Some(number(k, "the number of rows")?);
            Ok((text(table, "the table")?, request))
        }
        (TEXT_SEARCH, [table, words, k, rest @ ..]) if rest.len() <= 1 => {
            let mut request = options(rest.first().copied())?;
            request.full_text_query = Some(full_text(words)?);
            request.k = Some(number(k, "the number of rows")?);
            Ok((text(table, "the table")?, request))
        }
        (HYBRID_SEARCH, [table, column, vector, words, k, rest @ ..]) if rest.len() <= 1 => {
            let mut request = options(rest.first().copied())?;
            request.vector_column = Some(text(column, "the column")?);
            (request.vector, request.embed) = vector_or_text(vector)?;
            request.full_text_query = Some(full_text(words)?);
            request.k = Some(number(k, "the number of rows")?);
            Ok((text(table, "the table")?, request))
        }
        (HYBRID_SEARCH, _) => Err(Error::invalid(
            "it takes a table, a column, a vector or a text, words or a query as JSON, a number of rows \
             and options as JSON",
        )),
        (VECTOR_SEARCH, _) => Err(Error::invalid(
            "it takes a table, a column, a vector or a text, a number of rows and options as JSON",
        )),
        _ => Err(Error::invalid(
            "it takes a table, words or a query as JSON, a number of rows and options as JSON",
        )),
    }
}

pub(crate) fn value_of(expr: &Expr) -> Option<&Value> {
    match expr {
        Expr::Value(value) => Some(&value.value),
        _ => None,
    }
}

pub(crate) fn text(expr: &Expr, what: &str) -> Result<String> {
    match value_of(expr) {
        Some(Value::SingleQuotedString(text)) => Ok(text.clone()),
        _ => Err(Error::invalid(format!("{what} has to be a text in single quotes"))),
    }
}

fn number(expr: &Expr, what: &str) -> Result<u64> {
    match value_of(expr) {
        Some(Value::Number(number, _)) => number.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| Error::invalid(format!("{what} has to be a whole number")))
}

/// The fields of a request that have no argument of their own.
fn options(expr: Option<&Expr>) -> Result<SearchRequest> {
    let Some(expr) = expr else { return Ok(SearchRequest::default()) };
    let json = text(expr, "the options")?;
    let options: SearchRequest = serde_json::from_str(&json)
        .map_err(|error| Error::invalid(format!("the options are not understood: {error}")))?;
    let has_own = [
        ("table", !options.table.is_empty()),
        ("vector", options.vector.is_some()),
        ("embed", options.embed.is_some()),
        ("vector_column", options.vector_column.is_some()),
        ("k", options.k.is_some()),
        ("full_text_query", options.full_text_query.is_some()),
    ];
    match has_own.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => {
            Err(Error::invalid(format!("`{name}` stands in the options and has its own argument")))
        }
        None => Ok(options),
    }
}

/// Words, or a structured query where the text is a JSON object.
fn full_text(expr: &Expr) -> Result<FullTextQuery> {
    let text = text(expr, "the words")?;
    let query = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(&text)
            .map_err(|error| Error::invalid(format!("the query is not understood: {error}")))?,
        false => serde_json::Value::String(text),
    };
    Ok(FullTextQuery { query, columns: Vec::new() })
}

/// `ARRAY[…]`, or the same as a text of JSON, which may also hold several vectors; any other text is one to
/// search by.
fn vector_or_text(expr: &Expr) -> Result<(Option<QueryVectors>, Option<Embed>)> {
    if let Some(Value::SingleQuotedString(text)) = value_of(expr) {
        if !text.trim_start().starts_with('[') {
            return Ok((None, Some(Embed::Text(text.clone()))));
        }
        let vectors = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("the vector is not understood: {error}")))?;
        return Ok((Some(vectors), None));
    }
    let Expr::Array(Array { elem, .. }) = expr else {
        return Err(Error::invalid("the vector has to be ARRAY[…], a text of JSON, or a text"));
    };
    let numbers = elem.iter().map(float).collect::<Result<Vec<f32>>>()?;
    Ok((Some(QueryVectors::One(numbers)), None))
}

fn float(expr: &Expr) -> Result<f32> {
    let (sign, expr) = match expr {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => (-1.0, &**expr),
        other => (1.0, other),
    };
    let number = match value_of(expr) {
        Some(Value::Number(number, _)) => number.parse::<f32>().ok(),
        _ => None,
    };
    number
        .map(|number| sign * number)
        .filter(|number| number.is_finite())
        .ok_or_else(|| Error::invalid("the vector has to hold plain numbers"))
}

/// A search as a table that runs it when it is read.
///
/// # Errors
/// As [`Snapshot::search`]; `InvalidArgument` for a text where no model made the column.
pub(crate) async fn search_table(
    snapshot: &Snapshot,
    request: &SearchRequest,
    limits: &Limits,
    (callees, residents): (&Arc<dyn Callees>, &Arc<Residents>),
    database: &DatabaseName,
) -> Result<Arc<dyn TableProvider>> {
    let scorer = match &request.clone().with_rerank_query().rerank {
        Some(rerank) => Some(scorer(callees, database, rerank).await?),
        None => None,
    };
    let text = ByText::of(snapshot, request, limits, callees)?;
    let planned = match &text {
        // Any vector will do for the plan; the text's is made when the search is run.
        Some(text) => &text.with(text.stand_in()),
        None => request,
    };
    let search = lakebed_index::search_of(snapshot, planned, limits).await?;
    // What any vector finds is of no use.
    let asked = text.is_none().then_some(residents);
    let (mut search, report) = search.fitted(snapshot, asked).await?;
    if let Some(scorer) = &scorer {
        search = search.with_scorer(Arc::clone(scorer));
    }
    let schema = search.schema(snapshot).await?;
    let report = serde_json::to_string(&report)
        .map_err(|error| Error::internal("a report cannot be written").with_source(error))?;
    let mut metadata = schema.metadata().clone();
    metadata.insert(REPORT_KEY.to_owned(), report);
    let schema: SchemaRef = Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata));
    let (snapshot, shown) = (snapshot.clone(), Arc::clone(&schema));
    let residents = Arc::clone(residents);
    let search = Found { snapshot, search, text, residents, scorer, schema: shown };
    let table = StreamingTable::try_new(schema, vec![Arc::new(search)]).map_err(from_datafusion)?;
    Ok(Arc::new(table))
}

#[derive(Debug)]
struct Found {
    snapshot: Snapshot,
    search: Search,
    /// What its vector is made of, if it has none yet.
    text: Option<ByText>,
    residents: Arc<Residents>,
    /// What puts its rows in order.
    scorer: Option<Arc<dyn Scorer>>,
    schema: SchemaRef,
}

/// A search by a text, whose vector is to be made by the model that made the column.
#[derive(Debug, Clone)]
struct ByText {
    text: String,
    model: String,
    digest: Option<String>,
    dimensions: usize,
    request: SearchRequest,
    limits: Limits,
    callees: Arc<dyn Callees>,
}

impl ByText {
    fn of(
        snapshot: &Snapshot,
        request: &SearchRequest,
        limits: &Limits,
        callees: &Arc<dyn Callees>,
    ) -> Result<Option<ByText>> {
        let Some(Embed::Text(text)) = &request.embed else { return Ok(None) };
        let column =
            lakebed_index::vector_column(snapshot, request.vector_column.as_deref(), None)?;
        let schema = snapshot.schema();
        let field = schema.field_with_name(&column).map_err(|_| {
            Error::not_found(format!("column `{column}` does not exist")).about(Subject::Column)
        })?;
        let note = |key: &str| field.metadata().get(key).cloned();
        let (Some(model), DataType::FixedSizeList(_, dimensions)) =
            (note("lakebed:model"), field.data_type())
        else {
            return Err(Error::invalid(format!(
                "column `{column}` does not say which model made it: only columns that a job or \
                 `embed` computed can be searched by text"
            )));
        };
        Ok(Some(ByText {
            text: text.clone(),
            model,
            digest: note("lakebed:model_digest"),
            dimensions: usize::try_from(*dimensions).unwrap_or_default(),
            request: SearchRequest { vector_column: Some(column), ..request.clone() },
            limits: limits.clone(),
            callees: Arc::clone(callees),
        }))
    }

    fn stand_in(&self) -> Vec<f32> {
        let mut vector = vec![0.0; self.dimensions];
        if let Some(first) = vector.first_mut() {
            *first = 1.0;
        }
        vector
    }

    fn with(&self, vector: Vec<f32>) -> SearchRequest {
        let vector = Some(QueryVectors::One(vector));
        SearchRequest { vector, embed: None, ..self.request.clone() }
    }

    async fn search(&self, snapshot: &Snapshot, residents: &Arc<Residents>) -> Result<Search> {
        let digest = self.digest.as_deref();
        let vector = self.callees.embed_text(&self.model, digest, self.text.clone()).await?;
        let request = self.with(vector);
        let search = lakebed_index::search_of(snapshot, &request, &self.limits).await?;
        Ok(search.fitted(snapshot, Some(residents)).await?.0)
    }
}

impl PartitionStream for Found {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (snapshot, mut search, schema) =
            (self.snapshot.clone(), self.search.clone(), Arc::clone(&self.schema));
        let (text, scorer) = (self.text.clone(), self.scorer.clone());
        let residents = Arc::clone(&self.residents);
        let rows = async move {
            if let Some(text) = text {
                search = text.search(&snapshot, &residents).await.map_err(|error| carry(&error))?;
                if let Some(scorer) = scorer {
                    search = search.with_scorer(scorer);
                }
            }
            let (_, batches) = search.open(&snapshot).await.map_err(|error| carry(&error))?;
            Ok::<_, DataFusionError>(batches.map_err(|error| carry(&error)))
        };
        let rows = futures::stream::once(rows).try_flatten().and_then({
            let schema = Arc::clone(&schema);
            move |batch| {
                let batch = batch.with_schema(Arc::clone(&schema));
                std::future::ready(batch.map_err(DataFusionError::from))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn take(sql: &str) -> Result<(String, Vec<Called>)> {
        let mut statement = Parser::parse_sql(&GenericDialect {}, sql)
            .map_err(|e| Error::invalid(e.to_string()))?;
        let found = take_searches(&mut statement[0])?;
        Ok((statement[0].to_string(), found))
    }

    #[test]
    fn a_call_becomes_a_table() {
        let (sql, found) = take(
            "SELECT id FROM vector_search('ns.t', 'v', ARRAY[1, -2.5], 3, '{\"nprobes\":4}') s, u",
        )
        .unwrap();
        assert_eq!(sql, "SELECT id FROM \"search 0\" s, u");
        let [call] = found.as_slice() else { panic!("one search") };
        assert_eq!((call.table.as_str(), call.request.k), ("ns.t", Some(3)));
        assert_eq!(call.request.vector, Some(QueryVectors::One(vec![1.0, -2.5])));
        assert_eq!(call.request.nprobes, Some(4));
        let (sql, found) = take("SELECT * FROM Text_Search('t', 'a car', 5)").unwrap();
        assert!(sql.contains("\"search 0\" AS text_search"), "{sql}");
        assert_eq!(found.len(), 1);
        let (_, found) =
            take("SELECT * FROM hybrid_search('t', 'v', ARRAY[1], 'a car', 5)").unwrap();
        assert!(found[0].request.vector.is_some() && found[0].request.full_text_query.is_some());
        let (_, found) = take("SELECT * FROM vector_search('t', 'v', 'a car', 5)").unwrap();
        assert_eq!(found[0].request.embed, Some(Embed::Text("a car".to_owned())));
        assert!(found[0].request.vector.is_none());
        assert!(take("SELECT * FROM t, generate_series(1, 2)").unwrap().1.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let refusal = |sql: &str| take(sql).unwrap_err().message().to_owned();
        assert!(refusal("SELECT * FROM vector_search('t', 'v')").contains("takes a table"));
        assert!(refusal("SELECT * FROM vector_search(t, 'v', ARRAY[1], 3)").contains("table"));
        let text = refusal("SELECT * FROM vector_search('t', 'v', ARRAY['x'], 3)");
        assert!(text.contains("plain numbers"), "{text}");
        let text = refusal("SELECT * FROM vector_search('t', 'v', '[1]', 3, '{\"k\":1}')");
        assert!(text.contains("`k`"), "{text}");
        let text = refusal("SELECT * FROM text_search('t', 'x', 3, '{\"nprob\":1}')");
        assert!(text.contains("nprob"), "{text}");
    }
}
