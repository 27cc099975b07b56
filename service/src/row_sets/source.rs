//! What a row set is made of, and the ids that this gives.
//!
//! Of a statement in SQL and of a search by text the rows of one version are taken, as every other read
//! takes them. Rows that go while a set is made do no harm: an id without a row selects nothing.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt64Type;
use futures::TryStreamExt as _;
use lakebed_core::{Error, RequestContext, Result, RowSetRef, Subject, TableId};
use lakebed_proto::command::Columns;
use lakebed_proto::search::SearchRequest;
use lakebed_storage::{RowMask, Snapshot};
use roaring::RoaringTreemap;
use serde_json::{Value, json};

use crate::read::READ_BYTES;
use crate::{BatchStream, Service, SqlRequest};

/// The column of row ids.
const ROW_ID: &str = "_rowid";
/// Sets that one set is made of at most.
const SETS_MAX: usize = 1_000;
/// Bytes of a search that are kept with the set that it made; its vectors are left out beyond that.
const QUERY_BYTES_MAX: usize = 32 << 10;

/// What a row set is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum RowSetSource {
    /// The rows for which this SQL expression is true.
    Filter(String),
    /// The rows that a statement in SQL gives in its column `_rowid`.
    Sql(String),
    /// The rows that a search finds; its table and version are not looked at.
    Query(Box<SearchRequest>),
    /// Rows by stable row id.
    RowIds(Vec<u64>),
    /// Rows of any of these sets.
    Union(Vec<RowSetRef>),
    /// Rows of all of these sets.
    Intersect(Vec<RowSetRef>),
    /// Rows of the first of these sets and of no other one.
    Difference(Vec<RowSetRef>),
}

impl Service {
    /// The ids of a source, and what is kept of how they came to be.
    pub(super) async fn rows_of_source(
        self: &Arc<Self>,
        ctx: &RequestContext,
        snapshot: &Snapshot,
        table: &TableId,
        source: RowSetSource,
    ) -> Result<(RoaringTreemap, Value)> {
        match source {
            RowSetSource::Filter(filter) => {
                let sql_bytes_max = self.limits.sql_bytes_max;
                if filter.len() > sql_bytes_max {
                    return Err(Error::invalid(format!(
                        "the filter has more than sql_bytes_max = {sql_bytes_max} bytes"
                    )));
                }
                let _running = self.admission.admit_request().await?;
                let _memory = self.admission.read_bytes(READ_BYTES).await?;
                let ids = snapshot.row_ids_of(Some(&filter), None).await?;
                Ok((ids, json!({ "filter": filter })))
            }
            RowSetSource::Sql(text) => self.rows_of_sql(ctx, snapshot, text).await,
            RowSetSource::Query(request) => {
                self.rows_of_query(ctx, snapshot, table, *request).await
            }
            RowSetSource::RowIds(row_ids) => self.rows_of_ids(snapshot, row_ids).await,
            RowSetSource::Union(sets) => {
                algebra(snapshot, "union", sets, |ids, other| *ids |= other).await
            }
            RowSetSource::Intersect(sets) => {
                algebra(snapshot, "intersect", sets, |ids, other| *ids &= other).await
            }
            RowSetSource::Difference(sets) => {
                algebra(snapshot, "difference", sets, |ids, other| *ids -= other).await
            }
        }
    }

    async fn rows_of_sql(
        self: &Arc<Self>,
        ctx: &RequestContext,
        snapshot: &Snapshot,
        text: String,
    ) -> Result<(RoaringTreemap, Value)> {
        let request = SqlRequest { text: text.clone(), namespace: None };
        let plan = self.plan_sql(ctx, request).await?;
        let Some(schema) = plan.schema else {
            return Err(Error::invalid("a row set is made of a query, and `sql` is a change"));
        };
        if schema.field_with_name(ROW_ID).is_err() {
            return Err(Error::invalid(format!(
                "`sql` gives no column `{ROW_ID}`: a row set is made of the ids in it"
            )));
        }
        let (_, batches) = self.run_sql(ctx, plan.part, None).await?;
        let found = gather(batches).await?;
        // What is no row of this table, of another one perhaps, is none of the set.
        let ids = snapshot.row_ids_of(None, Some(&Arc::new(RowMask::new(found)))).await?;
        Ok((ids, json!({ "sql": text })))
    }

