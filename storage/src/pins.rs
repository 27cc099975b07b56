//! Who still needs a version of a table.
//!
//! Two things keep a version: a reader that has it open (a [`Pin`], gone when dropped), and a lease that
//! was handed out with a ticket and runs until a time. Whatever deletes must ask here first,
//! and says so while it deletes: between asking and the last file nobody gets a pin. This state
//! belongs to one process; a lease is short (an hour by default) and far below the minimum age of
//! anything that is deleted by age, so a restart forgets nothing that matters, except for a dropped
//! table, whose folder then goes at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::servers::DoomNote;

/// How often whoever wants to keep all looks whether those who delete are done.
const KEEP_ALL_LOOK: Duration = Duration::from_millis(50);
/// How long a write counts after whoever sent it let it go: it may wait for its commit all the same.
const WRITE_LINGERS: Duration = Duration::from_secs(3_600);
/// How exactly it is known when writes ended.
const WRITE_ENDS_BY: Duration = Duration::from_secs(60);

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

/// The writes into one folder: since when they write, in milliseconds since the Unix epoch.
#[derive(Debug, Default)]
struct Writers {
    active: BTreeMap<i64, usize>,
    /// Of those that ended, the earliest, by when they ended.
    ended: Vec<(Instant, i64)>,
}

impl Writers {
    fn end(&mut self, since_ms: i64, now: Instant) {
        if let Some(count) = self.active.get_mut(&since_ms) {
            *count -= 1;
            if *count == 0 {
                self.active.remove(&since_ms);
            }
        }
        self.forget(now);
        match self.ended.last_mut() {
            Some((at, earliest)) if now.duration_since(*at) < WRITE_ENDS_BY => {
                *earliest = (*earliest).min(since_ms);
            }
            _ => self.ended.push((now, since_ms)),
        }
    }

    fn forget(&mut self, now: Instant) {
        self.ended.retain(|(at, _)| now.duration_since(*at) < WRITE_LINGERS + WRITE_ENDS_BY);
    }

    fn earliest(&self) -> Option<i64> {
        let ended = self.ended.iter().map(|(_, since_ms)| *since_ms).min();
        self.active.keys().next().copied().into_iter().chain(ended).min()
    }
}

#[derive(Debug, Default)]
struct Register {
    held: HashMap<PinnedVersion, Holders>,
    /// Folders that are being deleted.
    doomed: HashSet<String>,
    /// Versions that are being deleted.
    doomed_versions: HashSet<PinnedVersion>,
    /// What other servers of the lake are about to delete.
    elsewhere: Vec<DoomNote>,
    /// Those for whom nothing is to be deleted.
    keeping_all: usize,
    /// Those that delete large blobs.
    sweeping: usize,
    /// Those that write into folders of tables.
    writers: HashMap<String, Writers>,
}

impl Register {
    /// Whether another server of the lake is about to delete a version.
    fn doomed_elsewhere(&self, version: &PinnedVersion) -> Option<Doomed> {
        let of_table = self.elsewhere.iter().filter(|note| note.location == version.location);
        of_table.into_iter().find_map(|note| match &note.versions {
            None => Some(Doomed::Table),
            Some(versions) => (note.branch == version.branch
                && versions.contains(&version.version))
            .then_some(Doomed::Version),
        })
    }

