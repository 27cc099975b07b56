//! Append rows to a table.

use async_recursion::async_recursion as boxed;
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use lakebed_core::Result;
use lance::Dataset;
use lance::dataset::{InsertBuilder, WriteMode};

use crate::blob::BlobWriter;
use crate::scan::BatchStream;
use crate::schema::Conform;
use crate::table::Table;
use crate::write::{
    CommitReceipt, Counted, Start, WriteOptions, conformed, write_error, write_params_into,
};

impl Table {
    /// Appends rows to a branch. They become visible together, in one version, or not at all.
    ///
    /// # Errors
    /// `InvalidArgument` naming column, row and type of what does not fit; the error of the stream.
    #[boxed]
    pub async fn append(
        &self,
        branch: Option<&str>,
        sent: SchemaRef,
        batches: BatchStream,
        options: WriteOptions,
    ) -> Result<CommitReceipt> {
        let (branch, _held) = match self.start(branch, &options).await? {
            Start::Repeat(receipt) => return Ok(receipt),
            Start::Go(branch, held) => (branch, held),
        };
        let shared = &self.shared;
        branch.ensure_blob_base_for(&sent).await?;
        let claims = shared.write_claims();
        let plan = |dataset: &Dataset| {
            let stored = Schema::from(dataset.schema());
            let blobs = BlobWriter::new(shared.clone(), Arc::clone(&claims));
            Conform::new(&stored, &sent, false, &shared.limits, blobs)
                .map_err(|error| error.context("Append with different schema"))
        };
        let (dataset, conform) = branch.latest_for(plan).await?;
        let conform = Arc::new(conform);

        let counted = Arc::new(Counted::default());
        let source = conformed(conform, batches, counted.clone());
        let params = write_params_into(shared, &dataset, WriteMode::Append, false);
        let insert = InsertBuilder::new(shared.root.writable(&dataset).await?).with_params(&params);
        let transaction =
            Box::pin(insert.execute_uncommitted_stream(source)).await.map_err(write_error)?;
        let record = counted.record(&options, shared.clock.now_ms());
        let write = options.write_id.map(|id| (id, record));
        claims.may_commit();
        let committed = branch.commit_append(transaction, write).await;
        claims.end(&committed);
        Ok(counted.receipt(committed?))
    }
}
