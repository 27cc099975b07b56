//! A search whose rows show where they match.
//!
//! ```text
//!   search with row ids ─► texts of these rows ─► words ─► marks ─► fragments ─► the column `_highlights`
//! ```
//!
//! The texts are read by row id, so that they are there whatever columns the answer has. Words are cut by the
//! analyser of the column's own text index: what is marked is what the index matched.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, Result, Subject, nearest_names};
use lakebed_proto::text_help::Highlight;
use lakebed_storage::{Analyser, BatchStream, Projection, ScanSpec, Snapshot, TextPart, TextQuery};

use super::fragments::Style;
use super::matching::Wanted;
use crate::scored::ROW_ID;
use crate::search::Search;

/// The column of the fragments: a list of `column` and `fragment`.
pub const HIGHLIGHTS: &str = "_highlights";
/// Columns that are marked at most.
const COLUMNS_MAX: usize = 16;
/// Bytes of one text that are looked at.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// A search whose rows show where they match.
#[derive(Debug, Clone)]
pub struct Marked {
    /// The search, with row ids.
    pub(crate) search: Search,
    /// What is asked for.
    pub(crate) highlight: Highlight,
    /// What is searched for.
    pub(crate) text: TextQuery,
    /// Whether `_rowid` is in the answer.
    pub(crate) with_row_id: bool,
    /// What marks texts, once the indexes were looked at.
    pub(crate) marker: Option<Arc<Marker>>,
}

/// Marks the texts of some columns.
#[derive(Debug)]
pub(crate) struct Marker {
    style: Style,
    columns: Vec<MarkedColumn>,
}

#[derive(Debug, Clone)]
struct MarkedColumn {
    name: String,
    analyser: Analyser,
    wanted: Wanted,
}

impl Marked {
    /// What marks the texts.
    ///
    /// # Errors
    /// `NotFound` for a column, `InvalidArgument` for one that holds no texts and for fields out of range.
    pub(crate) async fn marker(&self, snapshot: &Snapshot) -> Result<Marker> {
        let style = Style::of(&self.highlight)?;
        let parts = self.text.parts()?;
        let mut names = self.highlight.columns.clone();
        if names.is_empty() {
            names = self.text.named_columns();
        }
        if names.is_empty() {
            names = snapshot.text_columns().await?;
        }
        names.sort();
        names.dedup();
        if names.len() > COLUMNS_MAX {
            return Err(Error::invalid(format!(
                "highlight: {} columns; at most {COLUMNS_MAX} are marked",
                names.len()
            )));
        }
        let mut columns = Vec::with_capacity(names.len());
        for name in names {
            columns.push(
                marked_column(snapshot, name, &parts)
                    .await
                    .map_err(|error| error.context("highlight"))?,
            );
        }
        Ok(Marker { style, columns })
    }

    pub(crate) async fn schema(&self, snapshot: &Snapshot) -> Result<SchemaRef> {
        Ok(self.with_marks(&*Box::pin(self.search.schema(snapshot)).await?))
    }

    pub(crate) async fn open(&self, snapshot: &Snapshot) -> Result<(SchemaRef, BatchStream)> {
        let marker = match &self.marker {
            Some(marker) => Arc::clone(marker),
            None => Arc::new(self.marker(snapshot).await?),
        };
        let (schema, rows) = Box::pin(self.search.open(snapshot)).await?;
        let schema = self.with_marks(&schema);
        let (snapshot, shown) = (snapshot.clone(), Arc::clone(&schema));
        let rows = rows.then(move |batch| {
            let (snapshot, shown, marker) =
                (snapshot.clone(), Arc::clone(&shown), Arc::clone(&marker));
            async move { marked_rows(&snapshot, shown, marker, batch?).await }
        });
        Ok((schema, rows.boxed()))
    }

    fn with_marks(&self, rows: &Schema) -> SchemaRef {
        let keeps = |field: &&Arc<Field>| self.with_row_id || field.name() != ROW_ID;
        let mut fields: Vec<Arc<Field>> = rows.fields().iter().filter(keeps).cloned().collect();
        fields.push(Arc::new(highlights_field()));
        Arc::new(Schema::new_with_metadata(fields, rows.metadata().clone()))
    }
}

