//! Searches of a snapshot: by vector, by text, or a plain read with filter and order.
//!
//! What an index does not cover is compared row by row, so a row can be found as soon as it is
//! committed. A filter is applied before the search unless the request says otherwise. Values that lance
//! would ignore or misread are refused here.

use async_recursion::async_recursion as boxed;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float32Array, Int8Array, UInt8Array};
use arrow_schema::{DataType, Field, SchemaRef};
use futures::StreamExt;
use lakebed_core::{ApproxMode, DistanceType, Error, ErrorKind, OrderBy, QueryVectors, Result};
use lance::dataset::scanner::{ColumnOrdering, DatasetRecordBatchStream, Scanner};
use lance_datafusion::exec::{LanceExecutionOptions, execute_plan};
use lance_index::scalar::FullTextSearchQuery;
use lance_index::scalar::inverted::query::FtsQuery;
use lance_select::RowAddrMask;

use crate::indexes::width_of;
use crate::lance_error::from_lance;
use crate::row_mask::RowMask;
use crate::scan::{
    BATCH_BYTES, BATCH_BYTES_MAX, BATCH_ROWS, BatchStream, Projection, READ_AHEAD_BYTES,
};
use crate::snapshot::Snapshot;
use crate::sql_guard::check_sql;

/// Rows that a search by vector or text may be asked for.
const RANKED_ROWS_MAX: u64 = 1 << 20;
/// Numbers in all vectors of one search.
const NUMBERS_MAX: usize = 1 << 20;
/// Bytes of vectors that are compared at a time. Lance keeps some batches at once, and its own 8,192 rows
/// would be 32 MB each for vectors of 1,024 numbers.
const COMPARED_BYTES: usize = 4 << 20;
/// Rows that are compared at a time, at most: as lance does by itself.
const COMPARED_ROWS_MAX: usize = 8_192;
/// How much a search may widen itself.
const REFINE_FACTOR_MAX: u64 = 1_000;

/// A search by vector.
#[derive(Debug, Clone)]
pub struct VectorQuery {
    /// The column, by its whole path.
    pub column: String,
    /// What to look for.
    pub vectors: QueryVectors,
    /// How distances are measured; as the index does when absent.
    pub distance: Option<DistanceType>,
    /// Partitions to look at.
    pub nprobes: Option<u64>,
    /// Partitions to look at in any case.
    pub minimum_nprobes: Option<u64>,
    /// Partitions to look at while rows are missing; 0 for all.
    pub maximum_nprobes: Option<u64>,
    /// How much of the index to look at, from 0 to 1.
    pub search_effort: Option<f64>,
    /// How exactly codes are compared.
    pub approx_mode: Option<ApproxMode>,
    /// Candidates that a graph keeps.
    pub ef: Option<u64>,
    /// Candidates per row that are sorted by their true vectors.
    pub refine_factor: Option<u64>,
    /// The nearest distance that is wanted.
    pub lower_bound: Option<f32>,
    /// The distance that is too far.
    pub upper_bound: Option<f32>,
    /// Whether an index may answer.
    pub use_index: bool,
}

/// A search by text.
#[derive(Debug, Clone)]
pub struct TextQuery {
    /// Words, or a structured query.
    pub query: serde_json::Value,
    /// The columns where `query` is words; all that are indexed when empty.
    pub columns: Vec<String>,
}

impl TextQuery {
    /// The columns that the query names, wherever it does.
    pub fn named_columns(&self) -> Vec<String> {
        let mut found = self.columns.clone();
        gather_columns(&self.query, &mut found);
        found
    }
}

fn gather_columns(query: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value;
    match query {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("column", Value::String(column)) => found.push(column.clone()),
                    ("columns", Value::Array(columns)) => found.extend(
                        columns.iter().filter_map(|column| column.as_str().map(str::to_owned)),
                    ),
                    _ => gather_columns(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| gather_columns(item, found)),
        _ => {}
    }
}

/// What ranks the rows of a search.
#[derive(Debug, Clone)]
pub enum Ranking {
    /// Nothing: a plain read.
    None,
    /// The distance to vectors.
    Vector(Box<VectorQuery>),
    /// How well words match.
    Text(TextQuery),
}

