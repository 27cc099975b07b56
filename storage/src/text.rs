//! Texts as a text index reads them: the words of a text or a query, and the words that an index has.
//!
//! Words are cut, folded and stemmed by lance's own analyser, made of the parameters that stand in the index.
//! So what is marked in a text is what the index matched, whatever tokenizer the index has.

use async_recursion::async_recursion as boxed;
use std::collections::HashMap;

use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt32Type;
use arrow_schema::DataType;
use lakebed_core::{Error, ErrorKind, Result};
use lance::dataset::index::LanceIndexStoreExt as _;
use lance::index::DatasetIndexExt as _;
use lance::index::scalar::load_segment_params;
use lance_index::scalar::inverted::query::FtsQuery;
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_index::scalar::inverted::{TokenSet, TokenSetFormat};
use lance_index::scalar::lance_format::LanceIndexStore;
use lance_index::scalar::{IndexStore as _, InvertedIndexParams};
use lance_table::format::IndexMetadata;

use crate::lance_error::from_lance;
use crate::search::{TextQuery, parsed_text_query};
use crate::snapshot::Snapshot;

/// Names of an index's files and of what stands in them, as lance writes them.
const METADATA_FILE: &str = "metadata.lance";
const PARTITIONS: &str = "partitions";
const TOKEN_COLUMN: &str = "_token";
const TOKEN_ID_COLUMN: &str = "_token_id";
const LENGTH_COLUMN: &str = "_length";
/// Words of an index that are read at most; the others are passed over.
const WORDS_MAX: usize = 4 << 20;

/// A word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Where it begins in the text, in bytes.
    pub from: usize,
    /// Where it ends.
    pub to: usize,
    /// Which word it is, those that were left out counted.
    pub position: usize,
    /// As the index has it: in lower case, stemmed and so on.
    pub term: String,
}

/// Cuts texts into words as a text index does.
#[derive(Debug, Clone)]
pub struct Analyser {
    tokenizer: Box<dyn LanceTokenizer>,
    /// The parameters that it is made of.
    params: InvertedIndexParams,
}

impl Analyser {
    fn of(params: InvertedIndexParams) -> Result<Analyser> {
        let tokenizer = params.build().map_err(from_lance)?;
        Ok(Analyser { tokenizer, params })
    }

    /// From lance's parameters of a text index as JSON, such as `{"stem": false}`.
    ///
    /// # Errors
    /// `InvalidArgument` for parameters that are not understood.
    pub fn from_json(params: serde_json::Value) -> Result<Analyser> {
        let params = serde_json::from_value(params)
            .map_err(|error| Error::invalid(format!("the text index: {error}")))?;
        Analyser::of(params)
    }

    /// The words of a stored text.
    ///
    /// # Errors
    /// `InvalidArgument` for what the tokenizer refuses.
    pub fn words(&mut self, text: &str) -> Result<Vec<Word>> {
        let mut stream = self.tokenizer.token_stream_for_doc(text);
        let mut words = Vec::new();
        while let Some(token) = stream.try_next().map_err(Error::invalid)? {
            words.push(Word {
                from: token.offset_from,
                to: token.offset_to,
                position: token.position,
                term: token.text.clone(),
            });
        }
        Ok(words)
    }

    /// Whether the index has stems rather than words as people write them.
    pub fn stems(&self) -> bool {
        self.parameter("stem").as_bool().unwrap_or(false)
            || self.parameter("base_tokenizer").as_str() == Some("ngram")
    }

    /// The same without what changes or leaves out words, but for upper and lower case.
    ///
    /// # Errors
    /// `InvalidArgument` for what the tokenizer refuses.
    pub fn plain(&self) -> Result<Analyser> {
        let params = self.params.clone();
        let has_words = !matches!(
            self.parameter("base_tokenizer").as_str(),
            Some("ngram" | "raw" | "whitespace") | None
        );
        let params = match has_words {
            true => params,
            false => InvertedIndexParams::default(),
        };
        let params = params.stem(false).remove_stop_words(false).ascii_folding(false);
        Analyser::of(params.lower_case(true).max_token_length(None))
    }

