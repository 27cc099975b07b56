//! Search: which index answers, and what it leaves to be compared row by row.
//!
//! ```text
//!   Search ──► which index covers the column at this version? ──► storage's search ──► rows
//!                                     └──► SearchReport: index, coverage, rows compared one by one
//! ```
//!
//! Rows that no index covers are compared one by one and merged in, so fresh rows are found at once. Where
//! few rows pass a filter, these are compared and no index is asked, so that a filter costs no recall.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lakebed_core::{Result, SearchReport};
use lakebed_proto::search::K_DEFAULT;
use lakebed_storage::{
    BatchStream, IndexSummary, Ranking, RowMask, SearchSpec, Snapshot, VectorQuery,
};

use crate::hybrid::{Hybrid, indented, joined};
use crate::near_rows::NearRows;
use crate::rerank::{Reranked, Scorer};
use crate::resident::Residents;
use crate::text::highlight::Marked;

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
    /// Answered by a resident index: the rows are known and have to be fetched.
    Near(Box<NearRows>),
    /// The best rows of one of these in the order of a function.
    Reranked(Box<Reranked>),
    /// Any of these with what matched marked.
    Marked(Box<Marked>),
}

impl Search {
    /// The same search among the rows that a mask selects.
    pub(crate) fn over(self, rows: &Arc<RowMask>) -> Search {
        let masked = |spec| SearchSpec { rows: Some(Arc::clone(rows)), ..spec };
        match self {
            Search::One(spec) => Search::One(masked(spec)),
            Search::Hybrid(hybrid) => {
                let hybrid = *hybrid;
                let (vector, text) = (masked(hybrid.vector), masked(hybrid.text));
                Search::Hybrid(Box::new(Hybrid { vector, text, ..hybrid }))
            }
            // It was answered.
            Search::Near(near) => Search::Near(near),
            Search::Reranked(reranked) => {
                let search = reranked.search.clone().over(rows);
                Search::Reranked(Box::new(Reranked { search, ..*reranked }))
            }
            Search::Marked(marked) => {
                let search = marked.search.clone().over(rows);
                Search::Marked(Box::new(Marked { search, ..*marked }))
            }
        }
    }

