//! Uploads of big blobs.
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use lakebed_core::{RequestContext, Result};

use crate::Service;

/// A stream of bytes that ends with `Err` when its source broke.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

impl Service {
    /// Begins an upload and returns its id.
    pub async fn create_upload(&self, _ctx: &RequestContext) -> Result<String> {
        unimplemented!()
    }
    /// How many bytes are stored so far.
    pub async fn upload_offset(&self, _ctx: &RequestContext, _id: &str) -> Result<u64> {
        unimplemented!()
    }
    /// Appends at `offset`, which must be what is stored so far; returns the new offset. What arrived
    /// before an `Err` stays, so that the client can resume.
    pub async fn put_upload(&self, _ctx: &RequestContext, _id: &str, _offset: u64, _body: ByteStream) -> Result<u64> {
        unimplemented!()
    }
    /// Ends an upload: checks size and digest; afterwards `upload:ID` can be referred to.
    pub async fn complete_upload(&self, _ctx: &RequestContext, _id: &str, _size: u64, _sha256_hex: &str) -> Result<()> {
        unimplemented!()
    }
    /// Throws an upload away.
    pub async fn abort_upload(&self, _ctx: &RequestContext, _id: &str) -> Result<()> {
        unimplemented!()
    }
}
