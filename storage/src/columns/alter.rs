//! Alter columns: another name, null allowed or not, another type.
//!
//! A name and whether null is allowed are metadata. A new type writes the column again under a new field
//! id; appends that were on their way with the old type are refused then and can be sent again, because
//! their values would be null in the new column.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema};
use futures::TryStreamExt;
use lakebed_core::{Error, ErrorKind, Limits, Result};
use lance::Dataset;
use lance::dataset::transaction::Operation;
use lance::index::DatasetIndexExt;
use lance_core::datatypes::{Field, Schema};

use super::add_sql::write_columns;
use super::{Staged, field_at, with_columns, written_files};
use crate::computed::check_alterable;
use crate::expressions::holds_blob;
use crate::lance_error::from_lance;
use crate::schema::stored_schema;
use crate::table::Table;
use crate::vector_aliases::{check_no_alias, follow};

/// A change of one column.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ColumnAlteration {
    /// The column, or a path below one such as `a.b`.
    pub path: String,
    /// Its new name.
    pub rename: Option<String>,
    /// Its new type.
    pub data_type: Option<DataType>,
    /// Whether it allows null from now on.
    pub nullable: Option<bool>,
}

/// A column that gets another type.
struct Cast {
    /// Its place among the columns.
    at: usize,
    name: String,
    to: DataType,
    /// Its name while both columns are there.
    interim: String,
}

impl Table {
    /// Alters columns in one version; returns its number.
    ///
    /// # Errors
    /// `NotFound` for a column that does not exist, `InvalidArgument` naming the column that holds null
    /// and shall not, or whose values or indexes do not allow the new type.
    pub fn alter_columns<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        alterations: &'a [ColumnAlteration],
    ) -> BoxFuture<'a, Result<u64>> {
        async move {
            if alterations.is_empty() {
                return Err(Error::invalid("no column is given"));
            }
            let branch = self.branch(branch).await?;
            branch.check_no_view().await?;
            let name = branch.name.as_deref();
            let committed = self
                .change_columns(&branch, |latest| async move {
                    let altered = Altered::new(&latest, alterations, &self.shared.limits)?;
                    for path in &altered.tightened {
                        check_no_null(&latest, path).await?;
                    }
                    if altered.casts.is_empty() {
                        return Ok(Staged::metadata(Operation::Project {
                            schema: altered.schema,
                            // A null may be on its way where none is allowed any more.
                            preserves_nullability: altered.tightened.is_empty(),
                        }));
                    }
                    let names: Vec<String> =
                        altered.casts.iter().map(|cast| cast.name.clone()).collect();
                    let rows = self.rows_of_batch(name, &latest, &names).await?;
                    altered.cast(self, &latest, names, rows).await
                })
                .await?;
            Ok(committed.version().version)
        }
        .boxed()
    }
}

/// What a schema becomes.
struct Altered {
    schema: Schema,
    casts: Vec<Cast>,
    /// Columns that do not allow null any more.
    tightened: Vec<String>,
}

impl Altered {
    fn new(dataset: &Dataset, alterations: &[ColumnAlteration], limits: &Limits) -> Result<Self> {
        let stored = dataset.schema();
        let mut altered =
            Altered { schema: stored.clone(), casts: Vec::new(), tightened: Vec::new() };
        let mut seen = Vec::new();
        for alteration in alterations {
            let ColumnAlteration { path, rename, data_type, nullable } = alteration;
            let field = field_at(stored, path)?;
            if seen.contains(&field.id) {
                return Err(Error::invalid(format!("column `{path}` is altered twice")));
            }
            seen.push(field.id);
            if rename.is_some() || data_type.is_some() {
                check_alterable(stored, path)?;
            }
            if let Some(data_type) = data_type.as_ref().filter(|to| **to != field.data_type()) {
                altered.casts.push(cast_of(stored, field, path, data_type, limits)?);
            }
            if *nullable == Some(false) && field.nullable {
                altered.tightened.push(path.clone());
            }
            let target = altered
                .schema
                .mut_field_by_id(field.id)
                .ok_or_else(|| Error::internal(format!("column `{path}` has no field id")))?;
            if let Some(name) = rename {
                check_name(name, limits)?;
                check_no_alias(stored, name)?;
                target.name.clone_from(name);
            }
            target.nullable = nullable.unwrap_or(field.nullable);
        }
        follow(stored, &mut altered.schema);
        check_siblings(&altered.schema.fields)?;
        altered.schema.validate().map_err(from_lance)?;
        altered.schema.verify_primary_key().map_err(from_lance)?;
        if !altered.casts.is_empty() && !altered.tightened.is_empty() {
            return Err(Error::invalid(
                "a new type and `nullable: false` cannot be set at once; change the type first",
            ));
        }
        Ok(altered)
    }

