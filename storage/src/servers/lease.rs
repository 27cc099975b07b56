//! Leases: which server leads a table, and since which term.
//!
//! `_lakebed/leases/<table>/<term>.json` names the server of a term; the highest term is in force. Its
//! server keeps the lease for as long as it is there. Whoever finds nobody there takes the next term.

use std::sync::{Arc, PoisonError};

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{ServerAddresses, Servers};

/// Leases of a table that are kept beside the newest: somebody may be reading a listing.
const LEASES_KEPT: u64 = 4;
/// Servers that take a lease in the same moment.
const TRIES_MAX: usize = 16;

/// Where a table is led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    /// By this server, in this term.
    Here {
        /// The term of the lease.
        term: u64,
    },
    /// By another one.
    There(ServerAddresses),
}

/// The lease of a table as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    term: u64,
    server: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaseRecord {
    server: String,
}

fn folder_of(subject: &str) -> String {
    format!("leases/{subject}")
}

fn path_of(subject: &str, term: u64) -> String {
    format!("leases/{subject}/{term:020}.json")
}

impl Servers {
    fn slot(&self, subject: &str) -> Arc<tokio::sync::Mutex<Option<Known>>> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(leases.entry(subject.to_owned()).or_default())
    }

    /// Who leads `subject`, which is a table's uid or the name of a task of the lake. Takes the lease
    /// when nobody who is there has it. Asks the store only where nothing is known, or where the one who
    /// was known is gone.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn lead(&self, subject: &str) -> Result<Leader> {
        let slot = self.slot(subject);
        let mut known = slot.lock().await;
        if let Some(leader) = known.as_ref().and_then(|known| self.leader_of(known)) {
            return Ok(leader);
        }
        for _ in 0..TRIES_MAX {
            let stored = self.stored(subject).await?;
            if let Some(stored) = &stored
                && self.meet(&stored.server).await?
                && let Some(leader) = self.leader_of(stored)
            {
                *known = Some(stored.clone());
                return Ok(leader);
            }
            let term = stored.map_or(0, |stored| stored.term) + 1;
            if self.take(subject, term).await? {
                *known = Some(Known { term, server: self.me.id.clone() });
                tracing::info!(subject, term, "leads from now on");
                self.sweep(subject, term).await;
                return Ok(Leader::Here { term });
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "other servers take the lease again and again")
            .with_retry_after_ms(1_000))
    }

    /// Who leads, as long as it is there.
    fn leader_of(&self, known: &Known) -> Option<Leader> {
        if known.server == self.me.id {
            return Some(Leader::Here { term: known.term });
        }
        let is_there = self.is_there(&known.server);
        self.addresses(&known.server).filter(|_| is_there).map(Leader::There)
    }

    /// Whether the store still says that this server leads in that term.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub(crate) async fn still_leads(&self, subject: &str, term: u64) -> Result<bool> {
        let stored = self.stored(subject).await?;
        Ok(stored.is_some_and(|stored| stored.term == term && stored.server == self.me.id))
    }

    /// Gives the lease of a subject that this server leads to another one.
    ///
    /// # Errors
    /// `Conflict` when this server does not lead it, `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn give(&self, subject: &str, to: &str) -> Result<()> {
        let slot = self.slot(subject);
        let mut known = slot.lock().await;
        let Some(term) = known.as_ref().filter(|known| known.server == self.me.id) else {
            return Err(Error::new(ErrorKind::Conflict, "another server leads the table"));
        };
        let term = term.term + 1;
        let body = encode(&LeaseRecord { server: to.to_owned() })?;
        // Whatever the answer: who leads now is read again.
        *known = None;
        match self.system.create(&path_of(subject, term), body).await? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Conflict, "another server leads the table")),
        }
    }

    /// Leaves the lead of a subject to whoever is there, because this server cannot do what it has to. Nothing
    /// where it does not lead, or where nobody else is there.
    #[boxed]
    pub(crate) async fn give_up(&self, subject: &str) {
        let Some(other) = self.others().into_iter().next() else { return };
        match self.give(subject, &other.id).await {
            Ok(()) => tracing::warn!(subject, to = other.http, "the lead is given up"),
            Err(error) => {
                tracing::info!(subject, error = %error.report(), "the lead is not given up");
            }
        }
    }

    /// What is known of a lease is to be read again before it is believed.
    pub fn forget(&self, subject: &str) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.remove(subject);
    }

    /// The same for all leases.
    pub(super) fn forget_all(&self) {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn stored(&self, subject: &str) -> Result<Option<Known>> {
        loop {
            let Some(newest) = self.system.list(&folder_of(subject)).await?.pop() else {
                return Ok(None);
            };
            let term = term_of(&newest.path)?;
            // A newer one may have come, and this one been swept, in between.
            let Some(bytes) = self.system.get(&newest.path).await? else { continue };
            let record: LeaseRecord = serde_json::from_slice(&bytes)
                .map_err(|error| corrupt(&newest.path).with_source(error))?;
            return Ok(Some(Known { term, server: record.server }));
        }
    }

    /// Puts the lease of a term; false when another server was first.
    async fn take(&self, subject: &str, term: u64) -> Result<bool> {
        let body = encode(&LeaseRecord { server: self.me.id.clone() })?;
        let path = path_of(subject, term);
        match self.system.create(&path, body).await {
            Ok(true) => Ok(true),
            // A put that succeeded and was sent again meets itself.
            Ok(false) => Ok(self
                .stored(subject)
                .await?
                .is_some_and(|stored| stored.term == term && stored.server == self.me.id)),
            Err(error) => Err(error),
        }
    }

    async fn sweep(&self, subject: &str, term: u64) {
        if let Some(old) = term.checked_sub(LEASES_KEPT).filter(|old| *old > 0) {
            // One that stays behind is a few bytes.
            let _ = self.system.delete(&path_of(subject, old)).await;
        }
    }
}

fn encode(record: &LeaseRecord) -> Result<Bytes> {
    serde_json::to_vec(record)
        .map(Bytes::from)
        .map_err(|error| Error::internal("encode a lease").with_source(error))
}

fn term_of(path: &str) -> Result<u64> {
    path.rsplit('/')
        .next()
        .and_then(|file| file.strip_suffix(".json"))
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| corrupt(path))
}

fn corrupt(path: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the lease `{path}` is damaged"))
}
