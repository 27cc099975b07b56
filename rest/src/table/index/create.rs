//! `POST /v1/table/{id}/create_index` and `create_scalar_index`: a job that builds an index.
//!
//! The answer names the job. It comes when the index is there, or cannot be built; what takes longer goes on
//! without it.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lakebed_core::{DistanceType, Error, ErrorKind, Result};
use lakebed_service::{CreateIndex, IndexSpec, ScalarIndexKind, VectorIndexKind, VectorIndexSpec};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Door;
use crate::body::{BodyBytes, parse};
use crate::error::ApiError;
use crate::params::shown;
use crate::table::query_body::distance_type;
use crate::table::refused;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CreateIndexBody {
    id: Option<Vec<String>>,
    branch: Option<String>,
    column: Option<String>,
    index_type: Option<String>,
    name: Option<String>,
    replace: Option<bool>,
    // Of vector indexes.
    metric_type: Option<String>,
    distance_type: Option<String>,
    num_partitions: Option<usize>,
    target_partition_size: Option<usize>,
    sample_rate: Option<usize>,
    max_iterations: Option<usize>,
    num_sub_vectors: Option<usize>,
    num_bits: Option<usize>,
    m: Option<usize>,
    ef_construction: Option<usize>,
    // Of Bloom filters.
    number_of_items: Option<u64>,
    probability: Option<f64>,
    // Of text indexes, passed on as they are.
    base_tokenizer: Option<Value>,
    language: Option<Value>,
    with_position: Option<Value>,
    max_token_length: Option<Value>,
    lower_case: Option<Value>,
    stem: Option<Value>,
    remove_stop_words: Option<Value>,
    custom_stop_words: Option<Value>,
    ascii_folding: Option<Value>,
    min_ngram_length: Option<Value>,
    ngram_min_length: Option<Value>,
    max_ngram_length: Option<Value>,
    ngram_max_length: Option<Value>,
    prefix_only: Option<Value>,
    block_size: Option<Value>,
    split_identifiers: Option<Value>,
    split_on_numerics: Option<Value>,
    preserve_original: Option<Value>,
    index_operators: Option<Value>,
    lance_tokenizer: Option<Value>,
    document_granularity: Option<Value>,
    analyzer: Option<Value>,
}

pub(crate) async fn create_index(
    State(door): State<Door>,
    target: Target,
    BodyBytes(bytes): BodyBytes,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let mut body: CreateIndexBody = parse(&bytes)?;
    target.check_id(body.id.as_deref())?;
    let asked = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let Some(column) = body.column.take().filter(|column| !column.is_empty()) else {
        return Err(Error::invalid("field `column` is missing").into());
    };
    let command = CreateIndex {
        branch: body.branch.take().filter(|branch| !branch.is_empty()),
        column,
        name: body.name.take().filter(|name| !name.is_empty()),
        // The SDKs leave it out when they mean true.
        replace: body.replace.unwrap_or(true),
        spec: spec(body)?,
        asked,
    };
    match door.service.create_index(target.ctx(), &target.table()?, command).await {
        // The SDKs try a 409 again.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && target.is_sdk() => {
            Err(ApiError::from(error).with_status(StatusCode::BAD_REQUEST))
        }
        Err(error) => Err(refused(error)),
        Ok(job_id) => Ok(Json(json!({ "job_id": job_id })).into_response()),
    }
}

