//! Changes of a table's columns: adding, altering, dropping them, and what is noted about them.
//!
//! | to | look in | what it writes |
//! | --- | --- | --- |
//! | add columns of nulls | `add_null.rs`; with a note on them: `add_bound.rs` | metadata only |
//! | add columns that SQL computes | `add_sql.rs` | the new columns |
//! | add columns that SQL keeps computed, and refresh them | `computed_sql.rs` | metadata; cells |
//! | rename, allow or forbid null, change the type | `alter.rs` | metadata; for a type the column again |
//! | drop columns | `drop.rs` | metadata only |
//! | change the metadata of fields and schema | `metadata.rs` | metadata only |
//!
//! What always holds: each is one version, built on the newest one and committed there under the
//! mutation lock; when an append came first it is built again while appends wait. No blob is read or
//! written by any of them.

mod add_bound;
mod add_null;
mod add_sql;
mod alter;
mod computed_sql;
mod drop;
mod metadata;

use std::sync::Arc;

use arrow_schema::{Field as ArrowField, Schema as ArrowSchema};
use lakebed_core::{Error, ErrorKind, Limits, Result};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use lance_core::datatypes::{Field, Schema};
use lance_table::format::Fragment;

use crate::commit::TRIES_MAX;
use crate::expressions::unknown;
use crate::lake::Shared;
use crate::lance_error::from_lance;
use crate::schema::stored_schema;
use crate::table::{Branch, Table};
use crate::vector_aliases::check_no_alias;
use crate::write::discard;

pub use add_bound::{MakeNote, NoteSource};
pub use alter::ColumnAlteration;
pub use metadata::FieldMetadata;

/// A change that is built and not committed.
pub(crate) struct Staged {
    operation: Operation,
    /// Fragments with the files that were written for it alone.
    written: Vec<Fragment>,
}

impl Staged {
    /// A change of metadata.
    pub(crate) fn metadata(operation: Operation) -> Self {
        Staged { operation, written: Vec::new() }
    }
}

impl Table {
    /// Commits what `build` makes of the newest version of a branch, and builds it again when another
    /// commit was first; returns the new version.
    pub(crate) async fn change_columns<F: Future<Output = Result<Staged>>>(
        &self,
        branch: &Arc<Branch>,
        build: impl Fn(Arc<Dataset>) -> F,
    ) -> Result<Arc<Dataset>> {
        let _mutation = branch.mutation.lock().await;
        let _pin = branch.hold().await?;
        let mut tries = 1;
        let mut turn = None;
        loop {
            let latest = branch.latest().await?;
            let Staged { operation, written } = build(Arc::clone(&latest)).await?;
            let transaction = Transaction::new(latest.version().version, operation, None);
            match branch.commit_on_newest(transaction, Vec::new(), None, turn.take()).await {
                Ok(committed) => return Ok(committed),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    discard(&self.shared, &latest.branch_location().path, &written).await?;
                    if tries == TRIES_MAX {
                        return Err(error);
                    }
                    tries += 1;
                    // Appends wait this time.
                    turn = Some(branch.turn().await);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The schema with columns added behind those that it has; they get field ids that no column had.
fn with_columns(dataset: &Dataset, added: &ArrowSchema) -> Result<Schema> {
    let mut schema = dataset.schema().merge(added).map_err(from_lance)?;
    schema.try_set_field_id(Some(dataset.manifest().max_field_id())).map_err(from_lance)?;
    Ok(schema)
}

/// Checks columns that are to be added to a schema, and gives what is stored for them.
fn new_columns(schema: &Schema, fields: Vec<ArrowField>, limits: &Limits) -> Result<ArrowSchema> {
    let stored = stored_schema(&ArrowSchema::new(fields), limits)?;
    for field in stored.fields() {
        if schema.fields.iter().any(|known| known.name == *field.name()) {
            return Err(Error::invalid(format!("column `{}` exists", field.name())));
        }
        check_no_alias(schema, field.name())?;
    }
    let columns = schema.fields_pre_order().count() + stored.flattened_fields().len();
    if columns > limits.columns_max {
        return Err(Error::invalid(format!(
            "the table would have {columns} columns, nested ones included; the limit columns_max is \
             {}",
            limits.columns_max
        )));
    }
    Ok(ArrowSchema::clone(&stored))
}

/// The field of a path such as `a` or `a.b`.
fn field_at<'a>(schema: &'a Schema, path: &str) -> Result<&'a Field> {
    schema.field(path).ok_or_else(|| unknown(schema, path))
}

/// The files of `after` that `before` does not have, as fragments that hold only them.
fn written_files(before: &[Fragment], after: &[Fragment]) -> Vec<Fragment> {
    after
        .iter()
        .map(|fragment| {
            let known = before.iter().find(|known| known.id == fragment.id);
            let is_known = |path: &str| {
                known.is_some_and(|known| known.files.iter().any(|file| file.path == path))
            };
            let mut written = Fragment::new(fragment.id);
            let files = fragment.files.iter().filter(|file| !is_known(&file.path));
            written.files = files.cloned().collect();
            written
        })
        .collect()
}

/// Deletes files of a change that failed before it was complete.
async fn give_up(shared: &Shared, dataset: &Dataset, after: &[Fragment]) -> Result<()> {
    let written = written_files(dataset.fragments(), after);
    discard(shared, &dataset.branch_location().path, &written).await
}
