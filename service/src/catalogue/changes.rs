//! What changed and is to be read again.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::Service;
use crate::audit::AuditLine;
use crate::peers::peer_request;

/// Where a server is told what another one changed.
pub const PEER_CATALOGUE_PATH: &str = "/v1/peers/catalogue";
/// Tables that are remembered one by one; of more, all are read again.
const TABLES_MAX: usize = 10_000;
/// What telling another server may take.
const TELL_MAX: Duration = Duration::from_secs(2);
/// Verbs that change rows and nothing that is said of a table.
const OF_ROWS: [&str; 6] = ["append", "upsert", "update", "delete", "merge", "compact"];

/// What is to be read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// Tables, as `database/ns$name`.
    pub(super) tables: BTreeSet<String>,
    /// The names in all databases.
    pub(super) names: bool,
    /// The models.
    pub(super) models: bool,
    /// Everything.
    pub(super) all: bool,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        *self == Pending::default()
    }

    fn add(&mut self, other: Pending) {
        self.tables.extend(other.tables);
        self.names |= other.names;
        self.models |= other.models;
        self.all |= other.all;
        if self.tables.len() > TABLES_MAX {
            self.tables.clear();
            self.all = true;
        }
    }
}

/// What another server of the lake changed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerCatalogue {
    tables: BTreeSet<String>,
    models: bool,
    all: bool,
}

#[derive(Debug, Default)]
struct Noted {
    /// For this server.
    here: Pending,
    /// For the others of the lake.
    there: Pending,
}

/// What changed since it was asked for last.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    noted: Mutex<Noted>,
    told: Notify,
}

impl Changes {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the change behind an audit line may have changed. Never waits.
    pub(crate) fn note(&self, line: &AuditLine) {
        if OF_ROWS.contains(&line.verb) || line.verb.ends_with("_key") {
            return;
        }
        let change = Pending {
            tables: line.table.iter().cloned().collect(),
            names: true,
            models: line.verb.contains("model"),
            all: false,
        };
        let mut noted = self.lock();
        noted.here.add(change.clone());
        noted.there.add(change);
        drop(noted);
        self.told.notify_one();
    }

    pub(super) fn add(&self, change: Pending) {
        self.lock().here.add(change);
        self.told.notify_one();
    }

    /// Gives back what could not be read.
    pub(super) fn give_back(&self, change: Pending) {
        self.lock().here.add(change);
    }

    pub(super) fn take(&self) -> Pending {
        std::mem::take(&mut self.lock().here)
    }

    fn take_for_others(&self) -> Pending {
        std::mem::take(&mut self.lock().there)
    }

    /// Waits until something is noted.
    pub(super) async fn noted(&self) {
        self.told.notified().await;
    }
}

impl Service {
    /// Takes note of what another server of the lake changed.
    pub fn catalogue_changed(&self, changed: PeerCatalogue) {
        let PeerCatalogue { tables, models, all } = changed;
        self.catalogue.changes.add(Pending { tables, names: true, models, all });
    }

    /// Tells the other servers of the lake what was changed here. One that cannot be told sees it when it reads
    /// everything again.
    pub(super) async fn tell_changes(&self) {
        let change = self.catalogue.changes.take_for_others();
        let Some(servers) = self.lake.servers().filter(|_| !change.is_empty()) else { return };
        let Pending { tables, models, all, .. } = change;
        let told = PeerCatalogue { tables, models, all };
        let tell = servers.others().into_iter().map(|other| {
            let told = &told;
            async move {
                let request = peer_request(servers, PEER_CATALOGUE_PATH, told)?;
                self.send_once(&other, request).await.map(|_| ())
            }
        });
        let all = futures::future::join_all(tell);
        match tokio::time::timeout(TELL_MAX, all).await {
            Err(_) => tracing::info!("another server was not told of a change: it is slow"),
            Ok(answers) => {
                for error in answers.into_iter().filter_map(|answer| answer.err()) {
                    tracing::info!(error = %error.report(), "another server was not told of a change");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tables_become_all_of_them() {
        let changes = Changes::default();
        let tables = (0..=TABLES_MAX).map(|n| format!("default/t{n}")).collect();
        changes.add(Pending { tables, ..Pending::default() });
        let taken = changes.take();
        assert!(taken.all && taken.tables.is_empty());
        assert!(changes.take().is_empty());
    }
}
