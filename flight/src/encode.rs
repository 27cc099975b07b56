//! Turns record batches into Arrow IPC messages without copying their buffers.
//!
//! Why it exists: arrow-ipc's writer copies every buffer of a batch into one body, and the message
//! that holds the body is copied again into its frame. Here a message is a small header and a list of
//! the batch's own buffers; only bitmaps and offsets of sliced columns are written anew. Types that
//! need more care (dictionaries, views, unions, run-end encoding) go through arrow-ipc's writer.
//!
//! ```text
//!   batch ──► field nodes, buffers (shared) ──► header (flatbuffer) + body parts ──► frames
//! ```

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_data::ArrayData;
use arrow_flight::FlightData;
use arrow_ipc as ipc;
use arrow_ipc::writer::{
    CompressionContext, DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteOptions,
};
use arrow_schema::{DataType, Schema, SchemaRef};
use bytes::{BufMut, Bytes, BytesMut};
use flatbuffers::FlatBufferBuilder;
use lakebed_core::{Error, Result};

/// Buffers begin at multiples of this, as the Arrow format recommends.
const ALIGNMENT: usize = 64;
static PADDING: [u8; ALIGNMENT] = [0; ALIGNMENT];
/// Parts below this are copied together: a frame of its own costs more than the copy.
const SHARED_PART_BYTES_MIN: usize = 32 << 10;
/// One flag and four bytes of length stand before each gRPC message.
const GRPC_PREFIX_BYTES: usize = 5;

/// One IPC message.
#[derive(Debug)]
pub(crate) struct EncodedMessage {
    header: Bytes,
    /// What the body is made of, paddings included.
    body: Vec<Bytes>,
    body_bytes: usize,
}

impl EncodedMessage {
    /// The bytes of header and body.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.header.len() + self.body_bytes
    }

    /// The message as the bytes of one gRPC frame that holds a `FlightData`.
    ///
    /// # Errors
    /// `InvalidArgument` for a message of more than 4 GiB, which gRPC cannot carry: its only row was
    /// asked for with its blobs.
    pub(crate) fn into_frame(self) -> Result<Vec<Bytes>> {
        // Fields of FlightData, in the order of their numbers: 2 data_header, 1000 data_body.
        const HEADER_TAG: u64 = (2 << 3) | 2;
        const BODY_TAG: u64 = (1000 << 3) | 2;
        let mut fields = BytesMut::with_capacity(self.header.len() + 64);
        fields.put_bytes(0, GRPC_PREFIX_BYTES);
        put_varint(&mut fields, HEADER_TAG);
        put_varint(&mut fields, self.header.len() as u64);
        fields.put_slice(&self.header);
        if self.body_bytes > 0 {
            put_varint(&mut fields, BODY_TAG);
            put_varint(&mut fields, self.body_bytes as u64);
        }
        let message_bytes = fields.len() - GRPC_PREFIX_BYTES + self.body_bytes;
        let length = u32::try_from(message_bytes).map_err(|_| {
            Error::invalid(format!(
                "a row of {message_bytes} bytes is too long for one message; read its blobs in ranges"
            ))
        })?;
        fields[1..GRPC_PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());

        let mut chunks = Vec::with_capacity(self.body.len() + 1);
        for part in self.body {
            if part.len() < SHARED_PART_BYTES_MIN {
                fields.put_slice(&part);
            } else {
                chunks.push(fields.split().freeze());
                chunks.push(part);
            }
        }
        chunks.push(fields.freeze());
        chunks.retain(|chunk| !chunk.is_empty());
        Ok(chunks)
    }

    /// The message as tonic's generated types have it, its body copied into one piece.
    pub(crate) fn into_flight_data(self) -> FlightData {
        let mut body = BytesMut::with_capacity(self.body_bytes);
        self.body.iter().for_each(|part| body.put_slice(part));
        FlightData::new().with_data_header(self.header).with_data_body(body.freeze())
    }

    fn generated(data: EncodedData) -> EncodedMessage {
        let body_bytes = data.arrow_data.len();
        EncodedMessage {
            header: Bytes::from(data.ipc_message),
            body: vec![Bytes::from(data.arrow_data)],
            body_bytes,
        }
    }
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Encodes the batches of one stream.
pub(crate) struct Encoder {
    schema: SchemaRef,
    /// Present where a column needs arrow-ipc's writer, with the dictionaries that were sent.
    generated: Option<Generated>,
}

