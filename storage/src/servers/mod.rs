//! The servers of one lake on an object store: who is there, and which of them leads a table.
//!
//! ```text
//!   join ─► beat ─► beat ─► beat …            _lakebed/servers/<id>.json, one for each server
//!             └──── sees the beats of the others: who is silent for the time to live is gone
//!
//!   lead(table) ─► nobody, or one who is gone, has the lease ─► next term, put-if-absent ─► here
//!               └► somebody who is there has it ─► there: the request is forwarded
//! ```
//!
//! A local lake is held by one process and has none of this.
//!
//! What always holds:
//! - The term of a table rises by one with each lease, and each term has one server: leases are put where
//!   nothing is.
//! - Whether another is gone is judged by one's own clock, from when its beat was last seen to change;
//!   clocks of servers are never compared. A judgement may be wrong, of a server that was paused say, and
//!   nothing that matters rests on it: what a server of an earlier term still commits is refused by the
//!   fence in the table's own history, see `fence.rs`.

mod dooms;
mod fence;
mod lease;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_recursion::async_recursion as boxed;
use lakebed_core::{Clock, Result};
use sha2::{Digest as _, Sha256};

pub(crate) use self::dooms::DoomNote;
use self::dooms::{Answer, Dooms};
pub(crate) use self::fence::{Term, begin_term, lost};
pub(crate) use self::lease::Known;
pub use self::lease::Leader;
pub use self::record::ServerAddresses;
use self::record::{ServerRecord, record_path};
use crate::blob::hex;
use crate::pins::Pins;
use crate::system::SystemStore;

/// Beats within the time to live: two may be lost and a server is still there.
const BEATS_A_LIFE: u32 = 4;
/// A server that was silent for so many times its time to live left nothing worth its record.
const FORGOTTEN_AFTER: u32 = 120;

/// A random text that only its server knows.
struct Secret(String);

impl Secret {
    fn new() -> Secret {
        let half = || uuid::Uuid::new_v4().simple().to_string();
        Secret(half() + &half())
    }