    fn parameter(&self, name: &str) -> serde_json::Value {
        let params = serde_json::to_value(&self.params).unwrap_or_default();
        params.get(name).cloned().unwrap_or_default()
    }
}

/// How the words of one part of a text query match.
#[derive(Debug, Clone, PartialEq)]
pub enum TextMatch {
    /// The same words.
    Words,
    /// Words within so many edits, as many as their length allows when absent, that begin with the same
    /// letters.
    Fuzzy {
        /// Edits at most.
        distance: Option<u32>,
        /// Letters at the beginning that have to be the same.
        prefix: usize,
    },
    /// The words one behind the other.
    Phrase {
        /// Words that may stand between them.
        slop: usize,
    },
}

/// One part of a text query that makes rows match.
#[derive(Debug, Clone, PartialEq)]
pub struct TextPart {
    /// The column; all that are searched when absent.
    pub column: Option<String>,
    /// The words as they were asked for.
    pub text: String,
    /// How they match.
    pub matching: TextMatch,
}

impl TextQuery {
    /// The parts that make rows match: not what must not be there, nor what only lowers a score.
    ///
    /// # Errors
    /// `InvalidArgument` for a query that is not understood.
    pub fn parts(&self) -> Result<Vec<TextPart>> {
        let mut parts = Vec::new();
        gather(&parsed_text_query(self)?, &mut parts);
        Ok(parts)
    }
}

fn gather(query: &FtsQuery, parts: &mut Vec<TextPart>) {
    match query {
        FtsQuery::Match(query) => {
            let matching = match query.fuzziness {
                Some(0) => TextMatch::Words,
                distance => TextMatch::Fuzzy { distance, prefix: query.prefix_length as usize },
            };
            let (column, text) = (query.column.clone(), query.terms.clone());
            parts.push(TextPart { column, text, matching });
        }
        FtsQuery::Phrase(query) => {
            let matching = TextMatch::Phrase { slop: query.slop as usize };
            let (column, text) = (query.column.clone(), query.terms.clone());
            parts.push(TextPart { column, text, matching });
        }
        FtsQuery::Boost(query) => gather(&query.positive, parts),
        FtsQuery::MultiMatch(query) => {
            for query in &query.match_queries {
                gather(&FtsQuery::Match(query.clone()), parts);
            }
        }
        FtsQuery::CombinedFields(query) => {
            use lance_index::scalar::inverted::query::FtsQueryNode as _;
            for column in query.columns() {
                let text = query.terms().to_owned();
                let (column, matching) = (Some(column), TextMatch::Words);
                parts.push(TextPart { column, text, matching });
            }
        }
        FtsQuery::Boolean(query) => {
            for query in query.must.iter().chain(&query.should) {
                gather(query, parts);
            }
        }
    }
}

impl Snapshot {
    /// The columns that have a text index, by their whole paths.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` when the indexes cannot be read.
    pub async fn text_columns(&self) -> Result<Vec<String>> {
        let indexes = self.indexes().await?;
        let over_words = indexes.into_iter().filter(crate::IndexSummary::is_over_words);
        Ok(over_words.filter_map(|index| index.columns.into_iter().next()).collect())
    }

    /// What cuts the texts of a column into words: as its text index does, else as lance does by default.
    ///
    /// # Errors
    /// `NotFound` for a column that does not exist, `InvalidArgument` for one that holds no texts or whose
    /// words are not those of its texts.
    #[boxed]
    pub async fn analyser(&self, column: &str) -> Result<Analyser> {
        let Some(field) = self.dataset.schema().field(column) else {
            return Err(self.unknown_column(column));
        };
        let data_type = field.data_type();
        if !is_texts(&data_type) || field.is_blob() {
            return Err(Error::invalid(format!(
                "column `{column}` of type {data_type} holds no texts"
            )));
        }
        let params = match self.text_segments(column).await?.first() {
            Some(segment) => {
                load_segment_params(&self.dataset, segment).await.map_err(from_lance)?
            }
            None => InvertedIndexParams::default(),
        };
        let analyser = Analyser::of(params)?;
        if analyser.parameter("lance_tokenizer").as_str() == Some("json") {
            return Err(Error::invalid(format!(
                "column `{column}` holds JSON, whose words are not those of a text"
            )));
        }
        Ok(analyser)
    }

