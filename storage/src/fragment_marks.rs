//! What of a version's fragments a copy of one column depends on, to tell what a later version changed.

use std::collections::HashSet;

use lakebed_core::{Error, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::snapshot::Snapshot;

/// One fragment as a copy of a column knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FragmentMark {
    /// The fragment.
    pub fragment: u32,
    /// Its rows, deleted ones included.
    pub rows: u64,
    /// Changes with the column's values or the rows' ids.
    pub data: u64,
    /// Changes when rows are deleted.
    pub deletions: u64,
}

impl Snapshot {
    /// The fragments of the version, as far as one column is concerned: a change of other columns leaves
    /// their marks as they are.
    ///
    /// # Errors
    /// `NotFound` for the column.
    pub fn fragment_marks(&self, column: &str) -> Result<Vec<FragmentMark>> {
        let schema = self.dataset.schema();
        let field = schema.field(column).ok_or_else(|| self.unknown_column(column))?;
        let mut ids = HashSet::from([field.id]);
        let mut below: Vec<_> = field.children.iter().collect();
        while let Some(child) = below.pop() {
            ids.insert(child.id);
            below.extend(child.children.iter());
        }
        let marks = self.dataset.fragments().iter().map(|fragment| {
            let mut own = fragment.clone();
            own.files.retain(|file| file.fields.iter().any(|id| ids.contains(id)));
            // Which version made or changed a row says nothing of the column.
            own.created_at_version_meta = None;
            own.last_updated_at_version_meta = None;
            let deletions = own.deletion_file.take();
            let told = |error| Error::internal("tell fragments apart").with_source(error);
            Ok(FragmentMark {
                fragment: fragment.id as u32,
                rows: fragment.physical_rows.unwrap_or(0) as u64,
                data: xxh3_64(&serde_json::to_vec(&own).map_err(told)?),
                deletions: xxh3_64(&serde_json::to_vec(&deletions).map_err(told)?),
            })
        });
        marks.collect()
    }
}
