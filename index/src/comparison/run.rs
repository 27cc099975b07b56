//! The searches of a comparison.

use std::collections::BTreeSet;
use std::time::Instant;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int32Type, UInt8Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, FixedSizeListArray};
use arrow_schema::DataType;
use futures::TryStreamExt as _;
use lakebed_core::{DistanceType, Error, QueryVectors, Result, Subject};
use lakebed_storage::{
    IndexSummary, Projection, Ranking, ScanSpec, SearchSpec, Snapshot, VectorQuery,
};

use super::figures::{figures, mean, overlaps, percentile, recalls};
use super::{ColumnReport, Comparison, ComparisonReport, Queries, WORST_SHOWN, WorstQuery};
use crate::search::Search;

const ROW_ID: &str = "_rowid";
const QUERY_INDEX: &str = "query_index";
/// Vectors that are searched for in one pass over the rows.
const AT_ONCE: usize = 64;
/// Numbers in the vectors of such a pass.
const NUMBERS_AT_ONCE: usize = 256 << 10;

/// The width of the vectors of a column.
///
/// # Errors
/// `NotFound` without the column, `InvalidArgument` where it holds no vectors, or several for each row.
pub(super) fn width(snapshot: &Snapshot, column: &str) -> Result<usize> {
    let known = snapshot.vector_columns();
    let Some((_, width)) = known.iter().find(|(known, _)| known == column) else {
        let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
        let message = format!(
            "column `{column}` is no column of vectors; the table has {}",
            match names.is_empty() {
                true => "none".to_owned(),
                false => format!("`{}`", names.join("`, `")),
            }
        );
        return Err(Error::not_found(message).about(Subject::Column));
    };
    match column.contains('.') {
        true => Err(Error::invalid(format!(
            "column `{column}` is a part of another one; whole columns are compared"
        ))),
        false => Ok(*width),
    }
}

/// One of the columns and what is searched for in it.
struct Side<'a> {
    column: &'a str,
    width: usize,
    distance: DistanceType,
    index: Option<IndexSummary>,
    vectors: Vec<Vec<f32>>,
}

pub(super) async fn run(asked: &Comparison, snapshot: &Snapshot) -> Result<ComparisonReport> {
    let filter = asked.filter.as_deref().filter(|filter| !filter.trim().is_empty());
    let rows = match filter {
        Some(filter) => snapshot.count_matching(filter).await?,
        None => snapshot.count_rows().await?,
    };
    let has_both = format!("{} IS NOT NULL AND {} IS NOT NULL", sql(&asked.from), sql(&asked.to));
    let with_both = match filter {
        Some(filter) => format!("({filter}) AND {has_both}"),
        None => has_both,
    };
    let complete = snapshot.count_matching(&with_both).await?;
    let (row_ids, vectors) = match &asked.queries {
        Queries::Vectors { from, to } => (None, [from.clone(), to.clone()]),
        Queries::Rows { count, seed } => {
            let ids = sample(snapshot, &with_both, *count, *seed).await?;
            let vectors = vectors_of(snapshot, &ids, [&asked.from, &asked.to]).await?;
            (Some(ids), vectors)
        }
    };
    if vectors.iter().any(Vec::is_empty) {
        return Err(Error::invalid(format!(
            "no row has a vector in both `{}` and `{}`, so there is nothing to ask for",
            asked.from, asked.to
        )));
    }
    let indexes = snapshot.indexes().await?;
    let [of_from, of_to] = vectors;
    let from = side(asked, snapshot, &indexes, &asked.from, of_from)?;
    let to = side(asked, snapshot, &indexes, &asked.to, of_to)?;
    // Both columns find among the same rows.
    let exact_from = exact(asked, snapshot, &from, &with_both, row_ids.as_deref()).await?;
    let exact_to = exact(asked, snapshot, &to, &with_both, row_ids.as_deref()).await?;
    let mut worst = overlaps(&exact_from, &exact_to);
    worst.sort_by(|a, b| a.share.total_cmp(&b.share).then(a.at.cmp(&b.at)));
    let list = |lists: &[Vec<u64>], at: usize| lists.get(at).cloned().unwrap_or_default();
    let worst =
        worst.into_iter().take(WORST_SHOWN).filter(|it| it.share < 1.0).map(|it| WorstQuery {
            at: it.at,
            row_id: row_ids.as_ref().and_then(|ids| ids.get(it.at).copied()),
            overlap: it.share,
            from: list(&exact_from, it.at),
            to: list(&exact_to, it.at),
        });
    let (figures, worst) = (figures(&exact_from, &exact_to, asked.k), worst.collect());
    // Where every row has both, what was found among these is what there is to be found.
    let is_whole = rows == complete;
    let (exact_from, exact_to) = (is_whole.then_some(exact_from), is_whole.then_some(exact_to));
    Ok(ComparisonReport {
        version: snapshot.version(),
        rows,
        rows_with_null: rows.saturating_sub(complete),
        figures,
        worst,
        from: searched(asked, snapshot, from, filter, row_ids.as_deref(), exact_from).await?,
        to: searched(asked, snapshot, to, filter, row_ids.as_deref(), exact_to).await?,
    })
}

