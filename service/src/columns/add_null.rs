//! Add columns of nulls.
use arrow_schema::SchemaRef;
use lakebed_core::{RequestContext, Result, TableId};

use super::shown;
use crate::Service;

impl Service {
    /// Adds the columns of `added`, null in every row; returns the version with them.
    ///
    /// # Errors
    /// `InvalidArgument` naming a column that exists, does not allow null or cannot be stored;
    /// `NotFound` naming table or branch.
    pub async fn add_null_columns(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        added: SchemaRef,
    ) -> Result<u64> {
        let subject = shown(added.fields().iter().map(|field| field.name().as_str()));
        let changed =
            self.change_columns(ctx, "add_columns", table, branch, subject, |handle| async move {
                Ok(((), handle.add_null_columns(branch, added).await?))
            });
        Ok(changed.await?.1)
    }
}
