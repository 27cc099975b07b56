//! Reads: planned once, then opened part by part.
use arrow_schema::SchemaRef;
use lakebed_core::{RequestContext, Result};
use lakebed_proto::command::ReadCommand;
use serde::{Deserialize, Serialize};

use crate::{BatchStream, Service};

/// A planned read.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    /// The schema of every part.
    pub schema: SchemaRef,
    /// The version that is read.
    pub version: u64,
    /// The rows of all parts, where that is cheap to know.
    pub total_records: Option<u64>,
    /// The bytes of all parts, where that is cheap to know.
    pub total_bytes: Option<u64>,
    /// Whether the parts in their order give the rows in stored order.
    pub ordered: bool,
    /// What can be read in parallel; together the answer once.
    pub parts: Vec<ReadPart>,
    /// Until when the parts can be opened, unless use renews them.
    pub expires_at_ms: i64,
}

/// One part of a planned read; opaque to the doors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadPart {
    pub(crate) command: ReadCommand,
}

impl Service {
    /// Plans a read: pins the version and cuts it into parts.
    pub async fn plan_read(&self, _ctx: &RequestContext, _command: ReadCommand) -> Result<ReadPlan> {
        unimplemented!()
    }
    /// Opens one part.
    pub async fn read_part(
        &self,
        _ctx: &RequestContext,
        _part: ReadPart,
    ) -> Result<(SchemaRef, BatchStream)> {
        unimplemented!()
    }
    /// The schema that the command would return.
    pub async fn read_schema(
        &self,
        _ctx: &RequestContext,
        _command: &ReadCommand,
    ) -> Result<SchemaRef> {
        unimplemented!()
    }
    /// Rows and the version they were counted in.
    pub async fn count_rows(
        &self,
        _ctx: &RequestContext,
        _command: ReadCommand,
    ) -> Result<(u64, u64)> {
        unimplemented!()
    }
}