fn side<'a>(
    asked: &Comparison,
    snapshot: &Snapshot,
    indexes: &[IndexSummary],
    column: &'a str,
    vectors: Vec<Vec<f32>>,
) -> Result<Side<'a>> {
    let width = width(snapshot, column)?;
    let is_on = |index: &&IndexSummary| {
        index.distance.is_some() && index.columns.first().is_some_and(|indexed| indexed == column)
    };
    let index = indexes.iter().find(is_on).cloned();
    let all = [DistanceType::L2, DistanceType::Cosine, DistanceType::Dot, DistanceType::Hamming];
    let of_index = index.as_ref().and_then(|index| index.distance.as_deref());
    let of_index = of_index.and_then(|name| all.into_iter().find(|it| it.name() == name));
    let distance = asked.distance.or(of_index).unwrap_or(DistanceType::L2);
    Ok(Side { column, width, distance, index, vectors })
}

/// Rows for which a condition is true, by chance: those whose ids come first when they are mixed. The same
/// rows give the same sample, wherever they lie.
async fn sample(snapshot: &Snapshot, filter: &str, count: usize, seed: u64) -> Result<Vec<u64>> {
    let spec = SearchSpec {
        ranking: Ranking::None,
        limit: None,
        offset: 0,
        projection: Projection::Names(Vec::new()),
        filter: Some(filter.to_owned()),
        prefilter: true,
        rows: None,
        with_row_id: true,
        fast_search: false,
        order_by: Vec::new(),
    };
    let (_, mut batches) = snapshot.search(&spec).await?;
    let mut first: BTreeSet<(u64, u64)> = BTreeSet::new();
    while let Some(batch) = batches.try_next().await? {
        let ids = batch.column_by_name(ROW_ID);
        let ids = ids.and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
        let ids = ids.ok_or_else(|| Error::internal("rows without row ids"))?;
        for id in ids.values() {
            let key = (mixed(id ^ mixed(seed)), *id);
            if first.len() < count || first.last().is_some_and(|last| key < *last) {
                first.insert(key);
                if first.len() > count {
                    first.pop_last();
                }
            }
        }
    }
    Ok(first.into_iter().map(|(_, id)| id).collect())
}

/// The finalizer of splitmix64: every bit of the number decides over every other one.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The vectors of rows in both columns.
async fn vectors_of(
    snapshot: &Snapshot,
    ids: &[u64],
    columns: [&String; 2],
) -> Result<[Vec<Vec<f32>>; 2]> {
    let spec = ScanSpec {
        row_ids: Some(ids.to_vec()),
        projection: Projection::Names(columns.into_iter().cloned().collect()),
        ..ScanSpec::default()
    };
    let mut found = [Vec::new(), Vec::new()];
    if ids.is_empty() {
        return Ok(found);
    }
    let (_, mut batches) = snapshot.scan(&spec).await?;
    while let Some(batch) = batches.try_next().await? {
        for (found, column) in found.iter_mut().zip(columns) {
            let lists = batch.column_by_name(column).and_then(|it| it.as_fixed_size_list_opt());
            let lists = lists.ok_or_else(|| {
                Error::invalid(format!("column `{column}` holds several vectors for each row"))
            })?;
            for row in 0..lists.len() {
                found.push(vector(lists, row)?);
            }
        }
    }
    Ok(found)
}

fn vector(lists: &FixedSizeListArray, row: usize) -> Result<Vec<f32>> {
    let item: ArrayRef = lists.value(row);
    Ok(match item.data_type() {
        DataType::Float16 => {
            item.as_primitive::<Float16Type>().values().iter().map(|it| it.to_f32()).collect()
        }
        DataType::Float32 => item.as_primitive::<Float32Type>().values().to_vec(),
        DataType::Float64 => {
            item.as_primitive::<Float64Type>().values().iter().map(|it| *it as f32).collect()
        }
        DataType::UInt8 => {
            item.as_primitive::<UInt8Type>().values().iter().map(|it| f32::from(*it)).collect()
        }
        DataType::Int8 => {
            item.as_primitive::<Int8Type>().values().iter().map(|it| f32::from(*it)).collect()
        }
        other => return Err(Error::invalid(format!("vectors of {other} are not compared"))),
    })
}

/// A search for rows' ids, one more than are wanted where the query is a row itself.
fn spec(
    asked: &Comparison,
    side: &Side<'_>,
    vectors: QueryVectors,
    filter: Option<&str>,
    is_exact: bool,
    finds_itself: bool,
) -> SearchSpec {
    SearchSpec {
        ranking: Ranking::Vector(Box::new(VectorQuery {
            column: side.column.to_owned(),
            vectors,
            distance: Some(side.distance),
            nprobes: None,
            minimum_nprobes: None,
            maximum_nprobes: None,
            search_effort: None,
            approx_mode: None,
            ef: None,
            refine_factor: None,
            lower_bound: None,
            upper_bound: None,
            use_index: !is_exact,
        })),
        limit: Some(asked.k as u64 + u64::from(finds_itself)),
        offset: 0,
        projection: Projection::Names(Vec::new()),
        filter: filter.map(str::to_owned),
        prefilter: true,
        rows: None,
        with_row_id: true,
        fast_search: false,
        order_by: Vec::new(),
    }
}