/// A search over one snapshot.
#[derive(Debug, Clone)]
pub struct SearchSpec {
    /// What ranks the rows.
    pub ranking: Ranking,
    /// Rows at most; all for a plain read without it.
    pub limit: Option<u64>,
    /// Rows that are skipped.
    pub offset: u64,
    /// The columns.
    pub projection: Projection,
    /// Rows for which this SQL expression is true.
    pub filter: Option<String>,
    /// Only rows that this selects, before anything is ranked.
    pub rows: Option<Arc<RowMask>>,
    /// Whether the filter comes first.
    pub prefilter: bool,
    /// Whether `_rowid` is in the answer.
    pub with_row_id: bool,
    /// Whether rows outside the index are left out.
    pub fast_search: bool,
    /// The order of the answer.
    pub order_by: Vec<OrderBy>,
}

impl Snapshot {
    /// Opens a search.
    ///
    /// # Errors
    /// `NotFound` for a column, `InvalidArgument` for what does not fit the column or does not parse.
    #[boxed]
    pub async fn search(&self, spec: &SearchSpec) -> Result<(SchemaRef, BatchStream)> {
        let mut scanner = self.search_scanner(spec).await?;
        if matches!(spec.ranking, Ranking::None) {
            let rows = self.rows_of(&plain(spec), BATCH_BYTES, BATCH_ROWS).await?;
            scanner.batch_size(rows as usize).batch_size_bytes(BATCH_BYTES_MAX);
        }
        let stream = match self.sparse(spec).await? {
            None => Box::pin(scanner.try_into_stream()).await.map_err(bad_search)?,
            Some(rows) => {
                let plan = Box::pin(scanner.create_plan()).await.map_err(bad_search)?;
                let plan = rows.narrow(plan).map_err(|error| bad_search(error.into()))?;
                let batches = execute_plan(plan, LanceExecutionOptions::default());
                DatasetRecordBatchStream::new(batches.map_err(bad_search)?)
            }
        };
        let schema = lance_io::stream::RecordBatchStream::schema(&stream);
        let snapshot = self.clone();
        let batches = stream.map(move |batch| {
            // Keeps the pin for as long as the stream lives.
            let _ = &snapshot;
            batch.map_err(bad_search)
        });
        Ok((schema, batches.boxed()))
    }

