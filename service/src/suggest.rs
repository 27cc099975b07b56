//! The words that were meant.
//!
//! The words of a column are read once and kept for the next question, of a few columns: those of an index
//! until the index changes, those of a sample until the table does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use lakebed_core::{Error, RequestContext, Result, Role};
use lakebed_index::Dictionary;
use lakebed_proto::search::SearchRequest;
use lakebed_proto::text_help::Suggestions;
use lakebed_storage::Snapshot;

use crate::Service;
use crate::authenticate::require;
use crate::read::READ_BYTES;

/// Columns whose words are kept.
const KEPT: usize = 4;

/// The words of the columns that were asked about last, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct Dictionaries {
    kept: Mutex<VecDeque<(Key, Arc<Dictionary>)>>,
}

/// What the words are of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    table: String,
    branch: Option<String>,
    column: String,
    /// The parts of the index, or the version where there is none.
    state: (Vec<uuid::Uuid>, Option<u64>),
}

impl Dictionaries {
    async fn of(&self, snapshot: &Snapshot, column: &str) -> Result<Arc<Dictionary>> {
        let parts = snapshot.text_index_state(column).await?;
        let version = parts.is_empty().then(|| snapshot.version());
        let key = Key {
            table: snapshot.table().location().to_owned(),
            branch: snapshot.branch().map(str::to_owned),
            column: column.to_owned(),
            state: (parts, version),
        };
        if let Some(found) = self.kept(&key) {
            return Ok(found);
        }
        let read = Arc::new(Dictionary::read(snapshot, column).await?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // An older state of the same column is of no use any more.
        kept.retain(|(other, _)| other.table != key.table || other.column != key.column);
        while kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((key, Arc::clone(&read)));
        Ok(read)
    }

    fn kept(&self, key: &Key) -> Option<Arc<Dictionary>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(other, _)| other == key)?;
        let found = kept.remove(place)?;
        let dictionary = Arc::clone(&found.1);
        kept.push_back(found);
        Some(dictionary)
    }
}

impl Service {
    /// The words of a text that no row of a column has, with the nearest that some have; `column` may be left
    /// out where one column alone has a text index.
    ///
    /// # Errors
    /// `NotFound` naming table or column, `InvalidArgument` for a column that holds no texts, where the column
    /// has to be named, and for what passes a bound.
    pub async fn suggest(
        &self,
        ctx: &RequestContext,
        at: &SearchRequest,
        column: Option<&str>,
        text: &str,
        limit: Option<u32>,
    ) -> Result<Suggestions> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let _running = self.admission.admit_request().await?;
        let _memory = self.admission.read_bytes(READ_BYTES).await?;
        let snapshot = self.searched(ctx, at).await?;
        let column = match column {
            Some(column) => column.to_owned(),
            None => only_text_column(&snapshot).await?,
        };
        let dictionary = self.dictionaries.of(&snapshot, &column).await?;
        let asked = text.to_owned();
        let found = tokio::task::spawn_blocking(move || dictionary.suggest(&asked, limit)).await;
        let found = found.map_err(|error| Error::internal("look for words").with_source(error))?;
        let (words, corrected) = found?;
        let (version, text) = (snapshot.version(), text.to_owned());
        Ok(Suggestions { version, column, text, corrected, words })
    }
}

async fn only_text_column(snapshot: &Snapshot) -> Result<String> {
    let mut columns = snapshot.text_columns().await?;
    match columns.len() {
        1 => Ok(columns.remove(0)),
        0 => Err(Error::invalid("`column` is missing, and no column has a text index")),
        _ => Err(Error::invalid(format!(
            "`column` is missing, and several have a text index: `{}`",
            columns.join("`, `")
        ))),
    }
}
