//! Parts: the results of one attempt, checked and made durable, until their fragment is filled.
//!
//! A part is one object `parts/<task>-<attempt>-<errors>.arrow` in the folder of its job, an Arrow
//! stream of one batch sorted by place. Attempts never share a name, so one that comes late can do no
//! harm to the one that counts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, RecordBatch, StringArray, StructArray, UInt32Array, UInt64Array,
    new_null_array,
};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, FieldRef, Schema};
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave;
use bytes::Bytes;
use futures::TryStreamExt;
use lakebed_core::{Error, ErrorKind, Limits, Result};
use lakebed_proto::ipc_decode::{Decoded, IpcDecoder};
use lakebed_proto::ipc_stream::{Frame, IpcFramer};
use lakebed_storage::{BatchStream, SystemStore};

use crate::ids::AttemptId;
use crate::ledger::folder_of;
use crate::work::{ResultColumn, ResultSource};

/// Bytes of one error that are kept, and of where it happened.
const ERROR_BYTES_MAX: usize = 1_000;
const TRACEBACK_BYTES_MAX: usize = 8_000;
/// Bytes of the results of one task: they are in memory until they are stored as one object.
pub(crate) const RESULT_BYTES_MAX: usize = 512 << 20;
/// Bytes that results in a report may decode to.
const DECODED_BYTES_MAX: usize = 16 << 20;

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
    pub(crate) batch: RecordBatch,
    pub(crate) errors: u64,
}

impl Results {
    /// The batch that [`values_in`] and [`errors_in`] read.
    pub(crate) fn into_batch(self) -> RecordBatch {
        self.batch
    }
}

/// Why a row has no value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RowError {
    /// What went wrong.
    pub(crate) error: String,
    /// The kind of it, such as the name of an exception.
    pub(crate) error_type: Option<String>,
    /// Where it went wrong.
    pub(crate) traceback: Option<String>,
}

/// Takes in what a worker put for a task.
///
/// # Errors
/// `InvalidArgument` for columns that are not those of the protocol, a row that is not the task's, comes
/// twice or is missing, more than `bytes_max` bytes, and the error of the stream itself.
pub(crate) async fn collect(
    rows: &TaskRows,
    columns: &[ResultColumn],
    mut batches: BatchStream,
    bytes_max: usize,
) -> Result<Results> {
    let at: HashMap<u64, usize> = rows.iter().enumerate().map(|(n, (_, id))| (*id, n)).collect();
    // The first batch of values is of one null, for rows with an error.
    let mut values: Vec<Vec<ArrayRef>> =
        columns.iter().map(|column| vec![new_null_array(&column.data_type, 1)]).collect();
    let mut found: Vec<Option<(usize, usize)>> = vec![None; rows.len()];
    let mut errors: Vec<Option<RowError>> = vec![None; rows.len()];
    let mut bytes = 0;
    while let Some(batch) = batches.try_next().await? {
        // Arrays of one message share its memory, so only what is theirs is counted.
        bytes += bytes_of(&batch);
        if bytes > bytes_max {
            let message = format!("the results of a task have more than {bytes_max} bytes");
            return Err(Error::invalid(message));
        }
        let came = Came::of(&batch, columns)?;
        let number = values.first().map_or(0, Vec::len);
        for (row, id) in came.ids.values().iter().enumerate() {
            let place = at.get(id).copied().ok_or_else(|| {
                Error::invalid(format!("row id {id} does not belong to the task"))
            })?;
            if found[place].is_some() {
                return Err(Error::invalid(format!("row id {id} comes twice")));
            }
            let mut error = came.error(row);
            if error.is_some() && came.values.iter().any(|column| column.is_valid(row)) {
                return Err(Error::invalid(format!("row id {id} has a value and an error")));
            }
            let is_odd = |(column, values): (&ResultColumn, &ArrayRef)| {
                column.is_finite && values.is_valid(row) && !is_finite(values, row)
            };
            if columns.iter().zip(&came.values).any(is_odd) {
                let text = "the vector has a NaN or an infinity".to_owned();
                error = Some(RowError { error: text, ..RowError::default() });
            }
            found[place] = Some(if error.is_some() { (0, 0) } else { (number, row) });
            errors[place] = error;
        }
        for (values, column) in values.iter_mut().zip(came.values) {
            values.push(column);
        }
    }
    let places: Vec<(usize, usize)> = found.iter().flatten().copied().collect();
    if let Some(missing) = found.iter().position(Option::is_none) {
        return Err(Error::invalid(format!(
            "row id {} has no result; {} of {} rows came",
            rows[missing].1,
            places.len(),
            rows.len()
        )));
    }
    results(rows, columns, &values, &places, &errors)
}