    /// The mask of a search by vector that selects few of the rows.
    async fn sparse<'a>(&self, spec: &'a SearchSpec) -> Result<Option<&'a RowMask>> {
        let (Ranking::Vector(_), Some(rows)) = (&spec.ranking, &spec.rows) else { return Ok(None) };
        Ok(rows.is_sparse(self.count_rows().await?).then_some(&**rows))
    }

    /// The schema that a search answers with.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    #[boxed]
    pub async fn search_schema(&self, spec: &SearchSpec) -> Result<SchemaRef> {
        let scanner = self.search_scanner(spec).await?;
        Box::pin(scanner.schema()).await.map_err(bad_search)
    }

    /// The plan of a search, as text.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    #[boxed]
    pub async fn explain_search(&self, spec: &SearchSpec, verbose: bool) -> Result<String> {
        let scanner = self.search_scanner(spec).await?;
        let plan = Box::pin(scanner.explain_plan(verbose)).await.map_err(bad_search)?;
        Ok(self.without_root(&plan))
    }

    /// Runs a search and gives its plan with what each step did.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    #[boxed]
    pub async fn analyze_search(&self, spec: &SearchSpec) -> Result<String> {
        let scanner = self.search_scanner(spec).await?;
        let plan = Box::pin(scanner.analyze_plan()).await.map_err(bad_search)?;
        Ok(self.without_root(&plan))
    }

    async fn search_scanner(&self, spec: &SearchSpec) -> Result<Scanner> {
        let limits = &self.table().shared.limits;
        let mut scanner = self.dataset.scan();
        scanner.io_buffer_size(READ_AHEAD_BYTES).batch_readahead(2).fragment_readahead(1);
        // Before the search itself: lance looks at it when it is told what to look for.
        scanner.prefilter(spec.prefilter);
        match &spec.ranking {
            Ranking::None => {
                if spec.fast_search {
                    return Err(Error::invalid("`fast_search` is for a search by vector or text"));
                }
            }
            Ranking::Vector(query) => self.by_vector(&mut scanner, query, spec).await?,
            Ranking::Text(query) => {
                let query = text_query(query, ranked_rows(spec)?)?;
                scanner.full_text_search(query).map_err(bad_search)?;
            }
        }
        self.project(&mut scanner, spec)?;
        if let Some(filter) = &spec.filter {
            check_sql(filter, limits).map_err(|error| error.context("filter"))?;
            scanner.filter(filter).map_err(|error| bad_search(error).context("filter"))?;
        }
        self.mask_rows(&mut scanner, spec).await?;
        let is_batch = self.is_batch(&spec.ranking);
        if is_batch && spec.offset > 0 {
            return Err(Error::invalid("`offset` is not for several vectors in one search"));
        }
        // Of several vectors each has its own `k` rows.
        if !is_batch && (spec.limit.is_some() || spec.offset > 0) {
            let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let offset = Some(as_i64(spec.offset)).filter(|offset| *offset > 0);
            scanner.limit(spec.limit.map(as_i64), offset).map_err(bad_search)?;
        }
        if spec.with_row_id {
            scanner.with_row_id();
        }
        if spec.fast_search {
            scanner.fast_search();
        }
        if !spec.order_by.is_empty() {
            let keys = spec.order_by.iter().map(|key| ColumnOrdering {
                ascending: key.ascending,
                nulls_first: key.nulls_first,
                column_name: key.column_name.clone(),
            });
            for key in &spec.order_by {
                if self.dataset.schema().field(&key.column_name).is_none() {
                    return Err(self.unknown_column(&key.column_name).context("order_by"));
                }
            }
            scanner.order_by(Some(keys.collect())).map_err(bad_search)?;
        }
        Ok(scanner)
    }

    /// Keeps what may not be found from what ranks the rows.
    async fn mask_rows(&self, scanner: &mut Scanner, spec: &SearchSpec) -> Result<()> {
        let asks_an_index = match &spec.ranking {
            Ranking::None => false,
            Ranking::Vector(query) => query.use_index,
            Ranking::Text(_) => true,
        };
        let gone = match asks_an_index {
            true => self.mask_of_gone_rows().await?,
            false => None,
        };
        let masks = spec.rows.iter().map(|rows| rows.for_lance());
        let masks = masks.chain(gone.map(|gone| RowAddrMask::clone(&gone)));
        if let Some(mask) = masks.reduce(|one, other| one & other) {
            scanner.with_row_id_prefilter(mask);
        }
        Ok(())
    }

    /// The columns of the answer; what ranks the rows is always one of them.
    fn project(&self, scanner: &mut Scanner, spec: &SearchSpec) -> Result<()> {
        let rank = match &spec.ranking {
            Ranking::None => None,
            Ranking::Vector(_) => Some("_distance"),
            Ranking::Text(_) => Some("_score"),
        };
        match &spec.projection {
            Projection::All => return Ok(()),
            Projection::Names(names) => {
                self.check_search_columns(names, &spec.ranking)?;
                let mut names = names.clone();
                if let Some(rank) = rank.filter(|rank| !names.iter().any(|name| name == rank)) {
                    names.push(rank.to_owned());
                }
                scanner.project(&names).map_err(bad_search)?;
            }
            Projection::Expressions(pairs) => {
                for (alias, sql) in pairs {
                    check_sql(sql, &self.table().shared.limits)
                        .map_err(|error| error.context(format!("columns: `{alias}`")))?;
                }
                let mut pairs = pairs.clone();
                if let Some(rank) = rank.filter(|rank| !pairs.iter().any(|(name, _)| name == rank))
                {
                    pairs.push((rank.to_owned(), rank.to_owned()));
                }
                scanner.project_with_transform(&pairs).map_err(bad_search)?;
            }
        }
        scanner.disable_scoring_autoprojection();
        Ok(())
    }

    async fn by_vector(
        &self,
        scanner: &mut Scanner,
        query: &VectorQuery,
        spec: &SearchSpec,
    ) -> Result<()> {
        let column = &query.column;
        let Some(field) = self.dataset.schema().field(column) else {
            return Err(self.unknown_column(column).context("vector_column"));
        };
        let key = query_key(column, &field.data_type(), &query.vectors)?;
        let in_table = self.count_rows().await?;
        // Lance keeps a heap of that size; more than there are rows says nothing.
        let rows = ranked_rows(spec)?.unwrap_or(u64::MAX).min(in_table).max(1);
        let searches = match &query.vectors {
            QueryVectors::Many(many) if self.is_batch(&spec.ranking) => many.len() as u64,
            _ => 1,
        };
        // A part of the rows would look like all of them.
        if rows.saturating_mul(searches) > RANKED_ROWS_MAX {
            return Err(Error::invalid(format!(
                "a search by vector finds at most {RANKED_ROWS_MAX} rows, and {rows} for each of \
                 {searches} vectors are asked for: set `k`"
            )));
        }
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let width = row_bytes(&field.data_type()).max(1);
        scanner.batch_size((COMPARED_BYTES / width).clamp(256, COMPARED_ROWS_MAX));
        scanner.nearest(column, key.as_ref(), rows).map_err(bad_search)?;
        if let Some(distance) = query.distance {
            scanner.distance_metric(metric(distance));
        }
        set_probes(scanner, query)?;
        if let Some(mode) = query.approx_mode {
            scanner.approx_mode(match mode {
                ApproxMode::Fast => lance_index::vector::ApproxMode::Fast,
                ApproxMode::Normal => lance_index::vector::ApproxMode::Normal,
                ApproxMode::Accurate => lance_index::vector::ApproxMode::Accurate,
            });
        }
        if let Some(ef) = query.ef {
            scanner.ef(positive("ef", ef, RANKED_ROWS_MAX)? as usize);
        }
        if let Some(factor) = query.refine_factor {
            scanner.refine(positive("refine_factor", factor, REFINE_FACTOR_MAX)? as u32);
        }
        if query.lower_bound.is_some() || query.upper_bound.is_some() {
            scanner.distance_range(query.lower_bound, query.upper_bound);
        }
        scanner.use_index(query.use_index);
        Ok(())
    }

    /// Whether a ranking is by several vectors, each for itself.
    pub fn is_batch(&self, ranking: &Ranking) -> bool {
        let Ranking::Vector(query) = ranking else { return false };
        let field = self.dataset.schema().field(&query.column);
        let is_multivector =
            field.is_some_and(|field| matches!(field.data_type(), DataType::List(_)));
        matches!(query.vectors, QueryVectors::Many(_)) && !is_multivector
    }

    /// A plan's text without the folders that lead to the lake.
    fn without_root(&self, plan: &str) -> String {
        let root = &self.table().shared.root;
        match root.local() {
            Some(folder) => {
                let folder = folder.to_string_lossy();
                let folder = folder.trim_matches('/');
                plan.replace(&format!("/{folder}/"), "").replace(&format!("{folder}/"), "")
            }
            None => plan.replace(&format!("{}/", root.uri()), ""),
        }
    }

    /// The columns that can be searched by vector, by their whole paths, with the width of their vectors.
    pub fn vector_columns(&self) -> Vec<(String, usize)> {
        let schema = self.dataset.schema();
        schema
            .fields_pre_order()
            .filter(|field| is_vector(&field.data_type()))
            .filter_map(|field| {
                Some((schema.field_path(field.id).ok()?, width_of(&field.data_type())))
            })
            // The items of a multivector are no column of their own.
            .filter(|(path, _)| !path.ends_with(".item"))
            .collect()
    }

    fn check_search_columns(&self, names: &[String], ranking: &Ranking) -> Result<()> {
        for name in names {
            let is_ranking = match ranking {
                Ranking::None => false,
                Ranking::Vector(_) => matches!(name.as_str(), "_distance" | "query_index"),
                Ranking::Text(_) => name == "_score",
            };
            let is_known = is_ranking
                || lance_core::is_system_column(name)
                || self.dataset.schema().field(name).is_some();
            if !is_known {
                return Err(self.unknown_column(name).context("columns"));
            }
        }
        Ok(())
    }
}

