//! Create a table from a stream: one version that holds everything, or nothing.

use async_recursion::async_recursion as boxed;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_schema::SchemaRef;
use lakebed_core::{Error, ErrorKind, Result, TableId};
use lance::dataset::transaction::Operation;
use lance::dataset::{CommitBuilder, InsertBuilder, WriteMode};
use lance_file::version::LanceFileVersion;

use crate::blob::{BlobWriter, blob_base, has_blob_column};
use crate::commit::sync_versions;
use crate::creators::Inside;
use crate::durable::{DurableCommitHandler, sync_transaction};
use crate::lake::Lake;
use crate::scan::BatchStream;
use crate::schema::{Conform, new_table_schema};
use crate::write::{
    CommitReceipt, Counted, WriteOptions, conformed, discard, write_error, write_params,
};
use crate::write_id::{Begun, to_properties};

/// The id of the base path of large blobs in a table that is created with blob columns; 0 is lance's
/// word for the table itself.
pub(crate) const BLOB_BASE_ID: u32 = 1;

/// How often, and how far apart, a create looks for the name of the table that was faster.
const NAMED_LOOKS_MAX: u32 = 50;
const NAMED_WAIT: Duration = Duration::from_millis(100);

impl Lake {
    /// Creates a table.
    ///
    /// The rows are written below the table's folder, synced, and committed as version 1; then the name
    /// is entered in the catalogue. A crash before the commit leaves files that nobody sees; a crash
    /// after it leaves a table that is adopted when its name is asked for.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, unless by a write with the same write id.
    pub async fn create_table(
        &self,
        id: &TableId,
        sent: SchemaRef,
        batches: BatchStream,
        options: WriteOptions,
    ) -> Result<CommitReceipt> {
        self.create_noted(id, sent, batches, options, HashMap::new()).await
    }

    /// The same with properties of the transaction that makes it.
    #[boxed]
    pub(crate) async fn create_noted(
        &self,
        id: &TableId,
        sent: SchemaRef,
        batches: BatchStream,
        options: WriteOptions,
        mut properties: HashMap<String, String>,
    ) -> Result<CommitReceipt> {
        if let Some(receipt) = self.existing(id, &options).await? {
            return Ok(receipt);
        }
        let shared = &self.shared;
        let stored = new_table_schema(&sent, &shared.limits)?;
        let claims = shared.write_claims();
        let blobs = BlobWriter::new(shared.clone(), Arc::clone(&claims));
        let conform = Arc::new(Conform::new(&stored, &sent, false, &shared.limits, blobs)?);
        let location = self.free_location(id).await?;
        let inside = self.creators.enter(&location);
        let uri = shared.root.uri_of(&location);

        let counted = Arc::new(Counted::default());
        let source = conformed(conform, batches, counted.clone());
        let mut params = write_params(shared, WriteMode::Create);
        if has_blob_column(&stored) {
            params.initial_bases = Some(vec![blob_base(shared, BLOB_BASE_ID)]);
        }
        let insert = InsertBuilder::new(uri.as_str()).with_params(&params);
        let written = Box::pin(insert.execute_uncommitted_stream(source)).await;
        let mut transaction = match written.map_err(write_error) {
            Ok(transaction) => transaction,
            // Lance looks for itself before it writes anything.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let answer = self.lost(id, &options).await;
                self.leave(id, &location, inside).await?;
                return answer;
            }
            Err(error) => return Err(error),
        };

