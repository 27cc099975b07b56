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
    let mut report = SearchReport { version: snapshot.version(), ..SearchReport::default() };
    if matches!(spec.ranking, Ranking::None) {
        return Ok(report);
    }
    let indexes = snapshot.indexes().await?;
    let mut used = indexes.iter().filter(|index| answers(index, &spec.ranking));
    let Some(first) = used.next() else {
        report.rows_scanned = Some(snapshot.count_rows().await?);
        return Ok(report);
    };
    // Only words that are looked for in several columns are found by several indexes.
    let others: Vec<&IndexSummary> = match spec.ranking {
        Ranking::Text(_) => used.collect(),
        Ranking::Vector(_) | Ranking::None => Vec::new(),
    };
    let all = || std::iter::once(first).chain(others.iter().copied());
    report.index = Some(all().map(|index| index.name.as_str()).collect::<Vec<_>>().join(", "));
    report.index_type = Some(first.index_type.clone());
    report.indexed_rows = all().map(|index| index.indexed_rows).min().unwrap_or_default();
    let unindexed = all().map(|index| index.unindexed_rows).max().unwrap_or_default();
    report.rows_scanned = Some(if spec.fast_search { 0 } else { unindexed });
    Ok(report)
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
