//! What helps people who search by text: marks in what was found, counts by value, words that were meant,
//! and how the results of several searches are put in one order.

use serde::{Deserialize, Serialize};

/// Which parts of the texts that were found are shown, and how what matched is marked in them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Highlight {
    /// The columns; those that the query searches when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Characters of a fragment at most; 150 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragment_chars: Option<u32>,
    /// Fragments of each column at most; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragments: Option<u32>,
    /// What stands before a match; `<b>` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre: Option<String>,
    /// What stands behind a match; `</b>` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post: Option<String>,
    /// Whether what HTML would read as markup is escaped in the texts, though not in `pre` and `post`.
    pub escape_html: bool,
}

/// How a search by vector and one by text are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinMethod {
    /// By the places of a row in both: reciprocal rank fusion.
    #[default]
    Rrf,
    /// By the scores of a row in both, each brought to the range from 0 to 1.
    Weights,
}

/// The join of a search by vector and one by text.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HybridJoin {
    /// How.
    pub method: JoinMethod,
    /// What is added to a place before it is divided by; 60 when absent. For `rrf` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rrf_k: Option<f32>,
    /// How much the search by vector counts; as much as the one by text when both are absent, else the rest
    /// to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector_weight: Option<f32>,
    /// How much the search by text counts, alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_weight: Option<f32>,
}

/// The best rows of a search in the order of a function of the user's own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rerank {
    /// The registered function, by its whole id. Its result is a number, the larger the better.
    pub function: String,
    /// The columns that it takes, in the order of its parameters without the one named `query`; the columns
    /// with the names of the parameters when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// What its parameter `query` gets; the words or the text that is searched for when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// How many of the best rows it looks at; 100, or as many as are asked for, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidates: Option<u64>,
}

/// Counts by the values of one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facet {
    /// The column.
    pub column: String,
    /// Values at most, those with the most rows first; 10 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// The counts of the rows that a search finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facets {
    /// The version that was searched.
    pub version: u64,
    /// Rows that were counted.
    pub matched: u64,
    /// Whether there are more, which were not counted.
    pub is_cut: bool,
    /// The counts, in the order in which they were asked for.
    pub facets: Vec<FacetCounts>,
}

/// The counts by the values of one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FacetCounts {
    /// The column.
    pub column: String,
    /// The values with the most rows, those first; of equals in the order of the values.
    pub values: Vec<FacetValue>,
    /// Rows with other values; of a column of lists the other items.
    pub other: u64,
}

/// How many rows have a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FacetValue {
    /// The value: text, number, boolean or null; of other types as text.
    pub value: serde_json::Value,
    /// Rows that have it.
    pub count: u64,
}

/// What words were meant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suggestions {
    /// The version whose words were looked through.
    pub version: u64,
    /// The column.
    pub column: String,
    /// What was asked about.
    pub text: String,
    /// The same with the nearest known word for each that is not known; nothing where all are known, or
    /// none comes near.
    pub corrected: Option<String>,
    /// The words that are not known, and those that are rare beside one that comes near.
    pub words: Vec<SuggestedWord>,
}

/// A word that may be another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuggestedWord {
    /// As it was written.
    pub word: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Whether some row has it.
    pub is_known: bool,
    /// The nearest words, the likeliest first.
    pub suggestions: Vec<NearWord>,
}

/// A word that comes near another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearWord {
    /// The word.
    pub word: String,
    /// How many edits are between them.
    pub distance: u32,
    /// Rows that have it; where words are taken from a sample, those of the sample.
    pub rows: u64,
}