fn spec(body: CreateIndexBody) -> Result<IndexSpec> {
    let name = body.index_type.as_deref().unwrap_or_default();
    let kind = kind(name)?;
    let text = text_fields(&body);
    let vector = vector_fields(&body);
    let scalar = scalar_fields(&body);
    if !matches!(kind, Kind::Scalar(_)) {
        refuse(name, scalar.keys().map(String::as_str))?;
    }
    match kind {
        Kind::Vector(kind) => {
            refuse(name, text.iter().map(|(field, _)| field.as_str()))?;
            refuse(name, vector.into_iter().filter(|field| !belongs(kind, field)))?;
            let distance = match (&body.metric_type, &body.distance_type) {
                (Some(metric), Some(distance)) if metric != distance => {
                    return Err(Error::invalid(
                        "`metric_type` and `distance_type` say different things",
                    ));
                }
                (Some(name), _) | (None, Some(name)) => distance_type(name)?,
                (None, None) => DistanceType::L2,
            };
            Ok(IndexSpec::Vector(VectorIndexSpec {
                kind,
                distance,
                num_partitions: body.num_partitions.filter(|n| *n > 0),
                target_partition_size: body.target_partition_size.filter(|n| *n > 0),
                sample_rate: body.sample_rate.filter(|n| *n > 0),
                max_iterations: body.max_iterations.filter(|n| *n > 0),
                num_sub_vectors: body.num_sub_vectors,
                num_bits: body.num_bits,
                m: body.m.filter(|n| *n > 0),
                ef_construction: body.ef_construction.filter(|n| *n > 0),
            }))
        }
        Kind::Scalar(kind) => {
            refuse(name, text.iter().map(|(field, _)| field.as_str()))?;
            refuse(name, vector)?;
            if kind != ScalarIndexKind::BloomFilter {
                refuse(name, scalar.keys().map(String::as_str))?;
            }
            Ok(IndexSpec::Scalar(kind, scalar))
        }
        Kind::Text => {
            refuse(name, vector)?;
            Ok(IndexSpec::Text(text))
        }
    }
}

/// Whether a field of vector indexes is one of this type.
fn belongs(kind: VectorIndexKind, field: &str) -> bool {
    use VectorIndexKind as K;
    let has_graph = matches!(kind, K::IvfHnswFlat | K::IvfHnswSq | K::IvfHnswPq);
    match field {
        "m" | "ef_construction" => has_graph,
        "num_sub_vectors" => matches!(kind, K::IvfPq | K::IvfHnswPq),
        "num_bits" => !matches!(kind, K::IvfFlat | K::IvfHnswFlat),
        _ => true,
    }
}

/// A field that belongs to another type of index is not silently left out.
fn refuse<'a>(index_type: &str, given: impl IntoIterator<Item = &'a str>) -> Result<()> {
    match given.into_iter().next() {
        Some(field) => Err(Error::invalid(format!(
            "field `{field}` is not one of an index of type `{}`",
            shown(index_type)
        ))),
        None => Ok(()),
    }
}

fn vector_fields(body: &CreateIndexBody) -> Vec<&'static str> {
    let given = [
        ("metric_type", body.metric_type.is_some()),
        ("distance_type", body.distance_type.is_some()),
        ("num_partitions", body.num_partitions.is_some()),
        ("target_partition_size", body.target_partition_size.is_some()),
        ("sample_rate", body.sample_rate.is_some()),
        ("max_iterations", body.max_iterations.is_some()),
        ("num_sub_vectors", body.num_sub_vectors.is_some()),
        ("num_bits", body.num_bits.is_some()),
        ("m", body.m.is_some()),
        ("ef_construction", body.ef_construction.is_some()),
    ];
    given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
}

/// The parameters of indexes over values, under lance's names.
fn scalar_fields(body: &CreateIndexBody) -> Map<String, Value> {
    let given = [
        ("number_of_items", body.number_of_items.map(Value::from)),
        ("probability", body.probability.map(Value::from)),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The parameters of a tokenizer, under lance's names.
fn text_fields(body: &CreateIndexBody) -> Map<String, Value> {
    let min_ngram = body.min_ngram_length.as_ref().or(body.ngram_min_length.as_ref());
    let max_ngram = body.max_ngram_length.as_ref().or(body.ngram_max_length.as_ref());
    let given = [
        ("base_tokenizer", body.base_tokenizer.as_ref()),
        ("language", body.language.as_ref()),
        ("with_position", body.with_position.as_ref()),
        ("max_token_length", body.max_token_length.as_ref()),
        ("lower_case", body.lower_case.as_ref()),
        ("stem", body.stem.as_ref()),
        ("remove_stop_words", body.remove_stop_words.as_ref()),
        ("custom_stop_words", body.custom_stop_words.as_ref()),
        ("ascii_folding", body.ascii_folding.as_ref()),
        ("min_ngram_length", min_ngram),
        ("max_ngram_length", max_ngram),
        ("prefix_only", body.prefix_only.as_ref()),
        ("block_size", body.block_size.as_ref()),
        ("split_identifiers", body.split_identifiers.as_ref()),
        ("split_on_numerics", body.split_on_numerics.as_ref()),
        ("preserve_original", body.preserve_original.as_ref()),
        ("index_operators", body.index_operators.as_ref()),
        ("lance_tokenizer", body.lance_tokenizer.as_ref()),
        ("document_granularity", body.document_granularity.as_ref()),
        ("analyzer", body.analyzer.as_ref()),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone()))).collect()
}