/// The columns of a batch of results.
struct Came<'a> {
    ids: &'a UInt64Array,
    values: Vec<ArrayRef>,
    /// Message, kind and place of errors; the last two where the worker says them.
    errors: [Option<&'a StringArray>; 3],
}

impl<'a> Came<'a> {
    fn of(batch: &'a RecordBatch, columns: &[ResultColumn]) -> Result<Came<'a>> {
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .ok_or_else(|| Error::invalid(format!("the results have no column `{name}`")))
        };
        let ids = column("_rowid")?
            .as_primitive_opt::<UInt64Type>()
            .filter(|ids| ids.null_count() == 0)
            .ok_or_else(|| Error::invalid("column `_rowid` has to be uint64 without nulls"))?;
        let mut values = Vec::with_capacity(columns.len());
        for wanted in columns {
            values.push(match &wanted.result {
                ResultSource::Field(name) => of_type(column(name)?, name, &wanted.data_type)?,
                ResultSource::Struct(names) => {
                    let DataType::Struct(fields) = &wanted.data_type else {
                        return Err(Error::internal("fields for a column that is no struct"));
                    };
                    let parts = names.iter().zip(fields);
                    let parts =
                        parts.map(|(name, to)| of_type(column(name)?, name, to.data_type()));
                    let parts = parts.collect::<Result<Vec<ArrayRef>>>()?;
                    let is_there = has_result(batch, column("error")?);
                    let array = StructArray::try_new(fields.clone(), parts, Some(is_there));
                    Arc::new(array.map_err(|error| {
                        Error::invalid("the fields of results do not fit").with_source(error)
                    })?)
                }
                ResultSource::Assigned => {
                    let is_there = has_result(batch, column("error")?);
                    let all = BooleanBuffer::new_set(batch.num_rows());
                    Arc::new(BooleanArray::new(all, Some(is_there)))
                }
            });
        }
        column("error")?;
        let errors = ["error", "error_type", "traceback"].map(|name| text_of(batch, name));
        let [error, kind, place] = errors;
        Ok(Came { ids, values, errors: [error?, kind?, place?] })
    }

    fn error(&self, row: usize) -> Option<RowError> {
        let text = |texts: Option<&StringArray>, bytes| {
            let texts = texts.filter(|texts| texts.is_valid(row))?;
            let text = texts.value(row);
            Some(text[..text.floor_char_boundary(bytes)].to_owned())
        };
        let [error, error_type, traceback] = self.errors;
        Some(RowError {
            error: text(error, ERROR_BYTES_MAX)?,
            error_type: text(error_type, ERROR_BYTES_MAX),
            traceback: text(traceback, TRACEBACK_BYTES_MAX),
        })
    }
}

/// Which rows have a result.
fn has_result(batch: &RecordBatch, errors: &ArrayRef) -> NullBuffer {
    let rows = (0..batch.num_rows()).map(|row| errors.is_null(row));
    NullBuffer::new(rows.collect::<BooleanBuffer>())
}

/// A column of results, of the type that the table has. Names and nullability inside of lists are the
/// table's.
fn of_type(came: &ArrayRef, name: &str, wanted: &DataType) -> Result<ArrayRef> {
    if came.data_type() == wanted {
        return Ok(Arc::clone(came));
    }
    if !is_alike(came.data_type(), wanted) {
        let wanted = match wanted {
            DataType::FixedSizeList(item, numbers) => {
                format!("{numbers} numbers of {}", item.data_type())
            }
            other => other.to_string(),
        };
        return Err(Error::invalid(format!(
            "column `{name}` of the results has to be {wanted}, not {}",
            came.data_type()
        )));
    }
    cast(came, wanted).map_err(|error| Error::invalid("results of another type").with_source(error))
}

