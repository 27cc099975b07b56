//! Refreshes: the rows of a view are replaced, or those of changed rows of the source are, in one version.
//!
//! ```text
//!   rows of the query ─► files ──────────────────────────┊─► mutation lock ─► all rows replaced ─► version
//!   rows of the query over what changed ─► spool ────────┊─► mutation lock ─► where they lie ─► files
//!                                                        ┊                    ─► rows replaced ─► version
//! ```
//!
//! A row of the view whose row in the source changed keeps its own row id, so the view has changes that
//! say as much as those of the source.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt64Type;
use arrow_schema::{Schema, SchemaRef};
use datafusion::common::Column;
use datafusion::prelude::{Expr, lit};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction, UpdateMap, UpdateMapEntry, UpdateMode};
use lance::dataset::{InsertBuilder, WriteMode};
use lance_core::{ROW_ADDR, ROW_ID};
use lance_table::format::Fragment;
use roaring::RoaringTreemap;

use super::{KEY, MaterializedView, SOURCE_ROW_ID};
use crate::blob::BlobWriter;
use crate::changes::ChangedIds;
use crate::commit::{AffectedRows, TRIES_MAX};
use crate::lance_error::from_lance;
use crate::root::SYSTEM_FOLDER;
use crate::scalar_index::has_btree;
use crate::scan::{BatchStream, READ_AHEAD_BYTES};
use crate::schema::Conform;
use crate::spool::{Spool, SpoolWriter};
use crate::table::{Branch, Table};
use crate::whole_merge::{NOWHERE, Places, delete, keep_row_ids, selected, write};
use crate::write::{Counted, conformed, discard, write_error, write_params_into};

/// Rows of a view that are looked up in an index; more are found by reading the column.
const LOOKUPS_MAX: u64 = 2_000;

/// What a refresh did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// The version of the view.
    pub version: u64,
    /// Rows that were written.
    pub written: u64,
    /// Rows that are gone.
    pub deleted: u64,
}

/// What a refresh makes of the newest version.
struct Built {
    operation: Operation,
    affected_rows: Option<AffectedRows>,
    /// Files of this attempt alone, for the case that it is not committed.
    written: Vec<Fragment>,
    deleted: u64,
}

impl Table {
    /// Replaces all rows of a view whose definition was `was` by those that are sent; it has the definition
    /// `now` from then on.
    ///
    /// # Errors
    /// `Conflict` when the view was refreshed meanwhile; `InvalidArgument` naming what does not fit its
    /// columns; the error of the stream.
    pub fn rebuild_view<'a>(
        self: &'a Arc<Self>,
        was: &'a MaterializedView,
        now: &'a MaterializedView,
        sent: SchemaRef,
        batches: BatchStream,
    ) -> BoxFuture<'a, Result<Refreshed>> {
        async move {
            let branch = self.branch(None).await?;
            let _pin = branch.hold().await?;
            let shared = &self.shared;
            branch.ensure_blob_base_for(&sent).await?;
            let dataset = branch.latest().await?;
            let claims = shared.write_claims();
            let blobs = BlobWriter::new(shared.clone(), Arc::clone(&claims));
            let conform = conform(&dataset, &sent, blobs, shared)?;
            let counted = Arc::new(Counted::default());
            let source = conformed(Arc::new(conform), batches, counted.clone());
            let params = write_params_into(shared, &dataset, WriteMode::Append, false);
            let insert =
                InsertBuilder::new(shared.root.writable(&dataset).await?).with_params(&params);
            let transaction =
                Box::pin(insert.execute_uncommitted_stream(source)).await.map_err(write_error)?;
            let Operation::Append { fragments } = transaction.operation else {
                return Err(Error::internal("lance wrote something else than an append"));
            };
            claims.may_commit();
            let build = |latest: Arc<Dataset>| {
                let fragments = fragments.clone();
                async move {
                    let deleted = latest.count_rows(None).await.map_err(from_lance)? as u64;
                    let gone = latest.fragments().iter().map(|fragment| fragment.id).collect();
                    let operation = replaced(&latest, Vec::new(), gone, fragments);
                    Ok(Built { operation, affected_rows: None, written: Vec::new(), deleted })
                }
            };
            let outcome = branch.refresh(was, now, build).await;
            claims.end(&outcome);
            match outcome {
                Ok((version, deleted)) => {
                    Ok(Refreshed { version, written: counted.rows(), deleted })
                }
                Err(error) => {
                    if error.kind() != ErrorKind::CommitUnknown {
                        discard(shared, &dataset.branch_location().path, &fragments).await?;
                    }
                    Err(error)
                }
            }
        }
        .boxed()
    }

    /// Replaces the rows of a view that were made of `gone` and of what `changed` names once `batches` have
    /// ended, by those that are sent. Nothing where more rows changed than are held in memory
    /// (`upsert_rows_max`).
    ///
    /// # Errors
    /// As [`Table::rebuild_view`].
    pub fn change_view<'a>(
        self: &'a Arc<Self>,
        was: &'a MaterializedView,
        now: &'a MaterializedView,
        sent: SchemaRef,
        mut batches: BatchStream,
        changed: ChangedIds,
    ) -> BoxFuture<'a, Result<Option<Refreshed>>> {
        async move {
            let branch = self.branch(None).await?;
            let _pin = branch.hold().await?;
            let shared = &self.shared;
            let rows_max = shared.limits.upsert_rows_max as u64;
            branch.ensure_blob_base_for(&sent).await?;
            let dataset = branch.latest().await?;
            let claims = shared.write_claims();
            let blobs = BlobWriter::new(shared.clone(), Arc::clone(&claims));
            let conform = conform(&dataset, &sent, blobs, shared)?;
            let folder = match shared.root.local() {
                Some(root) => root.join(SYSTEM_FOLDER),
                None => std::env::temp_dir(),
            };
            let mut spool = SpoolWriter::new(conform.schema().clone(), folder);
            let mut ids: Vec<u64> = Vec::new();
            while let Some(batch) = batches.next().await {
                let batch = conform.apply(&batch?, ids.len() as u64).await?;
                ids.extend(numbers(&batch, SOURCE_ROW_ID)?);
                if changed.len() > rows_max {
                    return Ok(None);
                }
                spool = spool.push(batch).await?;
            }
            drop(batches);
            let changed = changed.into_set();
            if changed.len() > rows_max {
                return Ok(None);
            }
            let spool = spool.finish().await?;
            claims.may_commit();
            let build = |latest: Arc<Dataset>| {
                let change = Change { table: self, changed: &changed, ids: &ids, spool: &spool };
                async move { change.build(&latest).await }
            };
            let outcome = branch.refresh(was, now, build).await;
            claims.end(&outcome);
            let (version, replaced) = outcome?;
            let written = ids.len() as u64;
            Ok(Some(Refreshed { version, written, deleted: replaced }))
        }
        .boxed()
    }
}

