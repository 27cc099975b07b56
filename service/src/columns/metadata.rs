//! What is noted about fields and about the schema.
use std::collections::BTreeMap;

use lakebed_core::{RequestContext, Result, TableId};
use lakebed_storage::FieldMetadata;

use super::shown;
use crate::Service;

impl Service {
    /// Changes the metadata of fields; returns the new version.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or field; `InvalidArgument` naming a key that says how values are
    /// stored.
    pub async fn update_field_metadata(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        changes: &[FieldMetadata],
    ) -> Result<u64> {
        let subject = shown(changes.iter().map(|change| change.path.as_str()));
        let verb = "update_field_metadata";
        let changed = self.change_columns(ctx, verb, table, branch, subject, |handle| async move {
            self.note_if_automatic(&handle, &ctx.database, branch, changes).await?;
            Ok(((), handle.update_field_metadata(branch, changes).await?))
        });
        Ok(changed.await?.1)
    }

    /// Replaces the metadata of the schema; returns what it is now, and the new version.
    ///
    /// # Errors
    /// `NotFound` naming table or branch; `InvalidArgument` naming a key that says how values are stored.
    pub async fn replace_schema_metadata(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(BTreeMap<String, String>, u64)> {
        let subject = shown(metadata.keys().map(String::as_str));
        let verb = "update_schema_metadata";
        self.change_columns(ctx, verb, table, branch, subject, |handle| async move {
            handle.replace_schema_metadata(branch, metadata).await
        })
        .await
    }
}
