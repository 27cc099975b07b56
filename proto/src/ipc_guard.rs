//! Looks at an Arrow IPC message before anything decodes it.
//!
//! Why it exists: arrow's reader believes what a message says about itself. It reserves the length
//! that a compressed buffer claims, so a few hundred bytes that claim 4 TiB end in a failed allocation,
//! which aborts the process and cannot be caught; it indexes the body with the offsets of the header;
//! and it panics on types that it does not know. This file reads the header with the flatbuffers
//! verifier and refuses whatever lies, in time that is linear in the header and without allocating.
//!
//! What holds for a message that passed:
//! - every buffer lies within the body, and the buffers do not overlap in sum;
//! - decoding allocates at most `batch_bytes_max` plus one lz4 block, whatever the buffers contain;
//! - rows, values, fields and nesting are within the limits, counts are not negative;
//! - a schema holds only types that arrow can build without panicking.
//!
//! It says nothing about the contents of buffers: arrow validates offsets, UTF-8 and dictionary keys
//! while it decodes, and [`crate::ipc_decode`] is the only caller that should do so.

use std::collections::BTreeSet;

use arrow_ipc as ipc;
use flatbuffers::VerifierOptions;
use lakebed_core::{Error, Limits, Result};

/// Headers are small: 16 bytes for each buffer and node, and a schema's metadata.
pub(crate) const HEADER_BYTES_MAX: usize = 16 << 20;
/// Flatbuffers may refer to one object many times; this bounds the header when that is expanded.
const HEADER_APPARENT_BYTES_MAX: usize = 32 << 20;
const HEADER_TABLES_MAX: usize = 1 << 18;
/// The largest block that an lz4 frame may have: what a decoder may write past the claimed length.
const LZ4_BLOCK_BYTES_MAX: usize = 4 << 20;
/// No lz4 block expands more than this many times.
const LZ4_RATIO_MAX: usize = 255;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// A schema.
    Schema,
    /// The values of a dictionary.
    Dictionary,
    /// Rows.
    Batch,
}

/// A message that passed, with its verified header.
#[derive(Debug)]
pub struct CheckedMessage<'a> {
    /// The verified header.
    pub message: ipc::Message<'a>,
    /// What it is.
    pub kind: MessageKind,
    /// The rows that a batch claims; 0 for a schema.
    pub rows: u64,
    /// The bytes of all buffers once decompressed; 0 for a schema.
    pub decoded_bytes: u64,
}

/// Checks one message: the flatbuffer of its header and the bytes of its body.
///
/// # Errors
/// `InvalidArgument` naming the buffer, node or field, or the limit that was hit.
pub fn check_message<'a>(
    header: &'a [u8],
    body: &[u8],
    limits: &Limits,
) -> Result<CheckedMessage<'a>> {
    let message = verified(header)?;
    if !matches!(message.version(), ipc::MetadataVersion::V4 | ipc::MetadataVersion::V5) {
        return Err(Error::invalid(format!(
            "arrow message has metadata version {}; 4 and 5 are read",
            i32::from(message.version().0) + 1
        )));
    }
    let missing = || Error::invalid("arrow message has a header without its contents");
    match message.header_type() {
        ipc::MessageHeader::Schema => {
            let schema = message.header_as_schema().ok_or_else(missing)?;
            check_schema(schema, limits)?;
            Ok(CheckedMessage { message, kind: MessageKind::Schema, rows: 0, decoded_bytes: 0 })
        }
        ipc::MessageHeader::RecordBatch => {
            let batch = message.header_as_record_batch().ok_or_else(missing)?;
            let decoded_bytes = check_batch(batch, body, limits)?;
            let rows = batch.length().unsigned_abs();
            Ok(CheckedMessage { message, kind: MessageKind::Batch, rows, decoded_bytes })
        }
        ipc::MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch().ok_or_else(missing)?;
            let batch = dictionary.data().ok_or_else(missing)?;
            let decoded_bytes = check_batch(batch, body, limits)
                .map_err(|error| error.context(format!("dictionary {}", dictionary.id())))?;
            let rows = batch.length().unsigned_abs();
            Ok(CheckedMessage { message, kind: MessageKind::Dictionary, rows, decoded_bytes })
        }
        other => Err(Error::invalid(format!(
            "arrow message is a {}; schemas, dictionaries and record batches are read",
            other.variant_name().unwrap_or("kind that is not known")
        ))),
    }
}

