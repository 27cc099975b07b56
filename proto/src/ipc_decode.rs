//! Decodes Arrow IPC messages that came from outside: guard first, arrow second.
//!
//! Why it exists: both doors receive Arrow streams, as Flight messages and as HTTP bodies, and neither
//! may hand bytes to arrow that [`crate::ipc_guard`] has not seen. One decoder owns the state of one
//! stream: its schema and its dictionaries.
//!
//! ```text
//!   header, body ──► check_message ──► layout fits schema? ──► arrow ──► flattened size ──► batch
//! ```
//!
//! What always holds: no input panics out of here or allocates without bound, and a batch that comes
//! out takes at most `batch_bytes_max` bytes even if whoever gets it replaces dictionaries and views
//! by plain values.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::{ArrowNativeType, Buffer};
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::{self as ipc, MetadataVersion};
use arrow_schema::{ArrowError, DataType, FieldRef, SchemaRef};
use bytes::Bytes;
use lakebed_core::{Error, Limits, Result};

use crate::ipc_guard::{MessageKind, check_message};
use crate::ipc_layout::check_layout;

/// What one message brought.
#[derive(Debug, Clone)]
pub enum Decoded {
    /// The schema; always the first.
    Schema(SchemaRef),
    /// Values of a dictionary, kept for the batches that follow.
    Dictionary,
    /// Rows.
    Batch(RecordBatch),
}

/// Decodes the messages of one stream in their order.
#[derive(Debug)]
pub struct IpcDecoder {
    limits: Limits,
    stream: Option<StreamState>,
}

#[derive(Debug)]
struct StreamState {
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
    /// What each dictionary keeps in memory, message bodies that it shares included.
    dictionary_bytes: HashMap<i64, u64>,
}

impl IpcDecoder {
    /// A decoder for a stream that has not begun.
    pub fn new(limits: &Limits) -> Self {
        IpcDecoder { limits: limits.clone(), stream: None }
    }

    /// The schema, once it came.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.stream.as_ref().map(|stream| &stream.schema)
    }

    /// Checks and decodes one message. Buffers of the batch share `body` where they are aligned.
    ///
    /// # Errors
    /// `InvalidArgument` for whatever is broken, lies, comes out of order or passes a limit. The
    /// stream must not be continued after an error.
    pub fn decode(&mut self, header: &[u8], body: Bytes) -> Result<Decoded> {
        let checked = check_message(header, &body, &self.limits)?;
        let message = checked.message;
        let no_schema = || Error::invalid("arrow stream does not begin with a schema");
        let broken = || Error::invalid("arrow message has a header without its contents");
        match checked.kind {
            MessageKind::Schema => {
                if self.stream.is_some() {
                    return Err(Error::invalid("arrow stream has a second schema"));
                }
                let header = message.header_as_schema().ok_or_else(broken)?;
                let schema = Arc::new(contained("schema", || Ok(fb_to_schema(header)))?);
                self.stream = Some(StreamState {
                    schema: Arc::clone(&schema),
                    dictionaries: HashMap::new(),
                    dictionary_bytes: HashMap::new(),
                });
                Ok(Decoded::Schema(schema))
            }
            MessageKind::Dictionary => {
                let stream = self.stream.as_mut().ok_or_else(no_schema)?;
                let header = message.header_as_dictionary_batch().ok_or_else(broken)?;
                let bytes = checked.decoded_bytes.max(body.len() as u64);
                stream.reserve_dictionary(header, bytes, &self.limits)?;
                stream.add_dictionary(header, body, message.version())?;
                Ok(Decoded::Dictionary)
            }
            MessageKind::Batch => {
                let stream = self.stream.as_ref().ok_or_else(no_schema)?;
                let header = message.header_as_record_batch().ok_or_else(broken)?;
                let batch = stream.batch(header, body, message.version())?;
                check_flattened(&batch, &self.limits)?;
                Ok(Decoded::Batch(batch))
            }
        }
    }
}

impl StreamState {
    fn batch(
        &self,
        header: ipc::RecordBatch<'_>,
        body: Bytes,
        version: MetadataVersion,
    ) -> Result<RecordBatch> {
        let types = self.schema.fields().iter().map(|field| field.data_type());
        check_layout(types, header, &body)?;
        let has_union = |field: &FieldRef| matches!(field.data_type(), DataType::Union(..));
        let body = match self.schema.fields().iter().any(has_union) {
            false => Buffer::from(body),
            // Arrow aligns all buffers but the offsets of a union.
            true => Buffer::from_slice_ref(&body[..]),
        };
        contained("batch", || {
            let schema = Arc::clone(&self.schema);
            read_record_batch(&body, header, schema, &self.dictionaries, None, &version)
        })
    }

    /// Each message is bounded by the guard; deltas and many dictionaries add up.
    fn reserve_dictionary(
        &mut self,
        header: ipc::DictionaryBatch<'_>,
        bytes: u64,
        limits: &Limits,
    ) -> Result<()> {
        let of_this = self.dictionary_bytes.entry(header.id()).or_default();
        *of_this = if header.isDelta() { of_this.saturating_add(bytes) } else { bytes };
        let held: u64 = self.dictionary_bytes.values().sum();
        if held > limits.batch_bytes_max as u64 {
            return Err(Error::invalid(format!(
                "arrow dictionaries of the stream take {held} bytes; the limit batch_bytes_max is {}",
                limits.batch_bytes_max
            )));
        }
        Ok(())
    }

