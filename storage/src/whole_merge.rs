//! Merges of whole rows that are too many for memory.
//!
//! Why it exists: lance's merge joins the rows that were sent with the stored ones, and on tables with
//! stable row ids it holds all new rows, and as many changed ones as its writer lags behind, in memory:
//! 964 MiB for 600 MB. Here only keys are joined, by their hashes, which are held anyway; the rows
//! themselves go from the spool to the files.
//!
//! ```text
//!   stored keys ─► found among the sent ones? ─► where each sent row is stored (16 bytes a row)
//!   spool, first time  ─► rows that are stored ─► files, under their old row ids
//!   spool, second time ─► the others           ─► files, under new row ids
//!   where the changed rows lay                 ─► deletion files
//! ```
//!
//! What lance would do differently it is asked to do: a merge of some columns, with a condition or with
//! deletions, of few rows, and one that meets a stored key twice.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::Schema;
use arrow_select::filter::filter_record_batch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::Expr;
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, Result};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction, UpdateMode};
use lance::dataset::{InsertBuilder, WriteMode};
use lance_core::{ROW_ADDR, ROW_ID};
use lance_table::format::{Fragment, RowIdMeta};
use lance_table::rowids::{RowIdSequence, write_row_ids};
use roaring::RoaringTreemap;

use crate::commit::AffectedRows;
use crate::keys::KeyGuard;
use crate::lake::Shared;
use crate::lance_error::from_lance;
use crate::pieces::{owned, pieces};
use crate::scan::READ_AHEAD_BYTES;
use crate::spool::Spool;
use crate::upsert::{Matched, MergeRule};
use crate::write::{as_source, discard, write_error, write_params_into};

/// From here on a merge is too large for lance's own way.
const BYTES_MIN: u64 = 64 << 20;
/// Where a sent row is stored when it is not.
pub(crate) const NOWHERE: u64 = u64::MAX;

/// Whether a merge is done here.
pub(crate) fn is_whole_and_large(
    rule: &MergeRule,
    sent: &Schema,
    stored: &Schema,
    bytes: u64,
) -> bool {
    let is_whole = stored.fields().iter().all(|field| sent.field_with_name(field.name()).is_ok());
    let is_plain =
        matches!(rule.matched, Matched::Keep | Matched::Update) && rule.delete_unsent.is_none();
    bytes >= BYTES_MIN && is_whole && is_plain
}

/// A merge whose files are written.
pub(crate) struct Written {
    pub(crate) transaction: Transaction,
    pub(crate) affected_rows: Option<AffectedRows>,
    pub(crate) updated: u64,
    pub(crate) inserted: u64,
}

/// Where the sent rows are stored, in their order.
pub(crate) struct Places {
    /// Row id and row address.
    pub(crate) rows: Vec<(u64, u64)>,
    pub(crate) found: u64,
}

/// Writes the files of a merge on a version; nothing when a stored key comes twice, which lance treats
/// in a way of its own.
///
/// # Errors
/// `Conflict` when the key columns changed, and what writing fails with; nothing stays then.
pub(crate) async fn write_whole(
    shared: &Shared,
    dataset: &Arc<Dataset>,
    keys: &KeyGuard,
    rule: &MergeRule,
    spool: &Spool,
    rows: u64,
) -> Result<Option<Written>> {
    let Some(places) = find(dataset, keys, rows, None).await? else { return Ok(None) };
    let places = Arc::new(places);
    let (updates, inserts) = (rule.matched == Matched::Update, rule.insert_new);
    let mut written: Vec<Fragment> = Vec::new();
    let outcome = async {
        let mut updated = 0;
        if updates && places.found > 0 {
            let mut fragments =
                write(shared, dataset, selected(spool, Arc::clone(&places), true)).await?;
            let stored = places.rows.iter().filter(|(_, at)| *at != NOWHERE);
            keep_row_ids(&mut fragments, stored.map(|(id, _)| *id))?;
            updated = places.found;
            written.append(&mut fragments);
        }
        let mut inserted = 0;
        if inserts && places.found < rows {
            let new = selected(spool, Arc::clone(&places), false);
            written.append(&mut write(shared, dataset, new).await?);
            inserted = rows - places.found;
        }
        let removed: RoaringTreemap = match updates {
            true => places.rows.iter().map(|(_, at)| *at).filter(|at| *at != NOWHERE).collect(),
            false => RoaringTreemap::new(),
        };
        let (updated_fragments, removed_fragment_ids) = delete(dataset, &removed).await?;
        let fields = dataset.schema().fields_pre_order();
        let operation = Operation::Update {
            removed_fragment_ids,
            updated_fragments,
            new_fragments: written.clone(),
            fields_modified: Vec::new(),
            compacted_sstables: Vec::new(),
            // Whole rows are new: no index covers them yet, whatever its column.
            fields_for_preserving_frag_bitmap: fields.map(|field| field.id as u32).collect(),
            update_mode: Some(UpdateMode::RewriteRows),
            inserted_rows_filter: None,
            updated_fragment_offsets: None,
        };
        Ok(Written {
            transaction: Transaction::new(dataset.version().version, operation, None),
            affected_rows: Some(AffectedRows::from(removed)),
            updated,
            inserted,
        })
    }
    .await;
    if outcome.is_err() {
        discard(shared, &dataset.branch_location().path, &written).await?;
    }
    outcome.map(Some)
}

