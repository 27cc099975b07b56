//! Who still needs a version of a table.
//!
//! Two things keep a version: a reader that has it open (a [`Pin`], gone when dropped), and a lease that
//! was handed out with a ticket and runs until a time. Whatever deletes must ask here first,
//! and says so while it deletes: between asking and the last file nobody gets a pin. This state
//! belongs to one process; a lease is short (an hour by default) and far below the minimum age of
//! anything that is deleted by age, so a restart forgets nothing that matters, except for a dropped
//! table, whose folder then goes at once.

use std::collections::{HashMap, HashSet};
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

#[derive(Debug, Default)]
struct Register {
    held: HashMap<PinnedVersion, Holders>,
    /// Folders that are being deleted.
    doomed: HashSet<String>,
}

/// The register of pins and leases of one lake.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<Register>>);

impl Pins {
    fn lock(&self) -> MutexGuard<'_, Register> {
        // Each critical section leaves the register whole, so a panic elsewhere cannot spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a version until the guard is dropped; nothing when its folder is being deleted.
    pub(crate) fn pin(&self, version: PinnedVersion) -> Option<Pin> {
        let mut register = self.lock();
        if register.doomed.contains(&version.location) {
            return None;
        }
        register.held.entry(version.clone()).or_default().readers += 1;
        Some(Pin { pins: self.clone(), version })
    }

    /// Keeps a version at least until `until_ms`.
    pub(crate) fn lease(&self, version: PinnedVersion, until_ms: i64) {
        let mut register = self.lock();
        let holders = register.held.entry(version).or_default();
        holders.leased_until_ms = holders.leased_until_ms.max(until_ms);
    }

    /// The right to delete a folder, for one at a time; nothing when anything of it is still needed at
    /// `now_ms`. Forgets leases that ran out.
    pub(crate) fn doom(&self, location: &str, now_ms: i64) -> Option<Doom> {
        let mut register = self.lock();
        register.held.retain(|_, holders| holders.readers > 0 || holders.leased_until_ms > now_ms);
        if register.held.keys().any(|version| version.location == location)
            || !register.doomed.insert(location.to_owned())
        {
            return None;
        }
        Some(Doom { pins: self.clone(), location: location.to_owned() })
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
        let mut register = self.pins.lock();
        if let Some(holders) = register.held.get_mut(&self.version) {
            holders.readers -= 1;
            if holders.readers == 0 && holders.leased_until_ms == 0 {
                register.held.remove(&self.version);
            }
        }
    }
}

/// Held while a folder is deleted.
#[derive(Debug)]
pub(crate) struct Doom {
    pins: Pins,
    location: String,
}

impl Drop for Doom {
    fn drop(&mut self) {
        self.pins.lock().doomed.remove(&self.location);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "default/t.lance";

    fn version(number: u64) -> PinnedVersion {
        PinnedVersion { location: TABLE.into(), branch: None, version: number }
    }

    #[test]
    fn a_folder_is_kept_while_a_reader_or_a_lease_lives() {
        let pins = Pins::default();
        let first = pins.pin(version(1)).unwrap();
        let second = pins.pin(version(1)).unwrap();
        drop(first);
        assert!(pins.doom(TABLE, 0).is_none());
        drop(second);
        assert!(pins.doom(TABLE, 0).is_some());

        pins.lease(version(2), 100);
        drop(pins.pin(version(2)));
        assert!(pins.doom(TABLE, 99).is_none());
        assert!(pins.doom("default/other.lance", 0).is_some());
        assert!(pins.doom(TABLE, 100).is_some());
    }

    #[test]
    fn a_folder_that_is_being_deleted_is_nobody_elses() {
        let pins = Pins::default();
        let doom = pins.doom(TABLE, 0).unwrap();
        assert!(pins.pin(version(1)).is_none());
        assert!(pins.doom(TABLE, 0).is_none());
        drop(doom);
        assert!(pins.pin(version(1)).is_some());
    }
}