    async fn rows_of_query(
        &self,
        ctx: &RequestContext,
        snapshot: &Snapshot,
        table: &TableId,
        request: SearchRequest,
    ) -> Result<(RoaringTreemap, Value)> {
        let is_hybrid = request.full_text_query.is_some()
            && (request.embed.is_some() || request.vector.as_ref().is_some_and(|v| !v.is_empty()));
        let schema = snapshot.schema();
        let narrow = schema.fields().iter().find(|field| field.data_type().is_primitive());
        let columns = match (is_hybrid, narrow) {
            (false, _) => Some(ROW_ID.to_owned()),
            // Its ids come beside columns.
            (true, narrow) => narrow.map(|field| field.name().clone()),
        };
        let search = SearchRequest {
            table: table.text(),
            version: Some(snapshot.version()),
            tag: None,
            as_of: None,
            branch: snapshot.branch().map(str::to_owned),
            columns: columns.map(|column| Columns::Names(vec![column])),
            with_row_id: Some(is_hybrid),
            ..request.clone()
        };
        let found = self.search(ctx, &search).await?;
        let ids = gather(found.batches).await?;
        Ok((ids, json!({ "query": kept(request)? })))
    }

    async fn rows_of_ids(
        &self,
        snapshot: &Snapshot,
        row_ids: Vec<u64>,
    ) -> Result<(RoaringTreemap, Value)> {
        let row_ids_max = self.limits.row_ids_max;
        if row_ids.len() > row_ids_max {
            return Err(Error::invalid(format!(
                "`row_ids` has more than row_ids_max = {row_ids_max} ids"
            )));
        }
        let wanted: RoaringTreemap = row_ids.into_iter().collect();
        let mask = Arc::new(RowMask::new(wanted));
        let ids = snapshot.row_ids_of(None, Some(&mask)).await?;
        if let Some(missing) = (mask.ids() - &ids).min() {
            let version = snapshot.version();
            return Err(Error::not_found(format!(
                "row id {missing} does not exist in version {version}"
            )));
        }
        let made_from = json!({ "row_ids": ids.len() });
        Ok((ids, made_from))
    }
}

async fn algebra(
    snapshot: &Snapshot,
    verb: &str,
    sets: Vec<RowSetRef>,
    apply: impl Fn(&mut RoaringTreemap, &RoaringTreemap),
) -> Result<(RoaringTreemap, Value)> {
    if sets.len() < 2 || sets.len() > SETS_MAX {
        return Err(Error::invalid(format!(
            "`{verb}` names {} row sets; it takes 2 to {SETS_MAX}",
            sets.len()
        )));
    }
    let mut ids: Option<RoaringTreemap> = None;
    let mut names = Vec::with_capacity(sets.len());
    for mut wanted in sets {
        let (set, rows) = snapshot.row_set(&wanted).await?;
        wanted.version = Some(set.version);
        names.push(wanted.to_string());
        match &mut ids {
            None => ids = Some(rows.ids().clone()),
            Some(ids) => apply(ids, rows.ids()),
        }
    }
    Ok((ids.unwrap_or_default(), json!({ verb: names })))
}

/// A search as it is kept: without what is said elsewhere, and without vectors that would be most of it.
fn kept(request: SearchRequest) -> Result<Value> {
    let request = SearchRequest {
        table: String::new(),
        version: None,
        tag: None,
        as_of: None,
        branch: None,
        columns: None,
        ..request
    };
    let write = |request: &SearchRequest| {
        let value = serde_json::to_value(request);
        value.map_err(|error| Error::internal("write a search").with_source(error))
    };
    let mut value = write(&request)?;
    if value.to_string().len() > QUERY_BYTES_MAX {
        value = write(&SearchRequest { vector: None, embed: None, ..request })?;
        value["left_out"] = json!("vector");
    }
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, value| name != "table" && !value.is_null());
    }
    Ok(value)
}

/// The row ids of an answer.
async fn gather(mut batches: BatchStream) -> Result<RoaringTreemap> {
    let mut found = RoaringTreemap::new();
    while let Some(batch) = batches.try_next().await? {
        let ids = batch.column_by_name(ROW_ID);
        let ids = ids.and_then(|ids| ids.as_primitive_opt::<UInt64Type>()).ok_or_else(|| {
            let message =
                format!("the rows have no column `{ROW_ID}` of row ids (64 bits, unsigned)");
            Error::invalid(message).about(Subject::Column)
        })?;
        found.extend(ids.iter().flatten());
    }
    Ok(found)
}
