//! Search: which index answers, and what it leaves to be compared row by row.
//!
//! ```text
//!   Search ──► which index covers the column at this version? ──► storage's search ──► rows
//!                                     └──► SearchReport: index, coverage, rows compared one by one
//! ```
//!
//! Rows that no index covers are compared one by one and merged in, so fresh rows are found at once. Where
//! few rows pass a filter, these are compared and no index is asked, so that a filter costs no recall.

use arrow_schema::SchemaRef;
use lakebed_core::{Result, SearchReport};
use lakebed_proto::search::K_DEFAULT;
use lakebed_storage::{BatchStream, IndexSummary, Ranking, SearchSpec, Snapshot, VectorQuery};

use crate::hybrid::{Hybrid, joined};

/// So many rows that pass a filter are compared one by one. An index would look at partitions of which
/// they are a small part, and miss them.
const COMPARED_ROWS_MAX: u64 = 20_000;
/// Candidates that a graph keeps unless a search says how many. Lance's own 1.5 for each row that is wanted
/// found 0.90 of the ten nearest of 500,000, these 0.957, as many as its codes can tell apart, in the same time.
const GRAPH_CANDIDATES: u64 = 64;
/// Of so many rows a filtered search sorts twice as many by their true vectors, unless it says how many.
const REFINED_ROWS_MAX: u64 = 1_000;

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
    let mut report = report(snapshot, &spec).await?;
    let mut spec = spec;
    let is_prefiltered = spec.prefilter && !spec.fast_search;
    let Ranking::Vector(query) = &mut spec.ranking else { return Ok((spec, report)) };
    if report.index.is_none() {
        query.use_index = false;
        return Ok((spec, report));
    }
    let wanted = spec.limit.unwrap_or(K_DEFAULT).saturating_add(spec.offset);
    let index_type = report.index_type.clone().unwrap_or_default();
    let Some(filter) = spec.filter.as_deref().filter(|_| is_prefiltered) else {
        keep_candidates(query, &index_type, wanted);
        return Ok((spec, report));
    };
    let passing = snapshot.count_matching(filter).await?;
    if passing <= COMPARED_ROWS_MAX {
        query.use_index = false;
        report.index = None;
        report.index_type = None;
        report.indexed_rows = 0;
        report.rows_scanned = Some(passing);
    } else {
        if !index_type.ends_with("FLAT") && wanted <= REFINED_ROWS_MAX {
            query.refine_factor.get_or_insert(2);
        }
        let rows = snapshot.count_rows().await?;
        widen(query, rows as f64 / passing as f64);
        keep_candidates(query, &index_type, wanted);
    }
    Ok((spec, report))
}

/// Looks at more partitions the fewer rows of each pass a filter, and at more still while there are fewer
/// rows than are asked for.
fn widen(query: &mut VectorQuery, times: f64) {
    if query.search_effort.is_none() {
        let asked = query.minimum_nprobes.or(query.nprobes).unwrap_or(1);
        query.minimum_nprobes = Some((asked as f64 * times.sqrt()).ceil() as u64);
    }
    query.maximum_nprobes = Some(0);
}

/// Has a graph keep enough candidates where few rows are wanted; where many are, lance keeps more.
fn keep_candidates(query: &mut VectorQuery, index_type: &str, wanted: u64) {
    let sorted = wanted.saturating_mul(query.refine_factor.unwrap_or(1));
    if index_type.contains("HNSW") && query.ef.is_none() && sorted <= GRAPH_CANDIDATES / 3 * 2 {
        query.ef = Some(GRAPH_CANDIDATES);
    }
}

/// How a search is answered, without running it.
async fn report(snapshot: &Snapshot, spec: &SearchSpec) -> Result<SearchReport> {
    let mut report = SearchReport { version: snapshot.version(), ..SearchReport::default() };
    match &spec.ranking {
        Ranking::None => return Ok(report),
        Ranking::Vector(query) => report.vector_column = Some(query.column.clone()),
        Ranking::Text(_) => {}
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
            index.is_over_words()
                && (columns.is_empty() || columns.iter().any(|column| is_on(column)))
        }
    }
}