    /// What names the state of the text index on a column; nothing where it has none.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` when the indexes cannot be read.
    pub async fn text_index_state(&self, column: &str) -> Result<Vec<uuid::Uuid>> {
        Ok(self.text_segments(column).await?.iter().map(|segment| segment.uuid).collect())
    }

    async fn text_segments(&self, column: &str) -> Result<Vec<IndexMetadata>> {
        let indexes = self.indexes().await?;
        let is_it = |index: &&crate::IndexSummary| {
            index.is_over_words() && index.columns.first().is_some_and(|indexed| indexed == column)
        };
        let Some(index) = indexes.iter().find(is_it) else { return Ok(Vec::new()) };
        self.dataset.load_indices_by_name(&index.name).await.map_err(from_lance)
    }

    /// The words of the text index on a column with the number of texts that have each, deleted ones that are
    /// still in the index counted; nothing where the column has no text index.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` when the index cannot be read.
    #[boxed]
    pub async fn indexed_words(&self, column: &str) -> Result<HashMap<String, u64>> {
        let mut words = HashMap::new();
        for segment in self.text_segments(column).await? {
            let store = LanceIndexStore::from_dataset_for_existing(&self.dataset, &segment).await;
            let store = store.map_err(from_lance)?;
            let metadata = store.open_index_file(METADATA_FILE).await.map_err(from_lance)?;
            let partitions = metadata.schema().metadata.get(PARTITIONS);
            let partitions: Vec<u64> = partitions
                .and_then(|partitions| serde_json::from_str(partitions).ok())
                .ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "a text index does not say its partitions")
                })?;
            for partition in partitions {
                add_words(&store, partition, &mut words).await?;
            }
        }
        Ok(words)
    }
}

/// Adds the words of one partition of an index.
async fn add_words(
    store: &LanceIndexStore,
    partition: u64,
    words: &mut HashMap<String, u64>,
) -> Result<()> {
    let tokens = store.open_index_file(&format!("part_{partition}_tokens.lance")).await;
    let tokens = tokens.map_err(from_lance)?;
    let format = match tokens.schema().field(TOKEN_COLUMN) {
        Some(_) => TokenSetFormat::Arrow,
        None => TokenSetFormat::Fst,
    };
    let tokens = TokenSet::load(tokens, format).await.map_err(from_lance)?;
    let tokens = tokens.to_batch(TokenSetFormat::Arrow).map_err(from_lance)?;
    let lists = store.open_index_file(&format!("part_{partition}_invert.lance")).await;
    let lists = lists.map_err(from_lance)?;
    // An older form keeps no lengths; each word then counts as one text.
    let lengths = match lists.schema().field(LENGTH_COLUMN) {
        Some(_) => Some(
            lists
                .read_range(0..lists.num_rows(), Some(&[LENGTH_COLUMN]))
                .await
                .map_err(from_lance)?,
        ),
        None => None,
    };
    let strange =
        || Error::new(ErrorKind::Corrupt, "the words of a text index are of another form");
    let lengths = match &lengths {
        Some(batch) => Some(
            batch
                .column_by_name(LENGTH_COLUMN)
                .and_then(|column| column.as_primitive_opt::<UInt32Type>())
                .ok_or_else(strange)?
                .values(),
        ),
        None => None,
    };
    let terms =
        tokens.column_by_name(TOKEN_COLUMN).and_then(|column| column.as_string_opt::<i32>());
    let ids = tokens
        .column_by_name(TOKEN_ID_COLUMN)
        .and_then(|column| column.as_primitive_opt::<UInt32Type>());
    let (terms, ids) = (terms.ok_or_else(strange)?, ids.ok_or_else(strange)?);
    for (term, id) in terms.iter().zip(ids.values()) {
        let Some(term) = term else { continue };
        let texts = match lengths {
            Some(lengths) => lengths.get(*id as usize).copied().unwrap_or(0),
            None => 1,
        };
        if let Some(known) = words.get_mut(term) {
            *known += u64::from(texts);
        } else if words.len() < WORDS_MAX {
            words.insert(term.to_owned(), u64::from(texts));
        }
    }
    Ok(())
}