struct Generated {
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    options: IpcWriteOptions,
    compression: CompressionContext,
}

impl Encoder {
    /// An encoder for batches of `schema`, and the message that announces them.
    pub(crate) fn new(schema: SchemaRef) -> (Encoder, EncodedMessage) {
        let generator = IpcDataGenerator::default();
        let mut dictionaries = DictionaryTracker::new(false);
        let options = IpcWriteOptions::default();
        let announced =
            generator.schema_to_bytes_with_dictionary_tracker(&schema, &mut dictionaries, &options);
        let is_plain = schema.fields().iter().all(|field| is_plain(field.data_type()));
        let generated = (!is_plain).then(|| Generated {
            generator,
            dictionaries,
            options,
            compression: CompressionContext::default(),
        });
        (Encoder { schema, generated }, EncodedMessage::generated(announced))
    }

    /// The messages of one batch: its dictionaries where they changed, then its rows.
    ///
    /// # Errors
    /// `Internal` for a batch of another schema or one that arrow refuses to write.
    pub(crate) fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<EncodedMessage>> {
        if !same_types(&batch.schema(), &self.schema) {
            return Err(Error::internal("a read gave a batch that is not of its own schema"));
        }
        let Some(generated) = &mut self.generated else { return Ok(vec![plain_message(batch)]) };
        let Generated { generator, dictionaries, options, compression } = generated;
        let (changed, rows) = generator
            .encode(batch, dictionaries, options, compression)
            .map_err(|error| Error::internal("a batch cannot be encoded").with_source(error))?;
        Ok(changed.into_iter().chain([rows]).map(EncodedMessage::generated).collect())
    }
}

fn same_types(a: &Arc<Schema>, b: &Arc<Schema>) -> bool {
    Arc::ptr_eq(a, b)
        || (a.fields().len() == b.fields().len()
            && a.fields().iter().zip(b.fields()).all(|(a, b)| a.data_type() == b.data_type()))
}

/// Whether a column of this type is written by [`Plain`].
fn is_plain(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(child) | DataType::LargeList(child) | DataType::Map(child, _) => {
            is_plain(child.data_type())
        }
        DataType::FixedSizeList(child, _) => is_plain(child.data_type()),
        DataType::Struct(children) => children.iter().all(|child| is_plain(child.data_type())),
        DataType::Dictionary(_, _)
        | DataType::Utf8View
        | DataType::BinaryView
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Union(_, _)
        | DataType::RunEndEncoded(_, _) => false,
        _ => true,
    }
}

fn plain_message(batch: &RecordBatch) -> EncodedMessage {
    let mut plain = Plain::default();
    for column in batch.columns() {
        plain.column(&column.to_data());
    }
    let mut fbb =
        FlatBufferBuilder::with_capacity(256 + 16 * (plain.nodes.len() + plain.buffers.len()));
    let nodes = fbb.create_vector(&plain.nodes);
    let buffers = fbb.create_vector(&plain.buffers);
    let mut rows = ipc::RecordBatchBuilder::new(&mut fbb);
    rows.add_length(batch.num_rows() as i64);
    rows.add_nodes(nodes);
    rows.add_buffers(buffers);
    let rows = rows.finish().as_union_value();
    let mut message = ipc::MessageBuilder::new(&mut fbb);
    message.add_version(ipc::MetadataVersion::V5);
    message.add_header_type(ipc::MessageHeader::RecordBatch);
    message.add_bodyLength(plain.body_bytes as i64);
    message.add_header(rows);
    let message = message.finish();
    fbb.finish(message, None);
    EncodedMessage {
        header: Bytes::copy_from_slice(fbb.finished_data()),
        body: plain.body,
        body_bytes: plain.body_bytes,
    }
}

/// The parts of one batch as they are collected, column by column.
#[derive(Default)]
struct Plain {
    nodes: Vec<ipc::FieldNode>,
    buffers: Vec<ipc::Buffer>,
    body: Vec<Bytes>,
    body_bytes: usize,
}

