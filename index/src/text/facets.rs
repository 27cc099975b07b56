//! Counts by value over what a search finds: not only over the rows that it would show.

use std::collections::{HashMap, HashSet};

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::DataType;
use futures::TryStreamExt as _;
use lakebed_core::{Error, Limits, Result, Subject, nearest_names};
use lakebed_proto::command::Columns;
use lakebed_proto::search::SearchRequest;
use lakebed_proto::text_help::{Facet, FacetCounts, FacetValue, Facets};
use lakebed_storage::Snapshot;
use serde_json::Value;

use crate::request::search_of;

/// Rows that are counted at most.
pub const FACET_ROWS_MAX: u64 = 65_536;
/// Columns that are counted at once.
const FACETS_MAX: usize = 16;
/// Values of a column that are shown, unless it is said how many, and at most.
const VALUES: usize = 10;
const VALUES_MAX: usize = 1_000;
/// Bytes of different texts that are told apart; the others are counted as other values.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Counts the rows that a request finds by the values of some columns: of a search by vector its `k` rows, of
/// any other all up to [`FACET_ROWS_MAX`].
///
/// # Errors
/// `InvalidArgument` for a column that has no plain values and for what is out of range; as a search.
pub async fn count_facets(
    snapshot: &Snapshot,
    request: &SearchRequest,
    facets: &[Facet],
    limits: &Limits,
) -> Result<Facets> {
    if facets.is_empty() || facets.len() > FACETS_MAX {
        return Err(Error::invalid(format!(
            "`facets` has {} columns; it has to have from 1 to {FACETS_MAX}",
            facets.len()
        )));
    }
    let mut counts =
        facets.iter().map(|facet| Counts::of(snapshot, facet)).collect::<Result<Vec<Counts>>>()?;
    let mut seen = HashSet::new();
    let columns = facets.iter().map(|facet| facet.column.clone());
    let columns = columns.filter(|column| seen.insert(column.clone())).collect();
    let is_by_vector = request.vector.as_ref().is_some_and(|vectors| !vectors.is_empty());
    let searched = SearchRequest {
        columns: Some(Columns::Names(columns)),
        k: if is_by_vector { request.k } else { Some(FACET_ROWS_MAX + 1) },
        offset: None,
        with_row_id: None,
        order_by: None,
        highlight: None,
        rerank: None,
        ..request.clone()
    };
    let (search, _) = search_of(snapshot, &searched, limits).await?.fitted(snapshot, None).await?;
    let (_, mut rows) = search.open(snapshot).await?;
    let mut left = FACET_ROWS_MAX;
    let mut is_cut = false;
    while let Some(batch) = rows.try_next().await? {
        let take = left.min(batch.num_rows() as u64);
        is_cut |= take < batch.num_rows() as u64;
        left -= take;
        let batch = batch.slice(0, usize::try_from(take).unwrap_or(0));
        for counts in &mut counts {
            counts.add(&batch)?;
        }
        if is_cut {
            break;
        }
    }
    Ok(Facets {
        version: snapshot.version(),
        matched: FACET_ROWS_MAX - left,
        is_cut,
        facets: counts.into_iter().map(Counts::done).collect(),
    })
}

/// A value that can be told apart and sorted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    /// The bits of a float so that they sort as it does.
    Float(i64),
    Text(String),
}

struct Counts {
    column: String,
    limit: usize,
    counts: HashMap<Key, u64>,
    bytes: usize,
    other: u64,
}