/// The bytes that a message claims for its body, from its header alone.
///
/// # Errors
/// `InvalidArgument` for a broken header or a negative claim.
pub(crate) fn body_bytes(header: &[u8]) -> Result<u64> {
    let claimed = verified(header)?.bodyLength();
    u64::try_from(claimed)
        .map_err(|_| Error::invalid(format!("arrow message claims a body of {claimed} bytes")))
}

fn verified(header: &[u8]) -> Result<ipc::Message<'_>> {
    if header.len() > HEADER_BYTES_MAX {
        return Err(Error::invalid(format!(
            "arrow message has a header of {} bytes; the limit is {HEADER_BYTES_MAX}",
            header.len()
        )));
    }
    let options = VerifierOptions {
        max_tables: HEADER_TABLES_MAX,
        max_apparent_size: HEADER_APPARENT_BYTES_MAX,
        ..VerifierOptions::default()
    };
    ipc::root_as_message_with_opts(&options, header).map_err(|error| {
        // The verifier's text spans several lines; the first says what is wrong.
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default().trim_end_matches('.').to_lowercase();
        Error::invalid(format!("arrow message has a broken header: {what}"))
    })
}

/// Checks the claims of a batch and returns the bytes of its buffers once decompressed.
fn check_batch(batch: ipc::RecordBatch<'_>, body: &[u8], limits: &Limits) -> Result<u64> {
    let rows = batch.length();
    if rows < 0 {
        return Err(Error::invalid(format!("arrow batch claims {rows} rows")));
    }
    check_nodes(batch, limits)?;

    let codec = codec(batch)?;
    let buffers = batch.buffers().ok_or_else(|| Error::invalid("arrow batch has no buffers"))?;
    let over_limit = |decoded: u64| {
        Error::invalid(format!(
            "arrow batch claims at least {decoded} bytes when decoded; the limit batch_bytes_max \
             is {}",
            limits.batch_bytes_max
        ))
    };
    let mut wire_bytes: usize = 0;
    let mut decoded_bytes: u64 = 0;
    for (at, buffer) in buffers.iter().enumerate() {
        let slice = buffer_slice(buffer, body).ok_or_else(|| {
            Error::invalid(format!(
                "arrow buffer {at} claims offset {} and length {} in a body of {} bytes",
                buffer.offset(),
                buffer.length(),
                body.len()
            ))
        })?;
        // Buffers that share bytes would be copied once for each of them where they are not aligned.
        wire_bytes = wire_bytes.saturating_add(slice.len());
        if wire_bytes > body.len() {
            return Err(Error::invalid(format!(
                "arrow buffers up to {at} claim {wire_bytes} bytes of a body of {} bytes",
                body.len()
            )));
        }
        let claimed = match codec {
            Some(codec) if !slice.is_empty() => claimed_bytes(slice, codec, limits)
                .map_err(|error| error.context(format!("arrow buffer {at}")))?,
            _ => slice.len() as u64,
        };
        decoded_bytes = decoded_bytes.saturating_add(claimed);
        if decoded_bytes > limits.batch_bytes_max as u64 {
            return Err(over_limit(decoded_bytes));
        }
    }
    if rows > as_i64(limits.batch_rows_max) {
        return Err(Error::invalid(format!(
            "arrow batch has {rows} rows; the limit batch_rows_max is {}",
            limits.batch_rows_max
        )));
    }
    for count in batch.variadicBufferCounts().into_iter().flatten() {
        if count < 0 || count > as_i64(buffers.len()) {
            return Err(Error::invalid(format!(
                "arrow batch claims {count} data buffers for a view column and has {} buffers",
                buffers.len()
            )));
        }
    }
    Ok(decoded_bytes)
}