/// The part of a search that says how wide its rows are.
fn plain(spec: &SearchSpec) -> crate::scan::ScanSpec {
    crate::scan::ScanSpec { projection: spec.projection.clone(), ..Default::default() }
}

/// Rows that the ranking has to find, those that are skipped as well; nothing for all of them.
fn ranked_rows(spec: &SearchSpec) -> Result<Option<u64>> {
    let rows = spec.limit.unwrap_or(u64::MAX);
    match rows {
        0 => Err(Error::invalid("`k` is 0; a search has to find at least 1 row")),
        // What the SDKs send for "no limit".
        _ if rows >= i64::MAX as u64 => Ok(None),
        _ if rows.saturating_add(spec.offset) > RANKED_ROWS_MAX => Err(Error::invalid(format!(
            "`k` and `offset` are {} rows together; a search finds at most {RANKED_ROWS_MAX}",
            rows.saturating_add(spec.offset)
        ))),
        _ => Ok(Some(rows + spec.offset)),
    }
}

fn positive(name: &str, value: u64, max: u64) -> Result<u64> {
    match value {
        1.. if value <= max => Ok(value),
        _ => Err(Error::invalid(format!("`{name}` is {value}; it has to be from 1 to {max}"))),
    }
}

fn set_probes(scanner: &mut Scanner, query: &VectorQuery) -> Result<()> {
    let VectorQuery { nprobes, minimum_nprobes, maximum_nprobes, search_effort, .. } = query;
    let count = |name, value: u64| positive(name, value, u64::from(u32::MAX));
    let is_unbounded = *maximum_nprobes == Some(0);
    if let Some(n) = nprobes {
        let n = count("nprobes", *n)? as usize;
        // Alone it would bound the search from above too.
        if is_unbounded {
            scanner.minimum_nprobes(n)
        } else {
            scanner.nprobes(n)
        };
    }
    if let Some(n) = minimum_nprobes {
        scanner.minimum_nprobes(count("minimum_nprobes", *n)? as usize);
    }
    if let Some(n) = maximum_nprobes.filter(|n| *n > 0) {
        if minimum_nprobes.is_some_and(|minimum| minimum > n) {
            return Err(Error::invalid(format!(
                "`minimum_nprobes` is more than `maximum_nprobes` = {n}"
            )));
        }
        scanner.maximum_nprobes(count("maximum_nprobes", n)? as usize);
    }
    if let Some(effort) = search_effort {
        if !(0.0..=1.0).contains(effort) {
            return Err(Error::invalid(format!(
                "`search_effort` is {effort}; it has to be from 0 to 1"
            )));
        }
        scanner.search_effort(*effort).map_err(bad_search)?;
    }
    Ok(())
}

