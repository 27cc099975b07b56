//! Parts: the results of one attempt, checked and made durable, until their fragment is filled.
//!
//! A part is one object `parts/<task>-<attempt>-<errors>.arrow` in the folder of its job, an Arrow
//! stream of one batch sorted by place. Attempts never share a name, so one that comes late can do no
//! harm to the one that counts.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow_buffer::{BooleanBufferBuilder, NullBuffer};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use futures::TryStreamExt;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_storage::{BatchStream, SystemStore};

use crate::ids::AttemptId;
use crate::ledger::folder_of;

/// Bytes of one error that are kept.
const ERROR_BYTES_MAX: usize = 1_000;

/// The rows of a task: physical position in the fragment, and stable row id.
pub(crate) type TaskRows = Vec<(u32, u64)>;

/// The type of a column of vectors.
pub(crate) fn vector_type(dimensions: u32) -> DataType {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    DataType::FixedSizeList(item, i32::try_from(dimensions).unwrap_or(i32::MAX))
}

/// The results of one attempt, whole.
#[derive(Debug)]
pub(crate) struct Results {
    batch: RecordBatch,
    pub(crate) errors: u64,
}

/// Takes in what a worker put for a task.
///
/// # Errors
/// `InvalidArgument` for columns that are not those of the protocol, a row that is not the task's, comes
/// twice or is missing, and the error of the stream itself.
pub(crate) async fn collect(
    rows: &TaskRows,
    dimensions: u32,
    mut batches: BatchStream,
) -> Result<Results> {
    let at: HashMap<u64, usize> = rows.iter().enumerate().map(|(n, (_, id))| (*id, n)).collect();
    let width = dimensions as usize;
    let mut values = vec![0_f32; rows.len() * width];
    let mut is_valid = vec![false; rows.len()];
    let mut errors: Vec<Option<String>> = vec![None; rows.len()];
    let mut is_seen = vec![false; rows.len()];
    while let Some(batch) = batches.try_next().await? {
        let (ids, vectors, texts) = columns_of(&batch, dimensions)?;
        let numbers = vectors.values().as_primitive::<Float32Type>();
        for (row, id) in ids.values().iter().enumerate() {
            let place = at.get(id).copied().ok_or_else(|| {
                Error::invalid(format!("row id {id} does not belong to the task"))
            })?;
            if std::mem::replace(&mut is_seen[place], true) {
                return Err(Error::invalid(format!("row id {id} comes twice")));
            }
            let error = texts.filter(|texts| texts.is_valid(row)).map(|texts| texts.value(row));
            if vectors.is_valid(row) {
                if error.is_some() {
                    return Err(Error::invalid(format!("row id {id} has a value and an error")));
                }
                let start = vectors.value_offset(row) as usize;
                let vector = &numbers.values()[start..start + width];
                let is_whole = vector.iter().all(|number| number.is_finite())
                    && (start..start + width).all(|n| numbers.is_valid(n));
                match is_whole {
                    true => {
                        values[place * width..(place + 1) * width].copy_from_slice(vector);
                        is_valid[place] = true;
                    }
                    // An index could not live with it.
                    false => errors[place] = Some("the vector has a NaN or an infinity".to_owned()),
                }
            } else if let Some(error) = error {
                errors[place] = Some(cut(error));
            }
        }
    }
    if let Some(missing) = is_seen.iter().position(|seen| !seen) {
        return Err(Error::invalid(format!(
            "row id {} has no result; {} of {} rows came",
            rows[missing].1,
            is_seen.iter().filter(|seen| **seen).count(),
            rows.len()
        )));
    }
    results(rows, dimensions, values, &is_valid, &errors)
}

