//! Hybrid search: one search by vector and one by text, joined by the places of a row in both, or by its scores.
//!
//! ```text
//!   request ─┬─► by vector ─► row ids, best first ─┐
//!            └─► by text   ─► row ids, best first ─┴─► joined ─► rows of the best, in their order
//! ```
//!
//! By places, a row scores 1 / (60 + its place) in each of the two, places counted from 1, as the SDKs' own
//! fusion does. By scores, the distances and the scores are each brought to the range from 0, the worst that
//! was found, to 1, the best, and added by their weights; a row that one of the two did not find has 0 there.
//! What is joined are the best `k + offset` of each.

use std::collections::HashMap;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, UInt64Type};
use arrow_schema::SchemaRef;
use futures::TryStreamExt as _;
use lakebed_core::{Error, Result, SearchReport};
use lakebed_proto::text_help::{HybridJoin, JoinMethod};
use lakebed_storage::{BatchStream, Ranking, SearchSpec, Snapshot};

use crate::near_rows::NearRows;
use crate::scored::{ROW_ID, Scored};

/// The constant of the fusion, that of the paper which proposed it: Cormack, Clarke and Büttcher,
/// "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods", SIGIR 2009.
const RRF_K: f32 = 60.0;

/// How two searches are joined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Join {
    /// By places; the number is added to each.
    Places(f32),
    /// By scores, with the weights of the vector and of the text.
    Scores(f32, f32),
}

impl Join {
    /// # Errors
    /// `InvalidArgument` for a field that is not of the method, or out of its range.
    pub(crate) fn of(asked: Option<&HybridJoin>) -> Result<Join> {
        let Some(asked) = asked else { return Ok(Join::Places(RRF_K)) };
        let HybridJoin { method, rrf_k, vector_weight, text_weight } = *asked;
        match method {
            JoinMethod::Rrf if vector_weight.is_some() || text_weight.is_some() => {
                Err(Error::invalid("hybrid: weights are for the method `weights`"))
            }
            JoinMethod::Rrf => {
                let k = rrf_k.unwrap_or(RRF_K);
                match (0.0..=1e6).contains(&k) {
                    true => Ok(Join::Places(k)),
                    false => Err(Error::invalid(format!(
                        "hybrid: `rrf_k` is {k}; it has to be from 0 to 1000000"
                    ))),
                }
            }
            JoinMethod::Weights if rrf_k.is_some() => {
                Err(Error::invalid("hybrid: `rrf_k` is for the method `rrf`"))
            }
            JoinMethod::Weights => {
                let (vector, text) = match (vector_weight, text_weight) {
                    (None, None) => (0.5, 0.5),
                    (Some(vector), None) => (vector, 1.0 - vector),
                    (None, Some(text)) => (1.0 - text, text),
                    (Some(vector), Some(text)) => (vector, text),
                };
                let is_weight = |weight: f32| weight.is_finite() && weight >= 0.0;
                match is_weight(vector) && is_weight(text) && vector + text > 0.0 {
                    true => Ok(Join::Scores(vector, text)),
                    false => Err(Error::invalid(format!(
                        "hybrid: the weights are {vector} and {text}; none may be below 0, and not both 0"
                    ))),
                }
            }
        }
    }
}

/// A row that one of the searches found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) id: u64,
    /// The larger the better.
    pub(crate) score: f32,
}

/// A search by vector and by text at once.
#[derive(Debug, Clone)]
pub struct Hybrid {
    /// By vector: as many rows as are wanted and skipped, nothing but their ids.
    pub(crate) vector: SearchSpec,
    /// What a resident index found by vector, if one did.
    pub(crate) near: Option<NearRows>,
    /// By text, alike.
    pub(crate) text: SearchSpec,
    /// How they are joined.
    pub(crate) join: Join,
    /// Rows at most.
    pub(crate) limit: usize,
    /// Rows that are skipped.
    pub(crate) offset: usize,
    /// What is shown of them.
    pub(crate) shown: Scored,
}

impl Hybrid {
    pub(crate) async fn schema(&self, snapshot: &Snapshot) -> Result<SchemaRef> {
        self.shown.schema(snapshot).await
    }

    pub(crate) async fn open(&self, snapshot: &Snapshot) -> Result<(SchemaRef, BatchStream)> {
        self.shown.open(snapshot, self.ranked(snapshot).await?).await
    }

    /// The rows that are wanted with their scores, best first.
    pub(crate) async fn ranked(&self, snapshot: &Snapshot) -> Result<Vec<(u64, Option<f32>)>> {
        let by_vector = async {
            match &self.near {
                Some(near) => Ok(near.candidates()),
                None => candidates(snapshot, &self.vector).await,
            }
        };
        let (vector, text) = tokio::try_join!(by_vector, candidates(snapshot, &self.text))?;
        let found = joined_rows(self.join, [&vector, &text]).into_iter();
        let found = found.skip(self.offset).take(self.limit);
        Ok(found.map(|(id, score)| (id, Some(score))).collect())
    }

    /// Itself around the plans of its two searches.
    pub(crate) fn told(&self, vector: &str, text: &str) -> String {
        let (limit, offset) = (self.limit, self.offset);
        let join = match self.join {
            Join::Places(k) => format!("ReciprocalRankFusion: k={k}"),
            Join::Scores(vector, text) => format!("WeightedScores: vector={vector}, text={text}"),
        };
        let (vector, text) = (indented(vector), indented(text));
        format!("{join}, skip={offset}, fetch={limit}\n{vector}{text}")
    }
}

