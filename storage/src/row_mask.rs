//! A mask of rows: which rows, by stable row id, a read or a search may give.
//!
//! How it reaches lance: a scanner takes a mask of row ids (`with_row_id_prefilter`). A plain scan reads
//! only the ranges of rows that the mask selects, and applies a filter to these; a search by vector or text
//! gives the mask to its index as it gives a filter's result, and to what it compares row by row. It costs
//! a look into a bitmap for each row, whatever the share of rows that it selects: no list of ids is ever
//! planned, and nothing is taken row by row.
//!
//! What lance compares row by row it reads whole, and drops what the mask does not select behind the read:
//! for a hundred rows of a million it would read a million vectors. So where a mask selects few rows, such a
//! read gets the mask itself, as the answer of an index, and reads their ranges only.
//!
//! What always holds: ids of rows that were deleted select nothing.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt64Type;
use async_recursion::async_recursion as boxed;
use datafusion::common::Result as PlanResult;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt as _;
use lakebed_core::{Error, Result};
use lance::dataset::scanner::Scanner;
use lance::io::exec::RowAddrMaskFilterExec;
use lance::io::exec::filtered_read::FilteredReadExec;
use lance_core::ROW_ID;
use lance_datafusion::exec::OneShotExec;
use lance_select::result::IndexExprResultWireFormat;
use lance_select::{IndexExprResult, RowAddrMask, RowAddrTreeMap};
use roaring::RoaringTreemap;

use crate::scan::{Projection, ScanSpec, bad_plan};
use crate::snapshot::Snapshot;
use crate::sql_guard::check_sql;

/// Where a mask selects one of so many rows or fewer, their ranges are read.
const SPARSE_TIMES: u64 = 8;

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
        scanner.with_row_id_prefilter(self.for_lance());
    }

    /// The mask as lance knows it.
    pub(crate) fn for_lance(&self) -> RowAddrMask {
        RowAddrMask::from_allowed(RowAddrTreeMap::from(self.ids.clone()))
    }

    /// Whether so few of so many rows are selected that their ranges are worth being read by themselves.
    pub(crate) fn is_sparse(&self, rows: u64) -> bool {
        self.ids.len().saturating_mul(SPARSE_TIMES) <= rows
    }

    /// The plan of a search to which the mask was applied, with reads of no more rows than it selects where
    /// others would be dropped right behind the read.
    pub(crate) fn narrow(
        &self,
        plan: Arc<dyn ExecutionPlan>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let narrowed = plan.transform_down(|node| {
            if node.downcast_ref::<RowAddrMaskFilterExec>().is_none() {
                return Ok(Transformed::no(node));
            }
            let below = node.transform_down(|node| self.narrow_read(node))?;
            Ok(Transformed::new(below.data, below.transformed, TreeNodeRecursion::Jump))
        });
        narrowed.map(|narrowed| narrowed.data)
    }

    fn narrow_read(
        &self,
        node: Arc<dyn ExecutionPlan>,
    ) -> PlanResult<Transformed<Arc<dyn ExecutionPlan>>> {
        let Some(read) = node.downcast_ref::<FilteredReadExec>() else {
            return Ok(Transformed::no(node));
        };
        if read.index_input().is_some() || read.row_stream_input().is_some() {
            return Ok(Transformed::no(node));
        }
        // A filter is still to be looked at: to lance the mask is an index that says which rows can pass.
        let answer = match read.options().full_filter {
            None => IndexExprResult::exact(self.for_lance()),
            Some(_) => IndexExprResult::at_most(self.for_lance()),
        };
        let dataset = read.dataset();
        let covered = dataset.fragments().iter().map(|fragment| fragment.id as u32).collect();
        let batch = answer.serialize(&covered, IndexExprResultWireFormat::TwoMask)?;
        let schema = batch.schema();
        let once = futures::stream::once(std::future::ready(Ok(batch)));
        let input = OneShotExec::new(Box::pin(RecordBatchStreamAdapter::new(schema, once)));
        let options = read.options().clone();
        let read = FilteredReadExec::try_new(Arc::clone(dataset), options, Some(Arc::new(input)))?;
        Ok(Transformed::yes(Arc::new(read) as Arc<dyn ExecutionPlan>))
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
