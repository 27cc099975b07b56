//! Reading what changed, and taking it into the index.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lakebed_core::{DatabaseName, Error, Result};
use lakebed_index::catalogue::Thing;
use lakebed_storage::{CatalogueState, DescribedTable};
use tokio_util::sync::CancellationToken;

use super::changes::Pending;
use super::documents::{of_model, of_names, of_table};
use crate::Service;

/// Time between two looks at what was not told.
const INTERVAL_MIN: Duration = Duration::from_millis(400);
/// Looks take this share of the time at most, so that those at many tables come less often.
const SHARE: u32 = 50;
/// Changes of one moment are taken in together.
const GATHER: Duration = Duration::from_millis(20);
/// A lake in a bucket is read again whole.
const AGAIN: Duration = Duration::from_secs(300);
/// After what went wrong.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Tables that are read at the same time.
const READ_AT_ONCE: usize = 4;
/// Tables that are taken in together, so that the first are found while others are read.
const TAKEN_AT_ONCE: usize = 200;

/// Things of one group, and what they were read at.
type Read = (String, Vec<Thing>);

/// What is in the index.
#[derive(Debug, Default)]
struct Known {
    /// By database: the number of its catalogue, and what is in it.
    databases: HashMap<DatabaseName, KnownDatabase>,
    /// The groups of models and what they say.
    models: HashMap<String, u64>,
    /// When everything was read last.
    read_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct KnownDatabase {
    number: Option<u64>,
    /// The groups of tables: their uids, and their stamps where there are some.
    tables: HashMap<String, (String, Option<u64>)>,
    /// The groups of other things, and what they say.
    others: HashMap<String, u64>,
}

/// A table that is to be read.
struct Due {
    group: String,
    name: String,
    uid: String,
    location: String,
    stamp: Option<u64>,
}

impl Service {
    /// Keeps no search over the catalogue: nothing is read for it, and who asks is told so.
    pub fn switch_catalogue_off(&self) {
        self.catalogue.is_off.store(true, Ordering::Relaxed);
    }