impl Counts {
    fn of(snapshot: &Snapshot, facet: &Facet) -> Result<Counts> {
        let schema = snapshot.schema();
        let Ok(field) = schema.field_with_name(&facet.column) else {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let near = nearest_names(&facet.column, names);
            let message = format!("facets: column `{}` does not exist{near}", facet.column);
            return Err(Error::not_found(message).about(Subject::Column));
        };
        if !is_countable(field.data_type(), true) {
            return Err(Error::invalid(format!(
                "facets: column `{}` of type {} has no values to count by",
                facet.column,
                field.data_type()
            )));
        }
        let limit = facet.limit.map_or(VALUES, |limit| limit as usize);
        if limit == 0 || limit > VALUES_MAX {
            return Err(Error::invalid(format!(
                "facets: `limit` of `{}` is {limit}; it has to be from 1 to {VALUES_MAX}",
                facet.column
            )));
        }
        let column = facet.column.clone();
        Ok(Counts { column, limit, counts: HashMap::new(), bytes: 0, other: 0 })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let values = batch.column_by_name(&self.column);
        let values = values.ok_or_else(|| Error::internal("a search without its columns"))?;
        let items = match values.data_type() {
            DataType::List(_) => Some(values.as_list::<i32>().iter().collect::<Vec<_>>()),
            DataType::LargeList(_) => Some(values.as_list::<i64>().iter().collect::<Vec<_>>()),
            _ => None,
        };
        let Some(items) = items else {
            keys(values)?.into_iter().for_each(|key| self.count(key));
            return Ok(());
        };
        for items in items {
            match items {
                None => self.count(Key::Null),
                // A row counts once for each value that it has.
                Some(items) => {
                    let keys: HashSet<Key> = keys(&items)?.into_iter().collect();
                    keys.into_iter().for_each(|key| self.count(key));
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, key: Key) {
        if let Some(count) = self.counts.get_mut(&key) {
            *count += 1;
            return;
        }
        let bytes = match &key {
            Key::Text(text) => text.len(),
            _ => 0,
        };
        if self.bytes + bytes > TEXT_BYTES_MAX {
            self.other += 1;
            return;
        }
        self.bytes += bytes;
        self.counts.insert(key, 1);
    }

    fn done(self) -> FacetCounts {
        let mut counts: Vec<(Key, u64)> = self.counts.into_iter().collect();
        counts.sort_by(|(key_a, a), (key_b, b)| b.cmp(a).then_with(|| key_a.cmp(key_b)));
        let rest = counts.split_off(self.limit.min(counts.len()));
        FacetCounts {
            column: self.column,
            values: counts
                .into_iter()
                .map(|(key, count)| FacetValue { value: key.value(), count })
                .collect(),
            other: self.other + rest.iter().map(|(_, count)| count).sum::<u64>(),
        }
    }
}

impl Key {
    fn float(number: f64) -> Key {
        let bits = number.to_bits() as i64;
        Key::Float(bits ^ (((bits >> 63) as u64) >> 1) as i64)
    }

    fn value(self) -> Value {
        match self {
            Key::Null => Value::Null,
            Key::Bool(it) => it.into(),
            Key::Int(it) => it.into(),
            Key::UInt(it) => it.into(),
            Key::Float(bits) => {
                let number = f64::from_bits((bits ^ (((bits >> 63) as u64) >> 1) as i64) as u64);
                match serde_json::Number::from_f64(number) {
                    Some(number) => Value::Number(number),
                    None => number.to_string().into(),
                }
            }
            Key::Text(text) => text.into(),
        }
    }
}

fn is_countable(data_type: &DataType, may_be_list: bool) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => {
            may_be_list && is_countable(item.data_type(), false)
        }
        DataType::Dictionary(_, values) => is_countable(values, false),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        other => other.is_primitive() || matches!(other, DataType::Boolean | DataType::Null),
    }
}

/// The values of a column.
fn keys(values: &ArrayRef) -> Result<Vec<Key>> {
    let failed = |error| Error::internal("read values").with_source(error);
    let as_type = |data_type: DataType| cast(values, &data_type).map_err(failed);
    let data_type = match values.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    };
    use arrow_array::types::{Float64Type, Int64Type, UInt64Type};
    match data_type {
        DataType::Null => Ok(vec![Key::Null; values.len()]),
        DataType::Boolean => {
            let values = as_type(DataType::Boolean)?;
            Ok(values.as_boolean().iter().map(|it| it.map_or(Key::Null, Key::Bool)).collect())
        }
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            let values = as_type(DataType::Int64)?;
            let values = values.as_primitive::<Int64Type>().iter();
            Ok(values.map(|it| it.map_or(Key::Null, Key::Int)).collect())
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            let values = as_type(DataType::UInt64)?;
            let values = values.as_primitive::<UInt64Type>().iter();
            Ok(values.map(|it| it.map_or(Key::Null, Key::UInt)).collect())
        }
        // As 64 bits a number of 32 would be shown with digits that it does not have.
        DataType::Float16 | DataType::Float32 => {
            let values = as_type(DataType::Float32)?;
            let values = values.as_primitive::<arrow_array::types::Float32Type>().iter();
            let wide = |it: f32| it.to_string().parse().unwrap_or(f64::from(it));
            Ok(values.map(|it| it.map_or(Key::Null, |it| Key::float(wide(it)))).collect())
        }
        DataType::Float64 => {
            let values = as_type(DataType::Float64)?;
            let values = values.as_primitive::<Float64Type>().iter();
            Ok(values.map(|it| it.map_or(Key::Null, Key::float)).collect())
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let values = as_type(DataType::LargeUtf8)?;
            let values = values.as_string::<i64>().iter();
            Ok(values.map(|it| it.map_or(Key::Null, |it| Key::Text(it.to_owned()))).collect())
        }
        _ => {
            let options = FormatOptions::default();
            let shown = ArrayFormatter::try_new(values, &options).map_err(failed)?;
            let key = |row: usize| match values.is_null(row) {
                true => Ok(Key::Null),
                false => shown.value(row).try_to_string().map(Key::Text).map_err(failed),
            };
            (0..values.len()).map(key).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Date32Array, Float32Array, Int32Array, StringArray};

