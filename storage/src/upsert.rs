//! Upsert: change the rows whose key exists, add the others.
//!
//! ```text
//!   rows ─► conformed ─► keys checked ─► spool ─┊─► mutation lock ─► merge on latest ─► synced ─► version
//!                 prepare_upsert                ┊                  PreparedUpsert::commit
//! ```
//!
//! An upsert may carry all columns or only some. A whole one replaces rows. A partial one changes only
//! the cells it carries (`partial_upsert.rs`), where all its keys are there. Otherwise, with a scalar index on
//! the key lance patches just those columns (measured: 0.04 MB for 20,000 labels beside pictures), without one
//! it rewrites whole rows, pictures included (410 MB). So an upsert has two steps: between them, when the rows are all here and nothing but a race can
//! refuse them any more, the caller makes sure of that index.
//!
//! Two upserts never run at once on a branch, so two of one new key never make two rows. Small ones that
//! wait for their turn are merged together (`upsert_group.rs`).

use async_recursion::async_recursion as boxed;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Limits, Result, Subject, nearest_names};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{MergeInsertBuilder, WhenMatched, WhenNotMatched, WhenNotMatchedBySource};
use lance_table::format::Fragment;

use crate::blob::BlobWriter;
use crate::blob_claims::WriteClaims;
use crate::commit::{AffectedRows, TRIES_MAX};
use crate::keys::KeyGuard;
use crate::lance_error::from_lance;
use crate::partial_upsert::{WrittenCells, write_cells};
use crate::root::SYSTEM_FOLDER;
use crate::scalar_index::has_btree;
use crate::scan::BatchStream;
use crate::schema::{Conform, declares_blob};
use crate::spool::{Spool, SpoolWriter};
use crate::sql_guard::check_sql;
use crate::table::{Branch, Table};
use crate::whole_merge::{is_whole_and_large, write_whole};
use crate::write::{CommitReceipt, Counted, Held, Start, WriteOptions, discard, write_error};
use crate::write_id::WriteRecord;

/// What a merge does to rows whose key is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matched {
    /// Nothing.
    Keep,
    /// Their cells become those that were sent.
    Update,
    /// The same, where this SQL expression over `source.` and `target.` columns is true.
    UpdateIf(String),
}

/// What a merge does; an upsert updates what is there and inserts what is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeRule {
    /// Rows whose key is there.
    pub matched: Matched,
    /// Whether rows whose key is new are inserted.
    pub insert_new: bool,
    /// Whether stored rows whose key was not sent are deleted: all of them, or those for which an SQL
    /// expression is true.
    pub delete_unsent: Option<Option<String>>,
    /// Whether an index on the key may be used.
    pub use_index: bool,
}

impl MergeRule {
    /// An upsert.
    pub fn upsert() -> Self {
        MergeRule {
            matched: Matched::Update,
            insert_new: true,
            delete_unsent: None,
            use_index: true,
        }
    }

    fn check(&self, limits: &Limits) -> Result<()> {
        if let Matched::UpdateIf(condition) = &self.matched {
            check_sql(condition, limits).map_err(|error| error.context("the update's filter"))?;
        }
        if let Some(Some(condition)) = &self.delete_unsent {
            check_sql(condition, limits).map_err(|error| error.context("the deletion's filter"))?;
        }
        if self.matched == Matched::Keep && !self.insert_new && self.delete_unsent.is_none() {
            return Err(Error::invalid(
                "the merge does nothing: it neither updates, inserts nor deletes",
            ));
        }
        Ok(())
    }
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeOutcome {
    /// The version, and the rows that were received.
    pub receipt: CommitReceipt,
    /// Rows that were inserted.
    pub inserted: u64,
    /// Rows that were updated.
    pub updated: u64,
    /// Rows that were deleted.
    pub deleted: u64,
    /// Times that it was built.
    pub attempts: u32,
}

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
    pub(crate) branch: Arc<Branch>,
    pub(crate) on: Vec<String>,
    pub(crate) rule: MergeRule,
    pub(crate) schema: SchemaRef,
    /// Where the merge may be too large for lance.
    pub(crate) keys: Option<KeyGuard>,
    pub(crate) spool: Spool,
    pub(crate) counted: Counted,
    /// What is kept with the version, by write id.
    pub(crate) writes: Vec<(String, WriteRecord)>,
    wants_key_index: bool,
    claims: Arc<WriteClaims>,
    _held: Option<Held>,
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
    #[boxed]
    pub async fn prepare_upsert(
        &self,
        branch: Option<&str>,
        on: &[String],
        rule: MergeRule,
        sent: SchemaRef,
        batches: BatchStream,
        options: WriteOptions,
    ) -> Result<Prepared> {
        rule.check(&self.shared.limits)?;
        let (branch, held) = match self.start(branch, &options).await? {
            Start::Repeat(receipt) => return Ok(Prepared::Repeat(receipt)),
            Start::Go(branch, held) => (branch, held),
        };
        let counted = Counted::default();
        let claims = self.shared.write_claims();
        let blobs = BlobWriter::new(self.shared.clone(), Arc::clone(&claims));
        let Received { spool, schema, keys } =
            self.receive(&branch, on, sent, batches, blobs, &counted).await?;
        let latest = branch.latest().await?;
        let wants_key_index =
            rule.matched != Matched::Keep && is_partial_beside_blobs(&latest, &schema);
        let keys = match is_whole_and_large(
            &rule,
            &schema,
            &Schema::from(latest.schema()),
            counted.bytes(),
        ) {
            true => Some(keys),
            false if wants_key_index && rule.insert_new => {
                check_new_keys(&latest, on, &schema, keys).await?;
                None
            }
            false => None,
        };
        let record = counted.record(&options, self.shared.clock.now_ms());
        Ok(Prepared::Ready(Box::new(PreparedUpsert {
            branch,
            on: on.to_vec(),
            rule,
            schema,
            keys,
            spool,
            counted,
            writes: options.write_id.map(|id| (id, record)).into_iter().collect(),
            wants_key_index,
            claims,
            _held: Some(held),
        })))
    }

