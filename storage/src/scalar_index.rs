//! Scalar indexes of a table: which there are, and building one.

use async_recursion::async_recursion as boxed;
use lakebed_core::{Error, Result};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::{BuiltinIndexType, ScalarIndexParams};

use crate::lance_error::from_lance;
use crate::table::Table;

impl Table {
    /// Whether a column has a B-tree index on a branch.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch or column.
    #[boxed]
    pub async fn has_btree(&self, branch: Option<&str>, column: &str) -> Result<bool> {
        has_btree(&*self.branch(branch).await?.latest().await?, column).await
    }

    /// Builds a B-tree index over a column of a branch, unless there is one by now, and commits it;
    /// returns the version. It gets the name `name`, or that with a number when an index has it.
    ///
    /// # Errors
    /// `InvalidArgument` for a type that cannot be indexed.
    #[boxed]
    pub async fn create_btree(
        &self,
        branch: Option<&str>,
        column: &str,
        name: &str,
    ) -> Result<u64> {
        let branch = self.branch(branch).await?;
        let _mutation = branch.mutation.lock().await;
        let latest = branch.latest().await?;
        if has_btree(&latest, column).await? {
            return Ok(latest.version().version);
        }
        let name = free_name(&latest, name).await?;
        let params = ScalarIndexParams::for_builtin(BuiltinIndexType::BTree);
        let mut building = Dataset::clone(&latest);
        let columns = [column];
        let mut builder =
            building.create_index_builder(&columns, IndexType::BTree, &params).name(name);
        let index = Box::pin(builder.execute_uncommitted()).await.map_err(from_lance)?;
        let operation =
            Operation::CreateIndex { new_indices: vec![index], removed_indices: Vec::new() };
        let transaction = Transaction::new(latest.version().version, operation, None);
        let committed = branch.commit(transaction, Vec::new(), None).await?;
        Ok(committed.version().version)
    }
}

async fn free_name(dataset: &Dataset, wanted: &str) -> Result<String> {
    let indices = dataset.load_indices().await.map_err(from_lance)?;
    let is_free = |name: &String| indices.iter().all(|index| index.name != *name);
    let mut names = (2..).map(|n: u64| format!("{wanted}_{n}"));
    let first = Some(wanted.to_owned()).filter(is_free);
    Ok(first.or_else(|| names.find(is_free)).unwrap_or_else(|| wanted.to_owned()))
}

/// Whether a column has a B-tree index in a version.
pub(crate) async fn has_btree(dataset: &Dataset, column: &str) -> Result<bool> {
    let field = dataset
        .schema()
        .field(column)
        .ok_or_else(|| Error::not_found(format!("column `{column}` does not exist")))?;
    let indices = dataset.load_indices().await.map_err(from_lance)?;
    Ok(indices.iter().any(|index| index.fields == [field.id] && is_btree(index)))
}

fn is_btree(index: &lance_table::format::IndexMetadata) -> bool {
    index
        .index_details
        .as_ref()
        .is_some_and(|details| details.type_url.ends_with("BTreeIndexDetails"))
}
