//! Walks the parts of an Arrow batch the way arrow's reader will, and checks that they fit the schema.
//!
//! Why it exists: a batch is a list of field nodes and a list of buffers, and only the schema says
//! which belongs to what. Arrow's reader takes them from the front; where a validity bitmap is shorter
//! than its column, or offsets end inside a number, it asserts. Here these are errors that name the
//! buffer. Runs after [`crate::ipc_guard`], so offsets, lengths and counts are in range already.

use arrow_ipc as ipc;
use arrow_schema::{DataType, FieldRef, UnionFields, UnionMode};
use flatbuffers::VectorIter;
use lakebed_core::{Error, Result};

/// Checks that nodes, buffers and view counts of `batch` are those that columns of `types` need.
///
/// # Errors
/// `InvalidArgument` naming the part.
pub(crate) fn check_layout<'t>(
    types: impl IntoIterator<Item = &'t DataType>,
    batch: ipc::RecordBatch<'_>,
    body: &[u8],
) -> Result<()> {
    let missing = || Error::invalid("arrow batch has no field nodes or buffers");
    let mut walk = Walk {
        nodes: batch.nodes().ok_or_else(missing)?.iter(),
        buffers: batch.buffers().ok_or_else(missing)?.iter(),
        views: batch.variadicBufferCounts().map(|counts| counts.iter()),
        is_compressed: batch.compression().is_some(),
        body,
        buffer_at: 0,
    };
    for data_type in types {
        walk.column(data_type)?;
    }
    let views_left = walk.views.map_or(0, |views| views.len());
    for (left, what) in [
        (walk.nodes.len(), "field nodes"),
        (walk.buffers.len(), "buffers"),
        (views_left, "view columns"),
    ] {
        if left > 0 {
            return Err(Error::invalid(format!(
                "arrow batch has {left} more {what} than its schema needs"
            )));
        }
    }
    Ok(())
}

struct Walk<'a> {
    nodes: VectorIter<'a, ipc::FieldNode>,
    buffers: VectorIter<'a, ipc::Buffer>,
    views: Option<VectorIter<'a, i64>>,
    is_compressed: bool,
    body: &'a [u8],
    buffer_at: usize,
}

impl Walk<'_> {
    fn column(&mut self, data_type: &DataType) -> Result<()> {
        let node = self.nodes.next().ok_or_else(|| {
            Error::invalid("arrow batch has fewer field nodes than its schema needs")
        })?;
        if *data_type == DataType::Null {
            return Ok(());
        }
        if let DataType::Union(fields, UnionMode::Dense) = data_type {
            return self.dense_union(node, fields);
        }
        self.validity(node)?;
        match data_type {
            DataType::Utf8 | DataType::Binary => {
                self.whole(4)?;
                self.buffer()?;
            }
            DataType::LargeUtf8 | DataType::LargeBinary => {
                self.whole(8)?;
                self.buffer()?;
            }
            DataType::Utf8View | DataType::BinaryView => {
                let count = self.views.as_mut().and_then(Iterator::next).ok_or_else(|| {
                    Error::invalid("arrow batch has fewer view columns than its schema needs")
                })?;
                self.whole(16)?;
                for _ in 0..count {
                    self.buffer()?;
                }
            }
            DataType::List(child) | DataType::Map(child, _) => self.list(4, child)?,
            DataType::LargeList(child) => self.list(8, child)?,
            DataType::FixedSizeList(child, _) => self.column(child.data_type())?,
            DataType::Struct(children) => {
                for child in children {
                    self.column(child.data_type())?;
                }
            }
            DataType::Dictionary(key, _) => self.whole(key.primitive_width().unwrap_or(1))?,
            _ => {
                self.buffer()?;
            }
        }
        Ok(())
    }

    /// A union has no validity of its own: which child each value is in, and where.
    fn dense_union(&mut self, node: &ipc::FieldNode, fields: &UnionFields) -> Result<()> {
        let values = node.length().unsigned_abs();
        for width in [1, 4] {
            let begin = self.buffers.clone().next().map_or(0, |buffer| buffer.offset());
            let (at, bytes) = self.buffer()?;
            if !begin.unsigned_abs().is_multiple_of(width) || bytes < values.saturating_mul(width) {
                return Err(Error::invalid(format!(
                    "arrow buffer {at} has {bytes} bytes and is to place {values} values of a union"
                )));
            }
        }
        for (_, child) in fields.iter() {
            self.column(child.data_type())?;
        }
        Ok(())
    }

    fn list(&mut self, offset_bytes: usize, child: &FieldRef) -> Result<()> {
        self.whole(offset_bytes)?;
        self.column(child.data_type())
    }

    /// Takes the next buffer and returns its place in the list and its decompressed length.
    fn buffer(&mut self) -> Result<(usize, u64)> {
        let buffer = self
            .buffers
            .next()
            .ok_or_else(|| Error::invalid("arrow batch has fewer buffers than its schema needs"))?;
        let at = self.buffer_at;
        self.buffer_at += 1;
        let (offset, length) = (buffer.offset().unsigned_abs(), buffer.length().unsigned_abs());
        if !self.is_compressed || length == 0 {
            return Ok((at, length));
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let prefix = self.body.get(offset..).and_then(|rest| rest.first_chunk::<8>());
        let claim = prefix.map(|prefix| i64::from_le_bytes(*prefix));
        Ok((at, claim.and_then(|n| u64::try_from(n).ok()).unwrap_or(length.saturating_sub(8))))
    }

    fn validity(&mut self, node: &ipc::FieldNode) -> Result<()> {
        let (at, bytes) = self.buffer()?;
        let values = node.length().unsigned_abs();
        if node.null_count() > 0 && bytes < values.div_ceil(8) {
            return Err(Error::invalid(format!(
                "arrow buffer {at} has {bytes} bytes and is to say which of {values} values are null"
            )));
        }
        Ok(())
    }

    /// Takes a buffer of numbers of `width` bytes.
    fn whole(&mut self, width: usize) -> Result<()> {
        let (at, bytes) = self.buffer()?;
        if bytes % width as u64 != 0 {
            return Err(Error::invalid(format!(
                "arrow buffer {at} has {bytes} bytes and is to hold numbers of {width} bytes"
            )));
        }
        Ok(())
    }
}