    fn add_dictionary(
        &mut self,
        header: ipc::DictionaryBatch<'_>,
        body: Bytes,
        version: MetadataVersion,
    ) -> Result<()> {
        let id = header.id();
        // Dictionary ids exist only on the wire; arrow still reads them through the deprecated names.
        #[allow(deprecated)]
        let fields = self.schema.fields_with_dict_id(id);
        let value_type = match fields.first().map(|field| field.data_type()) {
            Some(DataType::Dictionary(_, value_type)) => value_type.as_ref(),
            _ => return Err(Error::invalid(format!("arrow dictionary {id} is of no field"))),
        };
        let values = header
            .data()
            .ok_or_else(|| Error::invalid(format!("arrow dictionary {id} has no values")))?;
        check_layout([value_type], values, &body)?;
        let body = Buffer::from(body);
        contained("dictionary", || {
            read_dictionary(&body, header, &self.schema, &mut self.dictionaries, &version)
        })
    }
}

/// Runs arrow's reader. It asserts in places what a message may violate, so a panic is the message's
/// fault as well; nothing that it touches is used again after one.
fn contained<T>(what: &str, read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::invalid(format!("arrow {what} cannot be decoded: {error}"))),
        Err(_) => {
            #[cfg(test)]
            tests::PANICS.set(tests::PANICS.get() + 1);
            Err(Error::invalid(format!("arrow {what} cannot be decoded: its parts do not fit")))
        }
    }
}

/// Refuses a batch whose dictionaries and views stand for more bytes than a batch may have: one long
/// value behind many keys is a decompression bomb too.
fn check_flattened(batch: &RecordBatch, limits: &Limits) -> Result<()> {
    let flattened: u64 = batch.columns().iter().map(|column| shared_bytes(column)).sum();
    if flattened > limits.batch_bytes_max as u64 {
        return Err(Error::invalid(format!(
            "arrow batch stands for {flattened} bytes once its dictionaries and views are written \
             out; the limit batch_bytes_max is {}",
            limits.batch_bytes_max
        )));
    }
    Ok(())
}

/// The bytes that dictionaries and views of an array stand for; plain buffers count as nothing.
fn shared_bytes(array: &dyn Array) -> u64 {
    match array.data_type() {
        DataType::Utf8View => sum_valid(array, array.as_string_view().lengths().map(u64::from)),
        DataType::BinaryView => sum_valid(array, array.as_binary_view().lengths().map(u64::from)),
        DataType::Dictionary(_, _) => dictionary_bytes(array),
        DataType::List(_) => shared_bytes(array.as_list::<i32>().values()),
        DataType::LargeList(_) => shared_bytes(array.as_list::<i64>().values()),
        DataType::FixedSizeList(_, _) => shared_bytes(array.as_fixed_size_list().values()),
        DataType::Map(_, _) => shared_bytes(array.as_map().entries()),
        // Many values may be one and the same of a child.
        DataType::Union(fields, _) => {
            let children = fields.iter().map(|(id, _)| array.as_union().child(id));
            let largest = children.map(|child| child.get_buffer_memory_size() as u64).max();
            largest.unwrap_or(0).saturating_mul(array.len() as u64)
        }
        DataType::Struct(_) => {
            array.as_struct().columns().iter().map(|column| shared_bytes(column)).sum()
        }
        _ => 0,
    }
}

/// What stands in a null's place is arbitrary and is not counted.
fn sum_valid(array: &dyn Array, lengths: impl Iterator<Item = u64>) -> u64 {
    match array.nulls() {
        Some(nulls) => lengths.zip(nulls).filter(|(_, valid)| *valid).map(|(n, _)| n).sum(),
        None => lengths.sum(),
    }
}

fn dictionary_bytes(array: &dyn Array) -> u64 {
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    if values.is_empty() {
        return 0;
    }
    let fixed = |width: u64| width.saturating_mul(array.len() as u64);
    let lengths: Vec<u64> = match values.data_type() {
        DataType::Utf8 => offset_lengths(values.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => offset_lengths(values.as_string::<i64>().value_offsets()),
        DataType::Binary => offset_lengths(values.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => offset_lengths(values.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => values.as_string_view().lengths().map(u64::from).collect(),
        DataType::BinaryView => values.as_binary_view().lengths().map(u64::from).collect(),
        DataType::FixedSizeBinary(width) => return fixed(u64::try_from(*width).unwrap_or(0)),
        other => return fixed(other.primitive_width().unwrap_or(1) as u64),
    };
    let keys = dictionary.normalized_keys().into_iter();
    sum_valid(array, keys.map(|key| lengths.get(key).copied().unwrap_or(0)))
}

fn offset_lengths<O: ArrowNativeType>(offsets: &[O]) -> Vec<u64> {
    offsets.windows(2).map(|pair| (pair[1].as_usize() - pair[0].as_usize()) as u64).collect()
}

#[cfg(test)]
mod tests;