    use super::*;

    fn counted(values: ArrayRef, limit: usize) -> FacetCounts {
        let (column, counts) = ("c".to_owned(), HashMap::new());
        let mut facet = Counts { column, limit, counts, bytes: 0, other: 0 };
        let batch = RecordBatch::try_from_iter_with_nullable([("c", values, true)]).unwrap();
        facet.add(&batch).unwrap();
        facet.done()
    }

    fn pairs(counts: &FacetCounts) -> Vec<(Value, u64)> {
        counts.values.iter().map(|it| (it.value.clone(), it.count)).collect()
    }

    #[test]
    fn values_come_by_their_counts() {
        let texts = StringArray::from(vec![Some("b"), None, Some("a"), Some("b"), Some("c")]);
        let counts = counted(Arc::new(texts), 3);
        assert_eq!(pairs(&counts), [("b".into(), 2), (Value::Null, 1), ("a".into(), 1)]);
        assert_eq!(counts.other, 1);
        let numbers = counted(Arc::new(Int32Array::from(vec![3, -1, 3])), 9);
        assert_eq!(pairs(&numbers), [(3.into(), 2), ((-1).into(), 1)]);
        let floats = counted(Arc::new(Float32Array::from(vec![0.1, -2.5, -3.0, 0.1])), 9);
        assert_eq!(pairs(&floats), [(0.1.into(), 2), ((-3.0).into(), 1), ((-2.5).into(), 1)]);
        let days = counted(Arc::new(Date32Array::from(vec![0, 1])), 9);
        assert_eq!(pairs(&days), [("1970-01-01".into(), 1), ("1970-01-02".into(), 1)]);
    }

    #[test]
    fn a_row_counts_once_for_each_item_of_its_list() {
        let mut lists =
            arrow_array::builder::ListBuilder::new(arrow_array::builder::StringBuilder::new());
        lists.append_value([Some("x"), Some("x"), Some("y")]);
        lists.append_value([Some("x")]);
        lists.append_null();
        let counts = counted(Arc::new(lists.finish()), 9);
        assert_eq!(pairs(&counts), [("x".into(), 2), (Value::Null, 1), ("y".into(), 1)]);
    }
}
