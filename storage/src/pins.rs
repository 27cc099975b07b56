//! Who still needs a version of a table.
//!
//! Two things keep a version: a reader that has it open (a [`Pin`], gone when dropped), and a lease that
//! was handed out with a ticket and runs until a time. Whatever deletes must ask here first. This state
//! belongs to one process; a lease is short (an hour by default) and far below the minimum age of
//! anything that is deleted by age, so a restart forgets nothing that matters, except for a dropped
//! table, whose folder then goes at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One version of one branch of the table in one folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PinnedVersion {
    pub(crate) location: String,
    pub(crate) branch: Option<String>,
    pub(crate) version: u64,
}

#[derive(Debug, Default)]
struct Holders {
    readers: usize,
    leased_until_ms: i64,
}

/// The register of pins and leases of one lake.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<HashMap<PinnedVersion, Holders>>>);

impl Pins {
    fn lock(&self) -> MutexGuard<'_, HashMap<PinnedVersion, Holders>> {
        // Each critical section leaves the map whole, so a panic elsewhere cannot spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a version until the guard is dropped.
    pub(crate) fn pin(&self, version: PinnedVersion) -> Pin {
        self.lock().entry(version.clone()).or_default().readers += 1;
        Pin { pins: self.clone(), version }
    }

    /// Keeps a version at least until `until_ms`.
    pub(crate) fn lease(&self, version: PinnedVersion, until_ms: i64) {
        let mut map = self.lock();
        let holders = map.entry(version).or_default();
        holders.leased_until_ms = holders.leased_until_ms.max(until_ms);
    }

    /// Whether anything of the folder is still needed at `now_ms`; forgets leases that ran out.
    pub(crate) fn holds_location(&self, location: &str, now_ms: i64) -> bool {
        let mut map = self.lock();
        map.retain(|_, holders| holders.readers > 0 || holders.leased_until_ms > now_ms);
        map.keys().any(|version| version.location == location)
    }
}

/// Keeps one version while it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    version: PinnedVersion,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut map = self.pins.lock();
        if let Some(holders) = map.get_mut(&self.version) {
            holders.readers -= 1;
            if holders.readers == 0 && holders.leased_until_ms == 0 {
                map.remove(&self.version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> PinnedVersion {
        PinnedVersion { location: "default/t.lance".into(), branch: None, version: number }
    }

    #[test]
    fn a_location_is_held_while_a_reader_or_a_lease_lives() {
        let pins = Pins::default();
        assert!(!pins.holds_location("default/t.lance", 0));
        let first = pins.pin(version(1));
        let second = pins.pin(version(1));
        drop(first);
        assert!(pins.holds_location("default/t.lance", 0));
        drop(second);
        assert!(!pins.holds_location("default/t.lance", 0));

        pins.lease(version(2), 100);
        drop(pins.pin(version(2)));
        assert!(pins.holds_location("default/t.lance", 99));
        assert!(!pins.holds_location("default/t.lance", 100));
        assert!(!pins.holds_location("default/other.lance", 0));
    }
}
