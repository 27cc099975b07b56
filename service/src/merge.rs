//! Merge: update the rows whose key is there, insert the others, delete those that were not sent, each
//! as far as the rule says so.

use arrow_schema::SchemaRef;
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role, TableId};
use lakebed_storage::{MergeOutcome, MergeRule, Prepared, WriteOptions, schema_digest};

use crate::audit::AuditLine;
use crate::{BatchStream, Service};

/// A merge to be done.
#[derive(Debug, Clone)]
pub struct Merge {
    /// The branch; main when absent.
    pub branch: Option<String>,
    /// The key columns.
    pub on: Vec<String>,
    /// What happens to which rows.
    pub rule: MergeRule,
    /// Until when the rows have to be there; what is committed by then stays.
    pub deadline: Option<tokio::time::Instant>,
}

impl Service {
    /// Merges batches into a table, in one version; commits only when `batches` ends without `Err`.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or key column; `InvalidArgument` for a null key, a key that is
    /// given twice, or rows that do not fit; `DeadlineExceeded`; the error of `batches` itself. Nothing
    /// was written then.
    pub async fn merge(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        merge: Merge,
        schema: SchemaRef,
        batches: BatchStream,
    ) -> Result<MergeOutcome> {
        self.permit(ctx, Role::Write, "merge", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.merge_admitted(ctx, table, &merge, schema, batches).await;
        let mut line = AuditLine::new(ctx, "merge").outcome(&outcome);
        line.table = Some(table.to_string());
        if let Ok(outcome) = &outcome {
            line.version = Some(outcome.receipt.version);
            line.rows = Some(outcome.receipt.rows);
            line.bytes = Some(outcome.receipt.bytes);
            metrics::counter!("lakebed_written_rows_total", "mode" => "merge")
                .increment(outcome.receipt.rows);
            metrics::counter!("lakebed_written_bytes_total", "mode" => "merge")
                .increment(outcome.receipt.bytes);
        }
        self.audit.record(line);
        outcome
    }

    async fn merge_admitted(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        merge: &Merge,
        schema: SchemaRef,
        batches: BatchStream,
    ) -> Result<MergeOutcome> {
        if merge.on.is_empty() {
            return Err(Error::invalid("a merge needs its key columns in `on`"));
        }
        let _request = self.admission.admit_request().await?;
        let handle = self.fresh_table(ctx, table, merge.branch.as_deref()).await?;
        let options = WriteOptions {
            write_id: None,
            mode: format!("merge:{}", merge.on.join(",")),
            schema_digest: schema_digest(&schema),
        };
        let branch = merge.branch.as_deref();
        let rule = merge.rule.clone();
        let prepared = handle.prepare_upsert(branch, &merge.on, rule, schema, batches, options);
        let prepared = match merge.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, prepared)
                .await
                .unwrap_or_else(|_| Err(too_late()))?,
            None => prepared.await?,
        };
        match prepared {
            // Only a write id makes a repeat, and a merge has none.
            Prepared::Repeat(_) => Err(Error::internal("a merge without write id was a repeat")),
            Prepared::Ready(upsert) => {
                // Rows that came at once are not seen by the timer.
                let now = tokio::time::Instant::now();
                if merge.deadline.is_some_and(|deadline| deadline <= now) {
                    return Err(too_late());
                }
                if upsert.wants_key_index() {
                    lakebed_index::ensure_key_index(&handle, branch, &merge.on).await?;
                }
                upsert.commit().await
            }
        }
    }
}

fn too_late() -> Error {
    Error::new(
        ErrorKind::DeadlineExceeded,
        "merge insert timed out: the rows did not arrive within the time of the request; nothing was \
         written",
    )
}