    /// Writes the columns of new types, and puts them in the places of the old ones.
    async fn cast(
        mut self,
        table: &Table,
        dataset: &Dataset,
        read: Vec<String>,
        batch_rows: u32,
    ) -> Result<Staged> {
        check_no_index(dataset, &self.casts).await?;
        let fields: Vec<ArrowField> = self
            .casts
            .iter()
            .map(|cast| ArrowField::new(&cast.interim, cast.to.clone(), true))
            .collect();
        let added = Arc::new(ArrowSchema::new(fields));
        let with_both = with_columns(dataset, &added)?;
        let plan: Vec<(String, DataType)> =
            self.casts.iter().map(|cast| (cast.name.clone(), cast.to.clone())).collect();
        let schema = Arc::clone(&added);
        let mapper = move |batch: &RecordBatch| {
            let columns = plan.iter().map(|(name, to)| cast_column(batch, name, to));
            RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<_>>()?)
                .map_err(|error| Error::internal("values of a new type").with_source(error))
        };
        let mut fragments = write_columns(table, dataset, &added, read, batch_rows, mapper).await?;
        let written = written_files(dataset.fragments(), &fragments);
        for cast in &self.casts {
            let mut new = field_at(&with_both, &cast.interim)?.clone();
            let old = self.schema.fields.get_mut(cast.at);
            let old = old.ok_or_else(|| Error::internal("a column lost its place"))?;
            new.name.clone_from(&old.name);
            new.nullable = old.nullable;
            new.metadata.clone_from(&old.metadata);
            *old = new;
        }
        self.schema.validate().map_err(from_lance)?;
        let kept: Vec<i32> = self.schema.fields_pre_order().map(|field| field.id).collect();
        for fragment in &mut fragments {
            let spilled = fragment.spilled_row_lineage_field_ids();
            fragment.files.retain(|file| {
                file.fields.iter().any(|id| kept.contains(id) || spilled.contains(id))
            });
        }
        let operation =
            Operation::Merge { fragments, schema: self.schema, preserves_nullability: false };
        Ok(Staged { operation, written })
    }
}

fn cast_of(
    stored: &Schema,
    field: &Field,
    path: &str,
    to: &DataType,
    limits: &Limits,
) -> Result<Cast> {
    let Some(at) = stored.fields.iter().position(|top| top.id == field.id) else {
        return Err(Error::new(
            ErrorKind::NotImplemented,
            format!("a new type for a part of a column (`{path}`) is not built"),
        ));
    };
    let from = field.data_type();
    if holds_blob(field) || !can_cast_types(&from, to) || !is_same_family(&from, to) {
        let shown = if holds_blob(field) { "blobs".to_owned() } else { from.to_string() };
        return Err(Error::invalid(format!("column `{path}` of type {shown} cannot become {to}")));
    }
    let field = ArrowField::new(&field.name, to.clone(), true);
    let checked = stored_schema(&ArrowSchema::new(vec![field]), limits)?;
    Ok(Cast {
        at,
        name: path.to_owned(),
        to: checked.field(0).data_type().clone(),
        interim: format!("__lakebed_cast_{at}"),
    })
}