/// Whether a type is one of texts, or of lists of texts.
pub(crate) fn is_texts(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::List(item) | DataType::LargeList(item) => is_texts(item.data_type()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn terms(params: serde_json::Value, text: &str) -> Vec<String> {
        let mut analyser = Analyser::from_json(params).unwrap();
        analyser.words(text).unwrap().into_iter().map(|word| word.term).collect()
    }

    #[test]
    fn words_are_cut_as_the_parameters_say() {
        let text = "The Running dogs of Café";
        assert_eq!(terms(json!({}), text), ["run", "dog", "cafe"]);
        let plain = json!({"stem": false, "remove_stop_words": false, "ascii_folding": false});
        assert_eq!(terms(plain, text), ["the", "running", "dogs", "of", "café"]);
        let whitespace = json!({"base_tokenizer": "whitespace", "lower_case": false,
            "stem": false, "remove_stop_words": false});
        assert_eq!(terms(whitespace, "A-b, C"), ["A-b,", "C"]);
        let raw = json!({"base_tokenizer": "raw", "stem": false, "remove_stop_words": false});
        assert_eq!(terms(raw, "A b"), ["a b"]);
        let ngrams = json!({"base_tokenizer": "ngram", "min_ngram_length": 3, "max_ngram_length": 3,
            "stem": false, "remove_stop_words": false});
        assert_eq!(terms(ngrams, "abcd"), ["abc", "bcd"]);
        let german = json!({"language": "German"});
        assert_eq!(terms(german, "die Häuser"), ["haus"]);
        let mixed = json!({"base_tokenizer": "icu", "stem": false, "remove_stop_words": false});
        assert_eq!(terms(mixed, "Hello, こんにちは世界!"), ["hello", "こんにちは", "世界"]);
    }

    #[test]
    fn places_are_those_of_the_text() {
        let mut analyser = Analyser::from_json(json!({})).unwrap();
        let text = "Über the Cafés";
        let words = analyser.words(text).unwrap();
        let shown: Vec<&str> = words.iter().map(|word| &text[word.from..word.to]).collect();
        assert_eq!(shown, ["Über", "Cafés"]);
        assert_eq!(words.iter().map(|word| word.position).collect::<Vec<_>>(), [0, 2]);
        assert!(analyser.stems());
        let mut plain = analyser.plain().unwrap();
        assert_eq!(plain.words(text).unwrap()[2].term, "cafés");
        assert!(!plain.stems());
    }

    #[test]
    fn only_what_makes_rows_match_is_a_part() {
        let parts = |query| TextQuery { query, columns: vec![] }.parts().unwrap();
        let found = parts(json!({"boolean": {
            "must": [{"match": {"column": "a", "terms": "red car", "fuzziness": 0}}],
            "should": [{"phrase": {"column": "b", "terms": "old town", "slop": 1}}],
            "must_not": [{"match": {"column": "a", "terms": "blue"}}]}}));
        let expected = [
            TextPart {
                column: Some("a".to_owned()),
                text: "red car".to_owned(),
                matching: TextMatch::Words,
            },
            TextPart {
                column: Some("b".to_owned()),
                text: "old town".to_owned(),
                matching: TextMatch::Phrase { slop: 1 },
            },
        ];
        assert_eq!(found, expected);
        let found = parts(json!({"boost": {
            "positive": {"match": {"terms": "red", "prefix_length": 1}},
            "negative": {"match": {"terms": "blue"}}}}));
        let fuzzy = TextMatch::Fuzzy { distance: None, prefix: 1 };
        assert_eq!((found.len(), &found[0].matching), (1, &fuzzy));
        let words = TextQuery { query: json!("red car"), columns: vec!["a".into(), "b".into()] };
        assert_eq!(words.parts().unwrap().len(), 2);
    }
}
