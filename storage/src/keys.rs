//! The keys of an upsert: no null, and no key twice.
//!
//! Lance inserts two rows of one new key as two rows, and rows with a null key always, so both are
//! caught here while the rows stream by. Only a 128-bit hash of each key is held.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, Schema};
use lakebed_core::{Error, ErrorKind, Result, nearest_names};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::schema::declares_blob;

/// Nobody outside can know it, so nobody can send keys whose hashes meet.
static SEED: LazyLock<u64> =
    LazyLock::new(|| getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())));

fn hash_of(key: &[u8]) -> u128 {
    xxh3_128_with_seed(key, *SEED)
}

/// For keys of a map that are hashes: half of one is as good as a hash of it, and millions of stored keys
/// are looked up by it.
#[derive(Default)]
struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Watches the key columns of a stream of batches.
pub(crate) struct KeyGuard {
    names: Vec<String>,
    columns: Vec<usize>,
    converter: RowConverter,
    /// The hash of each key and the row it came in.
    seen: HashMap<u128, u32, BuildHasherDefault<HashedAlready>>,
    rows_max: usize,
}

impl KeyGuard {
    /// # Errors
    /// `InvalidArgument` when the keys are none, not columns of the batches, or of a type that cannot be
    /// compared exactly.
    pub(crate) fn new(on: &[String], schema: &Schema, rows_max: usize) -> Result<KeyGuard> {
        if on.is_empty() {
            return Err(Error::invalid("an upsert needs its key columns in `on`"));
        }
        let mut columns = Vec::new();
        let mut fields = Vec::new();
        for name in on {
            let Some((at, field)) = schema.column_with_name(name) else {
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let near = nearest_names(name, names);
                return Err(Error::invalid(format!("key column `{name}` was not sent{near}")));
            };
            if columns.contains(&at) {
                return Err(Error::invalid(format!("key column `{name}` is given twice")));
            }
            if declares_blob(field) || !is_key_type(field.data_type()) {
                return Err(Error::invalid(format!(
                    "column `{name}` of type {} cannot be a key",
                    field.data_type()
                )));
            }
            columns.push(at);
            fields.push(SortField::new(field.data_type().clone()));
        }
        let converter = RowConverter::new(fields)
            .map_err(|error| Error::invalid(format!("these columns cannot be a key: {error}")))?;
        Ok(KeyGuard { names: on.to_vec(), columns, converter, seen: HashMap::default(), rows_max })
    }

    /// Checks a batch whose first row is row `first_row` of the stream.
    ///
    /// # Errors
    /// `InvalidArgument` naming the key.
    pub(crate) fn check(&mut self, batch: &RecordBatch, first_row: u64) -> Result<()> {
        let keys: Vec<ArrayRef> = self.columns.iter().map(|at| batch.column(*at).clone()).collect();
        for (name, key) in self.names.iter().zip(&keys) {
            if key.null_count() > 0 {
                let row = (0..key.len()).find(|row| key.is_null(*row)).unwrap_or(0);
                return Err(Error::invalid(format!(
                    "key column `{name}` is null in row {}",
                    first_row + row as u64
                )));
            }
        }
        for (name, key) in self.names.iter().zip(&keys) {
            if let Some(row) = first_nan(key) {
                return Err(Error::invalid(format!(
                    "key column `{name}` is not a number in row {}",
                    first_row + row as u64
                )));
            }
        }
        if self.seen.len() + batch.num_rows() > self.rows_max {
            return Err(Error::invalid(format!(
                "an upsert may have {} rows; the limit is upsert_rows_max",
                self.rows_max
            )));
        }
        let rows = self
            .converter
            .convert_columns(&keys)
            .map_err(|error| Error::invalid(format!("the keys cannot be compared: {error}")))?;
        for (row, key) in rows.iter().enumerate() {
            let at = u32::try_from(first_row + row as u64)
                .map_err(|_| Error::invalid("an upsert may have 4,294,967,295 rows"))?;
            if self.seen.insert(hash_of(key.data()), at).is_some() {
                return Err(Error::invalid(format!(
                    "the key {} is given twice, the second time in row {}",
                    self.show(&keys, row),
                    first_row + row as u64
                )));
            }
        }
        Ok(())
    }

    /// Forgets the keys that a batch of stored rows has.
    ///
    /// # Errors
    /// `Conflict` when its key columns are not of the types that were checked.
    pub(crate) fn forget(&mut self, stored: &RecordBatch) -> Result<()> {
        for key in self.hashes(stored)? {
            self.seen.remove(&key);
        }
        Ok(())
    }

    /// For each stored row the sent row of the same key.
    ///
    /// # Errors
    /// `Conflict` when its key columns are not of the types that were checked.
    pub(crate) fn find(&self, stored: &RecordBatch) -> Result<Vec<Option<u32>>> {
        let hashes = self.hashes(stored)?;
        Ok(hashes.into_iter().map(|key| self.seen.get(&key).copied()).collect())
    }