        let record = counted.record(&options, shared.clock.now_ms());
        if let Some(write_id) = &options.write_id {
            properties.extend(to_properties(&[(write_id.clone(), record)])?);
        }
        if !properties.is_empty() {
            transaction.transaction_properties = Some(Arc::new(properties));
        }
        let base = shared.root.path(&location);
        if let Some(folder) = shared.root.folder_of(&base)? {
            let root = shared.root.local().unwrap_or(&folder);
            sync_transaction(&transaction, &folder, root).await?;
        }
        let fragments = match &transaction.operation {
            Operation::Overwrite { fragments, .. } => fragments.clone(),
            _ => Vec::new(),
        };
        let store_params = shared.root.store_params();
        let session = shared.root.session().clone();
        let commit = async move {
            CommitBuilder::new(uri.as_str())
                .use_stable_row_ids(true)
                .enable_v2_manifest_paths(true)
                .with_storage_format(LanceFileVersion::V2_2)
                .with_commit_handler(Arc::new(DurableCommitHandler::default()))
                .with_store_params(store_params)
                .with_session(session)
                // Another create of the same name may be first; its table must not become our second
                // version.
                .with_max_retries(0)
                .with_skip_auto_cleanup(true)
                .execute(transaction)
                .await
        };
        claims.may_commit();
        // A task of its own, so that a caller that goes away cannot cut the commit in half.
        let committed = tokio::spawn(commit)
            .await
            .map_err(|error| Error::internal("the commit task failed").with_source(error))?
            .map_err(write_error);
        claims.end(&committed);
        if let Err(error) = committed {
            // With no retries lance looks for our read version, 0, in the other one's table.
            if matches!(
                error.kind(),
                ErrorKind::Conflict | ErrorKind::AlreadyExists | ErrorKind::NotFound
            ) {
                discard(shared, &base, &fragments).await?;
                let answer = self.lost(id, &options).await;
                self.leave(id, &location, inside).await?;
                return answer;
            }
            return Err(error);
        }
        sync_versions(shared, &base).await?;
        match self.register(id, &location).await {
            Ok(_) => {}
            // Somebody asked for the name between commit and here, and adopted what we made.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let entry = self.catalog.get(id).await?;
                if entry.is_none_or(|entry| entry.location != location) {
                    self.leave(id, &location, inside).await?;
                    return self.lost(id, &options).await;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(counted.receipt(1))
    }

    /// Leaves a folder after a create that lost. A table that nobody named is deleted if the name went to
    /// another folder: left there, it would be adopted once the name is free again.
    async fn leave(&self, id: &TableId, location: &str, inside: Inside) -> Result<()> {
        drop(inside);
        let is_elsewhere =
            self.catalog.get(id).await?.is_some_and(|entry| entry.location != location);
        if is_elsewhere
            && !self.creators.are_in(location)
            && !self.catalog.is_taken_anywhere(location).await?
        {
            self.delete_below(location).await?;
        }
        Ok(())
    }

    /// What a create answers that another one was faster than: its receipt if it was the same write.
    async fn lost(&self, id: &TableId, options: &WriteOptions) -> Result<CommitReceipt> {
        if options.write_id.is_none() {
            return Err(taken(id));
        }
        // The other one is committed and may not be named yet.
        for _ in 0..NAMED_LOOKS_MAX {
            if let Some(receipt) = self.existing(id, options).await? {
                return Ok(receipt);
            }
            tokio::time::sleep(NAMED_WAIT).await;
        }
        let message = format!("table `{}` is being created by another write", id.text());
        Err(Error::new(ErrorKind::Conflict, message).with_retry_after_ms(500))
    }

    /// Nothing when the name is free, the first receipt when the same write made the table.
    async fn existing(
        &self,
        id: &TableId,
        options: &WriteOptions,
    ) -> Result<Option<CommitReceipt>> {
        let Some(table) = self.find_table(id).await? else {
            // Its name would be refused only after the rows were written.
            return match self.find_view(id).await? {
                Some(_) => Err(taken(id)),
                None => Ok(None),
            };
        };
        let Some(write_id) = &options.write_id else { return Err(taken(id)) };
        let ids = table.branch(None).await?.write_ids().await?;
        let now_ms = self.shared.clock.now_ms();
        let begun =
            ids.begin_in_turn(write_id, &options.mode, &options.schema_digest, now_ms).await?;
        match begun {
            Begun::Known(known) => Ok(Some(CommitReceipt::of_known(known))),
            Begun::Fresh(_) => Err(taken(id)),
        }
    }
}

fn taken(id: &TableId) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("table `{}` already exists", id.text()))
}
