//! What jobs ask for and workers have: models, labels, resources, turns, and how many rows a task gets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What workers offer and jobs ask for: a model, or an interpreter that runs functions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelKey {
    /// Its name.
    pub name: String,
    /// The digest of its weights, or the version of an interpreter; a job without one takes the first that
    /// is offered, and keeps to it.
    pub digest: Option<String>,
}

impl ModelKey {
    /// Whether a worker that offers the other one can do with it.
    pub(crate) fn is_met_by(&self, offered: &ModelKey) -> bool {
        self.name == offered.name && (self.digest.is_none() || self.digest == offered.digest)
    }
}

/// Words that workers have and jobs may ask for.
pub type Labels = BTreeMap<String, String>;

/// What a task takes of a worker, or a worker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Processors.
    pub cpus: u32,
    /// GPUs.
    pub gpus: u32,
    /// Memory of GPUs, in MiB.
    pub gpu_memory_mb: u64,
}

impl Resources {
    /// Whether nothing is asked for.
    pub fn is_none(&self) -> bool {
        *self == Resources::default()
    }

    /// Whether a worker that has `self` has so much, were it all free.
    pub(crate) fn covers(&self, wanted: &Resources) -> bool {
        self.has(&Resources::default(), wanted)
    }

    /// Whether a worker that has `self`, of which `used` is in use, has so much more.
    pub(super) fn has(&self, used: &Resources, wanted: &Resources) -> bool {
        let fits = |has: u64, used: u64, wanted: u64| wanted == 0 || used + wanted <= has;
        fits(self.cpus.into(), used.cpus.into(), wanted.cpus.into())
            && fits(self.gpus.into(), used.gpus.into(), wanted.gpus.into())
            && fits(self.gpu_memory_mb, used.gpu_memory_mb, wanted.gpu_memory_mb)
    }

    pub(super) fn add(&mut self, other: &Resources) {
        self.cpus = self.cpus.saturating_add(other.cpus);
        self.gpus = self.gpus.saturating_add(other.gpus);
        self.gpu_memory_mb = self.gpu_memory_mb.saturating_add(other.gpu_memory_mb);
    }

    pub(super) fn less(&mut self, other: &Resources) {
        self.cpus = self.cpus.saturating_sub(other.cpus);
        self.gpus = self.gpus.saturating_sub(other.gpus);
        self.gpu_memory_mb = self.gpu_memory_mb.saturating_sub(other.gpu_memory_mb);
    }
}

/// How many rows a task gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskSize {
    /// So many.
    Fixed(u32),
    /// As many as a worker does in a few seconds, up to this.
    Measured {
        /// Rows that a task may have.
        rows_max: u32,
    },
}

/// What a job asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What its tasks need.
    pub model: ModelKey,
    /// Jobs of a higher one go first.
    pub priority: i32,
    /// Workers that may have tasks of it at a time.
    pub workers_max: Option<u32>,
    /// Labels that a worker has to have.
    pub labels: Labels,
    /// What each task takes.
    pub resources: Resources,
    /// How many rows a task gets.
    pub size: TaskSize,
}

impl Terms {
    /// Whether a worker with these labels may have its tasks.
    pub(crate) fn are_met_by(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

/// How fast a worker is with a job, by what it did of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speed {
    rows_per_ms: f64,
    /// Rows of its largest task that was done.
    largest: u32,
    /// When it last ended one.
    pub(super) ended_ms: i64,
}

/// Rows of a worker's first task of a job.
pub(super) const FIRST_ROWS: u32 = 16;
/// A worker's next task is at most so many times as large as its largest before.
const GROWTH: u32 = 4;
/// How much a new measurement counts.
const NEWS: f64 = 0.5;

impl Speed {
    /// Takes in that a worker did some rows in some time, the largest task of them with so many.
    pub(super) fn measure(
        before: Option<Speed>,
        now_ms: i64,
        rows: u64,
        took_ms: i64,
        largest: u32,
    ) -> Speed {
        let rate = rows as f64 / took_ms.max(1) as f64;
        match before {
            None => Speed { rows_per_ms: rate, largest, ended_ms: now_ms },
            Some(before) => Speed {
                rows_per_ms: before.rows_per_ms * (1.0 - NEWS) + rate * NEWS,
                largest: before.largest.max(largest),
                ended_ms: now_ms,
            },
        }
    }

    /// Rows that it does in some time; grows step by step.
    pub(super) fn rows_in(&self, time_ms: i64) -> u32 {
        let rows = (self.rows_per_ms * time_ms as f64) as u32;
        rows.clamp(1, self.largest.saturating_mul(GROWTH).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_grows_until_it_takes_its_time() {
        let mut speed = Speed::measure(None, 0, 16, 4, 16);
        let mut sizes = Vec::new();
        for _ in 0..5 {
            let rows = speed.rows_in(2_000);
            sizes.push(rows);
            speed = Speed::measure(Some(speed), 0, u64::from(rows), i64::from(rows) / 4, rows);
        }
        assert_eq!(sizes[..3], [64, 256, 1_024]);
        assert_eq!(sizes[4], 8_000);
        // One that got slow gets less soon.
        let slow = Speed::measure(Some(speed), 0, 8_000, 80_000, 8_000);
        let slow = Speed::measure(Some(slow), 0, 4_000, 40_000, 8_000);
        assert!(slow.rows_in(2_000) < 2_500);
    }

    #[test]
    fn what_is_asked_for_has_to_be_free() {
        let has = Resources { cpus: 4, gpus: 1, gpu_memory_mb: 1_000 };
        let wanted = Resources { gpus: 1, gpu_memory_mb: 600, ..Resources::default() };
        let mut used = Resources::default();
        assert!(has.has(&used, &wanted));
        used.add(&wanted);
        assert!(!has.has(&used, &wanted));
        assert!(has.has(&used, &Resources { cpus: 4, ..Resources::default() }));
        used.less(&wanted);
        assert_eq!(used, Resources::default());
        assert!(!Resources::default().has(&used, &wanted));
    }
}