/// A column of texts, or nothing where there is none or it holds nothing.
fn text_of<'a>(batch: &'a RecordBatch, name: &str) -> Result<Option<&'a StringArray>> {
    let Some(column) = batch.column_by_name(name) else { return Ok(None) };
    match (column.as_string_opt::<i32>(), column.data_type()) {
        (Some(texts), _) => Ok(Some(texts)),
        (None, DataType::Null) => Ok(None),
        (None, _) => Err(Error::invalid(format!("column `{name}` has to be utf8"))),
    }
}

/// Whether two types differ in the names and the nullability of what is inside of them at most.
fn is_alike(came: &DataType, wanted: &DataType) -> bool {
    match (came, wanted) {
        (DataType::FixedSizeList(came, a), DataType::FixedSizeList(wanted, b)) => {
            a == b && is_alike(came.data_type(), wanted.data_type())
        }
        (DataType::List(came), DataType::List(wanted))
        | (DataType::LargeList(came), DataType::LargeList(wanted)) => {
            is_alike(came.data_type(), wanted.data_type())
        }
        (DataType::Struct(came), DataType::Struct(wanted)) => {
            let same = |(came, wanted): (&FieldRef, &FieldRef)| {
                came.name() == wanted.name() && is_alike(came.data_type(), wanted.data_type())
            };
            came.len() == wanted.len() && came.iter().zip(wanted).all(same)
        }
        _ => came == wanted,
    }
}

/// Whether all numbers of a vector are there and finite.
fn is_finite(vectors: &ArrayRef, row: usize) -> bool {
    let Some(vectors) = vectors.as_fixed_size_list_opt() else { return true };
    let numbers = vectors.value(row);
    let is_whole = numbers.null_count() == 0;
    is_whole
        && match numbers.data_type() {
            DataType::Float16 => {
                numbers.as_primitive::<Float16Type>().values().iter().all(|n| n.is_finite())
            }
            DataType::Float32 => {
                numbers.as_primitive::<Float32Type>().values().iter().all(|n| n.is_finite())
            }
            DataType::Float64 => {
                numbers.as_primitive::<Float64Type>().values().iter().all(|n| n.is_finite())
            }
            _ => true,
        }
}

fn results(
    rows: &TaskRows,
    columns: &[ResultColumn],
    values: &[Vec<ArrayRef>],
    places: &[(usize, usize)],
    errors: &[Option<RowError>],
) -> Result<Results> {
    let failed = |error| Error::internal("a part").with_source(error);
    let text = |of: fn(&RowError) -> Option<&str>| -> ArrayRef {
        let texts = errors.iter().map(|error| error.as_ref().and_then(of));
        Arc::new(StringArray::from_iter(texts))
    };
    let number = rows.iter().map(|(place, _)| *place);
    let mut fields = vec![
        Field::new("place", DataType::UInt32, false),
        Field::new("row_id", DataType::UInt64, false),
        Field::new("error", DataType::Utf8, true),
        Field::new("error_type", DataType::Utf8, true),
        Field::new("traceback", DataType::Utf8, true),
    ];
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(number)),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, id)| *id))),
        text(|error| Some(&error.error)),
        text(|error| error.error_type.as_deref()),
        text(|error| error.traceback.as_deref()),
    ];
    for (number, (column, values)) in columns.iter().zip(values).enumerate() {
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        fields.push(Field::new(value_name(number), column.data_type.clone(), true));
        arrays.push(interleave(&values, places).map_err(failed)?);
    }
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(failed)?;
    let errors = errors.iter().flatten().count() as u64;
    Ok(Results { batch, errors })
}

/// What the values of a column are called in a part.
fn value_name(number: usize) -> String {
    format!("value_{number}")
}

