//! From what a client asks for to what storage searches: one meaning for all doors.

use lakebed_core::{Error, Limits, QueryVectors, Result};
use lakebed_proto::command::Columns;
use lakebed_proto::search::{K_DEFAULT, SearchRequest};
use lakebed_storage::{Projection, Ranking, SearchSpec, Snapshot, TextQuery, VectorQuery};

/// From here on `k` means all rows: the SDKs send the largest signed number.
const ALL_ROWS: u64 = i64::MAX as u64;

/// The search that a request asks of a version. Which version it names is not looked at.
///
/// # Errors
/// `InvalidArgument` for fields that contradict each other or pass a limit.
pub fn search_spec(
    snapshot: &Snapshot,
    request: &SearchRequest,
    limits: &Limits,
) -> Result<SearchSpec> {
    check_search(request, limits)?;
    let ranking = ranking(snapshot, request)?;
    let is_ranked = !matches!(ranking, Ranking::None);
    Ok(SearchSpec {
        limit: match request.k {
            None if is_ranked => Some(K_DEFAULT),
            // The SDKs' words for "all rows".
            Some(0 | ALL_ROWS..) if !is_ranked => None,
            k => k,
        },
        ranking,
        offset: request.offset.unwrap_or(0),
        projection: match &request.columns {
            None => Projection::All,
            Some(Columns::Names(names)) if names.is_empty() => Projection::All,
            Some(Columns::Names(names)) => Projection::Names(names.clone()),
            Some(Columns::Expressions(pairs)) => Projection::Expressions(pairs.clone()),
        },
        filter: request.filter.clone().filter(|filter| !filter.trim().is_empty()),
        prefilter: request.prefilter.unwrap_or(true),
        with_row_id: request.with_row_id.unwrap_or(false),
        fast_search: request.fast_search.unwrap_or(false),
        order_by: request.order_by.clone().unwrap_or_default(),
    })
}

fn check_search(request: &SearchRequest, limits: &Limits) -> Result<()> {
    let sql_bytes_max = limits.sql_bytes_max;
    let in_columns = match &request.columns {
        Some(Columns::Expressions(pairs)) => pairs.iter().map(|(_, sql)| sql.len()).sum(),
        _ => 0,
    };
    let in_filter = request.filter.as_ref().map_or(0, String::len);
    if in_columns.max(in_filter) > sql_bytes_max {
        return Err(Error::invalid(format!(
            "the filter or the expressions have more than sql_bytes_max = {sql_bytes_max} bytes"
        )));
    }
    Ok(())
}

/// What ranks the rows of a request.
fn ranking(snapshot: &Snapshot, request: &SearchRequest) -> Result<Ranking> {
    let vectors = request.vector.as_ref().filter(|vectors| !vectors.is_empty());
    match (vectors, &request.full_text_query) {
        (Some(_), Some(_)) => Err(Error::invalid(
            "`vector` and `full_text_query` are two searches: send them one by one and join the \
             answers, as the SDKs' hybrid search does",
        )),
        (Some(vectors), None) => by_vector(snapshot, request, vectors),
        (None, Some(text)) => {
            no_vector_fields(request)?;
            Ok(Ranking::Text(TextQuery {
                query: text.query.clone(),
                columns: text.columns.clone(),
            }))
        }
        (None, None) => {
            no_vector_fields(request)?;
            Ok(Ranking::None)
        }
    }
}

fn by_vector(
    snapshot: &Snapshot,
    request: &SearchRequest,
    vectors: &QueryVectors,
) -> Result<Ranking> {
    let column = vector_column(snapshot, request.vector_column.as_deref())?;
    Ok(Ranking::Vector(Box::new(VectorQuery {
        column,
        vectors: vectors.clone(),
        distance: request.distance_type,
        nprobes: request.nprobes,
        minimum_nprobes: request.minimum_nprobes,
        maximum_nprobes: request.maximum_nprobes,
        search_effort: request.search_effort,
        approx_mode: request.approx_mode,
        ef: request.ef,
        refine_factor: request.refine_factor,
        lower_bound: request.lower_bound,
        upper_bound: request.upper_bound,
        use_index: !request.bypass_vector_index.unwrap_or(false),
    })))
}

/// The column that is searched by vector: the one that is asked for, or the only one.
///
/// # Errors
/// `InvalidArgument` when none is asked for and there is none, or several.
pub fn vector_column(snapshot: &Snapshot, asked: Option<&str>) -> Result<String> {
    if let Some(column) = asked {
        return Ok(column.to_owned());
    }
    let mut columns = snapshot.vector_columns();
    match columns.len() {
        1 => Ok(columns.remove(0)),
        0 => Err(Error::invalid("the table has no column of vectors")),
        _ => Err(Error::invalid(format!(
            "`vector_column` is missing: the table has several, `{}`",
            columns.join("`, `")
        ))),
    }
}

/// Refuses fields of a search by vector where there is no vector.
fn no_vector_fields(request: &SearchRequest) -> Result<()> {
    let given = [
        ("vector_column", request.vector_column.is_some()),
        ("distance_type", request.distance_type.is_some()),
        ("nprobes", request.nprobes.is_some()),
        ("minimum_nprobes", request.minimum_nprobes.is_some()),
        ("maximum_nprobes", request.maximum_nprobes.is_some()),
        ("bypass_vector_index", request.bypass_vector_index == Some(true)),
        ("refine_factor", request.refine_factor.is_some()),
        ("ef", request.ef.is_some()),
        ("lower_bound", request.lower_bound.is_some()),
        ("upper_bound", request.upper_bound.is_some()),
        ("search_effort", request.search_effort.is_some()),
        ("approx_mode", request.approx_mode.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => {
            Err(Error::invalid(format!("`{name}` is for a search by vector, and there is none")))
        }
        None => Ok(()),
    }
}