/// What two searches say of themselves, as one.
pub(crate) fn joined(vector: SearchReport, text: SearchReport) -> SearchReport {
    let join = |one: Option<String>, other: Option<String>| match (one, other) {
        (Some(one), Some(other)) => Some(format!("{one}, {other}")),
        (one, other) => one.or(other),
    };
    SearchReport {
        version: vector.version,
        index: join(vector.index, text.index),
        index_type: join(vector.index_type, text.index_type),
        vector_column: vector.vector_column,
        indexed_rows: vector.indexed_rows.min(text.indexed_rows),
        rows_scanned: vector.rows_scanned.max(text.rows_scanned),
        ..SearchReport::default()
    }
}

/// The rows that a search finds, best first.
pub(crate) async fn candidates(snapshot: &Snapshot, spec: &SearchSpec) -> Result<Vec<Candidate>> {
    // A distance is the better the smaller it is.
    let (column, sign) = match &spec.ranking {
        Ranking::Vector(_) => ("_distance", -1.0),
        _ => ("_score", 1.0),
    };
    let (_, mut batches) = snapshot.search(spec).await?;
    let mut found = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let ids = batch.column_by_name(ROW_ID);
        let ids = ids.and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
        let scores = batch.column_by_name(column);
        let scores = scores.and_then(|scores| scores.as_primitive_opt::<Float32Type>());
        let (Some(ids), Some(scores)) = (ids, scores) else {
            return Err(Error::internal("a search without row ids or scores"));
        };
        let rows = ids.values().iter().zip(scores.values());
        found.extend(rows.map(|(id, score)| Candidate { id: *id, score: sign * score }));
    }
    Ok(found)
}

/// Rows with their scores, best first; of equals the one that a search named earlier.
fn joined_rows(join: Join, lists: [&[Candidate]; 2]) -> Vec<(u64, f32)> {
    let mut scores: HashMap<u64, (f32, usize)> = HashMap::new();
    for (number, list) in lists.into_iter().enumerate() {
        let worst = list.iter().map(|row| row.score).fold(f32::INFINITY, f32::min);
        let best = list.iter().map(|row| row.score).fold(f32::NEG_INFINITY, f32::max);
        for (place, row) in list.iter().enumerate() {
            let seen = scores.len();
            let (score, _) = scores.entry(row.id).or_insert((0.0, seen));
            *score += match join {
                Join::Places(k) => 1.0 / (place as f32 + 1.0 + k),
                Join::Scores(vector, text) => {
                    let share = (row.score - worst) / (best - worst);
                    // Where all are alike, all are the best.
                    let share = if share.is_finite() { share } else { 1.0 };
                    share * if number == 0 { vector } else { text }
                }
            };
        }
    }
    let mut found: Vec<(u64, (f32, usize))> = scores.into_iter().collect();
    found.sort_by(|(_, (a, seen_a)), (_, (b, seen_b))| b.total_cmp(a).then(seen_a.cmp(seen_b)));
    found.into_iter().map(|(id, (score, _))| (id, score)).collect()
}

pub(crate) fn indented(plan: &str) -> String {
    plan.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rows: &[(u64, f32)]) -> Vec<Candidate> {
        rows.iter().map(|(id, score)| Candidate { id: *id, score: *score }).collect()
    }

    #[test]
    fn rows_of_both_lists_come_first() {
        let (vector, text) =
            (list(&[(1, 3.0), (2, 2.0), (3, 1.0)]), list(&[(9, 9.0), (3, 8.0), (8, 1.0)]));
        let found = joined_rows(Join::of(None).unwrap(), [&vector, &text]);
        let ids: Vec<u64> = found.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [3, 1, 9, 2, 8]);
        let score = |place: f32| 1.0 / (place + 60.0);
        assert_eq!(found[0].1, score(3.0) + score(2.0));
        assert_eq!(found[1].1, score(1.0));
        assert!(joined_rows(Join::Places(60.0), [&[], &[]]).is_empty());
    }

    #[test]
    fn weights_decide_which_search_counts() {
        let (vector, text) =
            (list(&[(1, -0.1), (2, -0.5), (3, -0.9)]), list(&[(3, 8.0), (2, 6.0)]));
        let ids = |join| -> Vec<u64> {
            joined_rows(join, [&vector, &text]).into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(ids(Join::Scores(1.0, 0.0)), [1, 2, 3]);
        assert_eq!(ids(Join::Scores(0.0, 1.0)), [3, 1, 2]);
        let found = joined_rows(Join::Scores(0.6, 0.4), [&vector, &text]);
        assert_eq!(found[0], (1, 0.6));
        assert_eq!(found[1], (3, 0.4));
        assert!((found[2].1 - 0.3).abs() < 1e-6, "{found:?}");
        // One row alone is the best of its search.
        assert_eq!(joined_rows(Join::Scores(0.5, 0.5), [&list(&[(7, 0.0)]), &[]]), [(7, 0.5)]);
    }

    #[test]
    fn a_join_that_contradicts_itself_is_refused() {
        let join = |method, rrf_k, vector_weight, text_weight| {
            Join::of(Some(&HybridJoin { method, rrf_k, vector_weight, text_weight }))
        };
        assert_eq!(join(JoinMethod::Rrf, Some(1.0), None, None).unwrap(), Join::Places(1.0));
        let weights = join(JoinMethod::Weights, None, Some(0.25), None).unwrap();
        assert_eq!(weights, Join::Scores(0.25, 0.75));
        assert!(join(JoinMethod::Rrf, None, Some(0.5), None).is_err());
        assert!(join(JoinMethod::Rrf, Some(-1.0), None, None).is_err());
        assert!(join(JoinMethod::Rrf, Some(f32::NAN), None, None).is_err());
        assert!(join(JoinMethod::Weights, Some(60.0), None, None).is_err());
        assert!(join(JoinMethod::Weights, None, Some(0.0), Some(0.0)).is_err());
        assert!(join(JoinMethod::Weights, None, Some(1.5), None).is_err());
    }
}
