//! Rename and drop.
use lakebed_core::{RequestContext, Result, Role, TableId};

use crate::Service;
use crate::audit::AuditLine;

impl Service {
    /// Gives a table another name; its folder stays.
    ///
    /// # Errors
    /// `NotFound`, or `AlreadyExists` when the new name is taken.
    pub async fn rename_table(
        &self,
        ctx: &RequestContext,
        from: &TableId,
        to: &TableId,
    ) -> Result<()> {
        self.permit(ctx, Role::Write, "rename", Some(&from.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.rename_table(from, to).await;
        let mut line = AuditLine::new(ctx, "rename").outcome(&outcome);
        line.table = Some(from.to_string());
        line.subject = Some(to.to_string());
        self.audit.record(line);
        outcome
    }

    /// Drops a table with all its versions. Its name is free at once; readers and tickets in flight keep
    /// its files until they are done.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    pub async fn drop_table(&self, ctx: &RequestContext, table: &TableId) -> Result<()> {
        self.permit(ctx, Role::Write, "drop", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let uid = self.lake.table(table).await.map(|handle| handle.uid().to_owned());
        let outcome = self.lake.drop_table(table).await;
        if let (Ok(uid), Ok(())) = (uid, &outcome) {
            self.residents.remove_table(&uid);
        }
        let mut line = AuditLine::new(ctx, "drop").outcome(&outcome);
        line.table = Some(table.to_string());
        self.audit.record(line);
        outcome
    }
}