    fn digest(&self) -> String {
        hex(&Sha256::digest(self.0.as_bytes()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What is known of another server.
#[derive(Debug, Clone)]
struct Seen {
    record: ServerRecord,
    /// When its beat was last seen to change.
    changed: Instant,
}

/// The servers of a lake, as one of them sees them.
#[derive(Debug)]
pub struct Servers {
    system: SystemStore,
    me: ServerAddresses,
    /// What this server shows to the others; it is in no store and no log.
    secret: Secret,
    /// How long a server may be silent before it counts as gone.
    ttl: Duration,
    others: Mutex<HashMap<String, Seen>>,
    /// The number of the last beat, and when it was over.
    beat: Mutex<(u64, Instant)>,
    /// Held while this server's record is written, so that an older one never replaces a newer one.
    beating: tokio::sync::Mutex<()>,
    /// What this server is about to delete.
    dooms: Mutex<Dooms>,
    /// What it says to the dooms of the others.
    answers: Mutex<BTreeMap<String, Answer>>,
    pins: Pins,
    clock: Arc<dyn Clock>,
    /// One lock for each table, so that a lease is asked for once at a time.
    leases: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Known>>>>>,
}

impl Servers {
    /// Joins the servers of a lake. A record with the same HTTP address is that of an earlier process
    /// which is gone: its port could not be ours otherwise.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub(crate) async fn join(
        system: SystemStore,
        http: String,
        flight: String,
        ttl: Duration,
        pins: Pins,
        clock: Arc<dyn Clock>,
    ) -> Result<Servers> {
        let me = ServerAddresses { id: uuid::Uuid::now_v7().simple().to_string(), http, flight };
        let servers = Servers {
            system,
            me,
            secret: Secret::new(),
            ttl,
            others: Mutex::default(),
            beat: Mutex::new((0, Instant::now())),
            beating: tokio::sync::Mutex::default(),
            dooms: Mutex::default(),
            answers: Mutex::default(),
            pins,
            clock,
            leases: Mutex::default(),
        };
        servers.beat().await?;
        let before: Vec<String> = servers
            .lock_others()
            .values()
            .filter(|seen| seen.record.at.http == servers.me.http)
            .map(|seen| seen.record.at.id.clone())
            .collect();
        for id in before {
            servers.system.delete(&record_path(&id)).await?;
            servers.lock_others().remove(&id);
        }
        Ok(servers)
    }

    fn lock_others(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_dooms(&self) -> MutexGuard<'_, Dooms> {
        self.dooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_answers(&self) -> MutexGuard<'_, BTreeMap<String, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This server.
    pub fn me(&self) -> &ServerAddresses {
        &self.me
    }

    /// Time between two beats.
    pub fn interval(&self) -> Duration {
        self.ttl / BEATS_A_LIFE
    }

    /// The other servers that are there, sorted by their ids.
    pub fn others(&self) -> Vec<ServerAddresses> {
        let others = self.lock_others();
        let mut there: Vec<ServerAddresses> = others
            .values()
            .filter(|seen| seen.changed.elapsed() <= self.ttl)
            .map(|seen| seen.record.at.clone())
            .collect();
        there.sort_by(|a, b| a.id.cmp(&b.id));
        there
    }

    /// Whether a server is there, as far as is known.
    pub fn is_there(&self, id: &str) -> bool {
        id == self.me.id
            || self.lock_others().get(id).is_some_and(|seen| seen.changed.elapsed() <= self.ttl)
    }

    /// What this server shows to the others to be believed.
    pub fn credentials(&self) -> String {
        format!("{}:{}", self.me.id, self.secret.0)
    }

    /// Whether a server that is there shows its secret.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn knows(&self, id: &str, secret: &str) -> Result<bool> {
        if !self.meet(id).await? {
            return Ok(false);
        }
        let digest = Secret(secret.to_owned()).digest();
        let others = self.lock_others();
        Ok(others.get(id).is_some_and(|seen| seen.record.secret_sha256 == digest))
    }

    /// Says that this server is there, and looks who else is.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn beat(&self) -> Result<()> {
        self.write_record().await?;
        self.look().await?;
        if self.heed() {
            // Whoever is about to delete waits for the answer.
            self.write_record().await?;
        }
        Ok(())
    }

    async fn write_record(&self) -> Result<()> {
        let _one = self.beating.lock().await;
        let (number, last) = *self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        if number > 0 && last.elapsed() > self.ttl {
            // The others may have taken over meanwhile: leases are to be read again.
            self.forget_all();
        }
        let record = ServerRecord {
            at: self.me.clone(),
            beat: number + 1,
            secret_sha256: self.secret.digest(),
            dooms: self.lock_dooms().clone(),
            answers: self.lock_answers().clone(),
        };
        self.system.put(&record_path(&self.me.id), record.encode()?).await?;
        *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = (number + 1, Instant::now());
        Ok(())
    }

    /// Leaves: the others need not wait until this server counts as gone.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn leave(&self) -> Result<()> {
        self.system.delete(&record_path(&self.me.id)).await
    }

    async fn look(&self) -> Result<()> {
        let mut listed = Vec::new();
        for object in self.system.list("servers").await? {
            let Some(bytes) = self.system.get(&object.path).await? else { continue };
            let record = ServerRecord::decode(&object.path, &bytes)?;
            if record.at.id != self.me.id {
                listed.push(record);
            }
        }
        let forgotten = self.note(listed);
        for id in forgotten {
            self.system.delete(&record_path(&id)).await?;
        }
        Ok(())
    }

    /// Takes in the records of all others; the ids of those whose records are to be deleted.
    fn note(&self, listed: Vec<ServerRecord>) -> Vec<String> {
        let mut others = self.lock_others();
        others.retain(|id, _| listed.iter().any(|record| record.at.id == *id));
        let mut forgotten = Vec::new();
        for record in listed {
            match others.get_mut(&record.at.id) {
                Some(seen) if seen.record.beat == record.beat => {
                    if seen.changed.elapsed() > self.ttl * FORGOTTEN_AFTER {
                        forgotten.push(record.at.id);
                    }
                }
                _ => {
                    let seen = Seen { changed: Instant::now(), record };
                    others.insert(seen.record.at.id.clone(), seen);
                }
            }
        }
        forgotten
    }

    /// Looks whether a server that was not seen yet is there.
    async fn meet(&self, id: &str) -> Result<bool> {
        if self.is_there(id) {
            return Ok(true);
        }
        // Such an id names no other object of the lake.
        if self.lock_others().contains_key(id) || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(false);
        }
        let path = record_path(id);
        let Some(bytes) = self.system.get(&path).await? else { return Ok(false) };
        let record = ServerRecord::decode(&path, &bytes)?;
        let seen = Seen { changed: Instant::now(), record };
        self.lock_others().entry(id.to_owned()).or_insert(seen);
        Ok(true)
    }

    /// The addresses of a server that was seen.
    fn addresses(&self, id: &str) -> Option<ServerAddresses> {
        self.lock_others().get(id).map(|seen| seen.record.at.clone())
    }
}
