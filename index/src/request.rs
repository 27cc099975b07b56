//! From what a client asks for to what storage searches: one meaning for all doors.

use lakebed_core::{Error, Limits, QueryVectors, Result, RowSetRef};
use lakebed_proto::command::Columns;
use lakebed_proto::search::{FullTextQuery, K_DEFAULT, SearchRequest};
use lakebed_storage::{Projection, Ranking, SearchSpec, Snapshot, TextQuery, VectorQuery};

use crate::hybrid::{Hybrid, Join};
use crate::rerank::{CANDIDATES, CANDIDATES_MAX, Reranked};
use crate::scored::{ROW_ID, Scored};
use crate::search::Search;
use crate::text::highlight::Marked;

/// Rows that a search by vector and one by text may each give to be joined.
const HYBRID_ROWS_MAX: u64 = 65_536;
/// From here on `k` means all rows: the SDKs send the largest signed number.
const ALL_ROWS: u64 = i64::MAX as u64;

/// The search that a request asks of a version. Which version it names is not looked at.
///
/// # Errors
/// `InvalidArgument` for fields that contradict each other or pass a limit, `NotFound` for a row set.
pub async fn search_of(
    snapshot: &Snapshot,
    request: &SearchRequest,
    limits: &Limits,
) -> Result<Search> {
    let search = search_over_all(snapshot, request, limits)?;
    let Some(wanted) = &request.row_set else { return Ok(search) };
    let (_, rows) = snapshot.row_set(&RowSetRef::parse(wanted)?).await?;
    Ok(search.over(&rows))
}

/// The search over all rows, whichever row set the request names.
fn search_over_all(
    snapshot: &Snapshot,
    request: &SearchRequest,
    limits: &Limits,
) -> Result<Search> {
    check_search(request, limits)?;
    let Some(highlight) = &request.highlight else { return unmarked(snapshot, request) };
    let Some(text) = &request.full_text_query else {
        return Err(Error::invalid(
            "`highlight` is for a search by text, and there is no `full_text_query`",
        ));
    };
    let is_row_id = |name: &String| name == ROW_ID;
    let is_named = match &request.columns {
        Some(Columns::Names(names)) => names.iter().any(is_row_id),
        Some(Columns::Expressions(pairs)) => pairs.iter().any(|(name, _)| is_row_id(name)),
        None => false,
    };
    let with_ids =
        SearchRequest { with_row_id: Some(!is_named), highlight: None, ..request.clone() };
    Ok(Search::Marked(Box::new(Marked {
        search: unmarked(snapshot, &with_ids)?,
        highlight: highlight.clone(),
        text: text_query(text),
        with_row_id: is_named || request.with_row_id.unwrap_or(false),
        marker: None,
    })))
}

fn unmarked(snapshot: &Snapshot, request: &SearchRequest) -> Result<Search> {
    let Some(rerank) = &request.rerank else { return ranked(snapshot, request) };
    let spec = spec_of(request, Ranking::None);
    let limit = request.k.unwrap_or(K_DEFAULT);
    let wanted = limit.saturating_add(spec.offset);
    let candidates = rerank.candidates.unwrap_or_else(|| wanted.max(CANDIDATES));
    if limit == 0 || candidates < wanted || candidates > CANDIDATES_MAX {
        return Err(Error::invalid(format!(
            "rerank: `k` and `offset` are {wanted} together and `candidates` is {candidates}; a function \
             puts 1 to {CANDIDATES_MAX} rows in order, at least as many as are asked for"
        )));
    }
    if !spec.order_by.is_empty() {
        return Err(Error::invalid(
            "`order_by` is not for a search with `rerank`, whose rows come by their scores",
        ));
    }
    let ids = SearchRequest {
        k: Some(candidates),
        offset: None,
        columns: Some(Columns::Names(Vec::new())),
        with_row_id: Some(true),
        rerank: None,
        ..request.clone()
    };
    let search = match ranked(snapshot, &ids)? {
        Search::One(spec) => {
            if matches!(spec.ranking, Ranking::None) || snapshot.is_batch(&spec.ranking) {
                return Err(Error::invalid(
                    "`rerank` is for a search by one vector, by text, or by both",
                ));
            }
            // An empty list of columns would mean all of them.
            Search::One(SearchSpec { projection: Projection::Names(Vec::new()), ..spec })
        }
        other => other,
    };
    Ok(Search::Reranked(Box::new(Reranked {
        search,
        rerank: rerank.clone(),
        scorer: None,
        limit: limit as usize,
        offset: spec.offset as usize,
        shown: Scored {
            projection: spec.projection,
            with_row_id: spec.with_row_id,
            nullable: true,
        },
    })))
}