fn check_nodes(batch: ipc::RecordBatch<'_>, limits: &Limits) -> Result<()> {
    let nodes = batch.nodes().ok_or_else(|| Error::invalid("arrow batch has no field nodes"))?;
    if nodes.len() > limits.columns_max {
        return Err(Error::invalid(format!(
            "arrow batch has {} field nodes; the limit columns_max is {}",
            nodes.len(),
            limits.columns_max
        )));
    }
    // A value takes at least one byte somewhere, but for bits, nulls and empty values: those are what
    // this bounds, because no buffer does.
    let values_max = as_i64(limits.batch_bytes_max.max(limits.batch_rows_max));
    for (at, node) in nodes.iter().enumerate() {
        let (length, nulls) = (node.length(), node.null_count());
        if length < 0 || nulls < 0 || nulls > length {
            return Err(Error::invalid(format!(
                "arrow field node {at} claims {length} values, of which {nulls} are null"
            )));
        }
        if length > values_max {
            return Err(Error::invalid(format!(
                "arrow field node {at} claims {length} values; the limit batch_bytes_max allows \
                 {values_max}"
            )));
        }
    }
    Ok(())
}

fn codec(batch: ipc::RecordBatch<'_>) -> Result<Option<ipc::CompressionType>> {
    let Some(compression) = batch.compression() else { return Ok(None) };
    if compression.method() != ipc::BodyCompressionMethod::BUFFER {
        return Err(Error::invalid("arrow batch has a compression method that is not known"));
    }
    match compression.codec() {
        codec @ (ipc::CompressionType::LZ4_FRAME | ipc::CompressionType::ZSTD) => Ok(Some(codec)),
        other => Err(Error::invalid(format!(
            "arrow batch has compression codec {}; lz4 frame and zstd are read",
            other.0
        ))),
    }
}

fn buffer_slice<'a>(buffer: &ipc::Buffer, body: &'a [u8]) -> Option<&'a [u8]> {
    let offset = usize::try_from(buffer.offset()).ok()?;
    let length = usize::try_from(buffer.length()).ok()?;
    body.get(offset..offset.checked_add(length)?)
}

/// The bytes that a compressed buffer says it holds: 8 bytes of length, then the compressed bytes.
fn claimed_bytes(buffer: &[u8], codec: ipc::CompressionType, limits: &Limits) -> Result<u64> {
    let Some((prefix, data)) = buffer.split_first_chunk::<8>() else {
        return Err(Error::invalid(format!(
            "compressed, but {} bytes are too few for its length prefix",
            buffer.len()
        )));
    };
    let claimed = match i64::from_le_bytes(*prefix) {
        -1 => return Ok(data.len() as u64),
        claimed => u64::try_from(claimed).map_err(|_| {
            Error::invalid(format!("claims a decompressed length of {claimed} bytes"))
        })?,
    };
    if claimed > limits.batch_bytes_max as u64 {
        return Err(Error::invalid(format!(
            "claims a decompressed length of {claimed} bytes; the limit batch_bytes_max is {}",
            limits.batch_bytes_max
        )));
    }
    // zstd is decompressed into exactly the claimed length. lz4 frames are read to their end first and
    // compared with the claim afterwards, so their own block table has to be bounded as well.
    if codec == ipc::CompressionType::LZ4_FRAME && claimed > 0 {
        let expanded = lz4_expanded_bytes_max(data)?;
        if expanded > limits.batch_bytes_max.saturating_add(LZ4_BLOCK_BYTES_MAX) {
            return Err(Error::invalid(format!(
                "lz4 frame claims {claimed} bytes and may expand to {expanded}; the limit \
                 batch_bytes_max is {}",
                limits.batch_bytes_max
            )));
        }
    }
    Ok(claimed)
}

