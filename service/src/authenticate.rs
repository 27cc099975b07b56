//! Who asks: from the text of a key to a principal.
//!
//! Records are kept in memory for [`FRESH_MS`], so that not every request reads the store; a key
//! that is revoked through this process is forgotten at once, one that is revoked elsewhere is
//! refused within that time. What always holds: a text is compared by digest in constant time, and
//! the answer says why a key was refused only to a holder of its secret.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lakebed_core::{Error, ErrorKind, Principal, RequestContext, Result, Role};
use subtle::ConstantTimeEq;

use crate::Service;
use crate::keys::{self, ADMIN_KEY_ID, KeyRecord, SECRET_TEXT_BYTES_MAX};

const FRESH_MS: i64 = 5_000;
const CACHED_MAX: usize = 4_096;

/// Checks that the caller's role includes `needed`.
///
/// # Errors
/// `Denied` naming both roles.
pub(crate) fn require(ctx: &RequestContext, needed: Role) -> Result<()> {
    if ctx.principal.role.includes(needed) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Denied,
        format!(
            "API key `{}` has the role `{}`; this needs `{}`",
            ctx.principal.key_id,
            ctx.principal.role.name(),
            needed.name()
        ),
    ))
}

impl Service {
    /// The principal behind `secret`, the text of a bearer or `x-api-key` header; `None` when the
    /// request carries none. On a server that allows anonymous requests, what is not a valid key
    /// counts as none: some clients cannot be told to send nothing.
    ///
    /// # Errors
    /// `Unauthenticated` for no key or one that is unknown, expired or revoked; what the store says
    /// when the record cannot be read.
    pub async fn authenticate(&self, secret: Option<&str>) -> Result<Principal> {
        let result = match secret.filter(|secret| !secret.is_empty()) {
            Some(secret) => self.find_principal(secret).await,
            None => Err(unauthenticated(
                "no API key was given; send it as `authorization: Bearer KEY` or `x-api-key: KEY`",
            )),
        };
        match result {
            Err(error) if error.kind() == ErrorKind::Unauthenticated => {
                if self.allow_anonymous {
                    return Ok(Principal::anonymous());
                }
                metrics::counter!("lakebed_unauthenticated_requests_total").increment(1);
                Err(error)
            }
            other => other,
        }
    }

    async fn find_principal(&self, secret: &str) -> Result<Principal> {
        let unknown = || unauthenticated("the API key is not known");
        if secret.len() > SECRET_TEXT_BYTES_MAX {
            return Err(unknown());
        }
        let presented = keys::digest(secret);
        // The operator may have chosen a text of any form, so the admin record is tried last.
        for id in [keys::id_of(secret), Some(ADMIN_KEY_ID)].into_iter().flatten() {
            let Some(record) = self.key_record(id).await? else { continue };
            let Some(kept) = record.digest() else { continue };
            if !bool::from(kept.ct_eq(&presented)) {
                continue;
            }
            return self.admit_holder(&record);
        }
        Err(unknown())
    }

    fn admit_holder(&self, record: &KeyRecord) -> Result<Principal> {
        if record.revoked_at_ms.is_some() {
            return Err(unauthenticated(format!("API key `{}` was revoked", record.id)));
        }
        if record.expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= self.clock.now_ms()) {
            return Err(unauthenticated(format!("API key `{}` has expired", record.id)));
        }
        Ok(Principal { key_id: record.id.clone(), role: record.role()? })
    }

    async fn key_record(&self, id: &str) -> Result<Option<KeyRecord>> {
        let asked_ms = self.clock.now_ms();
        if let Some(known) = self.keys.get(id, asked_ms) {
            return Ok(known);
        }
        let generation = self.keys.generation();
        let record = keys::load(self.lake.system(), id).await?;
        self.keys.keep(id, record.clone(), asked_ms, generation);
        Ok(record)
    }
}

fn unauthenticated(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unauthenticated, message)
}

/// Records of keys that were read a moment ago, absent ones included.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    state: Mutex<CacheState>,
}

#[derive(Debug, Default)]
struct CacheState {
    entries: HashMap<String, (Option<KeyRecord>, i64)>,
    /// Counts what was forgotten, so that a read which began before a revocation is not kept after
    /// it.
    generation: u64,
}

impl KeyCache {
    fn lock(&self) -> std::sync::MutexGuard<'_, CacheState> {
        // Every change under the lock is one map operation, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &str, now_ms: i64) -> Option<Option<KeyRecord>> {
        let state = self.lock();
        let (record, read_ms) = state.entries.get(id)?;
        is_fresh(*read_ms, now_ms).then(|| record.clone())
    }

    fn generation(&self) -> u64 {
        self.lock().generation
    }

    fn keep(&self, id: &str, record: Option<KeyRecord>, read_ms: i64, generation: u64) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        if state.entries.len() >= CACHED_MAX {
            state.entries.retain(|_, (_, kept_ms)| is_fresh(*kept_ms, read_ms));
        }
        // Full of fresh entries means that somebody guesses ids: those must not push out the
        // others.
        if state.entries.len() < CACHED_MAX || state.entries.contains_key(id) {
            state.entries.insert(id.to_owned(), (record, read_ms));
        }
    }

    /// Forgets what is known of `id`.
    pub(crate) fn forget(&self, id: &str) {
        let mut state = self.lock();
        state.generation += 1;
        state.entries.remove(id);
    }
}

fn is_fresh(read_ms: i64, now_ms: i64) -> bool {
    // A clock that was set back must not keep an entry alive for longer.
    (0..FRESH_MS).contains(&now_ms.saturating_sub(read_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_age_also_when_the_clock_is_set_back() {
        let cache = KeyCache::default();
        cache.keep("a", None, 1_000, cache.generation());
        assert_eq!(cache.get("a", 1_000), Some(None));
        assert_eq!(cache.get("a", 1_000 + FRESH_MS), None);
        assert_eq!(cache.get("a", 999), None);
        assert_eq!(cache.get("b", 1_000), None);
    }

    #[test]
    fn a_read_that_began_before_a_revocation_is_not_kept() {
        let cache = KeyCache::default();
        let before = cache.generation();
        cache.forget("a");
        cache.keep("a", None, 1_000, before);
        assert_eq!(cache.get("a", 1_000), None);
    }

    #[test]
    fn guessed_ids_do_not_push_out_known_ones() {
        let cache = KeyCache::default();
        for guess in 0..CACHED_MAX + 10 {
            cache.keep(&format!("k{guess}"), None, 1_000, cache.generation());
        }
        assert_eq!(cache.lock().entries.len(), CACHED_MAX);
        assert!(cache.get("k0", 1_000).is_some());
        cache.keep("later", None, 1_000 + FRESH_MS, cache.generation());
        assert_eq!(cache.lock().entries.len(), 1);
    }
}
