//! Drop columns: they leave the schema, and their files what is not named any more.

use async_recursion::async_recursion as boxed;
use lakebed_core::{Error, Result};
use lance::dataset::transaction::Operation;

use super::{Staged, field_at};
use crate::computed::{FUNCTION_BINDINGS, dropped_with};
use crate::lance_error::from_lance;
use crate::table::Table;
use crate::vector_aliases::check_not_aliased;

impl Table {
    /// Drops columns, and the indexes on them; returns the version without them.
    ///
    /// # Errors
    /// `NotFound` for a column that does not exist, `InvalidArgument` when none would be left, a computed
    /// column that stays needs one, or an alias points to one.
    #[boxed]
    pub async fn drop_columns(&self, branch: Option<&str>, columns: &[String]) -> Result<u64> {
        if columns.is_empty() {
            return Err(Error::invalid("no column is given"));
        }
        let branch = self.branch(branch).await?;
        branch.check_no_view().await?;
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        let names = names.as_slice();
        let committed = self
            .change_columns(&branch, |latest| async move {
                for name in names {
                    field_at(latest.schema(), name)?;
                }
                check_not_aliased(latest.schema(), names)?;
                let (also, bindings) = dropped_with(latest.schema(), names)?;
                let names: Vec<&str> =
                    names.iter().copied().chain(also.iter().map(String::as_str)).collect();
                let mut schema = latest.plan_drop_columns(&names).map_err(from_lance)?;
                match bindings {
                    None => {}
                    Some(None) => drop(schema.metadata.remove(FUNCTION_BINDINGS)),
                    Some(Some(left)) => {
                        schema.metadata.insert(FUNCTION_BINDINGS.to_owned(), left);
                    }
                }
                Ok(Staged::metadata(Operation::Project { schema, preserves_nullability: true }))
            })
            .await?;
        Ok(committed.version().version)
    }
}
