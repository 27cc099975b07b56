//! How long a ticket may be used: an hour from when it was made, and from each use again.
//!
//! A ticket carries its own first expiry, so one that was never used needs no memory here, and one that
//! outlives a restart still counts from when it was made. Renewals are remembered in memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::ReadPart;

/// Renewals kept at most; the ones that end first are forgotten first.
const RENEWALS_MAX: usize = 100_000;

/// When tickets that were used expire.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<HashMap<String, i64>>);

impl Tickets {
    /// Renews a ticket that is used at `now_ms`; says until when, or nothing when it has expired.
    pub(crate) fn renew(&self, part: &ReadPart, now_ms: i64, ttl_ms: i64) -> Option<i64> {
        // All parts of a plan share its fate.
        self.renew_key(part.plan_key(), part.expires_at_ms(), now_ms, ttl_ms)
    }

    /// [`Tickets::renew`] for what was planned under `key` and expires at first at `expires_at_ms`.
    pub(crate) fn renew_key(
        &self,
        key: String,
        expires_at_ms: i64,
        now_ms: i64,
        ttl_ms: i64,
    ) -> Option<i64> {
        let mut renewed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until_ms = expires_at_ms.max(renewed.get(&key).copied().unwrap_or(i64::MIN));
        if until_ms <= now_ms {
            return None;
        }
        if renewed.len() >= RENEWALS_MAX {
            renewed.retain(|_, until_ms| *until_ms > now_ms);
            if renewed.len() >= RENEWALS_MAX
                && let Some(oldest) = renewed.iter().min_by_key(|(_, until)| **until)
            {
                let oldest = oldest.0.clone();
                renewed.remove(&oldest);
            }
        }
        // No ticket outlives its making by more than its use; a forged expiry far ahead is cut down.
        let until_ms = now_ms.saturating_add(ttl_ms);
        renewed.insert(key, until_ms);
        Some(until_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_renews_and_silence_expires() {
        let tickets = Tickets::default();
        let part = ReadPart::for_test(7, 1_000);
        assert_eq!(tickets.renew(&part, 900, 1_000), Some(1_900));
        assert_eq!(tickets.renew(&part, 1_800, 1_000), Some(2_800));
        assert_eq!(tickets.renew(&part, 2_800, 1_000), None);
        let other = ReadPart::for_test(8, 1_000);
        assert_eq!(tickets.renew(&other, 1_000, 1_000), None);
    }
}