/// The values of a part, under the names of the columns that they fill.
///
/// # Errors
/// `Corrupt` when it has other columns than it should.
pub(crate) fn values_in(part: &RecordBatch, columns: &[String]) -> Result<RecordBatch> {
    let wrong = || Error::new(ErrorKind::Corrupt, "a part has other columns than it should");
    let mut fields = Vec::with_capacity(columns.len());
    let mut values = Vec::with_capacity(columns.len());
    for (number, column) in columns.iter().enumerate() {
        let found = part.column_by_name(&value_name(number)).ok_or_else(wrong)?;
        fields.push(Field::new(column, found.data_type().clone(), true));
        values.push(Arc::clone(found));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), values).map_err(|_| wrong())
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
    let bytes = stream(&results.batch.schema(), &results.batch)?;
    system.put(&path_of(attempt, results.errors), Bytes::from(bytes)).await
}

fn stream(schema: &Schema, batch: &RecordBatch) -> Result<Vec<u8>> {
    let failed = |error| Error::internal("write a part").with_source(error);
    let mut writer =
        arrow_ipc::writer::StreamWriter::try_new(Vec::new(), schema).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
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
    load_at(system, &path_of(attempt, errors)).await
}

/// Reads the results of an object.
///
/// # Errors
/// `Corrupt` when it is gone or broken.
pub(crate) async fn load_at(system: &SystemStore, path: &str) -> Result<RecordBatch> {
    let corrupt = || Error::new(ErrorKind::Corrupt, format!("part `{path}` is gone or broken"));
    let bytes = system.get(path).await?.ok_or_else(corrupt)?;
    let mut reader = arrow_ipc::reader::StreamReader::try_new(std::io::Cursor::new(bytes), None)
        .map_err(|error| corrupt().with_source(error))?;
    reader.next().ok_or_else(corrupt)?.map_err(|error| corrupt().with_source(error))
}

/// Where a segment of a ledger has its records, among the metadata of its schema.
const RECORDS: &str = "records";
/// How every message of an Arrow stream begins, and no line of JSON.
const STREAM_START: u8 = 0xff;

/// Bytes that results take in memory, of those that share it only their own.
pub(crate) fn bytes_of(batch: &RecordBatch) -> usize {
    let size = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    batch.columns().iter().map(size).sum()
}

/// A segment of a ledger that has results beside its records.
///
/// # Errors
/// `Internal` for results of different types.
pub(crate) fn segment<'a>(
    records: String,
    results: impl Iterator<Item = &'a RecordBatch>,
) -> Result<Vec<u8>> {
    let failed = |error| Error::internal("write a segment").with_source(error);
    let results: Vec<&RecordBatch> = results.collect();
    let first = results.first().ok_or_else(|| Error::internal("a segment without results"))?;
    let batch = concat_batches(&first.schema(), results.iter().copied()).map_err(failed)?;
    let schema = Schema::clone(&first.schema());
    let schema = schema.with_metadata(HashMap::from([(RECORDS.to_owned(), records)]));
    let batch = batch.with_schema(Arc::new(schema.clone())).map_err(failed)?;
    stream(&schema, &batch)
}

/// Whether the bytes of a segment begin like those of one with results.
pub(crate) fn is_segment(bytes: &[u8]) -> bool {
    bytes.first() == Some(&STREAM_START)
}

/// The records of a segment with results, of which the bytes are the beginning.
///
/// # Errors
/// `Corrupt` for bytes that are none, or too few.
pub(crate) fn records_in(bytes: &[u8]) -> Result<String> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "a segment of a job's ledger is broken");
    let reader = arrow_ipc::reader::StreamReader::try_new(std::io::Cursor::new(bytes), None)
        .map_err(|error| corrupt().with_source(error))?;
    reader.schema().metadata().get(RECORDS).cloned().ok_or_else(corrupt)
}

/// Reads the results of a worker that came with its report.
///
/// # Errors
/// `InvalidArgument` for bytes that are no whole Arrow stream, or that claim to be much more.
pub(crate) fn decode(mut bytes: Bytes) -> Result<Vec<RecordBatch>> {
    let limits = Limits { batch_bytes_max: DECODED_BYTES_MAX, ..Limits::default() };
    let (mut framer, mut decoder) = (IpcFramer::new(&limits), IpcDecoder::new(&limits));
    let mut batches = Vec::new();
    while let Some(frame) = framer.take(&mut bytes)? {
        if let Frame::Message { header, body } = frame
            && let Decoded::Batch(batch) = decoder.decode(&header, body)?
        {
            batches.push(batch);
        }
    }
    match framer.is_ended() {
        true => Ok(batches),
        false => Err(Error::invalid("the results in a report break off")),
    }
}

