//! Real encoded Arrow messages for tests, and ways to make them lie.

use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeListBuilder, Float32Builder, Int32Builder, ListBuilder, MapBuilder, StringBuilder,
    StringViewBuilder,
};
use arrow_array::types::Int8Type;
use arrow_array::{
    ArrayRef, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Int32Array,
    Int64Array, LargeBinaryArray, NullArray, RecordBatch, StringArray, StructArray,
    TimestampNanosecondArray, UnionArray,
};
use arrow_ipc::writer::{CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow_ipc::{CompressionType, MetadataVersion};
use arrow_schema::{DataType, Field, UnionFields};
use lakebed_core::Limits;

/// Header and body of one message.
#[derive(Debug, Clone)]
pub struct Encoded {
    pub header: Vec<u8>,
    pub body: Vec<u8>,
}

/// Small limits, so that a test sees an allocation that passes them.
pub fn limits() -> Limits {
    Limits { batch_bytes_max: 1 << 20, batch_rows_max: 1 << 16, ..Limits::default() }
}

/// Schema, dictionaries and batch of `batch`, as a writer sends them.
pub fn encode(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<Encoded> {
    let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)
        .unwrap()
        .try_with_compression(compression)
        .unwrap();
    let mut tracker = DictionaryTracker::new(false);
    let generator = IpcDataGenerator::default();
    let schema =
        generator.schema_to_bytes_with_dictionary_tracker(&batch.schema(), &mut tracker, &options);
    let (dictionaries, rows) = generator
        .encode(batch, &mut tracker, &options, &mut CompressionContext::default())
        .unwrap();
    std::iter::once(schema)
        .chain(dictionaries)
        .chain([rows])
        .map(|data| Encoded { header: data.ipc_message, body: data.arrow_data })
        .collect()
}

/// One column of 64-bit integers that compresses well.
pub fn integers(rows: usize) -> RecordBatch {
    let values = Int64Array::from_iter_values((0..rows as i64).map(|n| n % 7));
    RecordBatch::try_from_iter([("n", Arc::new(values) as ArrayRef)]).unwrap()
}

/// One column of each shape that arrow's reader treats in its own way.
pub fn every_shape() -> RecordBatch {
    let texts = StringArray::from_iter((0..40).map(|n| (n % 3 != 0).then(|| "text".repeat(n % 5))));
    let mut views = StringViewBuilder::new();
    let mut lists = ListBuilder::new(Int32Builder::new());
    let mut vectors = FixedSizeListBuilder::new(Float32Builder::new(), 3);
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for n in 0..40 {
        views.append_value("a long enough text to live outside of its view".split_at(n).0);
        for item in 0..n % 4 {
            lists.values().append_value(item as i32);
        }
        lists.append(n % 5 != 0);
        for item in 0..3 {
            vectors.values().append_value((n * item) as f32);
        }
        vectors.append(n % 6 != 0);
        maps.keys().append_value(n.to_string());
        maps.values().append_value(n as i32);
        maps.append(true).unwrap();
    }
    let keys = (0..40).map(|n| (n % 4 != 0).then_some(["red", "green", "blue"][n % 3]));
    let dictionary: DictionaryArray<Int8Type> = keys.collect();
    let structs = StructArray::from(vec![
        (Arc::new(Field::new("inner", DataType::Utf8, true)), Arc::new(texts.clone()) as ArrayRef),
        (
            Arc::new(Field::new("flag", DataType::Boolean, true)),
            Arc::new(BooleanArray::from_iter((0..40).map(|n| (n % 2 == 0).then_some(n > 7)))),
        ),
    ]);
    let union = UnionArray::try_new(
        UnionFields::from_fields(vec![
            Field::new("number", DataType::Int32, true),
            Field::new("text", DataType::Utf8, true),
        ]),
        (0..40).map(|n| n % 2).collect(),
        Some((0..40).map(|n| n / 2).collect()),
        vec![
            Arc::new(Int32Array::from_iter_values(0..20)),
            Arc::new(StringArray::from_iter_values((0..20).map(|n| "t".repeat(n)))),
        ],
    );
    let fixed: Vec<[u8; 5]> = (0..40_u8).map(|n| [n; 5]).collect();
    RecordBatch::try_from_iter_with_nullable([
        (
            "n",
            Arc::new(Int64Array::from_iter((0..40).map(|n| (n != 3).then_some(n)))) as ArrayRef,
            true,
        ),
        ("text", Arc::new(texts), true),
        ("view", Arc::new(views.finish()), true),
        ("list", Arc::new(lists.finish()), true),
        ("vector", Arc::new(vectors.finish()), true),
        ("map", Arc::new(maps.finish()), true),
        ("dictionary", Arc::new(dictionary), true),
        ("struct", Arc::new(structs), true),
        ("fixed", Arc::new(FixedSizeBinaryArray::try_from_iter(fixed.iter()).unwrap()), true),
        ("blob", Arc::new(LargeBinaryArray::from_iter_values((0..40).map(|n| vec![7; n]))), true),
        ("null", Arc::new(NullArray::new(40)), true),
        ("union", Arc::new(union.unwrap()), true),
        ("price", Arc::new(Decimal128Array::from_iter_values(0..40)), true),
        (
            "at",
            Arc::new(TimestampNanosecondArray::from_iter_values(0..40).with_timezone("UTC")),
            true,
        ),
    ])
    .unwrap()
}

impl Encoded {
    fn batch(&self) -> arrow_ipc::RecordBatch<'_> {
        let message = arrow_ipc::root_as_message(&self.header).unwrap();
        message
            .header_as_record_batch()
            .or_else(|| message.header_as_dictionary_batch().and_then(|d| d.data()))
            .unwrap()
    }

    /// Where the descriptor of buffer `at` lies in the header: offset and length, 8 bytes each.
    fn buffer_at(&self, at: usize) -> usize {
        let descriptors = self.batch().buffers().unwrap();
        descriptors.bytes().as_ptr() as usize - self.header.as_ptr() as usize + at * 16
    }

    fn node_at(&self, at: usize) -> usize {
        let nodes = self.batch().nodes().unwrap();
        nodes.bytes().as_ptr() as usize - self.header.as_ptr() as usize + at * 16
    }

    /// The index of the first buffer that is not empty.
    pub fn first_filled_buffer(&self) -> usize {
        self.batch().buffers().unwrap().iter().position(|buffer| buffer.length() > 0).unwrap()
    }

    pub fn set_buffer_offset(&mut self, at: usize, offset: i64) {
        let place = self.buffer_at(at);
        self.header[place..place + 8].copy_from_slice(&offset.to_le_bytes());
    }

    pub fn set_buffer_length(&mut self, at: usize, length: i64) {
        let place = self.buffer_at(at) + 8;
        self.header[place..place + 8].copy_from_slice(&length.to_le_bytes());
    }

    pub fn set_node(&mut self, at: usize, length: i64, nulls: i64) {
        let place = self.node_at(at);
        self.header[place..place + 8].copy_from_slice(&length.to_le_bytes());
        self.header[place + 8..place + 16].copy_from_slice(&nulls.to_le_bytes());
    }

    /// Makes the compressed buffer `at` claim a decompressed length.
    pub fn set_claim(&mut self, at: usize, claim: i64) {
        let place = self.batch().buffers().unwrap().get(at).offset() as usize;
        self.body[place..place + 8].copy_from_slice(&claim.to_le_bytes());
    }
}
