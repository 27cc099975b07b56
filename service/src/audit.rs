//! The audit log: one line for each change, kept in the lake.
//!
//! A verb that changes something records one line, whether it succeeded, failed or was denied. Lines go at once to
//! the log (target `lakebed::audit`) and are collected in memory; a task writes them as one object
//! `_lakebed/audit/<date>/<time>-<uuid>.jsonl` at most a second later, and once more at shutdown. A
//! killed process can lose the lines of its last second from the lake, never the writes themselves.
//!
//! What always holds: at most [`PENDING_BYTES_MAX`] wait in memory. While the store refuses, newer
//! lines are counted instead of kept, and the next object that is written says how many are
//! missing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use lakebed_core::{Clock, RequestContext, Result, Role};
use lakebed_storage::SystemStore;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Service;
use crate::authenticate::require;
use crate::catalogue::Changes;

const PENDING_BYTES_MAX: usize = 8 << 20;
const FLUSH_BYTES: usize = 1 << 20;
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// One change, as it is written to the log. No row contents and no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AuditLine {
    /// The request that asked for it.
    pub(crate) request_id: String,
    /// The public part of the key that asked for it.
    pub(crate) key_id: String,
    /// What was asked for: the verb's name.
    pub(crate) verb: &'static str,
    /// The table as `database/ns$name`, where the verb has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<String>,
    /// What the verb was applied to besides the table: a tag, a key, an upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    /// The version that was committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u64>,
    /// Rows that were written or deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rows: Option<u64>,
    /// Bytes that were written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    /// `ok`, or the name of the error's kind.
    pub(crate) outcome: &'static str,
}

impl Service {
    /// Checks that the caller may do `verb`, which changes something; a denial has its line.
    ///
    /// # Errors
    /// `Denied` naming both roles.
    pub(crate) fn permit(
        &self,
        ctx: &RequestContext,
        needed: Role,
        verb: &'static str,
        table: Option<&str>,
    ) -> Result<()> {
        let outcome = require(ctx, needed);
        if outcome.is_err() {
            let mut line = AuditLine::new(ctx, verb).outcome(&outcome);
            line.table = table.map(str::to_owned);
            self.audit.record(line);
        }
        outcome
    }
}

impl AuditLine {
    /// The line of `verb` as `ctx` asked for it, without table and numbers yet.
    pub(crate) fn new(ctx: &RequestContext, verb: &'static str) -> Self {
        AuditLine {
            request_id: ctx.request_id.clone(),
            key_id: ctx.principal.key_id.clone(),
            verb,
            table: None,
            subject: None,
            version: None,
            rows: None,
            bytes: None,
            outcome: "ok",
        }
    }

    /// Sets the outcome from the verb's result.
    pub(crate) fn outcome<T>(mut self, result: &Result<T>) -> Self {
        self.outcome = match result {
            Ok(_) => "ok",
            Err(error) => error.kind().name(),
        };
        self
    }
}

/// The audit log of one lake.
#[derive(Debug)]
pub(crate) struct AuditLog {
    shared: Arc<Shared>,
    /// Who has to know what changed.
    changes: Arc<Changes>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    system: SystemStore,
    clock: Arc<dyn Clock>,
    pending: Mutex<Pending>,
    /// Told when enough waits to be worth an object before the second is over.
    full: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    lines: Vec<u8>,
    dropped: u64,
}

impl AuditLog {
    /// Starts the log and the task that writes it. Needs a tokio runtime.
    pub(crate) fn start(system: SystemStore, clock: Arc<dyn Clock>, changes: Arc<Changes>) -> Self {
        let shared =
            Arc::new(Shared { system, clock, pending: Mutex::default(), full: Notify::new() });
        let stop = CancellationToken::new();
        let task = tokio::spawn(flush_until(Arc::clone(&shared), stop.clone()));
        AuditLog { shared, changes, stop, task: Mutex::new(Some(task)) }
    }

