//! Reads a column's vectors with their row ids.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt64Type};
use arrow_array::{Array, FixedSizeListArray, RecordBatch};
use arrow_schema::{DataType, Field};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{DistanceType, Error, Result, Subject};
use lakebed_storage::{Projection, ScanSpec, Slice, Snapshot};

const ROW_ID: &str = "_rowid";

/// Rows with their vectors, one behind the other; rows without one are left out.
#[derive(Debug, Default)]
pub struct Rows {
    /// The row ids.
    pub ids: Vec<u64>,
    /// As many vectors.
    pub numbers: Vec<f32>,
}

/// Numbers in each vector of a column.
///
/// # Errors
/// `NotFound` for the column, `InvalidArgument` for one that is not of vectors of floats.
pub fn dimension(snapshot: &Snapshot, column: &str) -> Result<usize> {
    let schema = snapshot.schema();
    let field = schema.field_with_name(column).map_err(|_| {
        Error::not_found(format!("column `{column}` does not exist")).about(Subject::Column)
    })?;
    match field.data_type() {
        DataType::FixedSizeList(item, width) if item.data_type().is_floating() => {
            Ok(usize::try_from(*width).unwrap_or(0))
        }
        other => Err(Error::invalid(format!(
            "a resident index is of vectors of floats, and `{column}` is {other}"
        ))),
    }
}

/// How the table's own index of a column measures; without one, as lance does.
///
/// # Errors
/// Those of [`Snapshot::indexes`].
pub(super) async fn distance_of(snapshot: &Snapshot, column: &str) -> Result<DistanceType> {
    let indexes = snapshot.indexes().await?;
    let own = indexes.iter().find(|index| {
        index.distance.is_some() && index.columns.first().is_some_and(|indexed| indexed == column)
    });
    let name = own.and_then(|index| index.distance.as_deref());
    let all = [DistanceType::L2, DistanceType::Cosine, DistanceType::Dot, DistanceType::Hamming];
    let named = all.into_iter().find(|distance| Some(distance.name()) == name);
    Ok(named.unwrap_or(DistanceType::L2))
}

/// The rows of some parts of a version.
///
/// # Errors
/// As [`Snapshot::scan`].
pub async fn vectors(
    snapshot: &Snapshot,
    column: &str,
    slices: Vec<Slice>,
) -> Result<BoxStream<'static, Result<Rows>>> {
    let names = vec![ROW_ID.to_owned(), column.to_owned()];
    let spec = ScanSpec {
        projection: Projection::Names(names),
        slices: Some(slices),
        ..ScanSpec::default()
    };
    let (_, batches) = snapshot.scan(&spec).await?;
    Ok(batches.and_then(async |batch| rows_of(&batch)).boxed())
}

/// The ids of the rows of some parts of a version.
///
/// # Errors
/// As [`Snapshot::scan`].
pub async fn row_ids(snapshot: &Snapshot, spec: ScanSpec) -> Result<Vec<u64>> {
    let spec = ScanSpec { projection: Projection::Names(vec![ROW_ID.to_owned()]), ..spec };
    let (_, mut batches) = snapshot.scan(&spec).await?;
    let mut found = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        found.extend_from_slice(ids_of(&batch)?);
    }
    Ok(found)
}

fn ids_of(batch: &RecordBatch) -> Result<&[u64]> {
    let ids = batch.column_by_name(ROW_ID).and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
    Ok(ids.ok_or_else(|| Error::internal("a scan without row ids"))?.values())
}

fn rows_of(batch: &RecordBatch) -> Result<Rows> {
    let no_vectors = || Error::internal("a scan without vectors");
    let column = batch.columns().last().ok_or_else(no_vectors)?;
    let lists = column.as_fixed_size_list_opt().ok_or_else(no_vectors)?;
    let lists = floats(lists)?;
    let width = usize::try_from(lists.value_length()).unwrap_or(0);
    let numbers = lists.values().as_primitive_opt::<Float32Type>().ok_or_else(no_vectors)?;
    let mut found = Rows::default();
    for (row, id) in ids_of(batch)?.iter().enumerate() {
        let start = lists.value_offset(row) as usize;
        let vector = numbers.values().get(start..start + width).unwrap_or_default();
        let has_null = numbers.null_count() > 0
            && (start..start + width).any(|number| numbers.is_null(number));
        if lists.is_valid(row) && !has_null {
            found.ids.push(*id);
            found.numbers.extend_from_slice(vector);
        }
    }
    Ok(found)
}

/// The same vectors as 32-bit floats.
fn floats(lists: &FixedSizeListArray) -> Result<FixedSizeListArray> {
    let item = Field::new("item", DataType::Float32, true);
    let wanted = DataType::FixedSizeList(item.into(), lists.value_length());
    let cast = arrow_cast::cast(lists, &wanted);
    let cast = cast.map_err(|error| Error::internal("vectors as floats").with_source(error))?;
    let lists = cast.as_fixed_size_list_opt().cloned();
    lists.ok_or_else(|| Error::internal("vectors as floats"))
}