fn conform(
    dataset: &Dataset,
    sent: &Schema,
    blobs: BlobWriter,
    shared: &crate::lake::Shared,
) -> Result<Conform> {
    let stored = Schema::from(dataset.schema());
    Conform::new(&stored, sent, false, &shared.limits, blobs).map_err(|error| {
        error.context("the query has other columns by now; drop the view and make it anew")
    })
}

/// What changes the definition alone.
fn noted(now: &MaterializedView) -> Result<Operation> {
    let entry = UpdateMapEntry { key: KEY.to_owned(), value: Some(now.to_text()?) };
    Ok(Operation::UpdateConfig {
        config_updates: Some(UpdateMap { update_entries: vec![entry], replace: false }),
        table_metadata_updates: None,
        schema_metadata_updates: None,
        field_metadata_updates: HashMap::new(),
    })
}

fn replaced(
    dataset: &Dataset,
    updated_fragments: Vec<Fragment>,
    removed_fragment_ids: Vec<u64>,
    new_fragments: Vec<Fragment>,
) -> Operation {
    let fields = dataset.schema().fields_pre_order();
    Operation::Update {
        removed_fragment_ids,
        updated_fragments,
        new_fragments,
        fields_modified: Vec::new(),
        compacted_sstables: Vec::new(),
        // Whole rows are new: no index covers them yet, whatever its column.
        fields_for_preserving_frag_bitmap: fields.map(|field| field.id as u32).collect(),
        update_mode: Some(UpdateMode::RewriteRows),
        inserted_rows_filter: None,
        updated_fragment_offsets: None,
    }
}

