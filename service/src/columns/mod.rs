//! Changes of a table's columns, one file each.

mod add_null;
mod add_sql;
mod alter;
mod drop;
mod metadata;

use std::sync::Arc;

use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_storage::Table;

use crate::Service;
use crate::audit::AuditLine;

/// A change of one column: another name, another type, null allowed or not.
pub use lakebed_storage::ColumnAlteration;
/// A change of what is noted about one field.
pub use lakebed_storage::FieldMetadata;

impl Service {
    /// What all changes of columns have in common; `subject` names the columns in the audit line.
    pub(crate) async fn change_columns<T, F: Future<Output = Result<(T, u64)>>>(
        &self,
        ctx: &RequestContext,
        verb: &'static str,
        table: &TableId,
        branch: Option<&str>,
        subject: String,
        change: impl FnOnce(Arc<Table>) -> F,
    ) -> Result<(T, u64)> {
        self.permit(ctx, Role::Write, verb, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let outcome = match self.fresh_table(ctx, table, branch).await {
            Ok(handle) => change(handle).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, verb).outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(subject);
        line.version = outcome.as_ref().ok().map(|(_, version)| *version);
        self.audit.record(line);
        outcome
    }
}

/// Names for an audit line, which must stay short.
pub(crate) fn shown<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().take(20).collect();
    names.join(", ").chars().take(400).collect()
}
