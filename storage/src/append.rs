//! Append rows to a table.

use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use lakebed_core::Result;
use lance::dataset::{InsertBuilder, WriteMode};

use crate::blob::BlobWriter;
use crate::pins::{Pin, PinnedVersion};
use crate::scan::BatchStream;
use crate::schema::Conform;
use crate::table::{Branch, Table};
use crate::write::{CommitReceipt, Counted, WriteOptions, conformed, write_error, write_params};
use crate::write_id::{Begun, Reservation};

/// What reserving a write id found.
pub(crate) enum Start {
    /// The same write was done before.
    Repeat(CommitReceipt),
    /// Go on, and keep this until the commit.
    Go(Hold),
}

/// What a write holds: its id, and the version that it builds on, so that the folder stays when the
/// table is dropped meanwhile.
#[derive(Debug)]
pub(crate) struct Hold {
    _reservation: Option<Reservation>,
    _pin: Pin,
}

impl Branch {
    /// Reserves the write id of a write, or finds the receipt of its first time.
    pub(crate) async fn start(&self, options: &WriteOptions) -> Result<Start> {
        let pin = self.shared.pins.pin(PinnedVersion {
            location: self.entry.location.clone(),
            branch: self.name.clone(),
            version: self.current().await.version().version,
        });
        let Some(write_id) = &options.write_id else {
            return Ok(Start::Go(Hold { _reservation: None, _pin: pin }));
        };
        let ids = self.write_ids().await?;
        ids.catch_up(&*self.latest().await?).await?;
        let now_ms = self.shared.clock.now_ms();
        let begun =
            ids.begin_in_turn(write_id, &options.mode, &options.schema_digest, now_ms).await?;
        Ok(match begun {
            Begun::Known(known) => Start::Repeat(CommitReceipt::of_known(known)),
            Begun::Fresh(reservation) => {
                Start::Go(Hold { _reservation: Some(reservation), _pin: pin })
            }
        })
    }
}

impl Table {
    /// Appends rows to a branch. They become visible together, in one version, or not at all.
    ///
    /// # Errors
    /// `InvalidArgument` naming column, row and type of what does not fit; the error of the stream.
    pub async fn append(
        &self,
        branch: Option<&str>,
        sent: SchemaRef,
        batches: BatchStream,
        options: WriteOptions,
    ) -> Result<CommitReceipt> {
        let branch = self.branch(branch).await?;
        let _reservation = match branch.start(&options).await? {
            Start::Repeat(receipt) => return Ok(receipt),
            Start::Go(reservation) => reservation,
        };
        let shared = &self.shared;
        let dataset = branch.latest().await?;
        let stored = Schema::from(dataset.schema());
        let blobs = BlobWriter::new(shared.clone());
        let conform = Arc::new(Conform::new(&stored, &sent, false, &shared.limits, blobs)?);

        let counted = Arc::new(Counted::default());
        let source = conformed(conform, batches, counted.clone());
        let params = write_params(shared, WriteMode::Append);
        let insert = InsertBuilder::new(dataset).with_params(&params);
        let transaction =
            Box::pin(insert.execute_uncommitted_stream(source)).await.map_err(write_error)?;
        let record = counted.record(&options, shared.clock.now_ms());
        let write = options.write_id.map(|id| (id, record));
        let version = branch.commit_append(transaction, write).await?;
        Ok(CommitReceipt {
            version,
            rows: counted.rows(),
            bytes: counted.bytes(),
            is_repeat: false,
        })
    }
}
