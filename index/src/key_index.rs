//! The index on an upsert's key.
//!
//! A partial upsert finds its rows through a scalar index on the key and then patches only the columns
//! it carries. Without the index lance falls back to rewriting whole rows, pictures included: 410 MB
//! for 20,000 labels where the patch writes 0.04 MB. So on a table with blobs the index is built before
//! the first partial upsert, once; lance keeps it right afterwards and scans what it does not cover.

use lakebed_core::Result;
use lakebed_storage::Table;

/// Makes sure that every key column has a B-tree index; says which were built.
///
/// # Errors
/// `NotFound` for an unknown column, `InvalidArgument` for a type that cannot be indexed.
pub async fn ensure_key_index(
    table: &Table,
    branch: Option<&str>,
    on: &[String],
) -> Result<Vec<String>> {
    let mut built = Vec::new();
    for column in on {
        if !table.has_btree(branch, column).await? {
            let version = table.create_btree(branch, column, &index_name(column)).await?;
            tracing::info!(table = table.location(), column, version, "built the index of a key");
            built.push(column.clone());
        }
    }
    Ok(built)
}

/// The name of the index on a column, as the LanceDB SDKs would name it.
pub fn index_name(column: &str) -> String {
    format!("{column}_idx")
}