/// An upper bound on what an lz4 frame expands to, from its header and the sizes of its blocks.
fn lz4_expanded_bytes_max(frame: &[u8]) -> Result<usize> {
    const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
    let broken = |what: &str| Error::invalid(format!("lz4 frame {what}"));
    let [m0, m1, m2, m3, flags, descriptor, ..] = *frame else {
        return Err(broken("is cut short"));
    };
    // Legacy and skippable frames have other block tables; no Arrow writer makes them.
    if [m0, m1, m2, m3] != MAGIC {
        return Err(broken("does not begin with its magic number"));
    }
    let block_bytes_max = match (descriptor >> 4) & 0b111 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => LZ4_BLOCK_BYTES_MAX,
        _ => return Err(broken("has an unknown block size")),
    };
    let checksum_bytes = if flags & 0b1_0000 != 0 { 4 } else { 0 };
    let content_size_bytes = if flags & 0b1000 != 0 { 8 } else { 0 };
    let dictionary_bytes = if flags & 0b1 != 0 { 4 } else { 0 };
    let header_bytes = 7 + content_size_bytes + dictionary_bytes;
    let mut rest = frame.get(header_bytes..).ok_or_else(|| broken("is cut short"))?;
    let mut expanded: usize = 0;
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size);
        if size == 0 {
            break;
        }
        let stored = size & 0x8000_0000 != 0;
        let bytes = (size & 0x7FFF_FFFF) as usize;
        if bytes > block_bytes_max {
            return Err(broken("has a block that is larger than its block size"));
        }
        let block_max =
            if stored { bytes } else { block_bytes_max.min(bytes.saturating_mul(LZ4_RATIO_MAX)) };
        expanded = expanded.saturating_add(block_max);
        rest = after.get(bytes + checksum_bytes..).ok_or_else(|| broken("ends inside a block"))?;
    }
    Ok(expanded)
}

/// Checks that arrow can build the schema, and its number of fields.
fn check_schema(schema: ipc::Schema<'_>, limits: &Limits) -> Result<()> {
    if !schema.endianness().equals_to_target_endianness() {
        return Err(Error::invalid("arrow schema is big-endian; little-endian is read"));
    }
    let fields = schema.fields().ok_or_else(|| Error::invalid("arrow schema has no fields"))?;
    let mut count = 0;
    for field in fields {
        check_field(field, &mut count, limits)?;
    }
    Ok(())
}

/// Recursion is bounded: the verifier refuses headers that nest deeper than 64 tables.
fn check_field(field: ipc::Field<'_>, count: &mut usize, limits: &Limits) -> Result<()> {
    *count += 1;
    if *count > limits.columns_max {
        return Err(Error::invalid(format!(
            "arrow schema has more fields than the limit columns_max, which is {}",
            limits.columns_max
        )));
    }
    check_type(field).map_err(|what| {
        let name = field.name().unwrap_or_default();
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        Error::invalid(format!("arrow field `{shown}` {what}"))
    })?;
    for child in field.children().into_iter().flatten() {
        check_field(child, count, limits)?;
    }
    Ok(())
}

