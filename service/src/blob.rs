//! One blob by row id, with ranges.
use std::ops::Range;

use arrow_schema::SchemaRef;
use futures::StreamExt;
use lakebed_core::{Error, RequestContext, Result, Role, TableId};
use lakebed_proto::command::ReadCommand;
use lakebed_storage::OpenBlob;

use crate::authenticate::require;
use crate::uploads::ByteStream;
use crate::{BatchStream, Service};

/// Bytes that are enough to tell a medium.
const SNIFF_BYTES: u64 = 512;
/// Memory that one open blob may take: a chunk being read and one on its way to the client.
const READ_BYTES: usize = 4 << 20;

/// An open blob. Holds its version and its share of memory while it lives.
pub struct Blob {
    blob: OpenBlob,
    media_type: &'static str,
    held: std::sync::Arc<Held>,
}

/// What an open blob holds on to until its last byte is sent.
struct Held {
    _guard: crate::gate::GateGuard,
    _request: crate::admission::Permit,
    _memory: crate::admission::Permit,
}

impl Blob {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.blob.size()
    }

    /// A strong entity tag, without quotes.
    pub fn etag(&self) -> &str {
        self.blob.etag()
    }

    /// The medium, told from its first bytes.
    pub fn media_type(&self) -> &str {
        self.media_type
    }

    /// The version it was read from.
    pub fn version(&self) -> u64 {
        self.blob.version()
    }

    /// The bytes of a range that lies within the blob, in chunks of at most 1 MiB.
    pub fn read(&self, range: Range<u64>) -> ByteStream {
        let held = self.held.clone();
        self.blob
            .read(range)
            .inspect(move |_| {
                let _ = &held;
            })
            .boxed()
    }
}

/// Bytes of blobs in one answer of [`Service::fetch_blobs`].
const FETCHED_BYTES_MAX: u64 = 64 << 20;
/// Rows of one [`Service::fetch_blobs`], as the SDKs have it.
const FETCHED_ROWS_MAX: usize = 1_024;

impl Service {
    /// The bytes of the blobs of a column in some rows, in the order of `row_ids`, and the version.
    ///
    /// # Errors
    /// `NotFound` naming table, version or column; `InvalidArgument` for a column without blobs, a row
    /// that does not exist, more than 1,024 rows or more than 64 MiB.
    pub async fn fetch_blobs(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        at: &ReadCommand,
        column: &str,
        row_ids: &[u64],
    ) -> Result<(SchemaRef, BatchStream, u64)> {
        require(ctx, Role::Read)?;
        let guard = self.gate.enter()?;
        if row_ids.len() > FETCHED_ROWS_MAX {
            return Err(Error::invalid(format!(
                "`row_ids` has {} ids; fetch_blobs takes at most {FETCHED_ROWS_MAX}",
                row_ids.len()
            )));
        }
        let request = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(crate::read::READ_BYTES).await?;
        let snapshot = self.snapshot_of(ctx, table, at).await?;
        let (schema, batches) = snapshot.fetch_blobs(column, row_ids, FETCHED_BYTES_MAX).await?;
        let held = (guard, request, memory);
        let batches = batches.inspect(move |_| {
            // Gate and admission are held for as long as the stream lives.
            let _ = &held;
        });
        Ok((schema, batches.boxed(), snapshot.version()))
    }

    /// Opens one blob of one row, nothing when it is null, and says the version. Of `at` only version,
    /// tag, branch and as_of are looked at.
    ///
    /// # Errors
    /// `NotFound` naming table, version, column or row; `InvalidArgument` for a column without blobs.
    pub async fn open_blob(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        at: &ReadCommand,
        column: &str,
        row_id: u64,
    ) -> Result<(Option<Blob>, u64)> {
        require(ctx, Role::Read)?;
        let guard = self.gate.enter()?;
        let request = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(READ_BYTES).await?;
        let snapshot = self.snapshot_of(ctx, table, at).await?;
        let version = snapshot.version();
        let Some(blob) = snapshot.blob(column, row_id).await? else { return Ok((None, version)) };
        let mut head = Vec::new();
        let mut chunks = blob.read(0..blob.size().min(SNIFF_BYTES));
        while let Some(chunk) = chunks.next().await {
            head.extend_from_slice(&chunk?);
        }
        let media_type =
            infer::get(&head).map_or("application/octet-stream", |kind| kind.mime_type());
        let held = std::sync::Arc::new(Held { _guard: guard, _request: request, _memory: memory });
        Ok((Some(Blob { blob, media_type, held }), version))
    }
}
