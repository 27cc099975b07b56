//! Names that are kept for tables, and tables that leave the catalogue or enter it as they are.

use lakebed_core::{NamespacePath, RequestContext, Result, Role, TableId};

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

impl Service {
    /// Keeps a name for a table whose first version another tool writes; says where, relative to the lake's
    /// root.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    pub async fn declare_table(&self, ctx: &RequestContext, table: &TableId) -> Result<String> {
        self.permit(ctx, Role::Write, "declare", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.declare_table(table).await;
        self.note_registration(ctx, "declare", table, &outcome);
        outcome
    }

    /// Where the first version of a declared table is to be written; nothing for any other name.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn declared_location(
        &self,
        ctx: &RequestContext,
        table: &TableId,
    ) -> Result<Option<String>> {
        require(ctx, Role::Read)?;
        self.lake.declared_location(table).await
    }

    /// The declared tables of a namespace, or of the whole database, that have no version yet.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn list_declared(
        &self,
        ctx: &RequestContext,
        namespace: Option<&NamespacePath>,
    ) -> Result<Vec<TableId>> {
        require(ctx, Role::Read)?;
        self.lake.list_declared(&ctx.database, namespace).await
    }

    /// Takes a table out of the catalogue and leaves its data; says where that lies, relative to the lake's
    /// root.
    ///
    /// # Errors
    /// `NotFound` when there is no such table, `Busy` when a change of it takes long.
    pub async fn deregister_table(&self, ctx: &RequestContext, table: &TableId) -> Result<String> {
        self.permit(ctx, Role::Write, "deregister", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.deregister_table(table).await;
        self.note_registration(ctx, "deregister", table, &outcome);
        outcome
    }

    /// Enters the dataset in a folder of the lake under a name; says where it lies, relative to the lake's
    /// root. With `replace` a table of that name is deregistered first.
    ///
    /// # Errors
    /// `AlreadyExists` when the name or the folder is a table's, `NotFound` when no dataset lies there,
    /// `Denied` for a place outside of the lake, `InvalidArgument` for one that can be no table's.
    pub async fn register_table(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        location: &str,
        replace: bool,
    ) -> Result<String> {
        self.permit(ctx, Role::Write, "register", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.register_table(table, location, replace).await;
        self.note_registration(ctx, "register", table, &outcome);
        outcome
    }

    fn note_registration(
        &self,
        ctx: &RequestContext,
        verb: &'static str,
        table: &TableId,
        outcome: &Result<String>,
    ) {
        let mut line = AuditLine::new(ctx, verb).outcome(outcome);
        line.table = Some(table.to_string());
        line.subject = outcome.as_ref().ok().cloned();
        self.audit.record(line);
    }
}