/// Whether arrow can build the type of a field; the children are checked on their own.
fn check_type(field: ipc::Field<'_>) -> Result<(), String> {
    use ipc::Type;
    let missing = || "has a type without its parameters".to_owned();
    let children = field.children().map_or(0, |children| children.len());
    let expect_children = |wanted: usize| {
        if children == wanted {
            Ok(())
        } else {
            Err(format!("has {children} child fields where its type needs {wanted}"))
        }
    };
    if let Some(dictionary) = field.dictionary() {
        let index = dictionary.indexType().ok_or_else(missing)?;
        check_int_width(index.bitWidth())?;
        // Keys that repeat one long nested value cannot be bounded by looking at lengths.
        if children > 0 {
            return Err("is a dictionary of nested values, which is not accepted".to_owned());
        }
    }
    match field.type_type() {
        Type::Null
        | Type::Bool
        | Type::Binary
        | Type::LargeBinary
        | Type::BinaryView
        | Type::Utf8
        | Type::LargeUtf8
        | Type::Utf8View
        | Type::Struct_ => Ok(()),
        Type::Int => check_int_width(field.type_as_int().ok_or_else(missing)?.bitWidth()),
        Type::FloatingPoint => {
            let float = field.type_as_floating_point().ok_or_else(missing)?;
            known(ipc::Precision::ENUM_VALUES.contains(&float.precision()), "float precision")
        }
        Type::Decimal => {
            let decimal = field.type_as_decimal().ok_or_else(missing)?;
            let precision_max = match decimal.bitWidth() {
                32 => 9,
                64 => 18,
                128 => 38,
                256 => 76,
                width => return Err(format!("is a decimal of {width} bits")),
            };
            known((1..=precision_max).contains(&decimal.precision()), "decimal precision")?;
            known(i8::try_from(decimal.scale()).is_ok(), "decimal scale")
        }
        Type::Date => {
            let date = field.type_as_date().ok_or_else(missing)?;
            known(ipc::DateUnit::ENUM_VALUES.contains(&date.unit()), "date unit")
        }
        Type::Time => {
            use ipc::TimeUnit;
            let time = field.type_as_time().ok_or_else(missing)?;
            let fits = matches!(
                (time.bitWidth(), time.unit()),
                (32, TimeUnit::SECOND | TimeUnit::MILLISECOND)
                    | (64, TimeUnit::MICROSECOND | TimeUnit::NANOSECOND)
            );
            known(fits, "pair of time width and unit")
        }
        Type::Timestamp => {
            let timestamp = field.type_as_timestamp().ok_or_else(missing)?;
            known(ipc::TimeUnit::ENUM_VALUES.contains(&timestamp.unit()), "timestamp unit")
        }
        Type::Duration => {
            let duration = field.type_as_duration().ok_or_else(missing)?;
            known(ipc::TimeUnit::ENUM_VALUES.contains(&duration.unit()), "duration unit")
        }
        Type::Interval => {
            let interval = field.type_as_interval().ok_or_else(missing)?;
            known(ipc::IntervalUnit::ENUM_VALUES.contains(&interval.unit()), "interval unit")
        }
        Type::FixedSizeBinary => {
            let width = field.type_as_fixed_size_binary().ok_or_else(missing)?.byteWidth();
            known(width >= 0, "fixed size")
        }
        Type::FixedSizeList => {
            let size = field.type_as_fixed_size_list().ok_or_else(missing)?.listSize();
            known(size >= 0, "fixed size")?;
            expect_children(1)
        }
        Type::List | Type::LargeList => expect_children(1),
        Type::Map => {
            field.type_as_map().ok_or_else(missing)?;
            expect_children(1)?;
            let entries = field.children().ok_or_else(missing)?.get(0);
            let pairs = entries.children().map_or(0, |children| children.len());
            known(entries.type_type() == Type::Struct_ && pairs == 2, "map entry type")
        }
        Type::Union => {
            let union = field.type_as_union().ok_or_else(missing)?;
            known(union.mode() == ipc::UnionMode::Dense, "kind of union")?;
            let is_plain = |child: ipc::Field<'_>| {
                child.type_type() != Type::Union
                    && child.dictionary().is_none()
                    && child.children().is_none_or(|children| children.is_empty())
            };
            known(field.children().into_iter().flatten().all(is_plain), "union of nested types")?;
            let Some(ids) = union.typeIds() else { return Ok(()) };
            let distinct: BTreeSet<i32> = ids.iter().filter(|id| (0..=127).contains(id)).collect();
            known(distinct.len() == children && ids.len() == children, "list of a union's types")
        }
        other => {
            let name = other.variant_name().unwrap_or("that is not known").to_lowercase();
            Err(format!("has type {name}, which is not accepted"))
        }
    }
}

fn check_int_width(bits: i32) -> Result<(), String> {
    known(matches!(bits, 8 | 16 | 32 | 64), "integer width")
}

fn known(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("has an unknown {what}")) }
}

fn as_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