/// The rows of results that are among some; there may be others, of tasks that were lost meanwhile.
///
/// # Errors
/// `InvalidArgument` for results without row ids.
pub(crate) fn only(rows: &TaskRows, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let wanted: HashSet<u64> = rows.iter().map(|(_, id)| *id).collect();
    let wrong = |error| Error::invalid("results of a report").with_source(error);
    let some = |batch: RecordBatch| {
        let ids =
            batch.column_by_name("_rowid").and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
        let ids = ids.ok_or_else(|| Error::invalid("the results have no column `_rowid`"))?;
        let is_wanted = ids.iter().map(|id| id.is_some_and(|id| wanted.contains(&id)));
        let is_wanted = BooleanArray::from(is_wanted.collect::<Vec<bool>>());
        filter_record_batch(&batch, &is_wanted).map_err(wrong)
    };
    batches.into_iter().map(some).collect()
}

/// How many rows of results have an error.
pub(crate) fn errors_count(results: &RecordBatch) -> u64 {
    let errors = results.column_by_name("error");
    errors.map_or(0, |errors| (errors.len() - errors.null_count()) as u64)
}

/// The rows of a part that have an error instead of a value, by place and id.
///
/// # Errors
/// `Corrupt` when it has other columns than it should.
pub(crate) fn errors_in(part: &RecordBatch) -> Result<Vec<(u32, u64, RowError)>> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "a part has other columns than it should");
    let ids = part.column_by_name("row_id").and_then(|it| it.as_primitive_opt::<UInt64Type>());
    let ids = ids.ok_or_else(corrupt)?;
    let at = part.column_by_name("place").and_then(|it| it.as_primitive_opt::<UInt32Type>());
    let at = at.ok_or_else(corrupt)?;
    let texts = |name: &str| {
        let column = part.column_by_name(name).and_then(|it| it.as_string_opt::<i32>());
        column.ok_or_else(corrupt)
    };
    let (errors, kinds, places) = (texts("error")?, texts("error_type")?, texts("traceback")?);
    let text = |texts: &StringArray, row| texts.is_valid(row).then(|| texts.value(row).to_owned());
    let error = |(row, id): (usize, &u64)| {
        let error = text(errors, row)?;
        let (error_type, traceback) = (text(kinds, row), text(places, row));
        Some((at.value(row), *id, RowError { error, error_type, traceback }))
    };
    Ok(ids.values().iter().enumerate().filter_map(error).collect())
}

#[cfg(test)]
mod tests {
    use arrow_array::FixedSizeListArray;
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
        let columns = [ResultColumn {
            result: ResultSource::Field("value".to_owned()),
            column: "vector".to_owned(),
            data_type: vector_type(2),
            is_finite: true,
        }];
        let batches = futures::stream::iter(batches.into_iter().map(Ok)).boxed();
        collect(&rows, &columns, batches, RESULT_BYTES_MAX).await
    }

    #[tokio::test]
    async fn results_are_sorted_by_place_whatever_their_order() {
        let first = batch(&[12, 10], &[Some([1.0, 2.0]), None], &[None, Some("no picture")]);
        let second = batch(&[11], &[Some([f32::NAN, 1.0])], &[None]);
        let results = collected(vec![first, second]).await.unwrap();
        assert_eq!(results.errors, 2);
        let places = results.batch.column(0).as_primitive::<arrow_array::types::UInt32Type>();
        assert_eq!(places.values().to_vec(), [3, 5, 9]);
        let values = values_in(&results.batch, &["vector".to_owned()]).unwrap();
        let values = values.column(0);
        assert_eq!(
            (values.is_valid(0), values.is_valid(1), values.is_valid(2)),
            (false, false, true)
        );
        let errors = errors_in(&results.batch).unwrap();
        assert_eq!(
            errors.iter().map(|(place, id, _)| (*place, *id)).collect::<Vec<_>>(),
            [(3, 10), (5, 11)]
        );
        assert_eq!(errors[0].2.error, "no picture");
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
