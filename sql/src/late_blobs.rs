//! Blobs that are fetched last, for the rows of the answer alone.
//!
//! ```text
//!   SELECT id, blob_bytes(image) AS image FROM t ORDER BY taken_at LIMIT 10
//!   ──► SELECT id, image, _rowid … LIMIT 10 ──► bytes of ten blobs
//! ```
//!
//! Why: the engine computes what a SELECT lists before it sorts, so the blobs of the whole table would be
//! read for ten of them. In a query over one table the bytes depend on nothing but the row's id, which is
//! cheap to carry. Where blobs are filtered, joined or grouped by, they are read with the table.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, OrderByKind, Query, SelectItem, SetExpr, Statement as Ast,
    TableFactor, TableWithJoins, Value, VisitMut, VisitorMut,
};
use futures::StreamExt;
use lakebed_core::Error;
use lakebed_storage::{Extras, Snapshot};

use crate::BatchStream;
use crate::types::blob_metadata;

/// What the row's id is called on its way; no column has such a name.
const ROW_ID: &str = "\u{1}row_id";

/// The blobs of an answer.
pub(crate) struct LateBlobs {
    snapshot: Snapshot,
    /// Columns of the answer, and the blob columns that they show.
    shown: Vec<(String, String)>,
    extras: Extras,
}

/// Takes the bytes of blobs out of a query over one table, if they stand nowhere but in its SELECT.
pub(crate) fn take_late(
    statement: &mut Ast,
    snapshot: &Snapshot,
    extras: &mut Extras,
) -> Option<LateBlobs> {
    let names: Vec<String> =
        extras.blob_bytes.iter().map(|column| Extras::blob_column(column)).collect();
    if names.is_empty() || !extras.blob_bytes.iter().all(|column| snapshot.is_blob(column)) {
        return None;
    }
    let mut uses = Uses { names: &names, found: 0 };
    let _ = statement.visit(&mut uses);
    let found = uses.found;
    let Ast::Query(query) = statement else { return None };
    let late: Vec<(usize, String, Vec<Ident>)> = late_items(query, &names)?;
    if late.len() != found || is_ordered_by(query, &late) {
        return None;
    }
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let mut shown = Vec::with_capacity(late.len());
    let mut qualifier: Vec<Ident> = Vec::new();
    for (at, name, mut parts) in late {
        let virtual_name = parts.pop()?.value;
        let column = extras.blob_bytes.iter().find(|c| Extras::blob_column(c) == virtual_name)?;
        qualifier.clone_from(&parts);
        parts.push(Ident::with_quote('"', column));
        select.projection[at] =
            SelectItem::ExprWithAlias { expr: named(parts), alias: Ident::with_quote('"', &name) };
        shown.push((name, column.clone()));
    }
    qualifier.push(Ident::with_quote('"', "_rowid"));
    select.projection.push(SelectItem::ExprWithAlias {
        expr: named(qualifier),
        alias: Ident::with_quote('"', ROW_ID),
    });
    extras.blob_bytes.clear();
    if !extras.system.iter().any(|column| column == "_rowid") {
        extras.system.push("_rowid".to_owned());
    }
    Some(LateBlobs { snapshot: snapshot.clone(), shown, extras: extras.clone() })
}

fn named(mut parts: Vec<Ident>) -> Expr {
    match parts.len() {
        1 => Expr::Identifier(parts.remove(0)),
        _ => Expr::CompoundIdentifier(parts),
    }
}

/// Counts the columns of blobs' bytes in a statement.
struct Uses<'a> {
    names: &'a [String],
    found: usize,
}

impl VisitorMut for Uses<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if bytes_of(expr, self.names).is_some() {
            self.found += 1;
        }
        ControlFlow::Continue(())
    }
}

/// The parts of the name where an expression is a column of a blob's bytes.
fn bytes_of(expr: &Expr, names: &[String]) -> Option<Vec<Ident>> {
    let parts = match expr {
        Expr::Identifier(ident) => vec![ident.clone()],
        Expr::CompoundIdentifier(parts) => parts.clone(),
        _ => return None,
    };
    let is_bytes = parts.last().is_some_and(|last| names.contains(&last.value));
    is_bytes.then_some(parts)
}

/// The items of a plain SELECT over one table that are bytes of blobs: place, name in the answer, and
/// name of the column.
fn late_items(query: &Query, names: &[String]) -> Option<Vec<(usize, String, Vec<Ident>)>> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let [TableWithJoins { relation: TableFactor::Table { args: None, .. }, joins }] =
        select.from.as_slice()
    else {
        return None;
    };
    let is_grouped = match &select.group_by {
        GroupByExpr::Expressions(by, modifiers) => !by.is_empty() || !modifiers.is_empty(),
        GroupByExpr::All(_) => true,
    };
    let is_plain = query.with.is_none()
        && joins.is_empty()
        && select.distinct.is_none()
        && !is_grouped
        && select.having.is_none();
    if !is_plain {
        return None;
    }
    let items = select.projection.iter().enumerate().filter_map(|(at, item)| match item {
        SelectItem::UnnamedExpr(expr) => {
            let parts = bytes_of(expr, names)?;
            Some((at, parts.last()?.value.clone(), parts))
        }
        SelectItem::ExprWithAlias { expr, alias } => {
            Some((at, alias.value.clone(), bytes_of(expr, names)?))
        }
        _ => None,
    });
    Some(items.collect())
}

/// Whether the rows are sorted by what an item shows, by its name or its place.
fn is_ordered_by(query: &Query, late: &[(usize, String, Vec<Ident>)]) -> bool {
    let Some(order) = &query.order_by else { return false };
    let OrderByKind::Expressions(by) = &order.kind else { return true };
    by.iter().any(|by| match &by.expr {
        Expr::Identifier(ident) => late.iter().any(|(_, name, _)| *name == ident.value),
        Expr::Value(value) => match &value.value {
            Value::Number(place, _) => late.iter().any(|(at, ..)| *place == (at + 1).to_string()),
            _ => true,
        },
        // An expression may use a name of the answer as well.
        other => late.iter().any(|(_, name, _)| other.to_string().contains(name.as_str())),
    })
}

impl LateBlobs {
    /// The schema of the answer, from that of the query with descriptors and row ids.
    pub(crate) fn schema(&self, described: &Schema) -> SchemaRef {
        let fields = described.fields().iter().filter(|field| field.name() != ROW_ID);
        let fields =
            fields.map(|field| match self.shown.iter().any(|(name, _)| name == field.name()) {
                true => {
                    let bytes = Field::new(field.name(), DataType::LargeBinary, true);
                    Arc::new(bytes.with_metadata(blob_metadata()))
                }
                false => Arc::clone(field),
            });
        Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()))
    }

    /// Fetches the bytes for the rows of the answer, in groups of a few MiB.
    pub(crate) fn fill(self, described: BatchStream, schema: SchemaRef) -> BatchStream {
        let described = described.map(|batch| {
            let batch = batch?;
            let row_ids = batch
                .column_by_name(ROW_ID)
                .and_then(|column| column.as_primitive_opt::<UInt64Type>())
                .ok_or_else(|| Error::internal("a query lost the ids of its rows"))?;
            let row_ids = row_ids.values().to_vec();
            Ok((batch, row_ids))
        });
        self.snapshot.fill_blobs(self.shown, &self.extras, described, schema)
    }
}
