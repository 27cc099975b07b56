//! The fence: nothing of an earlier term is committed once a later one has begun.
//!
//! Each manifest says in its table's configuration in which term it was committed. A server that begins
//! a term commits a version with the new number and nothing else, if an earlier term may have commits
//! under way. Versions are put where nothing is, so one of an earlier term is either there before, and
//! seen, or its number is taken and it has to be built on the new manifest, where it finds the higher
//! term and is refused.

use std::collections::HashMap;
use std::sync::Arc;

use lakebed_core::{Error, ErrorKind, Result};
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, Transaction, UpdateMap, UpdateMapEntry};
use lance_io::object_store::ObjectStore;
use lance_table::format::Manifest;
use lance_table::io::commit::{CommitError, CommitHandler as _, ConditionalPutCommitHandler};
use object_store::path::Path;

use crate::durable::DurableCommitHandler;
use crate::lance_error::{StreamError, from_lance};
use crate::table::Branch;

/// Where a table's configuration says in which term a version was committed.
const TERM_KEY: &str = "lakebed.term";

/// The term that commits are made in, of a table that is led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) number: u64,
    /// Whether the manifest that is written does not come from the one before it, as that of a restore.
    pub(crate) is_rebuilt: bool,
}

impl Term {
    /// Refuses a manifest that follows one of a later term, and marks it with this one.
    pub(crate) async fn check(
        self,
        manifest: &mut Manifest,
        base: &Path,
        store: &ObjectStore,
    ) -> Result<(), CommitError> {
        let found = match self.is_rebuilt {
            false => term_in(&manifest.config),
            true => {
                let before = ConditionalPutCommitHandler
                    .resolve_version_location(base, manifest.version - 1, &store.inner)
                    .await?;
                let before =
                    lance_table::io::manifest::read_manifest(store, &before.path, before.size)
                        .await?;
                term_in(&before.config)
            }
        };
        if found > self.number {
            let lost = StreamError::new(&lost());
            return Err(CommitError::OtherError(lance::Error::external(Box::new(lost))));
        }
        manifest.config.insert(TERM_KEY.to_owned(), self.number.to_string());
        manifest.writer_feature_flags |= lance_table::feature_flags::FLAG_TABLE_CONFIG;
        Ok(())
    }
}

/// Begins a term on a branch: from here on no version of an earlier term can come.
///
/// # Errors
/// `Unavailable` when another server has a later term, or when the store does not answer.
pub(crate) async fn begin_term(branch: &Branch, number: u64) -> Result<()> {
    let latest = Arc::new(branch.open_latest().await?);
    let found = term_in(&latest.manifest().config);
    branch.publish(Arc::clone(&latest)).await;
    if found > number {
        return Err(lost());
    }
    // Before the first term nobody led.
    if found == number || number == 1 {
        return Ok(());
    }
    let entry = UpdateMapEntry { key: TERM_KEY.to_owned(), value: Some(number.to_string()) };
    let update = UpdateMap { update_entries: vec![entry], replace: false };
    let operation = Operation::UpdateConfig {
        config_updates: Some(update),
        table_metadata_updates: None,
        schema_metadata_updates: None,
        field_metadata_updates: HashMap::new(),
    };
    let not_before_nanos =
        latest.manifest().timestamp_nanos.saturating_add(crate::commit::TIME_STEP_NANOS);
    let term = Some(Term { number, is_rebuilt: false });
    let handler =
        DurableCommitHandler { not_before_nanos, term, ..DurableCommitHandler::default() };
    let transaction = Transaction::new(latest.version().version, operation, None);
    let fenced = CommitBuilder::new(latest)
        .with_commit_handler(Arc::new(handler))
        .with_skip_auto_cleanup(true)
        .execute(transaction)
        .await
        .map_err(from_lance)?;
    branch.publish(Arc::new(fenced)).await;
    Ok(())
}

/// What is told where another server has a later term.
pub(crate) fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "another server leads the table by now; nothing was written")
        .with_retry_after_ms(100)
}

fn term_in(config: &HashMap<String, String>) -> u64 {
    config.get(TERM_KEY).and_then(|term| term.parse().ok()).unwrap_or(0)
}