/// Where the rows of such keys are stored, among those that are `wanted`; nothing when a stored key comes
/// twice.
pub(crate) async fn find(
    dataset: &Dataset,
    keys: &KeyGuard,
    rows: u64,
    wanted: Option<Expr>,
) -> Result<Option<Places>> {
    let rows = usize::try_from(rows).map_err(|_| Error::invalid("too many rows"))?;
    let mut places = Places { rows: vec![(NOWHERE, NOWHERE); rows], found: 0 };
    let mut scanner = dataset.scan();
    scanner.project(keys.names()).map_err(from_lance)?;
    scanner.with_row_id().with_row_address().io_buffer_size(READ_AHEAD_BYTES);
    if let Some(wanted) = wanted {
        scanner.filter_expr(wanted);
    }
    let mut batches = Box::pin(scanner.try_into_stream()).await.map_err(from_lance)?;
    while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
        let (ids, addresses) = (numbers(&batch, ROW_ID)?, numbers(&batch, ROW_ADDR)?);
        for (row, found) in keys.find(&batch)?.into_iter().enumerate() {
            let Some(place) = found.and_then(|sent| places.rows.get_mut(sent as usize)) else {
                continue;
            };
            if place.1 != NOWHERE {
                return Ok(None);
            }
            *place = (ids.value(row), addresses.value(row));
            places.found += 1;
        }
    }
    Ok(Some(places))
}

fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a arrow_array::UInt64Array> {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<UInt64Type>())
        .ok_or_else(|| Error::internal(format!("a scan gave no `{name}`")))
}

/// The sent rows that are stored, or those that are not.
pub(crate) fn selected(
    spool: &Spool,
    places: Arc<Places>,
    stored: bool,
) -> SendableRecordBatchStream {
    let source = spool.source();
    let schema = source.schema();
    let mut first = 0;
    let rows = source
        .and_then(move |batch| {
            let of_batch = places.rows.iter().skip(first).take(batch.num_rows());
            let wanted: BooleanArray =
                of_batch.map(|(_, at)| Some((*at != NOWHERE) == stored)).collect();
            first += batch.num_rows();
            let kept = filter_record_batch(&batch, &wanted);
            std::future::ready(kept.map_err(Into::into))
        })
        .map_ok(|batch| futures::stream::iter(pieces(&batch).into_iter().map(Ok)))
        .try_flatten()
        .and_then(|piece| std::future::ready(owned(&piece).map_err(Into::into)));
    as_source(schema, rows.boxed())
}

pub(crate) async fn write(
    shared: &Shared,
    dataset: &Dataset,
    rows: SendableRecordBatchStream,
) -> Result<Vec<Fragment>> {
    let params = write_params_into(shared, dataset, WriteMode::Append, false);
    let insert = InsertBuilder::new(shared.root.writable(dataset).await?).with_params(&params);
    let transaction =
        Box::pin(insert.execute_uncommitted_stream(rows)).await.map_err(write_error)?;
    match transaction.operation {
        Operation::Append { fragments } => Ok(fragments),
        _ => Err(Error::internal("lance wrote something else than an append")),
    }
}

/// Rows that are written again keep their ids, which come in the order in which the rows were written.
pub(crate) fn keep_row_ids(
    fragments: &mut [Fragment],
    mut ids: impl Iterator<Item = u64>,
) -> Result<()> {
    for fragment in fragments.iter_mut() {
        let rows = fragment
            .physical_rows
            .ok_or_else(|| Error::internal("a written fragment does not say its rows"))?;
        let of_fragment: Vec<u64> = ids.by_ref().take(rows).collect();
        if of_fragment.len() != rows {
            return Err(Error::internal("more rows were written than are changed"));
        }
        let sequence = RowIdSequence::from(of_fragment.as_slice());
        fragment.row_id_meta = Some(RowIdMeta::Inline(write_row_ids(&sequence).into()));
    }
    match ids.next() {
        None => Ok(()),
        Some(_) => Err(Error::internal("fewer rows were written than are changed")),
    }
}

/// Notes rows as deleted; the fragments that have rows left, and the ids of those that have none.
pub(crate) async fn delete(
    dataset: &Dataset,
    rows: &RoaringTreemap,
) -> Result<(Vec<Fragment>, Vec<u64>)> {
    let (mut updated, mut removed) = (Vec::new(), Vec::new());
    for (id, positions) in rows.bitmaps() {
        let fragment = dataset
            .get_fragment(id as usize)
            .ok_or_else(|| Error::internal(format!("fragment {id} is not in its version")))?;
        match fragment.extend_deletions(positions.iter()).await.map_err(from_lance)? {
            Some(fragment) => updated.push(fragment.metadata().clone()),
            None => removed.push(u64::from(id)),
        }
    }
    Ok((updated, removed))
}
