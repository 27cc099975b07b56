//! Overwrite a table: new rows and a new schema in the next version; the old versions stay.

use async_recursion::async_recursion as boxed;
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use lakebed_core::Result;
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{InsertBuilder, WriteMode};
use lance_table::format::BasePath;

use crate::blob::{BLOB_BASE_NAME, BlobWriter, blob_base, has_blob_column};
use crate::lance_error::from_lance;
use crate::scan::BatchStream;
use crate::schema::{Conform, new_table_schema};
use crate::table::{Branch, Table};
use crate::vector_aliases;
use crate::write::{
    CommitReceipt, Counted, Start, WriteOptions, conformed, write_error, write_params_into,
};

impl Table {
    /// Replaces rows and schema of a branch in one version.
    ///
    /// # Errors
    /// `InvalidArgument` for a schema that cannot be stored or rows that do not fit it.
    #[boxed]
    pub async fn overwrite(
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
        let stored = new_table_schema(&sent, &shared.limits)?;
        let claims = shared.write_claims();
        let blobs = BlobWriter::new(shared.clone(), Arc::clone(&claims));
        let conform = Arc::new(Conform::new(&stored, &sent, false, &shared.limits, blobs)?);
        if has_blob_column(&stored) {
            branch.ensure_blob_base().await?;
        }
        let counted = Arc::new(Counted::default());
        let source = conformed(conform, batches, counted.clone());
        let dataset = shared.root.writable(&*branch.latest().await?).await?;
        let has_blobs = has_blob_column(&stored);
        let params = write_params_into(shared, &dataset, WriteMode::Overwrite, has_blobs);
        let insert = InsertBuilder::new(dataset).with_params(&params);
        let mut transaction =
            Box::pin(insert.execute_uncommitted_stream(source)).await.map_err(write_error)?;

        let _mutation = branch.mutation.lock().await;
        // It replaces whatever is newest by now, which is what an overwrite means.
        let latest = branch.latest().await?;
        transaction.read_version = latest.version().version;
        vector_aliases::keep(latest.schema(), &mut transaction.operation);
        let record = counted.record(&options, shared.clock.now_ms());
        let writes = options.write_id.map(|id| (id, record)).into_iter().collect();
        claims.may_commit();
        let committed = branch.commit(transaction, writes, None).await;
        claims.end(&committed);
        Ok(counted.receipt(committed?.version().version))
    }
}

impl Branch {
    /// Registers the lake's blobs as a base path before columns are written to the branch, where one of
    /// them is a blob column: a table that another tool made has no such base, and lance places a large
    /// blob only below one that is in the manifest already.
    pub(crate) async fn ensure_blob_base_for(self: &Arc<Self>, sent: &Schema) -> Result<()> {
        let dataset = self.latest().await?;
        let mut fields = dataset.schema().fields.iter();
        let brings_blobs =
            fields.any(|field| field.is_blob_v2() && sent.field_with_name(&field.name).is_ok());
        if brings_blobs { self.ensure_blob_base().await } else { Ok(()) }
    }

    /// Registers the lake's blobs as a base path of the table, once.
    pub(crate) async fn ensure_blob_base(self: &Arc<Self>) -> Result<()> {
        if has_blob_base(&*self.latest().await?) {
            return Ok(());
        }
        let _mutation = self.mutation.lock().await;
        let dataset = self.latest().await?;
        if has_blob_base(&dataset) {
            return Ok(());
        }
        // Zero is lance's word for the table itself, so it counts as taken.
        let taken = dataset.manifest().base_paths.keys().copied().chain([0]);
        let id = BasePath::unused_id(taken).map_err(from_lance)?;
        let operation = Operation::UpdateBases { new_bases: vec![blob_base(&self.shared, id)] };
        let transaction = Transaction::new(dataset.version().version, operation, None);
        self.commit(transaction, Vec::new(), None).await?;
        Ok(())
    }
}

fn has_blob_base(dataset: &Dataset) -> bool {
    dataset.manifest().base_paths.values().any(|base| base.name.as_deref() == Some(BLOB_BASE_NAME))
}
