//! Add columns that are null in every row: nothing but the schema is written.

use arrow_schema::{Field, SchemaRef};
use async_recursion::async_recursion as boxed;
use lakebed_core::{Error, Result};
use lance::dataset::transaction::Operation;

use super::{Staged, new_columns, with_columns};
use crate::blob::has_blob_column;
use crate::table::Table;

impl Table {
    /// Adds the columns of `added`, null in every row; returns the version with them.
    ///
    /// # Errors
    /// `InvalidArgument` naming a column that exists, does not allow null or cannot be stored.
    #[boxed]
    pub async fn add_null_columns(&self, branch: Option<&str>, added: SchemaRef) -> Result<u64> {
        let branch = self.branch(branch).await?;
        branch.check_no_view().await?;
        let fields: Vec<Field> = added.fields().iter().map(|field| Field::clone(field)).collect();
        if let Some(field) = fields.iter().find(|field| !field.is_nullable()) {
            let message = format!("column `{}` is to be null and does not allow it", field.name());
            return Err(Error::invalid(message));
        }
        let (fields, limits) = (&fields, &self.shared.limits);
        // Looked at before the base of blobs is registered, so that a refused request changes nothing.
        let stored = new_columns(branch.latest().await?.schema(), fields.clone(), limits)?;
        if has_blob_column(&stored) {
            branch.ensure_blob_base().await?;
        }
        let committed = self
            .change_columns(&branch, |latest| async move {
                let stored = new_columns(latest.schema(), fields.clone(), limits)?;
                Ok(Staged::metadata(Operation::Merge {
                    fragments: latest.fragments().as_ref().clone(),
                    schema: with_columns(&latest, &stored)?,
                    // Rows that are appended without the columns are null there, too.
                    preserves_nullability: true,
                }))
            })
            .await?;
        Ok(committed.version().version)
    }
}
