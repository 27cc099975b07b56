//! Upsert: change the rows whose key exists, add the others.
//!
//! ```text
//!   rows ─► conformed ─► keys checked ─► spool ─┊─► mutation lock ─► merge on latest ─► synced ─► version
//!                 prepare_upsert                ┊                  PreparedUpsert::commit
//! ```
//!
//! An upsert may carry all columns or only some. A whole one replaces rows. A partial one changes only
//! the cells it carries: with a scalar index on the key lance patches just those columns (measured: 0.04
//! MB for 20,000 labels beside pictures), without one it rewrites whole rows, pictures included (410
//! MB). So an upsert has two steps: between them, when the rows are all here and nothing but a race can
//! refuse them any more, the caller makes sure of that index.
//!
//! Two upserts never run at once on a branch, so two of one new key never make two rows.

use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Result, nearest_names};
use lance::Dataset;
use lance::dataset::{MergeInsertBuilder, WhenMatched, WhenNotMatched};

use crate::blob::BlobWriter;
use crate::commit::TRIES_MAX;
use crate::keys::KeyGuard;
use crate::lance_error::from_lance;
use crate::root::SYSTEM_FOLDER;
use crate::scalar_index::has_btree;
use crate::scan::BatchStream;
use crate::schema::{Conform, declares_blob};
use crate::spool::{Spool, SpoolWriter};
use crate::table::{Branch, Table};
use crate::write::{CommitReceipt, Counted, Held, Start, WriteOptions, write_error};

/// What preparing an upsert gives.
#[derive(Debug)]
pub enum Prepared {
    /// The same write was done before.
    Repeat(CommitReceipt),
    /// The rows are all here and fit.
    Ready(Box<PreparedUpsert>),
}

/// An upsert whose rows were received, conformed and checked; nothing of it is in the table yet.
pub struct PreparedUpsert {
    branch: Arc<Branch>,
    on: Vec<String>,
    schema: SchemaRef,
    spool: Spool,
    counted: Counted,
    options: WriteOptions,
    wants_key_index: bool,
    _held: Held,
}

impl std::fmt::Debug for PreparedUpsert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedUpsert").field("branch", &self.branch).finish_non_exhaustive()
    }
}

impl Table {
    /// Takes in the rows of an upsert by the key columns `on`, and checks them. Commits nothing.
    ///
    /// # Errors
    /// `InvalidArgument` naming a null key, a key that is given twice, or what does not fit the schema;
    /// the error of the stream.
    pub async fn prepare_upsert(
        &self,
        branch: Option<&str>,
        on: &[String],
        sent: SchemaRef,
        batches: BatchStream,
        options: WriteOptions,
    ) -> Result<Prepared> {
        let (branch, held) = match self.start(branch, &options).await? {
            Start::Repeat(receipt) => return Ok(Prepared::Repeat(receipt)),
            Start::Go(branch, held) => (branch, held),
        };
        let counted = Counted::default();
        let Received { spool, schema, keys } =
            self.receive(&branch, on, sent, batches, &counted).await?;
        let latest = branch.latest().await?;
        let wants_key_index = is_partial_beside_blobs(&latest, &schema);
        if wants_key_index {
            check_new_keys(&latest, on, &schema, keys).await?;
        }
        Ok(Prepared::Ready(Box::new(PreparedUpsert {
            branch,
            on: on.to_vec(),
            schema,
            spool,
            counted,
            options,
            wants_key_index,
            _held: held,
        })))
    }

    async fn receive(
        &self,
        branch: &Branch,
        on: &[String],
        sent: SchemaRef,
        mut batches: BatchStream,
        counted: &Counted,
    ) -> Result<Received> {
        let stored = Schema::from(branch.latest().await?.schema());
        if let Some(unknown) = on.iter().find(|key| stored.field_with_name(key).is_err()) {
            let names = stored.fields().iter().map(|field| field.name().as_str());
            let near = nearest_names(unknown, names);
            return Err(Error::not_found(format!("key column `{unknown}` does not exist{near}")));
        }
        let blobs = BlobWriter::new(self.shared.clone());
        let conform = Conform::new(&stored, &sent, true, &self.shared.limits, blobs)?;
        let schema = conform.schema().clone();
        let mut keys = KeyGuard::new(on, &schema, self.shared.limits.upsert_rows_max)?;
        let folder = match self.shared.root.local() {
            Some(root) => root.join(SYSTEM_FOLDER),
            None => std::env::temp_dir(),
        };
        let mut spool = SpoolWriter::new(schema.clone(), folder);
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            let first_row = counted.rows();
            counted.add(&batch);
            let batch = conform.apply(&batch, first_row).await?;
            keys.check(&batch, first_row)?;
            spool = spool.push(batch).await?;
        }
        Ok(Received { spool: spool.finish().await?, schema, keys })
    }
}

/// The rows of an upsert, all of them.
struct Received {
    spool: Spool,
    schema: SchemaRef,
    keys: KeyGuard,
}

