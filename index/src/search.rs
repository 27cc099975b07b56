//! Search: which index answers, and what it leaves to be compared row by row.
//!
//! ```text
//!   Search ──► which index covers the column at this version? ──► storage's search ──► rows
//!                                     └──► SearchReport: index, coverage, rows compared one by one
//! ```
//!
//! Rows that no index covers are compared one by one and merged in, so fresh rows are found at once.

use arrow_schema::SchemaRef;
use lakebed_core::{Result, SearchReport};
use lakebed_storage::{BatchStream, IndexSummary, Ranking, SearchSpec, Snapshot};

use crate::hybrid::{Hybrid, joined};

/// What is searched for in a snapshot.
#[derive(Debug, Clone)]
pub enum Search {
    /// By vector, by text, or rows that nothing ranks.
    One(SearchSpec),
    /// By vector and by text.
    Hybrid(Box<Hybrid>),
}

impl Search {
    /// The search as it is run, and what it will say of itself: where no index fits, none is asked for,
    /// which lance would find out for itself, with a warning.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` when the indexes cannot be read.
    pub async fn fitted(self, snapshot: &Snapshot) -> Result<(Search, SearchReport)> {
        match self {
            Search::One(spec) => {
                let (spec, report) = fitted(snapshot, spec).await?;
                Ok((Search::One(spec), report))
            }
            Search::Hybrid(hybrid) => {
                let (vector, by_vector) = fitted(snapshot, hybrid.vector).await?;
                let (text, by_text) = fitted(snapshot, hybrid.text).await?;
                let fitted = Hybrid { vector, text, ..*hybrid };
                Ok((Search::Hybrid(Box::new(fitted)), joined(by_vector, by_text)))
            }
        }
    }

    /// The schema of the rows.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    pub async fn schema(&self, snapshot: &Snapshot) -> Result<SchemaRef> {
        match self {
            Search::One(spec) => snapshot.search_schema(spec).await,
            Search::Hybrid(hybrid) => hybrid.schema(snapshot).await,
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    pub async fn open(&self, snapshot: &Snapshot) -> Result<(SchemaRef, BatchStream)> {
        match self {
            Search::One(spec) => snapshot.search(spec).await,
            Search::Hybrid(hybrid) => hybrid.open(snapshot).await,
        }
    }

    /// Its plan, as text.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    pub async fn explain(&self, snapshot: &Snapshot, verbose: bool) -> Result<String> {
        let tell = async |spec: SearchSpec| snapshot.explain_search(&spec, verbose).await;
        match self {
            Search::One(spec) => snapshot.explain_search(spec, verbose).await,
            Search::Hybrid(hybrid) => hybrid.told(tell).await,
        }
    }

    /// Runs it and gives its plan with what each step did.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    pub async fn analyze(&self, snapshot: &Snapshot) -> Result<String> {
        let tell = async |spec: SearchSpec| snapshot.analyze_search(&spec).await;
        match self {
            Search::One(spec) => snapshot.analyze_search(spec).await,
            Search::Hybrid(hybrid) => hybrid.told(tell).await,
        }
    }
}

async fn fitted(snapshot: &Snapshot, spec: SearchSpec) -> Result<(SearchSpec, SearchReport)> {
    let report = report(snapshot, &spec).await?;
    let mut spec = spec;
    if let (Ranking::Vector(query), None) = (&mut spec.ranking, &report.index) {
        query.use_index = false;
    }
    Ok((spec, report))
}

/// How a search is answered, without running it.
async fn report(snapshot: &Snapshot, spec: &SearchSpec) -> Result<SearchReport> {
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
