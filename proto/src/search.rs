//! A search: the body of a REST query, the `{"search": {…}}` command of the Flight door, and what SQL's
//! table function asks for are this one type.
//!
//! The fields are those of the LanceDB SDKs' query. A search by vector, a search by text and a plain
//! read with a filter differ only in which fields are set.

use chrono::{DateTime, Utc};
use lakebed_core::{ApproxMode, DistanceType, OrderBy, QueryVectors};
use serde::{Deserialize, Serialize};

use crate::command::Columns;
use crate::text_help::{Highlight, HybridJoin, Rerank};

/// Rows of a search that says no `k`, as the SDKs have it.
pub const K_DEFAULT: u64 = 10;

/// What to search and how.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchRequest {
    /// Namespaces and table joined with `$`.
    pub table: String,
    /// A version by number. At most one of `version`, `tag` and `as_of` may be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// A version by tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The newest version committed at or before this time, RFC 3339 with a zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<DateTime<Utc>>,
    /// The branch; main when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// At most this many rows; 10 for a search by vector or text, all for a plain read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<u64>,
    /// Skip this many rows first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// One vector, or several for a batch or a multivector column. Empty means no search by vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector: Option<QueryVectors>,
    /// What a vector is made of, by the model that made the column. Instead of `vector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed: Option<Embed>,
    /// The column of vectors; the only one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector_column: Option<String>,
    /// How distances are measured; as the index does, else `l2`, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_type: Option<DistanceType>,
    /// Partitions of the index to look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nprobes: Option<u64>,
    /// Partitions to look at in any case; wins over `nprobes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_nprobes: Option<u64>,
    /// Partitions to look at while there are fewer than `k` rows; 0 for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_nprobes: Option<u64>,
    /// How much of the index to look at, from 0 to 1; wins over `nprobes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search_effort: Option<f64>,
    /// How exactly the codes of a quantised index are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approx_mode: Option<ApproxMode>,
    /// Candidates that a graph keeps while it is searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ef: Option<u64>,
    /// Fetch this many times `k` candidates and sort them by their true vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refine_factor: Option<u64>,
    /// Rows at least this far away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_bound: Option<f32>,
    /// Rows nearer than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper_bound: Option<f32>,
    /// Compare with every row instead of using the index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass_vector_index: Option<bool>,
    /// Whether the filter is applied before the search, the default, or to its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefilter: Option<bool>,
    /// Rows for which this SQL expression is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Only rows of this row set, before anything is ranked: `NAME` for its newest version, or
    /// `NAME@VERSION`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_set: Option<String>,
    /// Columns in the order of the answer; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// Whether the answer has the stable row ids as `_rowid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with_row_id: Option<bool>,
    /// Leave out the rows that no index covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_search: Option<bool>,
    /// A search by text.
    pub full_text_query: Option<FullTextQuery>,
    /// The order of the answer.
    pub order_by: Option<Vec<OrderBy>>,
    /// Parts of the texts that were found, with what matched marked, as the column `_highlights`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highlight: Option<Highlight>,
    /// How a search by vector and one by text are joined; by their places when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<HybridJoin>,
    /// A function that puts the best rows in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank: Option<Rerank>,
}

impl SearchRequest {
    /// The request whose function knows what is searched for, also when `embed` is gone.
    pub fn with_rerank_query(mut self) -> Self {
        let words = self.full_text_query.as_ref().and_then(|text| text.query.as_str());
        let text = match &self.embed {
            Some(Embed::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let searched = words.or(text).map(str::to_owned);
        if let Some(rerank) = &mut self.rerank {
            rerank.query = rerank.query.take().or(searched);
        }
        self
    }
}

/// A text or a picture to search by. A worker that is attached makes its vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Embed {
    /// A text.
    Text(String),
    /// The bytes of a picture, in base64.
    Picture(String),
}

/// A search by text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullTextQuery {
    /// The words, or a structured query as the SDKs write it: `{"match": {…}}`, `{"phrase": {…}}` and so
    /// on.
    pub query: serde_json::Value,
    /// The columns to search where `query` is words; all that have a text index when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<SearchRequest, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn one_vector_several_and_none_are_told_apart() {
        let vector = |text: &str| request(&format!("{{\"vector\":{text}}}")).unwrap().vector;
        assert_eq!(vector("[]"), Some(QueryVectors::Empty));
        assert_eq!(vector("null"), None);
        assert_eq!(vector("[1, -2, 0.5]"), Some(QueryVectors::One(vec![1.0, -2.0, 0.5])));
        let two = QueryVectors::Many(vec![vec![1.0], vec![2.0]]);
        assert_eq!(vector("[[1],[2]]"), Some(two.clone()));
        assert_eq!(serde_json::to_string(&two).unwrap(), "[[1.0],[2.0]]");
        for wrong in ["[1,\"x\"]", "[[1],2]", "{\"a\":1}", "[1e300]", "[1,1e300]"] {
            assert!(request(&format!("{{\"vector\":{wrong}}}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_sdk_sends_is_understood() {
        let text = r#"{"k":10,"vector":[0.1,0.2],"prefilter":true,"nprobes":20,"minimum_nprobes":20,
            "maximum_nprobes":20,"ef":null,"refine_factor":null,"lower_bound":null,
            "upper_bound":null,"version":null,"distance_type":"cosine",
            "order_by":[{"column_name":"a","ascending":false,"nulls_first":true}]}"#;
        let request = request(text).unwrap();
        assert_eq!(request.distance_type, Some(DistanceType::Cosine));
        assert_eq!(request.maximum_nprobes, Some(20));
        assert!(super::tests::request(r#"{"nprobs":3}"#).is_err());
    }
}