impl PreparedUpsert {
    /// Whether its key wants a scalar index before it is committed: it is partial, on a table with blobs.
    pub fn wants_key_index(&self) -> bool {
        self.wants_key_index
    }

    /// Merges the rows into the newest version and commits.
    ///
    /// # Errors
    /// `InvalidArgument` for new keys where a column that was not sent allows no null, `Conflict` when
    /// the table changed too much or too often meanwhile.
    pub async fn commit(self) -> Result<CommitReceipt> {
        let PreparedUpsert { branch, on, schema, spool, counted, options, .. } = &self;
        branch.ensure_blob_base_for(schema).await?;
        let _mutation = branch.mutation.lock().await;
        let record = counted.record(options, branch.shared.clock.now_ms());
        let writes: Vec<_> = options.write_id.clone().map(|id| (id, record)).into_iter().collect();
        let mut tries = 1;
        let mut turn = None;
        loop {
            let latest = branch.latest().await?;
            let stored = Schema::from(latest.schema());
            check_unchanged(schema, &stored)?;
            // A new key needs every column that does not allow null; a known one does not.
            let absent = required_but_absent(&stored, schema);
            let mut merge = MergeInsertBuilder::try_new(latest, on.clone()).map_err(write_error)?;
            let job = merge
                .when_matched(WhenMatched::UpdateAll)
                .when_not_matched(match absent {
                    None => WhenNotMatched::InsertAll,
                    Some(_) => WhenNotMatched::DoNothing,
                })
                .source_dedupe_behavior(
                    lance::dataset::write::merge_insert::SourceDedupeBehavior::Fail,
                )
                .skip_auto_cleanup(true)
                .try_build()
                .map_err(write_error)?;
            let merged =
                Box::pin(job.execute_uncommitted(spool.source())).await.map_err(write_error)?;
            if let Some(field) = absent
                && merged.stats.num_updated_rows < counted.rows()
            {
                return Err(new_keys(counted.rows() - merged.stats.num_updated_rows, field));
            }
            let outcome = branch
                .commit_on_newest(
                    merged.transaction,
                    writes.clone(),
                    merged.affected_rows,
                    turn.take(),
                )
                .await;
            match outcome {
                Ok(committed) => return Ok(counted.receipt(committed.version().version)),
                Err(error) if error.kind() == ErrorKind::Conflict && tries < TRIES_MAX => {
                    tries += 1;
                    // Appends wait this time, or a table that is always appended to is never upserted.
                    turn = Some(branch.turn().await);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_partial_beside_blobs(stored: &Dataset, conformed: &Schema) -> bool {
    let fields = &stored.schema().fields;
    fields.iter().any(|field| conformed.field_with_name(&field.name).is_err())
        && fields.iter().any(|field| field.is_blob())
}

/// The first column that was not sent and that no row may lack.
fn required_but_absent<'a>(stored: &'a Schema, conformed: &Schema) -> Option<&'a Field> {
    let mut fields = stored.fields().iter().map(AsRef::as_ref);
    fields.find(|field: &&Field| {
        !field.is_nullable() && conformed.field_with_name(field.name()).is_err()
    })
}

fn new_keys(rows: u64, absent: &Field) -> Error {
    Error::invalid(format!(
        "{rows} of the keys are new, and column `{}`, which does not allow null, was not sent",
        absent.name()
    ))
}

/// Refuses new keys that the merge would refuse, before an index is built for it. With the index the
/// merge itself is cheap, and nothing is looked at here.
async fn check_new_keys(
    latest: &Dataset,
    on: &[String],
    conformed: &Schema,
    mut keys: KeyGuard,
) -> Result<()> {
    let stored = Schema::from(latest.schema());
    let Some(absent) = required_but_absent(&stored, conformed) else { return Ok(()) };
    let mut is_indexed = true;
    for column in on {
        is_indexed &= has_btree(latest, column).await?;
    }
    if is_indexed {
        return Ok(());
    }
    let mut scanner = latest.scan();
    scanner.project(on).map_err(from_lance)?;
    let mut batches = scanner.try_into_stream().await.map_err(from_lance)?;
    while let Some(batch) = batches.next().await {
        keys.forget(&batch.map_err(from_lance)?)?;
    }
    match keys.left() {
        0 => Ok(()),
        rows => Err(new_keys(rows as u64, absent)),
    }
}

/// The table may have been overwritten with another schema while the rows came in.
fn check_unchanged(conformed: &Schema, stored: &Schema) -> Result<()> {
    for field in conformed.fields() {
        let is_same =
            stored.field_with_name(field.name()).is_ok_and(|now| match declares_blob(field) {
                // Blobs are written in another shape than the schema shows.
                true => declares_blob(now),
                false => now.data_type() == field.data_type(),
            });
        if !is_same {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("column `{}` changed while the rows came in", field.name()),
            ));
        }
    }
    Ok(())
}
