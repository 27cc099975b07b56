//! The body of a query in both dialects, as one [`SearchRequest`].
//!
//! The SDKs write `vector`, `columns` and `full_text_query` as lists and plain objects; clients of the
//! Namespace specification wrap them. Which one is there is seen by its shape.

use lakebed_core::{ApproxMode, DistanceType, Error, OrderBy, QueryVectors, Result};
use lakebed_proto::command::Columns;
use lakebed_proto::search::{Embed, FullTextQuery, SearchRequest};
use lakebed_proto::text_help::{Highlight, HybridJoin, Rerank};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::body::parse_raw;

/// The fields of a query; those whose shape differs between the dialects as they came.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QueryBody {
    pub(crate) id: Option<Vec<String>>,
    pub(crate) branch: Option<String>,
    version: Option<u64>,
    k: Option<u64>,
    offset: Option<u64>,
    vector: Option<Box<RawValue>>,
    embed: Option<Embed>,
    vector_column: Option<String>,
    distance_type: Option<String>,
    nprobes: Option<u64>,
    minimum_nprobes: Option<u64>,
    maximum_nprobes: Option<u64>,
    search_effort: Option<f64>,
    approx_mode: Option<ApproxMode>,
    ef: Option<u64>,
    refine_factor: Option<u64>,
    lower_bound: Option<f32>,
    upper_bound: Option<f32>,
    bypass_vector_index: Option<bool>,
    prefilter: Option<bool>,
    filter: Option<String>,
    row_set: Option<String>,
    columns: Option<Box<RawValue>>,
    with_row_id: Option<bool>,
    fast_search: Option<bool>,
    full_text_query: Option<Box<RawValue>>,
    order_by: Option<Vec<OrderBy>>,
    highlight: Option<Highlight>,
    hybrid: Option<HybridJoin>,
    rerank: Option<Rerank>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SpecVector {
    single_vector: Option<Vec<f32>>,
    multi_vector: Option<Vec<Vec<f32>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SpecColumns {
    column_names: Option<Vec<String>>,
    column_aliases: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SpecText {
    string_query: Option<StringQuery>,
    structured_query: Option<StructuredQuery>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StringQuery {
    query: String,
    columns: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StructuredQuery {
    query: serde_json::Value,
}

/// The search that a body asks of a table.
///
/// # Errors
/// `InvalidArgument` naming the field.
pub(crate) fn search_request(table: String, body: QueryBody) -> Result<SearchRequest> {
    let is_spec = body.vector.as_deref().is_some_and(|raw| raw.get().trim_start().starts_with('{'));
    Ok(SearchRequest {
        table,
        version: body.version,
        tag: None,
        as_of: None,
        branch: body.branch.filter(|branch| !branch.is_empty()),
        // Clients of the specification have to send a number, and send 0 for none.
        k: body.k.filter(|k| *k > 0 || !is_spec),
        offset: body.offset,
        vector: body.vector.as_deref().map(vector).transpose()?,
        embed: body.embed,
        vector_column: body.vector_column.filter(|column| !column.is_empty()),
        distance_type: body.distance_type.as_deref().map(distance_type).transpose()?,
        nprobes: body.nprobes,
        minimum_nprobes: body.minimum_nprobes,
        maximum_nprobes: body.maximum_nprobes,
        search_effort: body.search_effort,
        approx_mode: body.approx_mode,
        ef: body.ef,
        refine_factor: body.refine_factor,
        lower_bound: body.lower_bound,
        upper_bound: body.upper_bound,
        bypass_vector_index: body.bypass_vector_index,
        prefilter: body.prefilter,
        filter: body.filter.filter(|filter| !filter.is_empty()),
        row_set: body.row_set.filter(|row_set| !row_set.is_empty()),
        columns: body.columns.as_deref().map(columns).transpose()?.flatten(),
        with_row_id: body.with_row_id,
        fast_search: body.fast_search,
        full_text_query: body.full_text_query.as_deref().map(full_text).transpose()?.flatten(),
        order_by: body.order_by,
        highlight: body.highlight,
        hybrid: body.hybrid,
        rerank: body.rerank,
    })
}

/// A distance by its name in any case.
///
/// # Errors
/// `InvalidArgument` naming it.
pub(crate) fn distance_type(name: &str) -> Result<DistanceType> {
    let all = [DistanceType::L2, DistanceType::Cosine, DistanceType::Dot, DistanceType::Hamming];
    let name = name.to_ascii_lowercase();
    let name = if name == "euclidean" { "l2" } else { &name };
    all.into_iter().find(|distance| distance.name() == name).ok_or_else(|| {
        let shown = crate::params::shown(name);
        Error::invalid(format!(
            "the distance `{shown}` is none of `l2`, `cosine`, `dot` and `hamming`"
        ))
    })
}

fn is_object(raw: &RawValue) -> bool {
    raw.get().trim_start().starts_with('{')
}

fn field<T: DeserializeOwned>(name: &str, raw: &RawValue) -> Result<T> {
    serde_json::from_str(raw.get())
        .map_err(|error| Error::invalid(format!("field `{name}`: {error}")))
}

fn object<T: DeserializeOwned>(name: &str, raw: &RawValue) -> Result<T> {
    parse_raw(raw).map_err(|error| error.context(format!("field `{name}`")))
}

fn vector(raw: &RawValue) -> Result<QueryVectors> {
    if !is_object(raw) {
        return field("vector", raw);
    }
    let SpecVector { single_vector, multi_vector } = object("vector", raw)?;
    match (single_vector, multi_vector) {
        (Some(vector), None) if vector.is_empty() => Ok(QueryVectors::Empty),
        (Some(vector), None) => Ok(QueryVectors::One(vector)),
        (None, Some(vectors)) if !vectors.is_empty() => Ok(QueryVectors::Many(vectors)),
        (None, _) => Ok(QueryVectors::Empty),
        (Some(_), Some(_)) => {
            Err(Error::invalid("field `vector` has both `single_vector` and `multi_vector`"))
        }
    }
}

fn columns(raw: &RawValue) -> Result<Option<Columns>> {
    // An object is aliases in the SDKs' dialect and a wrapper in the specification's.
    if is_object(raw)
        && let Ok(SpecColumns { column_names, column_aliases }) = object("columns", raw)
    {
        return match (column_names, column_aliases) {
            (Some(names), None) => Ok(Some(Columns::Names(names))),
            (None, Some(aliases)) => Ok(Some(field("columns", &aliases)?)),
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                Err(Error::invalid("field `columns` has both `column_names` and `column_aliases`"))
            }
        };
    }
    field("columns", raw).map(Some)
}

fn full_text(raw: &RawValue) -> Result<Option<FullTextQuery>> {
    let is_spec = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(raw.get())
        .is_ok_and(|fields| !fields.contains_key("query"));
    if !is_spec {
        let text: FullTextQuery = field("full_text_query", raw)?;
        return Ok(Some(text).filter(|text| !text.query.is_null()));
    }
    let SpecText { string_query, structured_query } = object("full_text_query", raw)?;
    match (string_query, structured_query) {
        (Some(words), None) => Ok(Some(FullTextQuery {
            query: serde_json::Value::String(words.query),
            columns: words.columns,
        })),
        (None, Some(structured)) => {
            Ok(Some(FullTextQuery { query: structured.query, columns: Vec::new() }))
        }
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Error::invalid(
            "field `full_text_query` has both `string_query` and `structured_query`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    fn request(text: &str) -> Result<SearchRequest> {
        search_request("t".to_owned(), parse(text.as_bytes())?)
    }

    #[test]
    fn both_dialects_ask_for_the_same() {
        let sdk = request(
            r#"{"k":3,"vector":[1,2],"columns":["a","b"],"prefilter":true,"version":null,
                "full_text_query":{"query":"x","columns":["t"]}}"#,
        );
        let spec = request(
            r#"{"id":["t"],"k":3,"vector":{"single_vector":[1,2]},"prefilter":true,
                "columns":{"column_names":["a","b"]},
                "full_text_query":{"string_query":{"query":"x","columns":["t"]}}}"#,
        );
        assert_eq!(sdk.unwrap(), spec.unwrap());
    }

    #[test]
    fn aliases_keep_their_order_in_both_dialects() {
        let pairs = vec![("z".to_owned(), "a + 1".to_owned()), ("a".to_owned(), "b".to_owned())];
        for text in [
            r#"{"columns":{"z":"a + 1","a":"b"}}"#,
            r#"{"columns":{"column_aliases":{"z":"a + 1","a":"b"}}}"#,
        ] {
            let columns = request(text).unwrap().columns;
            assert_eq!(columns, Some(Columns::Expressions(pairs.clone())));
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let refusal = |text: &str| request(text).unwrap_err().message().to_owned();
        assert!(refusal(r#"{"nprobs":1}"#).contains("nprobs"));
        assert!(refusal(r#"{"use_lsm":true}"#).contains("use_lsm"));
        assert!(refusal(r#"{"vector":{"single":[1]}}"#).contains("vector"));
        assert!(refusal(r#"{"vector":["x"]}"#).contains("vector"));
        assert!(refusal(r#"{"distance_type":"manhattan"}"#).contains("manhattan"));
        assert!(refusal(r#"{"order_by":[{"column":"a"}]}"#).contains("order_by"));
        assert!(refusal(r#"{"full_text_query":{"structured":{}}}"#).contains("structured"));
        assert!(request(r#"{"use_lsm":false,"vector":[]}"#).is_ok());
    }
}