/// The columns of a batch of results.
fn columns_of(
    batch: &RecordBatch,
    dimensions: u32,
) -> Result<(&UInt64Array, &FixedSizeListArray, Option<&StringArray>)> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| Error::invalid(format!("the results have no column `{name}`")))
    };
    let ids = column("_rowid")?
        .as_primitive_opt::<UInt64Type>()
        .filter(|ids| ids.null_count() == 0)
        .ok_or_else(|| Error::invalid("column `_rowid` has to be uint64 without nulls"))?;
    let vectors = column("value")?
        .as_fixed_size_list_opt()
        .filter(|vectors| vectors.value_length() as u32 == dimensions)
        .filter(|vectors| vectors.value_type() == DataType::Float32)
        .ok_or_else(|| {
            Error::invalid(format!("column `value` has to be {dimensions} numbers of float32"))
        })?;
    let texts = column("error")?.as_any();
    let texts = match texts.downcast_ref::<StringArray>() {
        Some(texts) => Some(texts),
        None if column("error")?.data_type() == &DataType::Null => None,
        None => return Err(Error::invalid("column `error` has to be utf8")),
    };
    Ok((ids, vectors, texts))
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(ERROR_BYTES_MAX)].to_owned()
}

fn results(
    rows: &TaskRows,
    dimensions: u32,
    values: Vec<f32>,
    is_valid: &[bool],
    errors: &[Option<String>],
) -> Result<Results> {
    let mut validity = BooleanBufferBuilder::new(rows.len());
    is_valid.iter().for_each(|valid| validity.append(*valid));
    let DataType::FixedSizeList(item, width) = vector_type(dimensions) else {
        return Err(Error::internal("a vector's type"));
    };
    let numbers: ArrayRef = Arc::new(Float32Array::from(values));
    let nulls = Some(NullBuffer::new(validity.finish()));
    let vectors = FixedSizeListArray::try_new(item, width, numbers, nulls)
        .map_err(|error| Error::internal("vectors of a part").with_source(error))?;
    let mut texts = StringBuilder::new();
    errors.iter().for_each(|error| texts.append_option(error.as_deref()));
    let places: UInt32Array = rows.iter().map(|(place, _)| *place).collect::<Vec<_>>().into();
    let ids: UInt64Array = rows.iter().map(|(_, id)| *id).collect::<Vec<_>>().into();
    let schema = Schema::new(vec![
        Field::new("place", DataType::UInt32, false),
        Field::new("row_id", DataType::UInt64, false),
        Field::new("value", vector_type(dimensions), true),
        Field::new("error", DataType::Utf8, true),
    ]);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(places), Arc::new(ids), Arc::new(vectors), Arc::new(texts.finish())];
    let batch = RecordBatch::try_new(Arc::new(schema), columns)
        .map_err(|error| Error::internal("a part").with_source(error))?;
    let errors = errors.iter().filter(|error| error.is_some()).count() as u64;
    Ok(Results { batch, errors })
}

/// The object of a part.
pub(crate) fn path_of(attempt: &AttemptId, errors: u64) -> String {
    let folder = folder_of(attempt.job.as_str());
    format!("{folder}/parts/{:010}-{}-{errors}.arrow", attempt.task, attempt.attempt)
}

/// Task, attempt and errors of a part's object.
pub(crate) fn parse_path(path: &str) -> Option<(u64, u64, u64)> {
    let name = path.rsplit('/').next()?.strip_suffix(".arrow")?;
    let mut numbers = name.split('-').map(|number| number.parse::<u64>().ok());
    let found = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(found)
}

/// Makes results durable.
///
/// # Errors
/// `Unavailable` when the store does not take them.
pub(crate) async fn store(
    system: &SystemStore,
    attempt: &AttemptId,
    results: &Results,
) -> Result<()> {
    let failed = |error| Error::internal("write a part").with_source(error);
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &results.batch.schema())
        .map_err(failed)?;
    writer.write(&results.batch).map_err(failed)?;
    let bytes = writer.into_inner().map_err(failed)?;
    system.put(&path_of(attempt, results.errors), Bytes::from(bytes)).await
}

