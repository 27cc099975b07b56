//! Add columns of nulls together with a note in the schema's metadata that speaks of them.

use std::collections::BTreeMap;

use arrow_schema::{Field, SchemaRef};
use async_recursion::async_recursion as boxed;
use lakebed_core::{Error, Result};
use lance::dataset::transaction::Operation;

use super::{Staged, new_columns, with_columns};
use crate::table::Table;

/// What a note is made of.
#[derive(Debug)]
pub struct NoteSource<'a> {
    /// What the metadata says under the key so far.
    pub before: Option<&'a str>,
    /// The ids of all columns, the new ones included, by name.
    pub field_ids: BTreeMap<String, i32>,
}

/// Makes a note from what is there; called again when another commit was first.
pub type MakeNote = Box<dyn Fn(&NoteSource<'_>) -> Result<String> + Send + Sync>;

impl Table {
    /// Adds the columns of `added`, null in every row, and puts what `note` makes under `key` in the schema's
    /// metadata, in one version; returns that version.
    ///
    /// # Errors
    /// `InvalidArgument` naming a column that exists, does not allow null or cannot be stored; what `note`
    /// refuses.
    #[boxed]
    pub async fn add_bound_columns(
        &self,
        branch: Option<&str>,
        added: SchemaRef,
        key: &str,
        note: MakeNote,
    ) -> Result<u64> {
        let branch = self.branch(branch).await?;
        branch.check_no_view().await?;
        let fields: Vec<Field> = added.fields().iter().map(|field| Field::clone(field)).collect();
        if let Some(field) = fields.iter().find(|field| !field.is_nullable()) {
            let message = format!("column `{}` is to be null and does not allow it", field.name());
            return Err(Error::invalid(message));
        }
        let (fields, limits, note) = (&fields, &self.shared.limits, &note);
        let committed = self
            .change_columns(&branch, |latest| async move {
                let stored = new_columns(latest.schema(), fields.clone(), limits)?;
                let mut schema = with_columns(&latest, &stored)?;
                let names = schema.fields.iter().map(|field| (field.name.clone(), field.id));
                let before = schema.metadata.get(key).map(String::as_str);
                let text = note(&NoteSource { before, field_ids: names.collect() })?;
                schema.metadata.insert(key.to_owned(), text);
                Ok(Staged::metadata(Operation::Merge {
                    fragments: latest.fragments().as_ref().clone(),
                    schema,
                    preserves_nullability: true,
                }))
            })
            .await?;
        Ok(committed.version().version)
    }
}