    /// The search as it is run, and what it will say of itself: where no index fits, none is asked for,
    /// which lance would find out for itself, with a warning. A resident index that shows the version has
    /// answered when this returns.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` when the indexes cannot be read; of a resident index as its search.
    pub async fn fitted(
        self,
        snapshot: &Snapshot,
        residents: Option<&Arc<Residents>>,
    ) -> Result<(Search, SearchReport)> {
        match self {
            Search::One(spec) => {
                if let Some(near) = near(snapshot, &spec, residents).await? {
                    let report = near.report(snapshot.version());
                    return Ok((Search::Near(Box::new(near)), report));
                }
                let (spec, report) = fitted(snapshot, spec).await?;
                Ok((Search::One(spec), report))
            }
            Search::Hybrid(hybrid) => {
                let near = near(snapshot, &hybrid.vector, residents).await?;
                let (vector, by_vector) = match &near {
                    Some(near) => (hybrid.vector, near.report(snapshot.version())),
                    None => fitted(snapshot, hybrid.vector).await?,
                };
                let (text, by_text) = fitted(snapshot, hybrid.text).await?;
                let fitted = Hybrid { vector, near, text, ..*hybrid };
                Ok((Search::Hybrid(Box::new(fitted)), joined(by_vector, by_text)))
            }
            Search::Near(near) => {
                let report = near.report(snapshot.version());
                Ok((Search::Near(near), report))
            }
            Search::Reranked(reranked) => {
                let (search, report) =
                    Box::pin(reranked.search.fitted(snapshot, residents)).await?;
                Ok((Search::Reranked(Box::new(Reranked { search, ..*reranked })), report))
            }
            Search::Marked(marked) => {
                let marker = Some(Arc::new(marked.marker(snapshot).await?));
                let (search, report) = Box::pin(marked.search.fitted(snapshot, residents)).await?;
                Ok((Search::Marked(Box::new(Marked { search, marker, ..*marked })), report))
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
            Search::Near(near) => near.schema(snapshot).await,
            Search::Reranked(reranked) => reranked.schema(snapshot).await,
            Search::Marked(marked) => marked.schema(snapshot).await,
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
            Search::Near(near) => near.open(snapshot).await,
            Search::Reranked(reranked) => reranked.open(snapshot).await,
            Search::Marked(marked) => marked.open(snapshot).await,
        }
    }

    /// Its plan, as text.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    pub fn explain<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        verbose: bool,
    ) -> BoxFuture<'a, Result<String>> {
        async move {
            match self {
                Search::One(spec) => snapshot.explain_search(spec, verbose).await,
                Search::Hybrid(hybrid) => {
                    let vector = snapshot.explain_search(&hybrid.vector, verbose).await?;
                    let text = snapshot.explain_search(&hybrid.text, verbose).await?;
                    Ok(hybrid.told(&vector, &text))
                }
                Search::Near(near) => Ok(near.explain()),
                Search::Reranked(reranked) => {
                    let inner = reranked.search.explain(snapshot, verbose).await?;
                    Ok(reranked.told(&inner))
                }
                Search::Marked(marked) => {
                    let inner = marked.search.explain(snapshot, verbose).await?;
                    Ok(format!("Highlight\n{}", indented(&inner)))
                }
            }
        }
        .boxed()
    }

    /// Runs it and gives its plan with what each step did; a function is not called.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    pub fn analyze<'a>(&'a self, snapshot: &'a Snapshot) -> BoxFuture<'a, Result<String>> {
        async move {
            match self {
                Search::One(spec) => snapshot.analyze_search(spec).await,
                Search::Hybrid(hybrid) => {
                    let vector = snapshot.analyze_search(&hybrid.vector).await?;
                    let text = snapshot.analyze_search(&hybrid.text).await?;
                    Ok(hybrid.told(&vector, &text))
                }
                Search::Near(near) => Ok(near.explain()),
                Search::Reranked(reranked) => {
                    let inner = reranked.search.analyze(snapshot).await?;
                    Ok(reranked.told(&inner))
                }
                Search::Marked(marked) => {
                    let inner = marked.search.analyze(snapshot).await?;
                    Ok(format!("Highlight\n{}", indented(&inner)))
                }
            }
        }
        .boxed()
    }

    /// The search with the function that puts its rows in order, where it has one.
    pub fn with_scorer(self, scorer: Arc<dyn Scorer>) -> Search {
        match self {
            Search::Reranked(reranked) => {
                let scorer = Some(scorer);
                Search::Reranked(Box::new(Reranked { scorer, ..*reranked }))
            }
            Search::Marked(marked) => {
                let search = marked.search.clone().with_scorer(scorer);
                Search::Marked(Box::new(Marked { search, ..*marked }))
            }
            other => other,
        }
    }
}

/// What a resident index finds.
async fn near(
    snapshot: &Snapshot,
    spec: &SearchSpec,
    residents: Option<&Arc<Residents>>,
) -> Result<Option<NearRows>> {
    let Some(residents) = residents else { return Ok(None) };
    let found = residents.find(snapshot, spec).await?;
    Ok(found.map(|found| NearRows::new(spec.clone(), found)))
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
    let filter = spec.filter.as_deref().filter(|_| is_prefiltered);
    // A row set comes first whatever is said of the filter.
    let rows = spec.rows.as_deref().filter(|_| !spec.fast_search);
    if filter.is_none() && rows.is_none() {
        keep_candidates(query, &index_type, wanted);
        return Ok((spec, report));
    }
    let passing = snapshot.count_of(filter, rows).await?;
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
