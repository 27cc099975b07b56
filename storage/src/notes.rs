//! Rows that the lake writes about itself into a table like any other, made at the first of them.

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_recursion::async_recursion as boxed;
use futures::StreamExt as _;
use lakebed_core::{ErrorKind, Result, TableId};

use crate::lake::Lake;
use crate::scan::BatchStream;
use crate::schema::schema_digest;
use crate::write::WriteOptions;

impl Lake {
    /// Appends batches of one schema to a table, which is made if it is missing. With a write id they are
    /// there once, however often they are noted.
    ///
    /// # Errors
    /// Those of writing; a table of that name with other columns is left alone, and a log line says so.
    #[boxed]
    pub async fn note_rows(
        &self,
        id: &TableId,
        batches: Vec<RecordBatch>,
        write_id: Option<String>,
    ) -> Result<()> {
        let Some(first) = batches.first() else { return Ok(()) };
        let schema = first.schema();
        let stream = || -> BatchStream {
            futures::stream::iter(batches.clone().into_iter().map(Ok)).boxed()
        };
        let options = |mode: &str| WriteOptions {
            write_id: write_id.clone(),
            mode: mode.to_owned(),
            schema_digest: schema_digest(&schema),
        };
        if self.find_table(id).await?.is_none() {
            let created =
                self.create_table(id, Arc::clone(&schema), stream(), options("create:")).await;
            match created {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => return created.map(|_| ()),
            }
        }
        let table = self.insist(&self.table(id).await?).await?;
        match table.append(None, Arc::clone(&schema), stream(), options("append:")).await {
            // What made the table has the id already.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                let error = error.report();
                tracing::warn!(%error, "table `{}` takes no notes of the server", id.text());
                Ok(())
            }
            appended => appended.map(|_| ()),
        }
    }
}
