//! A mask of rows: which rows, by stable row id, a read or a search may give.
//!
//! How it reaches lance: a scanner takes a mask of row ids (`with_row_id_prefilter`). A plain scan reads
//! only the ranges of rows that the mask selects, and applies a filter to these; a search by vector or text
//! gives the mask to its index as it gives a filter's result, and to what it compares row by row. It costs
//! a look into a bitmap for each row, whatever the share of rows that it selects: no list of ids is ever
//! planned, and nothing is taken row by row.
//!
//! What always holds: ids of rows that were deleted select nothing.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt64Type;
use async_recursion::async_recursion as boxed;
use futures::TryStreamExt as _;
use lakebed_core::{Error, Result};
use lance::dataset::scanner::Scanner;
use lance_core::ROW_ID;
use lance_select::{RowAddrMask, RowAddrTreeMap};
use roaring::RoaringTreemap;

use crate::scan::{Projection, ScanSpec, bad_plan};
use crate::snapshot::Snapshot;
use crate::sql_guard::check_sql;

/// Rows by stable row id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowMask {
    ids: RoaringTreemap,
}

impl RowMask {
    /// The mask that selects the rows of these ids.
    pub fn new(ids: RoaringTreemap) -> RowMask {
        RowMask { ids }
    }

    /// The ids of the rows that it selects, those of deleted rows among them.
    pub fn ids(&self) -> &RoaringTreemap {
        &self.ids
    }

    /// The ids in roaring's portable format (64 bits).
    ///
    /// # Errors
    /// `Internal` when they cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.ids.serialized_size());
        self.ids
            .serialize_into(&mut bytes)
            .map_err(|error| Error::internal("encode a set of row ids").with_source(error))?;
        Ok(bytes)
    }

    /// Has a scanner give no other rows.
    pub(crate) fn apply(&self, scanner: &mut Scanner) {
        let allowed = RowAddrTreeMap::from(self.ids.clone());
        scanner.with_row_id_prefilter(RowAddrMask::from_allowed(allowed));
    }
}

impl Snapshot {
    /// Whether a row keeps its id for as long as it lives. Tables that other tools made may have ids that say
    /// where a row lies.
    pub fn has_stable_row_ids(&self) -> bool {
        self.dataset.manifest().uses_stable_row_ids()
    }

    /// Rows for which `filter` is true and which `rows` selects.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that does not parse, `NotFound` for a column.
    #[boxed]
    pub async fn count_of(&self, filter: Option<&str>, rows: Option<&RowMask>) -> Result<u64> {
        if filter.is_none() && rows.is_none() {
            return self.count_rows().await;
        }
        let mut scanner = self.dataset.scan();
        let spec = ScanSpec { filter: filter.map(str::to_owned), ..ScanSpec::default() };
        if let Some(filter) = filter {
            check_sql(filter, &self.table().shared.limits)
                .map_err(|error| error.context("filter"))?;
            scanner.filter(filter).map_err(|error| bad_plan(&spec, error))?;
        }
        if let Some(rows) = rows {
            rows.apply(&mut scanner);
        }
        Box::pin(scanner.count_rows()).await.map_err(|error| bad_plan(&spec, error))
    }

    /// The ids of the rows for which `filter` is true and which `rows` selects. None of a deleted row is
    /// among them.
    ///
    /// # Errors
    /// As [`Snapshot::count_of`].
    #[boxed]
    pub async fn row_ids_of(
        &self,
        filter: Option<&str>,
        rows: Option<&Arc<RowMask>>,
    ) -> Result<RoaringTreemap> {
        let spec = ScanSpec {
            projection: Projection::Names(vec![ROW_ID.to_owned()]),
            filter: filter.map(str::to_owned),
            rows: rows.cloned(),
            ..ScanSpec::default()
        };
        let (_, mut batches) = self.scan(&spec).await?;
        let mut found = RoaringTreemap::new();
        while let Some(batch) = batches.try_next().await? {
            let ids = batch.column_by_name(ROW_ID);
            let ids = ids.and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
            let ids = ids.ok_or_else(|| Error::internal("a scan without row ids"))?;
            found.extend(ids.values().iter().copied());
        }
        Ok(found)
    }
}
