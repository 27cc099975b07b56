//! The search over the catalogue: what there is, by its names, columns, tags, owners and descriptions.
//!
//! ```text
//!   audit line of a change ─► Changes ─┬─► pass: what changed is read again ─► index in memory ─► find
//!   another server's changes ──────────┤                 ▲
//!   folders looked at, from time to time ────────────────┘
//! ```
//!
//! The index is derived: it is built in the background when the server starts, and nothing depends on it. Each
//! server has its own and tells the others of the lake what it changed. What another tool changes is seen on a
//! local lake by the times of folders, and in a bucket when everything is read again.
//!
//! - `changes.rs`: what is to be read again.
//! - `pass.rs`: reading it, and taking it into the index.
//! - `documents.rs`: from what storage knows to things that can be found.
//! - `find.rs`: the verb.

mod changes;
mod documents;
mod find;
mod pass;

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use lakebed_core::{DatabaseName, Result};
use lakebed_index::catalogue::CatalogueIndex;

pub(crate) use changes::Changes;
pub use changes::{PEER_CATALOGUE_PATH, PeerCatalogue};
pub use find::FindThings;

/// Things that are kept: of a larger lake the rest is not found, and answers say so.
const THINGS_MAX: usize = 200_000;

/// The search over the catalogue of a lake.
#[derive(Debug)]
pub(crate) struct Catalogue {
    index: CatalogueIndex,
    changes: std::sync::Arc<Changes>,
    /// The databases that were read whole.
    whole: Mutex<HashSet<DatabaseName>>,
    /// Whether there was no room for all things.
    is_full: AtomicBool,
    /// Whether it was switched off.
    is_off: AtomicBool,
}

impl Catalogue {
    /// An empty one, which [`crate::Service::run_catalogue`] fills.
    ///
    /// # Errors
    /// `Internal` when its threads cannot be started.
    pub(crate) fn new(changes: std::sync::Arc<Changes>) -> Result<Catalogue> {
        Ok(Catalogue {
            index: CatalogueIndex::new(THINGS_MAX)?,
            changes,
            whole: Mutex::default(),
            is_full: AtomicBool::new(false),
            is_off: AtomicBool::new(false),
        })
    }

    fn is_whole(&self, database: &DatabaseName) -> bool {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).contains(database)
    }
}
