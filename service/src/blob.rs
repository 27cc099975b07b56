//! One blob by row id, with ranges.
use std::ops::Range;

use lakebed_core::{RequestContext, Result, TableId};
use lakebed_proto::command::ReadCommand;

use crate::Service;
use crate::uploads::ByteStream;

/// An open blob.
pub struct Blob {}

impl Blob {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        unimplemented!()
    }
    /// A strong entity tag, without quotes.
    pub fn etag(&self) -> &str {
        unimplemented!()
    }
    /// The medium, told from its first bytes.
    pub fn media_type(&self) -> &str {
        unimplemented!()
    }
    /// The bytes of a range that lies within the blob, in chunks of at most 1 MiB.
    pub fn read(&self, _range: Range<u64>) -> ByteStream {
        unimplemented!()
    }
}

impl Service {
    /// Opens one blob of one row. Of `at` only version, tag, branch and as_of are looked at.
    pub async fn open_blob(
        &self,
        _ctx: &RequestContext,
        _table: &TableId,
        _at: &ReadCommand,
        _column: &str,
        _row_id: u64,
    ) -> Result<Blob> {
        unimplemented!()
    }
}