enum Kind {
    Vector(VectorIndexKind),
    Scalar(ScalarIndexKind),
    Text,
}

fn kind(name: &str) -> Result<Kind> {
    let plain = name.replace('_', "").to_ascii_uppercase();
    Ok(match plain.as_str() {
        "IVFFLAT" => Kind::Vector(VectorIndexKind::IvfFlat),
        "IVFSQ" => Kind::Vector(VectorIndexKind::IvfSq),
        "IVFPQ" => Kind::Vector(VectorIndexKind::IvfPq),
        "IVFRQ" => Kind::Vector(VectorIndexKind::IvfRq),
        "IVFHNSWFLAT" => Kind::Vector(VectorIndexKind::IvfHnswFlat),
        "IVFHNSWSQ" => Kind::Vector(VectorIndexKind::IvfHnswSq),
        "IVFHNSWPQ" => Kind::Vector(VectorIndexKind::IvfHnswPq),
        "BTREE" | "SCALAR" => Kind::Scalar(ScalarIndexKind::BTree),
        "BITMAP" => Kind::Scalar(ScalarIndexKind::Bitmap),
        "LABELLIST" => Kind::Scalar(ScalarIndexKind::LabelList),
        "NGRAM" => Kind::Scalar(ScalarIndexKind::NGram),
        "ZONEMAP" => Kind::Scalar(ScalarIndexKind::ZoneMap),
        "BLOOMFILTER" => Kind::Scalar(ScalarIndexKind::BloomFilter),
        "FM" => Kind::Scalar(ScalarIndexKind::Fm),
        "FTS" | "INVERTED" => Kind::Text,
        "RTREE" => {
            return Err(Error::new(
                ErrorKind::NotImplemented,
                "an index of type `RTREE` is not built in this server",
            ));
        }
        "" => return Err(Error::invalid("field `index_type` is missing")),
        _ => {
            return Err(Error::invalid(format!("`{}` is no type of index", shown(name))));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec_of(text: &str) -> Result<IndexSpec> {
        spec(parse(text.as_bytes())?)
    }

    #[test]
    fn what_the_sdk_sends_is_kept() {
        let text = r#"{"column":"vector","index_type":"IVF_PQ","metric_type":"cosine",
            "num_partitions":4,"num_sub_vectors":2,"num_bits":8,"sample_rate":256,
            "max_iterations":50}"#;
        let IndexSpec::Vector(spec) = spec_of(text).unwrap() else { panic!("no vector index") };
        assert_eq!((spec.kind, spec.distance), (VectorIndexKind::IvfPq, DistanceType::Cosine));
        assert_eq!((spec.num_partitions, spec.num_sub_vectors), (Some(4), Some(2)));
        let text = r#"{"column":"t","index_type":"FTS","with_position":true,"language":"English"}"#;
        let IndexSpec::Text(fields) = spec_of(text).unwrap() else { panic!("no text index") };
        assert_eq!(fields["with_position"], Value::Bool(true));
    }

    #[test]
    fn fields_of_another_type_are_refused() {
        let refusal = |text: &str| spec_of(text).unwrap_err().message().to_owned();
        assert!(refusal(r#"{"index_type":"BTREE","num_partitions":3}"#).contains("num_partitions"));
        assert!(refusal(r#"{"index_type":"IVF_PQ","stem":true}"#).contains("stem"));
        assert!(refusal(r#"{"index_type":"FTS","m":3}"#).contains("`m`"));
        assert!(refusal(r#"{"index_type":"IVF_PQ","m":3}"#).contains("`m`"));
        let text = refusal(r#"{"index_type":"IVF_HNSW_SQ","num_sub_vectors":3}"#);
        assert!(text.contains("num_sub_vectors"), "{text}");
        assert!(refusal(r#"{"index_type":"TREE"}"#).contains("TREE"));
        assert!(refusal(r#"{"index_type":"IVF_PQ","metric_type":"x"}"#).contains("`x`"));
        assert!(refusal("{}").contains("index_type"));
    }
}