pub(crate) fn metric(distance: DistanceType) -> lance_linalg::distance::DistanceType {
    use lance_linalg::distance::DistanceType as L;
    match distance {
        DistanceType::L2 => L::L2,
        DistanceType::Cosine => L::Cosine,
        DistanceType::Dot => L::Dot,
        DistanceType::Hamming => L::Hamming,
    }
}

/// Whether a type is one of vectors, or of lists of vectors.
pub(crate) fn is_vector(data_type: &DataType) -> bool {
    match data_type {
        DataType::FixedSizeList(item, _) => matches!(
            item.data_type(),
            DataType::Float16
                | DataType::Float32
                | DataType::Float64
                | DataType::UInt8
                | DataType::Int8
        ),
        DataType::List(item) => {
            matches!(item.data_type(), DataType::FixedSizeList(..)) && is_vector(item.data_type())
        }
        _ => false,
    }
}

/// Bytes of the vector of one row; of several, as if there were 16.
fn row_bytes(data_type: &DataType) -> usize {
    match data_type {
        DataType::FixedSizeList(item, width) => {
            let item = item.data_type().primitive_width().unwrap_or(1);
            item.saturating_mul(usize::try_from(*width).unwrap_or(0))
        }
        DataType::List(inner) => row_bytes(inner.data_type()).saturating_mul(16),
        _ => 0,
    }
}