    async fn receive(
        &self,
        branch: &Branch,
        on: &[String],
        sent: SchemaRef,
        mut batches: BatchStream,
        blobs: BlobWriter,
        counted: &Counted,
    ) -> Result<Received> {
        let stored = Schema::from(branch.latest().await?.schema());
        if let Some(unknown) = on.iter().find(|key| stored.field_with_name(key).is_err()) {
            let names = stored.fields().iter().map(|field| field.name().as_str());
            let near = nearest_names(unknown, names);
            return Err(Error::not_found(format!("key column `{unknown}` does not exist{near}"))
                .about(Subject::Column));
        }
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
    #[boxed]
    pub async fn commit(self) -> Result<MergeOutcome> {
        let claims = Arc::clone(&self.claims);
        claims.may_commit();
        let outcome = self.commit_in_turn().await;
        claims.end(&outcome);
        outcome
    }

    async fn commit_in_turn(self) -> Result<MergeOutcome> {
        self.branch.ensure_blob_base_for(&self.schema).await?;
        if self.may_wait_for_others().await {
            return self.commit_with_others().await;
        }
        let branch = Arc::clone(&self.branch);
        let _mutation = branch.mutation.lock().await;
        let (outcome, _) = self.merge_on_newest().await?;
        Ok(outcome)
    }

    /// The same rows of several upserts that go into one version.
    pub(crate) fn of_many(&self, batch: RecordBatch, writes: Vec<(String, WriteRecord)>) -> Self {
        let counted = Counted::default();
        counted.add(&batch);
        PreparedUpsert {
            branch: Arc::clone(&self.branch),
            on: self.on.clone(),
            rule: self.rule.clone(),
            schema: Arc::clone(&self.schema),
            keys: None,
            spool: Spool::of(batch),
            counted,
            writes,
            wants_key_index: self.wants_key_index,
            claims: Arc::clone(&self.claims),
            _held: None,
        }
    }

    /// Merges and commits; the caller holds the branch's mutation lock. Gives the version, too.
    pub(crate) async fn merge_on_newest(&self) -> Result<(MergeOutcome, Arc<Dataset>)> {
        let PreparedUpsert { branch, rule, schema, counted, writes, .. } = self;
        let mut tries = 1;
        let mut turn = None;
        loop {
            let latest = branch.latest().await?;
            let stored = Schema::from(latest.schema());
            check_unchanged(schema, &stored)?;
            // A new key needs every column that does not allow null; a known one does not.
            let absent = required_but_absent(&stored, schema).filter(|_| rule.insert_new);
            if let Some(field) = absent
                && rule.matched != Matched::Update
            {
                // Which of the sent keys are new is only known where all others are updated.
                return Err(Error::invalid(format!(
                    "new rows would lack column `{}`, which does not allow null and was not sent",
                    field.name()
                )));
            }
            let Merged { transaction, written, affected_rows, updated, inserted, deleted } =
                self.merged(&latest, absent.is_none()).await?;
            if let Some(field) = absent
                && updated < counted.rows()
            {
                discard(&branch.shared, &latest.branch_location().path, &written).await?;
                return Err(new_keys(counted.rows() - updated, field));
            }
            let outcome = branch
                .commit_on_newest(transaction, writes.clone(), affected_rows, turn.take())
                .await;
            match outcome {
                Ok(committed) => {
                    let outcome = MergeOutcome {
                        receipt: counted.receipt(committed.version().version),
                        inserted,
                        updated,
                        deleted,
                        attempts: tries,
                    };
                    return Ok((outcome, committed));
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    discard(&branch.shared, &latest.branch_location().path, &written).await?;
                    if tries == TRIES_MAX {
                        return Err(error);
                    }
                    tries += 1;
                    // Appends wait this time, or a table that is always appended to is never upserted.
                    turn = Some(branch.turn().await);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The parts of a rule in lance's words.
fn lance_rule(
    rule: &MergeRule,
    dataset: &Dataset,
) -> Result<(WhenMatched, WhenNotMatchedBySource)> {
    let matched = match &rule.matched {
        Matched::Keep => WhenMatched::DoNothing,
        Matched::Update => WhenMatched::UpdateAll,
        Matched::UpdateIf(condition) => WhenMatched::update_if(dataset, condition)
            .map_err(|error| from_lance(error).context("the update's filter"))?,
    };
    let unsent = match &rule.delete_unsent {
        None => WhenNotMatchedBySource::Keep,
        Some(None) => WhenNotMatchedBySource::Delete,
        Some(Some(condition)) => WhenNotMatchedBySource::delete_if(dataset, condition)
            .map_err(|error| from_lance(error).context("the deletion's filter"))?,
    };
    Ok((matched, unsent))
}

impl PreparedUpsert {
    /// The merge, written on a version and not committed.
    async fn merged(&self, latest: &Arc<Dataset>, may_insert: bool) -> Result<Merged> {
        let PreparedUpsert { branch, on, rule, schema, keys, spool, counted, .. } = self;
        // Asked again: the table may have got a column since.
        let stored = Schema::from(latest.schema());
        if let Some(keys) = keys
            && is_whole_and_large(rule, schema, &stored, counted.bytes())
            && let Some(written) =
                write_whole(&branch.shared, latest, keys, rule, spool, counted.rows()).await?
        {
            return Ok(Merged {
                written: new_fragments(&written.transaction).to_vec(),
                transaction: written.transaction,
                affected_rows: written.affected_rows,
                updated: written.updated,
                inserted: written.inserted,
                deleted: 0,
            });
        }
        if rule.matched == Matched::Update
            && rule.delete_unsent.is_none()
            && let Some(sent) = spool.in_memory()
            && let Some(cells) = write_cells(&branch.shared, latest, on, schema, sent).await?
        {
            let WrittenCells { operation, written } = cells;
            return Ok(Merged {
                transaction: Transaction::new(latest.version().version, operation, None),
                written,
                affected_rows: None,
                updated: counted.rows(),
                inserted: 0,
                deleted: 0,
            });
        }
        let (matched, unsent) = lance_rule(rule, latest)?;
        let mut merge =
            MergeInsertBuilder::try_new(Arc::clone(latest), on.clone()).map_err(write_error)?;
        let job = merge
            .when_matched(matched)
            .when_not_matched(match may_insert && rule.insert_new {
                true => WhenNotMatched::InsertAll,
                false => WhenNotMatched::DoNothing,
            })
            .when_not_matched_by_source(unsent)
            .use_index(rule.use_index)
            .source_dedupe_behavior(lance::dataset::write::merge_insert::SourceDedupeBehavior::Fail)
            .skip_auto_cleanup(true)
            .try_build()
            .map_err(write_error)?;
        let merged =
            Box::pin(job.execute_uncommitted(spool.source())).await.map_err(write_error)?;
        Ok(Merged {
            written: new_fragments(&merged.transaction).to_vec(),
            transaction: merged.transaction,
            affected_rows: merged.affected_rows,
            updated: merged.stats.num_updated_rows,
            inserted: merged.stats.num_inserted_rows,
            deleted: merged.stats.num_deleted_rows,
        })
    }
}

/// A merge that is written and not committed.
struct Merged {
    transaction: Transaction,
    /// The new files, for the case that they are not committed.
    written: Vec<Fragment>,
    affected_rows: Option<AffectedRows>,
    updated: u64,
    inserted: u64,
    deleted: u64,
}

/// The fragments that a merge wrote; the column files that it put beside stored fragments are not among
/// them, and stay to be cleaned where the merge is not committed.
fn new_fragments(transaction: &Transaction) -> &[Fragment] {
    match &transaction.operation {
        Operation::Update { new_fragments, .. } => new_fragments,
        _ => &[],
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