    /// Whether nobody needs a version and nobody deletes it.
    fn is_free(&self, version: &PinnedVersion, now_ms: i64) -> bool {
        let is_held = |holders: &Holders| holders.readers > 0 || holders.leased_until_ms > now_ms;
        self.keeping_all == 0
            && !self.held.get(version).is_some_and(is_held)
            && !self.doomed_versions.contains(version)
    }
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
        if let Some(doomed) = register.doomed_elsewhere(&version) {
            return Err(doomed);
        }
        if register.doomed_versions.contains(&version) {
            return Err(Doomed::Version);
        }
        register.held.entry(version.clone()).or_default().readers += 1;
        Ok(Pin { pins: self.clone(), version, writes_since_ms: None })
    }

    /// The same for a write into the table's folder that begins at `now_ms`.
    pub(crate) fn pin_to_write(&self, version: PinnedVersion, now_ms: i64) -> Result<Pin, Doomed> {
        let mut pin = self.pin(version)?;
        let mut register = self.lock();
        let writers = register.writers.entry(pin.version.location.clone()).or_default();
        *writers.active.entry(now_ms).or_default() += 1;
        drop(register);
        pin.writes_since_ms = Some(now_ms);
        Ok(pin)
    }

    /// When the earliest of the writes into a folder began that may not be over: files from before then
    /// are not theirs. Nothing without any.
    pub(crate) fn earliest_write_ms(&self, location: &str) -> Option<i64> {
        let mut register = self.lock();
        let writers = register.writers.get_mut(location)?;
        writers.forget(Instant::now());
        writers.earliest()
    }

    /// Says what other servers of the lake are about to delete, and nothing else.
    pub(crate) fn set_doomed_elsewhere(&self, notes: Vec<DoomNote>) {
        self.lock().elsewhere = notes;
    }

    /// What is held at `now_ms` of something that another server is about to delete; nothing when it may
    /// go.
    pub(crate) fn held_of(&self, note: &DoomNote, now_ms: i64) -> Option<DoomNote> {
        let register = self.lock();
        if register.keeping_all > 0 {
            return Some(note.clone());
        }
        let held = register.held.iter().filter(|(version, holders)| {
            version.location == note.location
                && (holders.readers > 0 || holders.leased_until_ms > now_ms)
        });
        match &note.versions {
            None => (held.count() > 0).then(|| note.clone()),
            Some(versions) => {
                let of_branch = held.filter(|(version, _)| version.branch == note.branch);
                let numbers = of_branch.map(|(version, _)| version.version);
                let held: Vec<u64> = numbers.filter(|number| versions.contains(number)).collect();
                (!held.is_empty()).then(|| DoomNote { versions: Some(held), ..note.clone() })
            }
        }
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
                if register.doomed.is_empty()
                    && register.doomed_versions.is_empty()
                    && register.elsewhere.is_empty()
                    && register.sweeping == 0
                {
                    return guard;
                }
            }
            tokio::time::sleep(KEEP_ALL_LOOK).await;
        }
    }

    /// Whether nothing is to be deleted.
    pub(crate) fn are_all_kept(&self) -> bool {
        self.lock().keeping_all > 0
    }

    /// The right to delete large blobs; nothing while all is kept.
    pub(crate) fn sweep(&self) -> Option<Sweep> {
        let mut register = self.lock();
        if register.keeping_all > 0 {
            return None;
        }
        register.sweeping += 1;
        Some(Sweep { pins: self.clone() })
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
        let versions: HashSet<PinnedVersion> =
            versions.into_iter().filter(|version| register.is_free(version, now_ms)).collect();
        register.doomed_versions.extend(versions.iter().cloned());
        DoomedVersions { pins: self.clone(), versions }
    }

    /// The numbers of those that [`Pins::doom_versions`] would give the right for, ascending. Nobody is
    /// kept from them.
    pub(crate) fn free_versions(
        &self,
        versions: impl IntoIterator<Item = PinnedVersion>,
        now_ms: i64,
    ) -> Vec<u64> {
        let register = self.lock();
        let free = versions.into_iter().filter(|version| register.is_free(version, now_ms));
        let mut numbers: Vec<u64> = free.map(|version| version.version).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Keeps one version while it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    version: PinnedVersion,
    /// Since when something is written into the folder under it.
    writes_since_ms: Option<i64>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut register = self.pins.lock();
        if let Some(since_ms) = self.writes_since_ms
            && let Some(writers) = register.writers.get_mut(&self.version.location)
        {
            writers.end(since_ms, Instant::now());
        }
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

/// Held while large blobs are deleted.
#[derive(Debug)]
pub(crate) struct Sweep {
    pins: Pins,
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.pins.lock().sweeping -= 1;
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
        assert_eq!(pins.free_versions(all(), 99), [1, 4]);
        assert!(pins.pin(version(1)).is_ok(), "who only asks keeps nobody away");
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

    #[test]
    fn a_write_counts_for_a_while_after_it_was_let_go() {
        let pins = Pins::default();
        assert_eq!(pins.earliest_write_ms(TABLE), None);
        let first = pins.pin_to_write(version(1), 100).unwrap();
        let second = pins.pin_to_write(version(1), 200).unwrap();
        drop(pins.pin(version(1)));
        assert_eq!(pins.earliest_write_ms(TABLE), Some(100));
        drop(first);
        assert_eq!(pins.earliest_write_ms(TABLE), Some(100));
        assert_eq!(pins.earliest_write_ms("default/other.lance"), None);
        drop(second);
        let mut writers = Writers::default();
        let now = Instant::now();
        writers.active.insert(5, 1);
        writers.end(5, now);
        writers.active.insert(9, 1);
        let late = now + WRITE_LINGERS + WRITE_ENDS_BY;
        writers.forget(late);
        assert_eq!(writers.earliest(), Some(9));
        writers.end(9, late);
        assert_eq!((writers.earliest(), writers.ended.len()), (Some(9), 1));
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
        assert!(pins.are_all_kept());
        assert!(pins.sweep().is_none());
        drop(all);
        assert!(pins.doom(TABLE, 0).is_some());
        let sweep = pins.sweep().unwrap();
        let waiting = tokio::spawn({
            let pins = pins.clone();
            async move { pins.keep_all().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(sweep);
        waiting.await.unwrap();
    }
}