/// The search as vector and text rank its rows.
fn ranked(snapshot: &Snapshot, request: &SearchRequest) -> Result<Search> {
    let vectors = request.vector.as_ref().filter(|vectors| !vectors.is_empty());
    if request.hybrid.is_some() && (vectors.is_none() || request.full_text_query.is_none()) {
        return Err(Error::invalid(
            "`hybrid` is for a search by vector and text, and there is only one of them",
        ));
    }
    match (vectors, &request.full_text_query) {
        (Some(vectors), Some(text)) => hybrid(snapshot, request, vectors, text),
        (Some(vectors), None) => {
            let ranking = by_vector(snapshot, request, vectors)?;
            Ok(Search::One(spec_of(request, ranking)))
        }
        (None, text) => {
            no_vector_fields(request)?;
            let ranking = text.as_ref().map_or(Ranking::None, by_text);
            Ok(Search::One(spec_of(request, ranking)))
        }
    }
}

fn spec_of(request: &SearchRequest, ranking: Ranking) -> SearchSpec {
    let is_ranked = !matches!(ranking, Ranking::None);
    SearchSpec {
        limit: match request.k {
            None if is_ranked => Some(K_DEFAULT),
            // The SDKs' word for "all rows".
            Some(ALL_ROWS..) if !is_ranked => None,
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
        rows: None,
        prefilter: request.prefilter.unwrap_or(true),
        with_row_id: request.with_row_id.unwrap_or(false),
        fast_search: request.fast_search.unwrap_or(false),
        order_by: request.order_by.clone().unwrap_or_default(),
    }
}

/// Both searches of a request with a vector and a text.
fn hybrid(
    snapshot: &Snapshot,
    request: &SearchRequest,
    vectors: &QueryVectors,
    text: &FullTextQuery,
) -> Result<Search> {
    let spec = spec_of(request, by_text(text));
    let limit = spec.limit.unwrap_or(K_DEFAULT);
    if !spec.order_by.is_empty() {
        return Err(Error::invalid(
            "`order_by` is not for a search by vector and text, whose rows come by their relevance",
        ));
    }
    let rows = limit.saturating_add(spec.offset);
    if limit == 0 || rows > HYBRID_ROWS_MAX {
        return Err(Error::invalid(format!(
            "`k` and `offset` are {rows} together; a search by vector and text joins 1 to \
             {HYBRID_ROWS_MAX} rows of each"
        )));
    }
    let ids_of = |ranking: Ranking| SearchSpec {
        ranking,
        limit: Some(rows),
        offset: 0,
        projection: Projection::Names(Vec::new()),
        with_row_id: true,
        ..spec.clone()
    };
    let vector = ids_of(by_vector(snapshot, request, vectors)?);
    if snapshot.is_batch(&vector.ranking) {
        return Err(Error::invalid("`vector` holds several, and `full_text_query` is one search"));
    }
    Ok(Search::Hybrid(Box::new(Hybrid {
        vector,
        text: ids_of(spec.ranking.clone()),
        near: None,
        join: Join::of(request.hybrid.as_ref())?,
        limit: limit as usize,
        offset: spec.offset as usize,
        shown: Scored {
            projection: spec.projection.clone(),
            with_row_id: spec.with_row_id,
            nullable: false,
        },
    })))
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

fn by_text(text: &FullTextQuery) -> Ranking {
    Ranking::Text(text_query(text))
}

fn text_query(text: &FullTextQuery) -> TextQuery {
    TextQuery { query: text.query.clone(), columns: text.columns.clone() }
}

fn by_vector(
    snapshot: &Snapshot,
    request: &SearchRequest,
    vectors: &QueryVectors,
) -> Result<Ranking> {
    let width = match vectors {
        QueryVectors::Empty => None,
        QueryVectors::One(vector) => Some(vector.len()),
        QueryVectors::Many(many) => many.first().map(Vec::len),
    };
    let column = vector_column(snapshot, request.vector_column.as_deref(), width)?;
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

/// The alias that a search uses which names neither a column nor an alias, where there are several columns.
const DEFAULT_ALIAS: &str = "default";

/// The column that is searched by vector: the one that is asked for, by its name or an alias of it; or the only
/// one; or of several the one that the alias `default` points to, or the only one with vectors of this width.
///
/// # Errors
/// `InvalidArgument` when none is asked for and there is none, or several.
pub fn vector_column(
    snapshot: &Snapshot,
    asked: Option<&str>,
    width: Option<usize>,
) -> Result<String> {
    if let Some(column) = asked {
        let known = snapshot.vector_columns();
        let is_column = known.iter().any(|(known, _)| known == column);
        let aliased = snapshot.vector_aliases().remove(column).filter(|_| !is_column);
        return Ok(aliased.unwrap_or_else(|| column.to_owned()));
    }
    let mut columns = snapshot.vector_columns();
    let known: Vec<String> = columns.iter().map(|(column, _)| column.clone()).collect();
    if columns.len() > 1 {
        if let Some(column) = snapshot.vector_aliases().remove(DEFAULT_ALIAS) {
            return Ok(column);
        }
        columns.retain(|(_, known)| width == Some(*known));
    }
    match (columns.len(), known.len()) {
        (1, _) => Ok(columns.remove(0).0),
        (_, 0) => Err(Error::invalid("No vector column: the table has no column of vectors")),
        _ => Err(Error::invalid(format!(
            "`vector_column` is missing: the table has several, `{}`",
            known.join("`, `")
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
