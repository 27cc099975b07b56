//! The best rows of a search in the order of a function of the user's own.
//!
//! ```text
//!   search ─► ids of the best `candidates` ─► their inputs ─► scores by attached workers ─► rows by their score
//! ```

use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, Result};
use lakebed_proto::text_help::Rerank;
use lakebed_storage::{BatchStream, Projection, Ranking, ScanSpec, Snapshot};

use crate::hybrid::{candidates, indented};
use crate::scored::Scored;
use crate::search::Search;

/// Rows that a function looks at unless a search says how many.
pub(crate) const CANDIDATES: u64 = 100;
/// Rows that it may look at.
pub(crate) const CANDIDATES_MAX: u64 = 10_000;
/// Batches of rows that are scored at once.
const BATCHES_AT_ONCE: usize = 4;

/// What gives rows a score.
#[async_trait]
pub trait Scorer: fmt::Debug + Send + Sync {
    /// The columns that it reads, in their order.
    fn columns(&self) -> &[String];

    /// The scores of rows with these columns, the larger the better; none for a row that has no score.
    ///
    /// # Errors
    /// `Unavailable` where nothing can run it, `InvalidArgument` with the error of a row.
    async fn scores(&self, rows: &RecordBatch) -> Result<Vec<Option<f32>>>;
}

/// A search whose best rows are put in order by a function.
#[derive(Debug, Clone)]
pub struct Reranked {
    /// The search, of as many rows as the function looks at and nothing but their ids.
    pub(crate) search: Search,
    /// What is asked of the function.
    pub(crate) rerank: Rerank,
    /// The function, once it was found.
    pub(crate) scorer: Option<Arc<dyn Scorer>>,
    /// Rows at most.
    pub(crate) limit: usize,
    /// Rows that are skipped.
    pub(crate) offset: usize,
    /// What is shown of them.
    pub(crate) shown: Scored,
}

impl Reranked {
    pub(crate) async fn schema(&self, snapshot: &Snapshot) -> Result<SchemaRef> {
        self.shown.schema(snapshot).await
    }

    pub(crate) async fn open(&self, snapshot: &Snapshot) -> Result<(SchemaRef, BatchStream)> {
        let ids = self.ids(snapshot).await?;
        let scores = self.scores(snapshot, &ids).await?;
        if scores.len() != ids.len() {
            return Err(Error::internal("a function gave other scores than were asked for"));
        }
        let mut found: Vec<(u64, Option<f32>)> = ids.into_iter().zip(scores).collect();
        // Stable: of equals the one that the search had earlier. Without a score at the end.
        found.sort_by(|(_, a), (_, b)| match (a, b) {
            (Some(a), Some(b)) => b.total_cmp(a),
            (a, b) => b.is_some().cmp(&a.is_some()),
        });
        let found = found.into_iter().skip(self.offset).take(self.limit).collect();
        self.shown.open(snapshot, found).await
    }

    /// Itself around the plan of its search.
    pub(crate) fn told(&self, search: &str) -> String {
        let Reranked { rerank: Rerank { function, candidates, .. }, limit, offset, .. } = self;
        let candidates = candidates.map(|n| format!(", candidates={n}")).unwrap_or_default();
        let inner = indented(search);
        format!("Rerank: function={function}{candidates}, skip={offset}, fetch={limit}\n{inner}")
    }

    async fn ids(&self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        match &self.search {
            Search::One(spec) if !matches!(spec.ranking, Ranking::None) => {
                Ok(candidates(snapshot, spec).await?.into_iter().map(|row| row.id).collect())
            }
            Search::Near(near) => Ok(near.candidates().into_iter().map(|row| row.id).collect()),
            Search::Hybrid(hybrid) => {
                Ok(hybrid.ranked(snapshot).await?.into_iter().map(|(id, _)| id).collect())
            }
            _ => Err(Error::internal("a function over something else than a search")),
        }
    }

    async fn scores(&self, snapshot: &Snapshot, ids: &[u64]) -> Result<Vec<Option<f32>>> {
        let scorer = self.scorer.as_ref();
        let scorer = scorer.ok_or_else(|| Error::internal("a search without its function"))?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let spec = ScanSpec {
            row_ids: Some(ids.to_vec()),
            projection: Projection::Names(scorer.columns().to_vec()),
            blob_bytes: true,
            ..ScanSpec::default()
        };
        let (_, rows) = snapshot.scan(&spec).await.map_err(|error| error.context("rerank"))?;
        let scored = rows.map(|batch| async { scorer.scores(&batch?).await });
        let scored: Vec<Vec<Option<f32>>> = scored.buffered(BATCHES_AT_ONCE).try_collect().await?;
        Ok(scored.concat())
    }
}
