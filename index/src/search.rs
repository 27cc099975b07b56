//! Search: which index answers, and what it leaves to be compared row by row.
//!
//! ```text
//!   SearchSpec ──► which index covers the column at this version? ──► storage's search ──► rows
//!                                     └──► SearchReport: index, coverage, rows compared one by one
//! ```
//!
//! Rows that no index covers are compared one by one and merged in, so fresh rows are found at once.

use arrow_schema::SchemaRef;
use lakebed_core::{Result, SearchReport};
use lakebed_storage::{BatchStream, IndexSummary, Ranking, SearchSpec, Snapshot};

/// An open search.
pub struct SearchAnswer {
    /// The schema of the batches.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: BatchStream,
    /// Which index answered and what it left.
    pub report: SearchReport,
}

/// Opens a search and says how it is answered.
///
/// # Errors
/// As [`Snapshot::search`].
pub async fn search(snapshot: &Snapshot, spec: &SearchSpec) -> Result<SearchAnswer> {
    let (spec, report) = fitted(snapshot, spec).await?;
    let (schema, batches) = snapshot.search(&spec).await?;
    Ok(SearchAnswer { schema, batches, report })
}

/// A search as it is run, and what it will say of itself: where no index fits, none is asked for, which
/// lance would find out for itself, with a warning.
///
/// # Errors
/// `Corrupt` or `Unavailable` when the indexes cannot be read.
pub async fn fitted(snapshot: &Snapshot, spec: &SearchSpec) -> Result<(SearchSpec, SearchReport)> {
    let report = report(snapshot, spec).await?;
    let mut spec = spec.clone();
    if let (Ranking::Vector(query), None) = (&mut spec.ranking, &report.index) {
        query.use_index = false;
    }
    Ok((spec, report))
}

/// How a search is answered, without running it.
///
/// # Errors
/// `Corrupt` or `Unavailable` when the indexes cannot be read.
pub async fn report(snapshot: &Snapshot, spec: &SearchSpec) -> Result<SearchReport> {
    let rows = snapshot.count_rows().await?;
    let unindexed =
        SearchReport { version: snapshot.version(), rows_scanned: rows, ..SearchReport::default() };
    if matches!(spec.ranking, Ranking::None) {
        return Ok(unindexed);
    }
    let indexes = snapshot.indexes().await?;
    let Some(index) = indexes.iter().find(|index| answers(index, &spec.ranking)) else {
        return Ok(unindexed);
    };
    Ok(SearchReport {
        version: snapshot.version(),
        index: Some(index.name.clone()),
        index_type: Some(index.index_type.clone()),
        indexed_rows: index.indexed_rows,
        rows_scanned: if spec.fast_search { 0 } else { index.unindexed_rows },
    })
}

/// Whether an index is the one that lance takes for a ranking.
fn answers(index: &IndexSummary, ranking: &Ranking) -> bool {
    let is_on = |column: &str| index.columns.first().is_some_and(|indexed| indexed == column);
    match ranking {
        Ranking::None => false,
        Ranking::Vector(query) => {
            // Asked for another distance than the index has, lance compares every row.
            let fits = query.distance.is_none_or(|distance| {
                index.distance.as_deref().is_some_and(|indexed| indexed == distance.name())
            });
            query.use_index
                && index.distance.is_some()
                && index.indexed_rows > 0
                && is_on(&query.column)
                && fits
        }
        Ranking::Text(query) => {
            let columns = query.named_columns();
            index.type_url.ends_with("InvertedIndexDetails")
                && (columns.is_empty() || columns.iter().any(|column| is_on(column)))
        }
    }
}