/// What each query finds without an index, nearest first: several queries in one pass over the rows.
async fn exact(
    asked: &Comparison,
    snapshot: &Snapshot,
    side: &Side<'_>,
    filter: &str,
    own: Option<&[u64]>,
) -> Result<Vec<Vec<u64>>> {
    let at_once = (NUMBERS_AT_ONCE / side.width.max(1)).clamp(1, AT_ONCE);
    let mut found: Vec<Vec<u64>> = vec![Vec::new(); side.vectors.len()];
    for (chunk, vectors) in side.vectors.chunks(at_once).enumerate() {
        let many = QueryVectors::Many(vectors.to_vec());
        let spec = spec(asked, side, many, Some(filter), true, own.is_some());
        let (_, mut batches) = snapshot.search(&spec).await?;
        while let Some(batch) = batches.try_next().await? {
            let missing = || Error::internal("a search of several vectors without their numbers");
            let ids = batch.column_by_name(ROW_ID).ok_or_else(missing)?;
            let ids = ids.as_primitive_opt::<UInt64Type>().ok_or_else(missing)?;
            let queries = batch.column_by_name(QUERY_INDEX).ok_or_else(missing)?;
            let queries = queries.as_primitive_opt::<Int32Type>().ok_or_else(missing)?;
            for (query, id) in queries.values().iter().zip(ids.values()) {
                let at = chunk * at_once + usize::try_from(*query).unwrap_or(usize::MAX);
                found.get_mut(at).ok_or_else(missing)?.push(*id);
            }
        }
    }
    leave_out(&mut found, own, asked.k);
    Ok(found)
}

/// Takes each query's own row out of what it found.
fn leave_out(found: &mut [Vec<u64>], own: Option<&[u64]>, k: usize) {
    for (at, ids) in found.iter_mut().enumerate() {
        if let Some(own) = own.and_then(|own| own.get(at)) {
            ids.retain(|id| id != own);
        }
        ids.truncate(k);
    }
}

/// Each query as users send it, one after the other: how long it takes, and what it finds of the exact answer.
async fn searched(
    asked: &Comparison,
    snapshot: &Snapshot,
    side: Side<'_>,
    filter: Option<&str>,
    own: Option<&[u64]>,
    known: Option<Vec<Vec<u64>>>,
) -> Result<ColumnReport> {
    let mut found = Vec::new();
    let mut times_ms = Vec::new();
    for vector in &side.vectors {
        let one = QueryVectors::One(vector.clone());
        let spec = spec(asked, &side, one, filter, false, own.is_some());
        let began = Instant::now();
        let (search, _) = Search::One(spec).fitted(snapshot, None).await?;
        let (_, mut batches) = search.open(snapshot).await?;
        let mut ids = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            let missing = || Error::internal("a search without row ids");
            let column = batch.column_by_name(ROW_ID).ok_or_else(missing)?;
            let column = column.as_primitive_opt::<UInt64Type>().ok_or_else(missing)?;
            ids.extend_from_slice(column.values());
        }
        times_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
        found.push(ids);
    }
    leave_out(&mut found, own, asked.k);
    let recall = match side.index.is_some() {
        true => {
            // Among all rows with a vector in this column, as these searches are.
            let own_rows = format!("{} IS NOT NULL", sql(side.column));
            let own_rows = match filter {
                Some(filter) => format!("({filter}) AND {own_rows}"),
                None => own_rows,
            };
            let exact = match known {
                Some(known) => known,
                None => exact(asked, snapshot, &side, &own_rows, own).await?,
            };
            let recalls = recalls(&exact, &found);
            mean(&recalls).zip(percentile(&recalls, 0.1))
        }
        false => None,
    };
    let (indexed_rows, unindexed_rows) = match &side.index {
        Some(index) => (index.indexed_rows, index.unindexed_rows),
        None => (0, snapshot.count_rows().await?),
    };
    Ok(ColumnReport {
        column: side.column.to_owned(),
        dimensions: side.width,
        distance: side.distance,
        index: side.index.as_ref().map(|index| index.name.clone()),
        index_type: side.index.map(|index| index.index_type),
        indexed_rows,
        unindexed_rows,
        recall,
        latency_ms: percentile(&times_ms, 0.5).unwrap_or_default(),
    })
}

/// A column's name in a filter.
fn sql(column: &str) -> String {
    format!("`{}`", column.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_does_not_find_itself() {
        let mut found = [vec![7, 1, 2], vec![3, 4, 5]];
        leave_out(&mut found, Some(&[7, 9]), 2);
        assert_eq!(found, [vec![1, 2], vec![3, 4]]);
        assert_ne!(mixed(1), mixed(2));
    }
}
