//! Secrets as clients see them: described, listed, dropped; never their values.

use lakebed_core::{NamespacePath, RequestContext, Result, Role, TableId};
use lakebed_storage::Secret;

use crate::Service;
use crate::authenticate::require;

/// What is known of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSummary {
    /// Its database, namespace and name.
    pub id: TableId,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// When its value was set last, in milliseconds since the Unix epoch.
    pub updated_at_ms: i64,
}

impl SecretSummary {
    pub(super) fn new(id: &TableId, secret: &Secret) -> SecretSummary {
        let Secret { created_at_ms, updated_at_ms, .. } = *secret;
        SecretSummary { id: id.clone(), created_at_ms, updated_at_ms }
    }
}

impl Service {
    /// One secret.
    ///
    /// # Errors
    /// `NotFound` naming the nearest secrets.
    pub async fn describe_secret(
        &self,
        ctx: &RequestContext,
        id: &TableId,
    ) -> Result<SecretSummary> {
        require(ctx, Role::Read)?;
        Ok(SecretSummary::new(id, &self.lake.secret(id).await?))
    }

    /// The secrets of a namespace, sorted by id.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn list_secrets(
        &self,
        ctx: &RequestContext,
        namespace: &NamespacePath,
    ) -> Result<Vec<TableId>> {
        require(ctx, Role::Read)?;
        self.lake.list_secrets(&ctx.database, namespace).await
    }

    /// Drops a secret. Functions that are bound to it fail from their next task on.
    ///
    /// # Errors
    /// `NotFound` naming the nearest secrets.
    pub async fn drop_secret(&self, ctx: &RequestContext, id: &TableId) -> Result<()> {
        self.permit(ctx, Role::Admin, "drop_secret", Some(&id.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.drop_secret(id).await;
        self.note_secret(ctx, "drop_secret", id, &outcome);
        outcome
    }
}