impl Branch {
    /// Commits what `build` makes of the newest version, with the definition; returns the version, and the
    /// rows that were deleted.
    async fn refresh<F: Future<Output = Result<Built>>>(
        self: &Arc<Self>,
        was: &MaterializedView,
        now: &MaterializedView,
        build: impl Fn(Arc<Dataset>) -> F,
    ) -> Result<(u64, u64)> {
        let _mutation = self.mutation.lock().await;
        let mut tries = 1;
        let mut turn = None;
        loop {
            let latest = self.latest().await?;
            if MaterializedView::of(&latest)?.as_ref() != Some(was) {
                return Err(Error::new(ErrorKind::Conflict, "the view was refreshed meanwhile"));
            }
            let Built { mut operation, affected_rows, written, deleted } =
                build(Arc::clone(&latest)).await?;
            if let Operation::Update {
                removed_fragment_ids, updated_fragments, new_fragments, ..
            } = &operation
                && removed_fragment_ids.is_empty()
                && updated_fragments.is_empty()
                && new_fragments.is_empty()
            {
                operation = noted(now)?;
            }
            let mut transaction = Transaction::new(latest.version().version, operation, None);
            transaction.transaction_properties = Some(Arc::new(now.property()?));
            let outcome =
                self.commit_on_newest(transaction, Vec::new(), affected_rows, turn.take()).await;
            match outcome {
                Ok(committed) => return Ok((committed.version().version, deleted)),
                Err(error) if error.kind() == ErrorKind::CommitUnknown => return Err(error),
                Err(error) => {
                    discard(&self.shared, &latest.branch_location().path, &written).await?;
                    if error.kind() != ErrorKind::Conflict || tries == TRIES_MAX {
                        return Err(error);
                    }
                    tries += 1;
                    turn = Some(self.turn().await);
                }
            }
        }
    }
}

/// The change of some rows of a view.
#[derive(Clone, Copy)]
struct Change<'a> {
    table: &'a Table,
    /// The rows of the source.
    changed: &'a RoaringTreemap,
    /// Those of the rows that are written, in their order.
    ids: &'a [u64],
    spool: &'a Spool,
}

impl Change<'_> {
    async fn build(&self, latest: &Arc<Dataset>) -> Result<Built> {
        let shared = &self.table.shared;
        let (found, removed) = self.find(latest).await?;
        let nowhere = (NOWHERE, NOWHERE);
        let rows: Vec<(u64, u64)> =
            self.ids.iter().map(|id| found.get(id).copied().unwrap_or(nowhere)).collect();
        let known = rows.iter().filter(|(_, at)| *at != NOWHERE).count() as u64;
        let places = Arc::new(Places { rows, found: known });
        let mut written: Vec<Fragment> = Vec::new();
        let outcome = async {
            if known > 0 {
                let changed = selected(self.spool, Arc::clone(&places), true);
                let mut fragments = write(shared, latest, changed).await?;
                let stored = places.rows.iter().filter(|(_, at)| *at != NOWHERE);
                let kept = keep_row_ids(&mut fragments, stored.map(|(id, _)| *id));
                written.append(&mut fragments);
                kept?;
            }
            if known < places.rows.len() as u64 {
                let new = selected(self.spool, Arc::clone(&places), false);
                written.append(&mut write(shared, latest, new).await?);
            }
            delete(latest, &removed).await
        }
        .await;
        match outcome {
            Ok((updated, gone)) => Ok(Built {
                operation: replaced(latest, updated, gone, written.clone()),
                deleted: removed.len().saturating_sub(known),
                affected_rows: Some(AffectedRows::from(removed)),
                written,
            }),
            Err(error) => {
                discard(shared, &latest.branch_location().path, &written).await?;
                Err(error)
            }
        }
    }

    /// Row id and row address by the row of the source, and all addresses.
    async fn find(&self, latest: &Dataset) -> Result<(HashMap<u64, (u64, u64)>, RoaringTreemap)> {
        let mut found = HashMap::new();
        let mut removed = RoaringTreemap::new();
        if self.changed.is_empty() {
            return Ok((found, removed));
        }
        let mut scanner = latest.scan();
        scanner.project(&[SOURCE_ROW_ID]).map_err(from_lance)?;
        scanner.with_row_id().with_row_address().io_buffer_size(READ_AHEAD_BYTES);
        if self.changed.len() <= LOOKUPS_MAX && has_btree(latest, SOURCE_ROW_ID).await? {
            let ids = self.changed.iter().map(lit).collect();
            let column = Expr::Column(Column::from_name(SOURCE_ROW_ID));
            scanner.filter_expr(column.in_list(ids, false));
        }
        let mut batches = Box::pin(scanner.try_into_stream()).await.map_err(from_lance)?;
        while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
            let sources = numbers(&batch, SOURCE_ROW_ID)?;
            let (ids, addresses) = (numbers(&batch, ROW_ID)?, numbers(&batch, ROW_ADDR)?);
            for ((source, id), address) in sources.iter().zip(ids).zip(addresses) {
                if self.changed.contains(*source) {
                    found.insert(*source, (*id, *address));
                    removed.insert(*address);
                }
            }
        }
        Ok((found, removed))
    }
}

fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [u64]> {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<UInt64Type>())
        .map(|column| column.values().as_ref())
        .ok_or_else(|| Error::internal(format!("the rows have no `{name}`")))
}