async fn marked_column(
    snapshot: &Snapshot,
    name: String,
    parts: &[TextPart],
) -> Result<MarkedColumn> {
    let schema = snapshot.schema();
    if schema.field_with_name(&name).is_err() {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let near = nearest_names(&name, names);
        let what = match name.contains('.') {
            true => "is no column of its own, and only such are marked",
            false => "does not exist",
        };
        let message = format!("column `{name}` {what}{near}");
        return Err(Error::not_found(message).about(Subject::Column));
    }
    let mut analyser = snapshot.analyser(&name).await?;
    let is_of = |part: &&TextPart| part.column.as_ref().is_none_or(|column| *column == name);
    let mut its: Vec<&TextPart> = parts.iter().filter(is_of).collect();
    if its.is_empty() {
        // A column that is shown and not searched: whatever is searched for elsewhere.
        its = parts.iter().collect();
    }
    let wanted = Wanted::of(&its, &mut analyser)?;
    Ok(MarkedColumn { name, analyser, wanted })
}

fn highlights_field() -> Field {
    let item = Field::new("item", DataType::Struct(item_fields()), false);
    Field::new(HIGHLIGHTS, DataType::List(Arc::new(item)), false)
}

fn item_fields() -> Fields {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Fields::from(vec![text("column"), text("fragment")])
}

async fn marked_rows(
    snapshot: &Snapshot,
    shown: SchemaRef,
    marker: Arc<Marker>,
    batch: RecordBatch,
) -> Result<RecordBatch> {
    let ids = batch.column_by_name(ROW_ID);
    let ids = ids.and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
    let ids = ids.ok_or_else(|| Error::internal("a search without row ids"))?.values().to_vec();
    let names = marker.columns.iter().map(|column| column.name.clone()).collect();
    let spec = ScanSpec {
        row_ids: Some(ids),
        projection: Projection::Names(names),
        ..ScanSpec::default()
    };
    let texts: Vec<RecordBatch> = match batch.num_rows() {
        0 => Vec::new(),
        _ => snapshot.scan(&spec).await?.1.try_collect().await?,
    };
    let marks = tokio::task::spawn_blocking(move || marker.highlights(&texts)).await;
    let marks = marks.map_err(|error| Error::internal("mark texts").with_source(error))??;
    let kept = shown.fields().iter().filter_map(|field| batch.column_by_name(field.name()));
    let columns = kept.cloned().chain([marks]).collect();
    RecordBatch::try_new(shown, columns)
        .map_err(|error| Error::internal("rows with their fragments").with_source(error))
}

impl Marker {
    /// The fragments of rows of texts, the columns in their order.
    fn highlights(&self, texts: &[RecordBatch]) -> Result<ArrayRef> {
        let builder = StructBuilder::from_fields(item_fields(), 0);
        let item = Field::new("item", DataType::Struct(item_fields()), false);
        let mut rows = ListBuilder::new(builder).with_field(item);
        let mut columns = self.columns.clone();
        for batch in texts {
            for row in 0..batch.num_rows() {
                for (column, values) in columns.iter_mut().zip(batch.columns()) {
                    for text in texts_of(values, row) {
                        for fragment in column.fragments(&self.style, &text)? {
                            push(rows.values(), &column.name, &fragment)?;
                        }
                    }
                }
                rows.append(true);
            }
        }
        Ok(Arc::new(rows.finish()))
    }
}

impl MarkedColumn {
    fn fragments(&mut self, style: &Style, text: &str) -> Result<Vec<String>> {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX.min(text.len()));
        let text = text.get(..end).unwrap_or_default();
        let words = self.analyser.words(text)?;
        Ok(style.fragments(text, &self.wanted.marks(&words)))
    }
}

fn push(items: &mut StructBuilder, column: &str, fragment: &str) -> Result<()> {
    for (place, text) in [column, fragment].into_iter().enumerate() {
        let field = items.field_builder::<StringBuilder>(place);
        field.ok_or_else(|| Error::internal("a fragment without its fields"))?.append_value(text);
    }
    items.append(true);
    Ok(())
}

/// The texts in one cell: one, or those of a list.
pub(super) fn texts_of(values: &ArrayRef, row: usize) -> Vec<String> {
    if values.is_null(row) {
        return Vec::new();
    }
    match values.data_type() {
        DataType::Utf8 => vec![values.as_string::<i32>().value(row).to_owned()],
        DataType::LargeUtf8 => vec![values.as_string::<i64>().value(row).to_owned()],
        DataType::Utf8View => vec![values.as_string_view().value(row).to_owned()],
        DataType::List(_) => items(&values.as_list::<i32>().value(row)),
        DataType::LargeList(_) => items(&values.as_list::<i64>().value(row)),
        _ => Vec::new(),
    }
}

fn items(values: &ArrayRef) -> Vec<String> {
    (0..values.len()).flat_map(|row| texts_of(values, row)).collect()
}