    /// Keeps the search over the catalogue fresh until `stop` is cancelled.
    pub async fn run_catalogue(self: Arc<Self>, stop: CancellationToken) {
        let mut known = Known::default();
        loop {
            let pending = self.catalogue.changes.take();
            let began = Instant::now();
            let pass = async {
                let (passed, ()) =
                    tokio::join!(self.catalogue_pass(&mut known, &pending), self.tell_changes());
                passed
            };
            let passed = stop.run_until_cancelled(pass).await;
            let wait = match passed {
                None => return,
                Some(Ok(())) => (began.elapsed() * SHARE).max(INTERVAL_MIN),
                Some(Err(error)) => {
                    tracing::info!(error = %error.report(), "the catalogue's search is not fresh");
                    self.catalogue.changes.give_back(pending);
                    AFTER_FAILURE
                }
            };
            // What is told does not wait for the next look; after a failure it does.
            let is_failed = wait == AFTER_FAILURE;
            let next = async {
                tokio::select! {
                    () = self.catalogue.changes.noted(), if !is_failed => tokio::time::sleep(GATHER).await,
                    () = tokio::time::sleep(wait) => {}
                }
            };
            if stop.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
    }

    async fn catalogue_pass(&self, known: &mut Known, pending: &Pending) -> Result<()> {
        let is_local = !self.lake.is_in_bucket();
        let is_again = known.read_at.is_none_or(|at| !is_local && at.elapsed() >= AGAIN);
        let all = is_again || pending.all;
        if !is_local && !all && pending.is_empty() {
            return Ok(());
        }
        let databases = self.lake.list_databases().await?;
        let mut is_changed = false;
        let there: HashSet<&DatabaseName> = databases.iter().collect();
        let gone: Vec<DatabaseName> =
            known.databases.keys().filter(|it| !there.contains(it)).cloned().collect();
        for database in gone {
            if let Some(gone) = known.databases.remove(&database) {
                let groups = gone.tables.into_keys().chain(gone.others.into_keys());
                self.take_in(groups.map(|group| (group, Vec::new())).collect(), false).await?;
                is_changed = true;
            }
        }
        for database in databases {
            let state = self.lake.catalogue(&database, !is_local).await?;
            let of = known.databases.entry(database.clone()).or_default();
            is_changed |= self.names_pass(&database, of, &state).await?;
            is_changed |= self.tables_pass(&database, of, &state, pending, all).await?;
            of.number = Some(state.number());
            let mut whole = self.catalogue.whole.lock().unwrap_or_else(PoisonError::into_inner);
            whole.insert(database);
        }
        if all || pending.models {
            is_changed |= self.models_pass(known).await?;
        }
        if is_changed {
            self.take_in(Vec::new(), true).await?;
        }
        if all {
            known.read_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Namespaces, views and functions, which the catalogue itself has.
    async fn names_pass(
        &self,
        database: &DatabaseName,
        known: &mut KnownDatabase,
        state: &CatalogueState,
    ) -> Result<bool> {
        if known.number == Some(state.number()) {
            return Ok(false);
        }
        let now = of_names(database, state);
        self.replace_changed(&mut known.others, now).await
    }

    async fn models_pass(&self, known: &mut Known) -> Result<bool> {
        let models = self.lake.list_models().await?;
        self.replace_changed(&mut known.models, models.iter().map(of_model).collect()).await
    }

    /// Takes in what says something else than before, and takes out what is gone.
    async fn replace_changed(
        &self,
        known: &mut HashMap<String, u64>,
        now: Vec<Read>,
    ) -> Result<bool> {
        let there: HashSet<&String> = now.iter().map(|(group, _)| group).collect();
        let gone: Vec<String> = known.keys().filter(|it| !there.contains(it)).cloned().collect();
        let mut changed: Vec<Read> = gone.into_iter().map(|group| (group, Vec::new())).collect();
        let mut said = Vec::new();
        for (group, things) in now {
            let mut hasher = DefaultHasher::new();
            things.hash(&mut hasher);
            let says = hasher.finish();
            if known.get(&group) != Some(&says) {
                said.push((group.clone(), says));
                changed.push((group, things));
            }
        }
        if changed.is_empty() {
            return Ok(false);
        }
        let gone: Vec<String> =
            changed.iter().filter(|(_, things)| things.is_empty()).map(|it| it.0.clone()).collect();
        self.take_in(changed, false).await?;
        known.retain(|group, _| !gone.contains(group));
        known.extend(said);
        Ok(true)
    }

    async fn tables_pass(
        &self,
        database: &DatabaseName,
        known: &mut KnownDatabase,
        state: &CatalogueState,
        pending: &Pending,
        all: bool,
    ) -> Result<bool> {
        let mut due: Vec<Due> = state
            .tables()
            .map(|(name, uid, location)| Due {
                group: format!("{database}\u{0}{name}"),
                name: name.to_owned(),
                uid: uid.to_owned(),
                location: location.to_owned(),
                stamp: None,
            })
            .collect();
        let locations = due.iter().map(|due| due.location.clone()).collect();
        if let Some(stamps) = self.lake.stamps(locations).await? {
            due.iter_mut().zip(stamps).for_each(|(due, stamp)| due.stamp = Some(stamp));
        }
        let there: HashSet<&String> = due.iter().map(|due| &due.group).collect();
        let gone: Vec<String> =
            known.tables.keys().filter(|group| !there.contains(group)).cloned().collect();
        let mut is_changed = !gone.is_empty();
        if is_changed {
            let groups = gone.iter().map(|group| (group.clone(), Vec::new())).collect();
            self.take_in(groups, false).await?;
            gone.iter().for_each(|group| drop(known.tables.remove(group)));
        }
        due.retain(|due| {
            let is_known = known.tables.get(&due.group).is_some_and(|(uid, stamp)| {
                *uid == due.uid && *stamp == due.stamp && (due.stamp.is_some() || !all)
            });
            !is_known || pending.tables.contains(&format!("{database}/{}", due.name))
        });
        while !due.is_empty() {
            let some: Vec<Due> = due.drain(..due.len().min(TAKEN_AT_ONCE)).collect();
            let read = futures::stream::iter(some)
                .map(|due| async move {
                    let described = self.lake.describe_location(&due.location).await;
                    (due, described)
                })
                .buffered(READ_AT_ONCE);
            let read: Vec<(Due, Result<Option<DescribedTable>>)> = read.collect().await;
            let mut groups = Vec::with_capacity(read.len());
            let mut taken = Vec::with_capacity(read.len());
            for (due, described) in read {
                // It is found by its name at least, and read again when it changes.
                let described = described.unwrap_or_else(|error| {
                    let error = error.report();
                    tracing::info!(table = due.location, %error, "not described");
                    None
                });
                let things = of_table(database, &due.name, described.as_ref());
                groups.push((due.group.clone(), things));
                taken.push((due.group, (due.uid, due.stamp)));
            }
            self.take_in(groups, !due.is_empty()).await?;
            known.tables.extend(taken);
            is_changed = true;
        }
        Ok(is_changed)
    }

    /// Takes groups into the index, by a thread that may block; with `commit` they and those before are found.
    async fn take_in(&self, groups: Vec<Read>, commit: bool) -> Result<()> {
        let catalogue = Arc::clone(&self.catalogue);
        let taken = tokio::task::spawn_blocking(move || {
            for (group, things) in groups {
                if !catalogue.index.replace(&group, things)? {
                    catalogue.is_full.store(true, Ordering::Relaxed);
                }
            }
            if commit { catalogue.index.commit() } else { Ok(()) }
        });
        taken.await.map_err(|error| Error::internal("index the catalogue").with_source(error))?
    }
}
