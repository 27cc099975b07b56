//! Names that are kept for tables, and tables that leave the catalogue or enter it as they are.

use lakebed_core::{NamespacePath, RequestContext, Result, Role, TableId};
use lakebed_proto::command::ReadCommand;
use lakebed_storage::Cloned;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;
use crate::resolve::at_of;

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
        let location = outcome.as_ref().ok().cloned();
        self.note_registration(ctx, "declare", table, location, &outcome);
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

    /// Makes a table that begins with a version of the table at `source`, its newest where none is given,
    /// and shares its files.
    ///
    /// # Errors
    /// `NotFound` when no table lies there or it has no such version, `AlreadyExists` when the name is
    /// taken, `Denied` for a place outside of the lake.
    pub async fn clone_table(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        source: &str,
        at: &ReadCommand,
    ) -> Result<Cloned> {
        self.permit(ctx, Role::Write, "clone", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.clone_table(table, source, &at_of(at)?).await;
        let location = outcome.as_ref().ok().map(|cloned| cloned.location.clone());
        self.note_registration(ctx, "clone", table, location, &outcome);
        outcome
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
        let location = outcome.as_ref().ok().cloned();
        self.note_registration(ctx, "deregister", table, location, &outcome);
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
        let location = outcome.as_ref().ok().cloned();
        self.note_registration(ctx, "register", table, location, &outcome);
        outcome
    }

    fn note_registration<T>(
        &self,
        ctx: &RequestContext,
        verb: &'static str,
        table: &TableId,
        location: Option<String>,
        outcome: &Result<T>,
    ) {
        let mut line = AuditLine::new(ctx, verb).outcome(outcome);
        line.table = Some(table.to_string());
        line.subject = location;
        self.audit.record(line);
    }
}