    /// The key columns.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// A hash of each row's key.
    ///
    /// # Errors
    /// `Conflict` when its key columns are not of the types that were checked.
    pub(crate) fn hashes(&self, stored: &RecordBatch) -> Result<Vec<u128>> {
        let changed = || {
            let keys = self.names.join("`, `");
            Error::new(ErrorKind::Conflict, format!("key `{keys}` changed while the rows came in"))
        };
        let keys: Option<Vec<ArrayRef>> =
            self.names.iter().map(|name| stored.column_by_name(name).cloned()).collect();
        let keys = keys.ok_or_else(changed)?;
        let rows = self.converter.convert_columns(&keys).map_err(|_| changed())?;
        Ok(rows.iter().map(|key| hash_of(key.data())).collect())
    }

    /// How many keys are not forgotten.
    pub(crate) fn left(&self) -> usize {
        self.seen.len()
    }

    fn show(&self, keys: &[ArrayRef], row: usize) -> String {
        let shown: Vec<String> = self
            .names
            .iter()
            .zip(keys)
            .map(|(name, key)| {
                let value = arrow_cast::display::array_value_to_string(key, row)
                    .unwrap_or_else(|_| "?".to_owned());
                let value: String = value.chars().take(80).flat_map(char::escape_debug).collect();
                format!("{name}=`{value}`")
            })
            .collect();
        shown.join(", ")
    }
}

/// The first row that holds NaN, which equals no key.
fn first_nan(key: &ArrayRef) -> Option<usize> {
    match key.data_type() {
        DataType::Float16 => {
            key.as_primitive::<Float16Type>().values().iter().position(|it| it.is_nan())
        }
        DataType::Float32 => {
            key.as_primitive::<Float32Type>().values().iter().position(|it| it.is_nan())
        }
        DataType::Float64 => {
            key.as_primitive::<Float64Type>().values().iter().position(|it| it.is_nan())
        }
        _ => None,
    }
}

fn is_key_type(data_type: &DataType) -> bool {
    // Floats are compared bit by bit, as lance's joins do; NaN is refused by its row.
    data_type.is_integer()
        || data_type.is_floating()
        || matches!(
            data_type,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::FixedSizeBinary(_)
                | DataType::Boolean
                | DataType::Date32
                | DataType::Date64
                | DataType::Timestamp(_, _)
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Decimal128(_, _)
        )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Float64Array, Int64Array, StringArray};
    use arrow_schema::Field;

    use super::*;

    fn batch(ids: Vec<Option<i64>>, names: Vec<&str>) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![Arc::new(Int64Array::from(ids)), Arc::new(StringArray::from(names))],
        )
        .unwrap()
    }

    fn guard(on: &[&str]) -> Result<KeyGuard> {
        let on: Vec<String> = on.iter().map(|name| (*name).to_owned()).collect();
        KeyGuard::new(&on, &batch(vec![], vec![]).schema(), 5)
    }

    #[test]
    fn a_key_twice_is_named_even_across_batches() {
        let mut keys = guard(&["id", "name"]).unwrap();
        keys.check(&batch(vec![Some(1), Some(1)], vec!["a", "b"]), 0).unwrap();
        let error = keys.check(&batch(vec![Some(2), Some(1)], vec!["a", "b"]), 2).unwrap_err();
        assert!(error.message().contains("id=`1`, name=`b`"), "{error}");
        assert!(error.message().contains("row 3"), "{error}");
    }

    #[test]
    fn keys_that_are_stored_are_forgotten() {
        let mut keys = guard(&["id"]).unwrap();
        keys.check(&batch(vec![Some(1), Some(2)], vec!["a", "b"]), 0).unwrap();
        keys.forget(&batch(vec![Some(2), None, Some(9)], vec!["x", "y", "z"])).unwrap();
        assert_eq!(keys.left(), 1);
        let other = batch(vec![Some(1)], vec!["a"]).project(&[1]).unwrap();
        assert_eq!(keys.forget(&other).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn floats_are_keys_and_nan_is_none() {
        let schema = Schema::new(vec![Field::new("id", DataType::Float64, true)]);
        let batch = |ids: Vec<f64>| {
            let ids = Arc::new(Float64Array::from(ids));
            RecordBatch::try_new(Arc::new(schema.clone()), vec![ids]).unwrap()
        };
        let mut keys = KeyGuard::new(&["id".to_owned()], &schema, 10).unwrap();
        keys.check(&batch(vec![1.0, 2.5]), 0).unwrap();
        let error = keys.check(&batch(vec![7.0, f64::NAN]), 2).unwrap_err();
        assert!(error.message().contains("`id` is not a number in row 3"), "{error}");
        let error = keys.check(&batch(vec![2.5]), 2).unwrap_err();
        assert!(error.message().contains("given twice"), "{error}");
    }

    #[test]
    fn nulls_limits_and_unknown_keys_are_refused() {
        let mut keys = guard(&["id"]).unwrap();
        let error = keys.check(&batch(vec![Some(1), None], vec!["a", "b"]), 10).unwrap_err();
        assert!(error.message().contains("`id` is null in row 11"), "{error}");
        let mut keys = guard(&["id"]).unwrap();
        let many = batch((0..6).map(Some).collect(), vec!["x"; 6]);
        assert!(keys.check(&many, 0).unwrap_err().message().contains("upsert_rows_max"));
        assert!(guard(&[]).is_err() && guard(&["idd"]).is_err() && guard(&["id", "id"]).is_err());
    }
}