    /// Records a line. Never waits.
    pub(crate) fn record(&self, line: AuditLine) {
        tracing::info!(
            target: "lakebed::audit",
            request_id = line.request_id,
            key_id = line.key_id,
            verb = line.verb,
            table = line.table,
            subject = line.subject,
            version = line.version,
            rows = line.rows,
            bytes = line.bytes,
            outcome = line.outcome,
        );
        self.shared.push(&line);
        self.changes.note(&line);
    }

    /// Writes what waits and ends the task, at the latest at `deadline`. May be called twice.
    pub(crate) async fn stop(&self, deadline: Instant) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
            task.abort();
            tracing::error!("the audit log was not written out before the deadline");
        }
    }
}

async fn flush_until(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(FLUSH_INTERVAL) => {}
            () = shared.full.notified() => {}
        }
        if shared.flush().await.is_err() {
            // The error was logged by `flush`. Waiting keeps a store that is down from being asked
            // in a tight loop by `full`.
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(FLUSH_INTERVAL) => {}
            }
        }
    }
    // Lines that came between the last tick and the end; a failure was logged and nobody is left to
    // try again.
    let _ = shared.flush().await;
}

impl Shared {
    fn push(&self, line: &AuditLine) {
        #[derive(Serialize)]
        struct Timed<'a> {
            time: String,
            #[serde(flatten)]
            line: &'a AuditLine,
        }
        let timed = Timed { time: rfc3339(self.clock.now_ms()), line };
        let Ok(mut text) = serde_json::to_vec(&timed) else {
            // Strings and numbers always serialise; the arm is there because the signature asks.
            return;
        };
        text.push(b'\n');
        let mut pending = self.lock();
        if pending.lines.len() + text.len() > PENDING_BYTES_MAX {
            pending.dropped += 1;
            metrics::counter!("lakebed_audit_lines_dropped_total").increment(1);
            return;
        }
        pending.lines.extend_from_slice(&text);
        if pending.lines.len() >= FLUSH_BYTES {
            self.full.notify_one();
        }
    }

    /// Writes what waits as one object; on failure everything waits on.
    async fn flush(&self) -> Result<()> {
        let taken = std::mem::take(&mut *self.lock());
        let Pending { mut lines, dropped } = taken;
        if lines.is_empty() && dropped == 0 {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let kept = lines.len();
        if dropped > 0 {
            let note =
                serde_json::json!({ "time": rfc3339(now_ms), "verb": "audit", "dropped": dropped });
            lines.extend_from_slice(note.to_string().as_bytes());
            lines.push(b'\n');
        }
        let lines = Bytes::from(lines);
        let Err(error) = self.system.put(&object_path(now_ms), lines.clone()).await else {
            return Ok(());
        };
        tracing::error!(error = error.report(), bytes = kept, "the audit log cannot be written");
        let mut pending = self.lock();
        let newer = std::mem::replace(&mut pending.lines, lines[..kept].to_vec());
        pending.dropped += dropped;
        for line in newer.split_inclusive(|byte| *byte == b'\n') {
            if pending.lines.len() + line.len() > PENDING_BYTES_MAX {
                pending.dropped += 1;
                metrics::counter!("lakebed_audit_lines_dropped_total").increment(1);
            } else {
                pending.lines.extend_from_slice(line);
            }
        }
        Err(error)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        // A panic while the lock was held can at worst have cut one line.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn time(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// A moment in milliseconds since the Unix epoch, as RFC 3339 writes it.
pub(crate) fn rfc3339(ms: i64) -> String {
    time(ms).to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn object_path(now_ms: i64) -> String {
    let now = time(now_ms);
    let (day, start) = (now.format("%Y-%m-%d"), now.format("%H%M%S%3f"));
    format!("audit/{day}/{start}-{}.jsonl", Uuid::now_v7().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_sort_by_time_within_their_day() {
        let early = object_path(1_767_225_600_001);
        let late = object_path(1_767_225_600_002);
        assert!(early.starts_with("audit/2026-01-01/000000001-"), "{early}");
        assert!(early.ends_with(".jsonl") && early < late);
    }
}