/// The vectors of a query in the element type of the column.
fn query_key(column: &str, data_type: &DataType, vectors: &QueryVectors) -> Result<ArrayRef> {
    let (item, width) = match data_type {
        DataType::List(inner) => match inner.data_type() {
            DataType::FixedSizeList(item, width) => (item, *width),
            _ => return Err(no_vectors(column, data_type)),
        },
        DataType::FixedSizeList(item, width) => (item, *width),
        _ => return Err(no_vectors(column, data_type)),
    };
    if !is_vector(data_type) {
        return Err(no_vectors(column, data_type));
    }
    let wanted = usize::try_from(width).unwrap_or(0);
    let flat: Vec<f32> = match vectors {
        QueryVectors::Empty => return Err(Error::invalid("`vector` is empty")),
        QueryVectors::One(vector) => vector.clone(),
        QueryVectors::Many(many) => {
            let numbers: usize = many.iter().map(Vec::len).sum();
            if numbers > NUMBERS_MAX {
                return Err(Error::invalid(format!(
                    "`vector` has {numbers} numbers; a search takes at most {NUMBERS_MAX}"
                )));
            }
            if let Some(odd) = many.iter().find(|vector| vector.len() != wanted) {
                return Err(wrong_width(column, odd.len(), wanted));
            }
            many.concat()
        }
    };
    if matches!(vectors, QueryVectors::One(_)) && flat.len() != wanted {
        return Err(wrong_width(column, flat.len(), wanted));
    }
    let values = elements(column, item.data_type(), flat)?;
    let is_multivector = matches!(data_type, DataType::List(_));
    if matches!(vectors, QueryVectors::One(_)) && !is_multivector {
        return Ok(values);
    }
    let item = Arc::new(Field::new("item", values.data_type().clone(), true));
    FixedSizeListArray::try_new(item, width, values, None)
        .map(|list| Arc::new(list) as ArrayRef)
        .map_err(|error| Error::invalid(format!("`vector`: {error}")))
}

/// Floats go as 32-bit ones, which lance converts; whole numbers have to be whole.
fn elements(column: &str, item: &DataType, numbers: Vec<f32>) -> Result<ArrayRef> {
    let refuse = |number: f32| {
        Error::invalid(format!(
            "`vector` holds {number}, and column `{column}` has elements of type {item}"
        ))
    };
    let whole = |min: f32, max: f32| {
        let odd = numbers.iter().find(|n| n.fract() != 0.0 || !(min..=max).contains(*n));
        odd.map_or(Ok(()), |odd| Err(refuse(*odd)))
    };
    match item {
        DataType::UInt8 => {
            whole(0.0, 255.0)?;
            let bytes = numbers.iter().map(|number| *number as u8);
            Ok(Arc::new(UInt8Array::from_iter_values(bytes)))
        }
        DataType::Int8 => {
            whole(-128.0, 127.0)?;
            let bytes = numbers.iter().map(|number| *number as i8);
            Ok(Arc::new(Int8Array::from_iter_values(bytes)))
        }
        _ => Ok(Arc::new(Float32Array::from(numbers))),
    }
}

fn no_vectors(column: &str, data_type: &DataType) -> Error {
    Error::invalid(format!("column `{column}` of type {data_type} holds no vectors"))
}

fn wrong_width(column: &str, given: usize, wanted: usize) -> Error {
    Error::invalid(format!(
        "query dim({given}) doesn't match the column {column} vector dim({wanted})"
    ))
}

/// Lance's form of a search by text.
fn text_query(query: &TextQuery, limit: Option<u64>) -> Result<FullTextSearchQuery> {
    let limit = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let built = match &query.query {
        serde_json::Value::String(words) => {
            let built = FullTextSearchQuery::new(words.clone());
            match query.columns.is_empty() {
                true => built,
                false => built.with_columns(&query.columns).map_err(bad_search)?,
            }
        }
        _ => FullTextSearchQuery::new_query(parsed_text_query(query)?),
    };
    Ok(built.limit(limit))
}

