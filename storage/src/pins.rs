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

/// How often whoever wants to keep all looks whether those who delete are done.
const KEEP_ALL_LOOK: std::time::Duration = std::time::Duration::from_millis(50);

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
    /// Versions that are being deleted.
    doomed_versions: HashSet<PinnedVersion>,
    /// Those for whom nothing is to be deleted.
    keeping_all: usize,
}

/// Why a version cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doomed {
    /// The folder of its table is being deleted.
    Table,
    /// It is being deleted itself.
    Version,
}

/// The register of pins and leases of one lake.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<Register>>);

impl Pins {
    fn lock(&self) -> MutexGuard<'_, Register> {
        // Each critical section leaves the register whole, so a panic elsewhere cannot spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a version until the guard is dropped, unless it is being deleted.
    pub(crate) fn pin(&self, version: PinnedVersion) -> Result<Pin, Doomed> {
        let mut register = self.lock();
        if register.doomed.contains(&version.location) {
            return Err(Doomed::Table);
        }
        if register.doomed_versions.contains(&version) {
            return Err(Doomed::Version);
        }
        register.held.entry(version.clone()).or_default().readers += 1;
        Ok(Pin { pins: self.clone(), version })
    }

    /// Keeps a version at least until `until_ms`.
    pub(crate) fn lease(&self, version: PinnedVersion, until_ms: i64) {
        let mut register = self.lock();
        let holders = register.held.entry(version).or_default();
        holders.leased_until_ms = holders.leased_until_ms.max(until_ms);
    }

    /// Keeps all of the lake until the guard is dropped: whoever wants to delete is told that it is
    /// needed. Waits for those that are deleting.
    pub(crate) async fn keep_all(&self) -> KeepAll {
        self.lock().keeping_all += 1;
        let guard = KeepAll { pins: self.clone() };
        loop {
            {
                let register = self.lock();
                if register.doomed.is_empty() && register.doomed_versions.is_empty() {
                    return guard;
                }
            }
            tokio::time::sleep(KEEP_ALL_LOOK).await;
        }
    }

    /// The right to delete a folder, for one at a time; nothing when anything of it is still needed at
    /// `now_ms`. Forgets leases that ran out.
    pub(crate) fn doom(&self, location: &str, now_ms: i64) -> Option<Doom> {
        let mut register = self.lock();
        register.held.retain(|_, holders| holders.readers > 0 || holders.leased_until_ms > now_ms);
        if register.keeping_all > 0
            || register.held.keys().any(|version| version.location == location)
            || !register.doomed.insert(location.to_owned())
        {
            return None;
        }
        Some(Doom { pins: self.clone(), location: location.to_owned() })
    }

    /// The right to delete those of the versions that nobody needs at `now_ms` and nobody else deletes.
    pub(crate) fn doom_versions(
        &self,
        versions: impl IntoIterator<Item = PinnedVersion>,
        now_ms: i64,
    ) -> DoomedVersions {
        let mut register = self.lock();
        register.held.retain(|_, holders| holders.readers > 0 || holders.leased_until_ms > now_ms);
        let is_keeping = register.keeping_all > 0;
        let free = versions.into_iter().filter(|version| {
            !is_keeping
                && !register.held.contains_key(version)
                && !register.doomed_versions.contains(version)
        });
        let versions: HashSet<PinnedVersion> = free.collect();
        register.doomed_versions.extend(versions.iter().cloned());
        DoomedVersions { pins: self.clone(), versions }
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

/// Keeps all of the lake while it lives.
#[derive(Debug)]
pub(crate) struct KeepAll {
    pins: Pins,
}

impl Drop for KeepAll {
    fn drop(&mut self) {
        self.pins.lock().keeping_all -= 1;
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

/// Held while versions are deleted.
#[derive(Debug)]
pub(crate) struct DoomedVersions {
    pins: Pins,
    versions: HashSet<PinnedVersion>,
}

impl DoomedVersions {
    /// Their numbers, ascending.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.versions.iter().map(|version| version.version).collect();
        numbers.sort_unstable();
        numbers
    }
}

impl Drop for DoomedVersions {
    fn drop(&mut self) {
        let mut register = self.pins.lock();
        for version in &self.versions {
            register.doomed_versions.remove(version);
        }
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
        assert_eq!(pins.pin(version(1)).unwrap_err(), Doomed::Table);
        assert!(pins.doom(TABLE, 0).is_none());
        drop(doom);
        assert!(pins.pin(version(1)).is_ok());
    }

    #[test]
    fn a_version_is_either_held_or_deleted() {
        let pins = Pins::default();
        let reader = pins.pin(version(2)).unwrap();
        pins.lease(version(3), 100);
        let all = || (1..=4).map(version);
        let doomed = pins.doom_versions(all(), 99);
        assert_eq!(doomed.numbers(), [1, 4]);
        assert_eq!(pins.pin(version(4)).unwrap_err(), Doomed::Version);
        assert!(pins.pin(version(2)).is_ok());
        drop(reader);
        // What one deletes is not another's to delete.
        assert_eq!(pins.doom_versions(all(), 100).numbers(), [2, 3]);
        drop(doomed);
        assert!(pins.pin(version(4)).is_ok());
    }

    #[tokio::test]
    async fn nothing_is_deleted_while_all_is_kept() {
        let pins = Pins::default();
        let doom = pins.doom(TABLE, 0).unwrap();
        let waiting = tokio::spawn({
            let pins = pins.clone();
            async move { pins.keep_all().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(doom);
        let all = waiting.await.unwrap();
        assert!(pins.doom(TABLE, 0).is_none());
        assert!(pins.doom_versions([version(1)], 0).numbers().is_empty());
        assert!(pins.pin(version(1)).is_ok());
        drop(all);
        assert!(pins.doom(TABLE, 0).is_some());
    }
}