/// The casts of lance's own `alter_columns`: wider or narrower, never of another nature.
fn is_same_family(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    match (from, to) {
        (Dictionary(_, from), to) => is_same_family(from, to),
        (from, Dictionary(_, to)) => is_same_family(from, to),
        (from, to) if from.is_integer() => to.is_integer(),
        (from, to) if from.is_floating() => to.is_floating(),
        (from, to) if from.is_temporal() => to.is_temporal(),
        (Utf8 | LargeUtf8, to) => matches!(to, Utf8 | LargeUtf8),
        (Binary | LargeBinary, to) => matches!(to, Binary | LargeBinary),
        (Decimal128(..) | Decimal256(..), to) => matches!(to, Decimal128(..) | Decimal256(..)),
        (
            List(from) | LargeList(from) | FixedSizeList(from, _),
            List(to) | LargeList(to) | FixedSizeList(to, _),
        ) => is_same_family(from.data_type(), to.data_type()),
        (from, to) => from == to,
    }
}

fn cast_column(batch: &RecordBatch, name: &str, to: &DataType) -> Result<ArrayRef> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| Error::internal(format!("column `{name}` was not read")))?;
    // Not `safe`: a value that does not fit must be an error, never a null.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, to, &options).map_err(|error| {
        let from = column.data_type();
        Error::invalid(format!("column `{name}` of type {from} cannot become {to}: {error}"))
    })
}

fn check_name(name: &str, limits: &Limits) -> Result<()> {
    let field = ArrowField::new(name, DataType::Null, true);
    stored_schema(&ArrowSchema::new(vec![field]), limits).map(|_| ())
}

/// Checks that no two fields beside each other have one name, at any depth.
fn check_siblings(fields: &[Field]) -> Result<()> {
    let mut names = std::collections::HashSet::new();
    for field in fields {
        if !names.insert(field.name.as_str()) {
            return Err(Error::invalid(format!("there would be two columns `{}`", field.name)));
        }
        check_siblings(&field.children)?;
    }
    Ok(())
}

async fn check_no_null(dataset: &Dataset, path: &str) -> Result<()> {
    let mut scanner = dataset.scan();
    scanner.project(&[path]).map_err(from_lance)?;
    let mut batches = Box::pin(scanner.try_into_stream()).await.map_err(from_lance)?;
    while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
        let nulls: usize = batch.columns().iter().map(|column| column.logical_null_count()).sum();
        if nulls > 0 {
            return Err(Error::invalid(format!("column `{path}` holds null and cannot forbid it")));
        }
    }
    Ok(())
}

/// An index would answer for values that are not there any more.
async fn check_no_index(dataset: &Dataset, casts: &[Cast]) -> Result<()> {
    let indices = dataset.load_indices().await.map_err(from_lance)?;
    for cast in casts {
        let field = field_at(dataset.schema(), &cast.name)?;
        let below: Vec<i32> =
            std::iter::once(field.id).chain(field.children.iter().map(|child| child.id)).collect();
        let index = indices.iter().find(|index| index.fields.iter().any(|id| below.contains(id)));
        if let Some(index) = index {
            return Err(Error::invalid(format!(
                "column `{}` has index `{}`; drop it before the type changes",
                cast.name, index.name
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_changes_within_its_family() {
        use DataType::*;
        let floats = |item| FixedSizeList(Arc::new(ArrowField::new("item", item, true)), 4);
        assert!(is_same_family(&Int64, &Int32) && is_same_family(&Float32, &Float64));
        assert!(is_same_family(&floats(Float32), &floats(Float16)));
        assert!(!is_same_family(&Int64, &Utf8) && !is_same_family(&Utf8, &Binary));
        assert!(!is_same_family(&Float64, &Int64) && !is_same_family(&Int64, &Float64));
    }
}
