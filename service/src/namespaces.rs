//! Namespaces and databases: listed, described, created, dropped.
//!
//! The root namespace of a database stands for the database.
use lakebed_core::{DatabaseName, NamespacePath, RequestContext, Result, Role};

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

/// What creating a namespace does where it exists.
pub use lakebed_storage::CreateMode;
/// What is noted about a namespace.
pub use lakebed_storage::Properties;

impl Service {
    /// The names of the namespaces directly below one, sorted.
    ///
    /// # Errors
    /// `NotFound` when that one does not exist.
    pub async fn list_namespaces(
        &self,
        ctx: &RequestContext,
        database: &DatabaseName,
        parent: &NamespacePath,
    ) -> Result<Vec<String>> {
        require(ctx, Role::Read)?;
        self.lake.list_namespaces(database, parent).await
    }

    /// The properties of a namespace.
    ///
    /// # Errors
    /// `NotFound` naming the nearest namespaces.
    pub async fn describe_namespace(
        &self,
        ctx: &RequestContext,
        database: &DatabaseName,
        path: &NamespacePath,
    ) -> Result<Properties> {
        require(ctx, Role::Read)?;
        self.lake.namespace_properties(database, path).await
    }

    /// Creates a namespace; returns its properties.
    ///
    /// # Errors
    /// `AlreadyExists` as `mode` says, `NotFound` without the namespace above, `Conflict` for an overwrite
    /// of one that is not empty.
    pub async fn create_namespace(
        &self,
        ctx: &RequestContext,
        database: &DatabaseName,
        path: &NamespacePath,
        mode: CreateMode,
        properties: Properties,
    ) -> Result<Properties> {
        self.permit(ctx, Role::Write, "create_namespace", None)?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.create_namespace(database, path, mode, properties).await;
        let mut line = AuditLine::new(ctx, "create_namespace").outcome(&outcome);
        line.subject = Some(format!("{database}/{path}"));
        self.audit.record(line);
        outcome
    }

    /// Drops a namespace, with everything in it when `cascade`; returns the properties that it had.
    ///
    /// # Errors
    /// `NotFound` when it does not exist, `Conflict` when it is not empty and not to be emptied.
    pub async fn drop_namespace(
        &self,
        ctx: &RequestContext,
        database: &DatabaseName,
        path: &NamespacePath,
        cascade: bool,
    ) -> Result<Properties> {
        self.permit(ctx, Role::Write, "drop_namespace", None)?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.drop_namespace(database, path, cascade).await;
        let mut line = AuditLine::new(ctx, "drop_namespace").outcome(&outcome);
        line.subject = Some(format!("{database}/{path}"));
        self.audit.record(line);
        outcome
    }
}