/// Reads a part back.
///
/// # Errors
/// `Corrupt` when it is gone or broken.
pub(crate) async fn load(
    system: &SystemStore,
    attempt: &AttemptId,
    errors: u64,
) -> Result<RecordBatch> {
    let path = path_of(attempt, errors);
    let corrupt = || Error::new(ErrorKind::Corrupt, format!("part `{path}` is gone or broken"));
    let bytes = system.get(&path).await?.ok_or_else(corrupt)?;
    let mut reader = arrow_ipc::reader::StreamReader::try_new(std::io::Cursor::new(bytes), None)
        .map_err(|error| corrupt().with_source(error))?;
    reader.next().ok_or_else(corrupt)?.map_err(|error| corrupt().with_source(error))
}

/// The rows of a part that have an error instead of a value.
///
/// # Errors
/// `Corrupt` when it has other columns than it should.
pub(crate) fn errors_in(part: &RecordBatch) -> Result<Vec<(u64, String)>> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "a part has other columns than it should");
    let ids = part.column_by_name("row_id").and_then(|it| it.as_primitive_opt::<UInt64Type>());
    let errors = part.column_by_name("error").and_then(|it| it.as_string_opt::<i32>());
    let (ids, errors) = (ids.ok_or_else(corrupt)?, errors.ok_or_else(corrupt)?);
    let rows = ids.values().iter().zip(errors);
    Ok(rows.filter_map(|(id, error)| Some((*id, error?.to_owned()))).collect())
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    fn batch(ids: &[u64], vectors: &[Option<[f32; 2]>], errors: &[Option<&str>]) -> RecordBatch {
        let value = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
            vectors.iter().map(|vector| vector.map(|pair| pair.map(Some))),
            2,
        );
        let ids: ArrayRef = Arc::new(UInt64Array::from(ids.to_vec()));
        let errors: ArrayRef = Arc::new(StringArray::from(errors.to_vec()));
        RecordBatch::try_from_iter([
            ("_rowid", ids),
            ("value", Arc::new(value) as ArrayRef),
            ("error", errors),
        ])
        .unwrap()
    }

    async fn collected(batches: Vec<RecordBatch>) -> Result<Results> {
        let rows = vec![(3, 10), (5, 11), (9, 12)];
        collect(&rows, 2, futures::stream::iter(batches.into_iter().map(Ok)).boxed()).await
    }

    #[tokio::test]
    async fn results_are_sorted_by_place_whatever_their_order() {
        let first = batch(&[12, 10], &[Some([1.0, 2.0]), None], &[None, Some("no picture")]);
        let second = batch(&[11], &[Some([f32::NAN, 1.0])], &[None]);
        let results = collected(vec![first, second]).await.unwrap();
        assert_eq!(results.errors, 2);
        let places = results.batch.column(0).as_primitive::<arrow_array::types::UInt32Type>();
        assert_eq!(places.values().to_vec(), [3, 5, 9]);
        let values = results.batch.column(2);
        assert_eq!(
            (values.is_valid(0), values.is_valid(1), values.is_valid(2)),
            (false, false, true)
        );
    }

    #[tokio::test]
    async fn rows_that_are_missing_foreign_or_twice_are_refused() {
        let value = Some([1.0, 2.0]);
        let cases = [
            (vec![batch(&[10, 11], &[value, value], &[None, None])], "row id 12 has no result"),
            (vec![batch(&[99], &[value], &[None])], "does not belong"),
            (vec![batch(&[10, 10], &[value, value], &[None, None])], "comes twice"),
            (vec![batch(&[10], &[value], &[Some("both")])], "a value and an error"),
        ];
        for (batches, what) in cases {
            let error = collected(batches).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.message().contains(what), "{error}");
        }
    }

    #[test]
    fn paths_tell_what_they_hold() {
        let attempt = AttemptId { job: crate::ids::JobId::new("j"), task: 7, attempt: 1 << 33 };
        assert_eq!(parse_path(&path_of(&attempt, 3)), Some((7, 1 << 33, 3)));
        assert_eq!(parse_path("job_ledgers/j/parts/odd.arrow"), None);
    }
}