impl Plain {
    fn column(&mut self, data: &ArrayData) {
        let data_type = data.data_type();
        if *data_type == DataType::Null {
            // Arrow counts no nulls in an array of nothing else; the format counts all.
            self.nodes.push(ipc::FieldNode::new(data.len() as i64, data.len() as i64));
            return;
        }
        self.nodes.push(ipc::FieldNode::new(data.len() as i64, data.null_count() as i64));
        match data.nulls().filter(|nulls| nulls.null_count() > 0) {
            Some(nulls) => self.push(nulls.inner().sliced()),
            None => self.push(MutableBuffer::new(0).into()),
        }
        match data_type {
            DataType::Utf8 | DataType::Binary => self.bytes::<i32>(data),
            DataType::LargeUtf8 | DataType::LargeBinary => self.bytes::<i64>(data),
            DataType::List(_) | DataType::Map(_, _) => self.list::<i32>(data),
            DataType::LargeList(_) => self.list::<i64>(data),
            DataType::FixedSizeList(_, size) => {
                let size = usize::try_from(*size).unwrap_or(0);
                let child = data.child_data()[0].slice(data.offset() * size, data.len() * size);
                self.column(&child);
            }
            DataType::Struct(_) => {
                // A struct's children are sliced with it.
                for child in data.child_data() {
                    self.column(child);
                }
            }
            DataType::Boolean => {
                self.push(data.buffers()[0].bit_slice(data.offset(), data.len()));
            }
            DataType::FixedSizeBinary(width) => {
                self.fixed(data, usize::try_from(*width).unwrap_or(0));
            }
            other => self.fixed(data, other.primitive_width().unwrap_or(0)),
        }
    }

    fn fixed(&mut self, data: &ArrayData, width: usize) {
        self.push(data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width));
    }

    fn bytes<O: Offset>(&mut self, data: &ArrayData) {
        let (first, length) = self.offsets::<O>(data);
        self.push(data.buffers()[1].slice_with_length(first, length));
    }

    fn list<O: Offset>(&mut self, data: &ArrayData) {
        let (first, length) = self.offsets::<O>(data);
        self.column(&data.child_data()[0].slice(first, length));
    }

    /// Pushes offsets that begin at 0, and returns what they cover: first value and how many.
    fn offsets<O: Offset>(&mut self, data: &ArrayData) -> (usize, usize) {
        if data.is_empty() {
            // The format wants one more offset than there are values, also for none.
            self.push(Buffer::from_slice_ref([O::default()]));
            return (0, 0);
        }
        let buffer = &data.buffers()[0];
        let all: &[O] = buffer.typed_data();
        let own = &all[data.offset()..=data.offset() + data.len()];
        let (first, last) = (own[0], own[data.len()]);
        if first == O::default() {
            let width = size_of::<O>();
            self.push(buffer.slice_with_length(data.offset() * width, size_of_val(own)));
        } else {
            self.push(own.iter().map(|offset| offset.minus(first)).collect());
        }
        (first.as_usize(), last.minus(first).as_usize())
    }

    fn push(&mut self, buffer: Buffer) {
        let length = buffer.len();
        self.buffers.push(ipc::Buffer::new(self.body_bytes as i64, length as i64));
        if length > 0 {
            self.body.push(Bytes::from_owner(Shared(buffer)));
        }
        let padding = length.next_multiple_of(ALIGNMENT) - length;
        if padding > 0 {
            self.body.push(Bytes::from_static(&PADDING[..padding]));
        }
        self.body_bytes += length + padding;
    }
}

/// The two widths of offsets.
trait Offset: arrow_buffer::ArrowNativeType + PartialEq {
    fn minus(self, other: Self) -> Self;
}

impl Offset for i32 {
    fn minus(self, other: Self) -> Self {
        self - other
    }
}

impl Offset for i64 {
    fn minus(self, other: Self) -> Self {
        self - other
    }
}

/// Keeps an arrow buffer alive for as long as its bytes are on their way.
struct Shared(Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

#[cfg(test)]
mod tests;