/// A search by text as lance's tree.
pub(crate) fn parsed_text_query(query: &TextQuery) -> Result<FtsQuery> {
    let structured = match &query.query {
        serde_json::Value::String(_) => return Ok(text_query(query, None)?.query),
        structured => structured,
    };
    if !query.columns.is_empty() {
        return Err(Error::invalid(
            "full_text_query: `columns` is for words; a structured query names its own",
        ));
    }
    let parsed: FtsQuery = serde_json::from_value(structured.clone())
        .map_err(|error| Error::invalid(format!("full_text_query is not understood: {error}")))?;
    // Lance passes over fields that it does not know; written out again they are missing.
    let known = serde_json::to_value(&parsed)
        .map_err(|error| Error::internal("write a text query").with_source(error))?;
    if let Some(field) = unknown_field(structured, &known) {
        return Err(Error::invalid(format!("full_text_query: field `{field}` is not understood")));
    }
    Ok(parsed)
}

/// The first field of `given` that `known` lacks, unless it says nothing.
fn unknown_field(given: &serde_json::Value, known: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            given.iter().find_map(|(name, value)| match known.get(name) {
                Some(known) => unknown_field(value, known),
                None if value.is_null() => None,
                None => Some(name.chars().take(80).flat_map(char::escape_debug).collect()),
            })
        }
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).find_map(|(given, known)| unknown_field(given, known))
        }
        _ => None,
    }
}

/// An error of planning or running a search; a column that does not exist is told apart.
fn bad_search(error: lance::Error) -> Error {
    let error = from_lance(error);
    let is_column =
        error.kind() == ErrorKind::InvalidArgument && error.message().contains("No field named");
    match is_column {
        true => {
            let message = error.message().to_owned();
            Error::not_found(message).about(lakebed_core::Subject::Column).with_source(error)
        }
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_query_with_an_unknown_field_is_refused() {
        let query = |query| TextQuery { query, columns: Vec::new() };
        let fine = json!({"match": {"column": null, "terms": "hello", "boost": 1.0,
            "fuzziness": 0, "max_expansions": 50, "operator": "Or", "prefix_length": 0}});
        assert!(text_query(&query(fine), Some(3)).is_ok());
        let multi =
            json!({"multi_match": {"query": "a", "columns": ["t", "u"], "boost": [1.0, 2.0]}});
        assert!(text_query(&query(multi), Some(3)).is_ok());
        let boolean = json!({"boolean": {"must": [{"match": {"terms": "a", "fuzzines": 1}}],
            "should": [], "must_not": []}});
        let error = text_query(&query(boolean), Some(3)).unwrap_err();
        assert!(error.message().contains("fuzzines"), "{error}");
        assert!(text_query(&query(json!({"matsch": {}})), Some(3)).is_err());
        assert!(text_query(&query(json!("words")), Some(3)).is_ok());
    }

    #[test]
    fn vectors_must_fit_their_column() {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        let floats = DataType::FixedSizeList(item(DataType::Float32), 2);
        let key = |data_type: &DataType, vectors| query_key("v", data_type, &vectors);
        assert_eq!(key(&floats, QueryVectors::One(vec![1.0, 2.0])).unwrap().len(), 2);
        let two = QueryVectors::Many(vec![vec![1.0, 2.0], vec![3.0, 4.0]]);
        assert_eq!(key(&floats, two).unwrap().len(), 2);
        let error = key(&floats, QueryVectors::One(vec![1.0])).unwrap_err();
        assert!(error.message().contains("vector dim(2)"), "{error}");
        assert!(key(&floats, QueryVectors::Many(vec![vec![1.0, 2.0], vec![3.0]])).is_err());
        let bytes = DataType::FixedSizeList(item(DataType::UInt8), 2);
        assert!(key(&bytes, QueryVectors::One(vec![1.0, 255.0])).is_ok());
        assert!(key(&bytes, QueryVectors::One(vec![1.0, 256.0])).is_err());
        assert!(key(&bytes, QueryVectors::One(vec![0.5, 1.0])).is_err());
        assert!(key(&DataType::Utf8, QueryVectors::One(vec![1.0])).is_err());
    }
}
