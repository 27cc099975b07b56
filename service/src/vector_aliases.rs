//! Aliases of columns of vectors: set, listed and dropped.
use lakebed_core::{RequestContext, Result, Role, TableId, VectorAlias};
use lakebed_proto::command::ReadCommand;

use crate::Service;
use crate::authenticate::require;

/// An alias in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasEntry {
    /// Its name.
    pub alias: String,
    /// The column that it points to.
    pub column: String,
    /// The model that made the column, where that is known.
    pub model: Option<String>,
}

impl Service {
    /// Has an alias point to a column of vectors; returns the column that it pointed to before, and the
    /// version from which on it points to the new one.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or column; `Conflict` when the alias does not point to `expected`.
    pub async fn set_vector_alias(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        alias: &VectorAlias,
        column: &str,
        expected: Option<&str>,
    ) -> Result<(Option<String>, u64)> {
        let subject = format!("{alias} = {}", column.chars().take(200).collect::<String>());
        let verb = "set_vector_alias";
        self.change_columns(ctx, verb, table, branch, subject, |handle| async move {
            handle.set_vector_alias(branch, alias, column, expected).await
        })
        .await
    }

    /// Takes an alias away; returns the column that it pointed to, and the version without it.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or alias; `Conflict` when it does not point to `expected`.
    pub async fn drop_vector_alias(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        alias: &VectorAlias,
        expected: Option<&str>,
    ) -> Result<(Option<String>, u64)> {
        let verb = "drop_vector_alias";
        let subject = alias.to_string();
        self.change_columns(ctx, verb, table, branch, subject, |handle| async move {
            handle.drop_vector_alias(branch, alias, expected).await
        })
        .await
    }

    /// The aliases of a version of a table, by name, and the number of the version.
    ///
    /// # Errors
    /// `NotFound` naming table, version, branch or tag.
    pub async fn list_vector_aliases(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        at: &ReadCommand,
    ) -> Result<(Vec<AliasEntry>, u64)> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let snapshot = self.snapshot_of(ctx, table, at).await?;
        let aliases = snapshot.vector_aliases().into_iter().map(|(alias, column)| {
            let model = crate::search::model_of(&snapshot, &column).ok().map(|(model, _)| model);
            AliasEntry { alias, column, model }
        });
        Ok((aliases.collect(), snapshot.version()))
    }
}
