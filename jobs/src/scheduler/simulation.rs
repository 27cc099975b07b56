//! The scheduler against workers that die, a network that loses, repeats and delays, a disk that
//! refuses, and a server that restarts: one history for each seed, replayed exactly by
//! `LAKEBED_SIM_SEED=n cargo test -p lakebed-jobs a_seed`.
//!
//! Workers and server are as small as they can be and keep to the protocol. What is checked: a task is
//! recorded once, under an attempt whose results are durable; nothing is given up for other reasons
//! than its own failures; once faults stop, everything is recorded within a bounded time.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// xorshift64*: enough for a schedule, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }

    /// True in `percent` of a hundred.
    fn happens(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

#[derive(Default)]
struct SimWorker {
    instance: String,
    labels: Labels,
    has: Resources,
    /// What it works on, and when it is done.
    running: BTreeMap<AttemptId, i64>,
    done: BTreeSet<AttemptId>,
    /// Of those the ones whose results come with the report.
    inline: BTreeSet<AttemptId>,
    failed: BTreeSet<AttemptId>,
    sync_at_ms: i64,
}

/// What outlives a restart of the server.
#[derive(Default)]
struct Disk {
    /// Attempts whose results are there.
    parts: BTreeSet<AttemptId>,
    /// How each row ended; nothing for one that was given up.
    records: BTreeMap<(JobId, u64), Option<u64>>,
    groups_done: BTreeSet<(JobId, u32)>,
}

struct SimJob {
    id: JobId,
    rows: u64,
    terms: Terms,
}

struct World {
    dice: Dice,
    now_ms: i64,
    scheduler: Scheduler,
    starts: u32,
    disk: Disk,
    /// Results that came with a report and are written with its record.
    in_memory: BTreeSet<AttemptId>,
    workers: Vec<SimWorker>,
    instances: u32,
    /// Rows whose tasks always fail.
    poisoned: BTreeSet<(JobId, u64)>,
    /// Rows whose tasks kill their worker.
    killers: BTreeSet<(JobId, u64)>,
    has_faults: bool,
    jobs: Vec<SimJob>,
    /// Faults that fired, by kind.
    fired: BTreeMap<&'static str, u32>,
}

const GROUP_ROWS: u64 = 32;
const SLOTS: u32 = 2;

fn limits() -> SchedulerLimits {
    SchedulerLimits {
        lease_ms: 1_000,
        losses_max: 25,
        hopeless_rows: 1_000,
        task_ms: 400,
        ..SchedulerLimits::default()
    }
}

fn model() -> ModelKey {
    ModelKey { name: "m".to_owned(), digest: Some("sha256:1".to_owned()) }
}

/// Terms that ask for nothing but the model.
fn terms(size: TaskSize) -> Terms {
    let (labels, resources) = (Labels::new(), Resources::default());
    Terms { model: model(), priority: 0, workers_max: None, labels, resources, size }
}

fn zone(name: &str) -> Labels {
    Labels::from([("zone".to_owned(), name.to_owned())])
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut jobs = Vec::new();
        for n in 0..1 + dice.roll(3) {
            let size = match dice.happens(50) {
                true => TaskSize::Fixed(1 + dice.roll(9) as u32),
                false => TaskSize::Measured { rows_max: 64 },
            };
            let mut terms = terms(size);
            terms.priority = dice.roll(3) as i32 - 1;
            terms.workers_max = dice.happens(30).then_some(1);
            if dice.happens(30) {
                terms.labels = zone("a");
            }
            terms.resources.gpus = dice.happens(30).into();
            jobs.push(SimJob { id: JobId::new(&format!("j{n}")), rows: 1 + dice.roll(100), terms });
        }
        let (mut poisoned, mut killers) = (BTreeSet::new(), BTreeSet::new());
        for job in &jobs {
            for row in 0..job.rows {
                let of = (job.id.clone(), row);
                match dice.roll(1_600) {
                    0..16 => _ = poisoned.insert(of),
                    16 => _ = killers.insert(of),
                    _ => {}
                }
            }
        }
        let mut world = World {
            scheduler: Scheduler::new(limits(), 1),
            starts: 0,
            dice,
            now_ms: 0,
            disk: Disk::default(),
            in_memory: BTreeSet::new(),
            workers: Vec::new(),
            instances: 0,
            poisoned,
            killers,
            has_faults: true,
            jobs,
            fired: BTreeMap::new(),
        };
        world.start_server();
        for n in 0..1 + world.dice.roll(4) {
            // The first can do everything, so that every job ends.
            let (labels, gpus) = match n {
                0 => (zone("a"), 1),
                _ => (zone(["a", "b"][world.dice.roll(2) as usize]), world.dice.roll(2) as u32),
            };
            let has = Resources { gpus, ..Resources::default() };
            let worker = world.new_worker(labels, has);
            world.workers.push(worker);
        }
        world
    }

    fn new_worker(&mut self, labels: Labels, has: Resources) -> SimWorker {
        self.instances += 1;
        SimWorker { instance: format!("w{}", self.instances), labels, has, ..SimWorker::default() }
    }

    /// Another process in the place of a worker.
    fn replace_worker(&mut self, n: usize) {
        let (labels, has) = (self.workers[n].labels.clone(), self.workers[n].has);
        self.workers[n] = self.new_worker(labels, has);
    }

    fn fault(&mut self, kind: &'static str, percent: u64) -> bool {
        let fires = self.has_faults && self.dice.happens(percent);
        if fires {
            *self.fired.entry(kind).or_default() += 1;
        }
        fires
    }

    /// A new server over the same disk.
    fn start_server(&mut self) {
        self.starts += 1;
        self.scheduler = Scheduler::new(limits(), self.starts);
        self.in_memory.clear();
        for SimJob { id: job, rows, terms } in &self.jobs {
            let (job, terms) = (job.clone(), terms.clone());
            self.scheduler.step(self.now_ms, Event::AddJob { job: job.clone(), terms });
            let mut groups = Vec::new();
            for first in (0..*rows).step_by(GROUP_ROWS as usize) {
                let group = (first / GROUP_ROWS) as u32;
                let is_open = |row: &u64| !self.disk.records.contains_key(&(job.clone(), *row));
                let rows = (first..rows.min(&(first + GROUP_ROWS)).to_owned()).filter(is_open);
                let open: Vec<(u64, u64)> = rows.map(|row| (row, row + 1)).collect();
                // Whoever drives the scheduler looks for whole groups itself when it starts.
                if open.is_empty() {
                    self.disk.groups_done.insert((job.clone(), group));
                }
                groups.push(GroupRows { group, first, open: joined(open) });
            }
            self.scheduler.step(self.now_ms, Event::AddRows { job, groups });
        }
        for attempt in self.disk.parts.clone() {
            self.scheduler.step(self.now_ms, Event::Staged(attempt));
        }
    }

    fn is_bad(&self, attempt: &AttemptId, rows: &BTreeSet<(JobId, u64)>) -> bool {
        let range = attempt.range();
        (range.first..range.end()).any(|row| rows.contains(&(attempt.job.clone(), row)))
    }

    /// Carries out what a step says; returns what the worker is told. False in the second place when
    /// the server died on the way.
    fn carry_out(&mut self, actions: Vec<Action>) -> (Vec<Action>, bool) {
        let mut told = Vec::new();
        let mut queue = std::collections::VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            let (attempt, end) = match action {
                Action::Record(attempt) => {
                    let is_there =
                        self.disk.parts.contains(&attempt) || self.in_memory.contains(&attempt);
                    assert!(is_there, "{attempt} has no results");
                    let end = Some(attempt.attempt);
                    (attempt, end)
                }
                Action::GiveUp(attempt, _) => {
                    let is_bad = self.is_bad(&attempt, &self.poisoned)
                        || self.is_bad(&attempt, &self.killers);
                    assert!(is_bad, "{attempt} was given up");
                    assert_eq!(attempt.range().rows, 1, "{attempt} was given up whole");
                    (attempt, None)
                }
                Action::GroupDone(job, group) => {
                    let is_new = self.disk.groups_done.insert((job, group));
                    assert!(is_new, "a group was done twice");
                    continue;
                }
                other => {
                    told.push(other);
                    continue;
                }
            };
            if self.fault("server died before a record", 2) {
                return (told, false);
            }
            if self.fault("record refused", 5) {
                self.in_memory.remove(&attempt);
                queue.extend(self.scheduler.step(self.now_ms, Event::RecordFailed(attempt)));
                continue;
            }
            if self.in_memory.remove(&attempt) {
                self.disk.parts.insert(attempt.clone());
            }
            for row in attempt.range().first..attempt.range().end() {
                let before = self.disk.records.insert((attempt.job.clone(), row), end);
                assert_eq!(before, None, "row {row} of {attempt} was recorded a second time");
            }
            if self.fault("server died after a record", 2) {
                return (told, false);
            }
            queue.extend(self.scheduler.step(self.now_ms, Event::Recorded(attempt)));
        }
        (told, true)
    }

    /// What always holds of what a worker is given.
    fn check_given(&self, n: usize, told: &[Action]) {
        let worker = &self.workers[n];
        for action in told {
            let Action::Assign { attempt, .. } = action else { continue };
            let job = self.jobs.iter().find(|job| job.id == attempt.job).unwrap();
            assert!(job.terms.are_met_by(&worker.labels), "{attempt} has other labels");
            let (range, group) = (attempt.range(), attempt.range().first / GROUP_ROWS);
            assert_eq!((range.end() - 1) / GROUP_ROWS, group, "{attempt} is of two groups");
            if let TaskSize::Fixed(rows) = job.terms.size {
                assert!(range.rows <= rows, "{attempt} has more than {rows} rows");
            }
        }
        let used = self.scheduler.workers.get(&worker.instance).map(|worker| worker.used);
        assert!(used.unwrap_or_default().gpus <= worker.has.gpus, "a GPU was given twice");
    }

    /// Takes what comes with the report of a worker, as far as it is welcome.
    fn take_inline(&mut self, n: usize) {
        for attempt in self.workers[n].inline.clone() {
            if self.scheduler.may_stage(&attempt) {
                self.scheduler.step(self.now_ms, Event::Staged(attempt.clone()));
                self.in_memory.insert(attempt);
            }
        }
    }

    fn sync(&mut self, n: usize) {
        let worker = &self.workers[n];
        let sync = WorkerSync {
            instance: worker.instance.clone(),
            slots: SLOTS,
            running: worker.running.keys().cloned().collect(),
            done: worker.done.iter().map(|attempt| (attempt.clone(), Vec::new())).collect(),
            failed: worker
                .failed
                .iter()
                .map(|attempt| (attempt.clone(), "poisoned".to_owned(), true))
                .collect(),
            models: vec![model()],
            labels: worker.labels.clone(),
            resources: worker.has,
            ..WorkerSync::default()
        };
        if self.fault("worker leaves", 1) {
            let leaving = WorkerSync { leaving: true, ..sync.clone() };
            self.take_inline(n);
            let actions = self.scheduler.step(self.now_ms, Event::Sync(leaving));
            let is_alive = self.carry_out(actions).1;
            if is_alive && self.fault("a late report of a worker that left", 50) {
                let actions = self.scheduler.step(self.now_ms, Event::Sync(sync));
                assert!(!actions.iter().any(|it| matches!(it, Action::Assign { .. })));
                self.carry_out(actions);
            }
            if !is_alive {
                self.start_server();
            }
            self.replace_worker(n);
            return;
        }
        if self.fault("request lost", 10) {
            return;
        }
        let times = if self.fault("request repeated", 5) { 2 } else { 1 };
        let mut told = Vec::new();
        for _ in 0..times {
            self.take_inline(n);
            let actions = self.scheduler.step(self.now_ms, Event::Sync(sync.clone()));
            let (now_told, is_alive) = self.carry_out(actions);
            if !is_alive {
                self.start_server();
                return;
            }
            told = now_told;
        }
        if told.is_empty() {
            // The call waits; by the time there is something, the worker may be gone or have moved on.
            let actions = self.scheduler.step(
                self.now_ms,
                Event::Wait {
                    instance: self.workers[n].instance.clone(),
                    slots: SLOTS,
                    models: vec![model()],
                },
            );
            let (now_told, is_alive) = self.carry_out(actions);
            if !is_alive {
                self.start_server();
                return;
            }
            told = now_told;
        }
        self.check_given(n, &told);
        if self.fault("answer lost", 10) {
            return;
        }
        for action in told {
            let row_ms = 5 + self.dice.roll(100) as i64;
            let now_ms = self.now_ms;
            let worker = &mut self.workers[n];
            match action {
                Action::Assign { attempt, .. } => {
                    let is_known =
                        worker.done.contains(&attempt) || worker.failed.contains(&attempt);
                    if !is_known {
                        let ready_ms = now_ms + 50 + row_ms * i64::from(attempt.range().rows);
                        worker.running.entry(attempt).or_insert(ready_ms);
                    }
                }
                Action::Stop { attempt, .. } => {
                    worker.running.remove(&attempt);
                }
                Action::Forget { attempt, .. } => {
                    worker.done.remove(&attempt);
                    worker.inline.remove(&attempt);
                    worker.failed.remove(&attempt);
                }
                _ => {}
            }
        }
    }

    /// What a worker has computed it puts, or keeps for its report; a put under a stale attempt is
    /// refused.
    fn put_results(&mut self, n: usize) {
        let now_ms = self.now_ms;
        let ended: Vec<AttemptId> = self.workers[n]
            .running
            .iter()
            .filter(|(_, ready_ms)| **ready_ms <= now_ms)
            .map(|(attempt, _)| attempt.clone())
            .collect();
        for attempt in ended {
            if self.is_bad(&attempt, &self.killers) {
                *self.fired.entry("worker killed by a row").or_default() += 1;
                return self.replace_worker(n);
            }
            if self.is_bad(&attempt, &self.poisoned) {
                self.workers[n].running.remove(&attempt);
                self.workers[n].failed.insert(attempt);
                continue;
            }
            if self.fault("put lost", 5) {
                continue;
            }
            if self.dice.happens(50) {
                self.workers[n].running.remove(&attempt);
                self.workers[n].inline.insert(attempt.clone());
                self.workers[n].done.insert(attempt);
                continue;
            }
            if self.scheduler.may_stage(&attempt) {
                self.disk.parts.insert(attempt.clone());
                if self.fault("server died after a put", 2) {
                    self.start_server();
                    continue;
                }
                self.scheduler.step(self.now_ms, Event::Staged(attempt.clone()));
            }
            if self.fault("answer to a put lost", 5) {
                continue;
            }
            self.workers[n].running.remove(&attempt);
            self.workers[n].done.insert(attempt);
        }
    }

    fn turn(&mut self) {
        self.now_ms += 20 + self.dice.roll(60) as i64;
        if self.fault("server killed", 1) {
            self.start_server();
        }
        if self.fault("job paused", 1) {
            let job = self.jobs[self.dice.roll(self.jobs.len() as u64) as usize].id.clone();
            self.scheduler.step(self.now_ms, Event::Pause(job));
        }
        if !self.has_faults || self.dice.happens(5) {
            for job in &self.jobs {
                self.scheduler.step(self.now_ms, Event::Resume(job.id.clone()));
            }
        }
        for n in 0..self.workers.len() {
            if self.fault("worker killed", 1) {
                self.replace_worker(n);
            }
            if self.fault("worker stalls", 1) {
                self.workers[n].sync_at_ms = self.now_ms + 3_000;
            }
            if self.workers[n].sync_at_ms <= self.now_ms {
                self.put_results(n);
                self.sync(n);
                self.workers[n].sync_at_ms = self.now_ms + 100 + self.dice.roll(200) as i64;
            }
        }
        let actions = self.scheduler.step(self.now_ms, Event::Tick);
        if !self.carry_out(actions).1 {
            self.start_server();
        }
    }

    fn is_finished(&self) -> bool {
        let rows: u64 = self.jobs.iter().map(|job| job.rows).sum();
        self.disk.records.len() as u64 == rows
    }
}

/// Runs of rows that lie side by side, joined.
fn joined(runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (first, end) in runs {
        match joined.last_mut() {
            Some((_, last)) if *last == first => *last = end,
            _ => joined.push((first, end)),
        }
    }
    joined
}

fn run(seed: u64) -> BTreeMap<&'static str, u32> {
    let mut world = World::new(seed);
    for _ in 0..300 {
        world.turn();
    }
    world.has_faults = false;
    let mut turns = 0;
    while !world.is_finished() {
        world.turn();
        turns += 1;
        assert!(turns < 20_000, "seed {seed}: not finished {turns} turns after the faults stopped");
    }
    for (row, end) in &world.disk.records {
        let is_bad = world.poisoned.contains(row) || world.killers.contains(row);
        assert_eq!(end.is_none(), is_bad, "seed {seed}: {row:?}");
    }
    for job in &world.jobs {
        for group in 0..=(job.rows - 1) / GROUP_ROWS {
            let group = (job.id.clone(), group as u32);
            assert!(world.disk.groups_done.contains(&group), "seed {seed}: {group:?} is open");
        }
        let job = &world.scheduler.jobs[&job.id];
        assert!(job.tasks.is_empty() && job.ready.is_empty() && job.workers.is_empty());
    }
    assert!(world.scheduler.leases.is_empty());
    assert!(world.scheduler.workers.values().all(|worker| worker.used.is_none()));
    world.fired
}

#[test]
fn every_history_ends_with_every_row_recorded_once() {
    let seeds = match std::env::var("LAKEBED_SOAK") {
        Ok(_) => 100_000,
        Err(_) => 1_000,
    };
    let mut fired: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 1..=seeds {
        let of_seed = std::panic::catch_unwind(|| run(seed))
            .unwrap_or_else(|_| panic!("LAKEBED_SIM_SEED={seed} shows it again"));
        for (kind, times) in of_seed {
            *fired.entry(kind).or_default() += times;
        }
    }
    // A fault that never fires tests nothing.
    assert_eq!(fired.len(), 16, "{fired:?}");
    assert!(fired.values().all(|times| *times > 100), "{fired:?}");
}

/// A report of a worker that has everything.
fn report(instance: &str, slots: u32) -> WorkerSync {
    WorkerSync {
        instance: instance.to_owned(),
        slots,
        models: vec![model()],
        ..WorkerSync::default()
    }
}

fn given(actions: Vec<Action>) -> Vec<AttemptId> {
    let attempt = |action| match action {
        Action::Assign { attempt, .. } => Some(attempt),
        _ => None,
    };
    actions.into_iter().filter_map(attempt).collect()
}

/// A scheduler with jobs of so many rows.
fn scheduler(jobs: &[(&str, u64, Terms)]) -> Scheduler {
    let mut scheduler = Scheduler::new(limits(), 1);
    for (job, rows, terms) in jobs {
        let job = JobId::new(job);
        scheduler.step(0, Event::AddJob { job: job.clone(), terms: terms.clone() });
        let groups = vec![GroupRows { group: 0, first: 0, open: vec![(0, *rows)] }];
        scheduler.step(0, Event::AddRows { job, groups });
    }
    scheduler
}

#[test]
fn a_failure_that_is_said_twice_counts_once() {
    let mut scheduler = scheduler(&[("j", 1, terms(TaskSize::Fixed(1)))]);
    let sync = |failed: &[AttemptId]| {
        let failed = failed.iter().map(|it| (it.clone(), "no".to_owned(), true)).collect();
        Event::Sync(WorkerSync { failed, ..report("w", 1) })
    };
    let first = given(scheduler.step(0, sync(&[]))).pop().unwrap();
    for _ in 0..5 {
        let actions = scheduler.step(1, sync(std::slice::from_ref(&first)));
        assert!(!actions.iter().any(|action| matches!(action, Action::GiveUp(..))));
    }
    let again = given(scheduler.step(60_000, sync(&[]))).pop().unwrap();
    assert!(again.attempt > first.attempt);
}

#[test]
fn a_higher_priority_goes_first_and_equals_share() {
    let size = TaskSize::Fixed(1);
    let high = Terms { priority: 5, ..terms(size) };
    let jobs = [("a", 100, terms(size)), ("b", 100, terms(size)), ("c", 3, high)];
    let mut scheduler = scheduler(&jobs);
    let got = given(scheduler.step(0, Event::Sync(report("w", 23))));
    let of = |job: &str| got.iter().filter(|it| it.job.as_str() == job).count();
    assert_eq!((of("a"), of("b"), of("c")), (10, 10, 3));
    assert!(got[..3].iter().all(|attempt| attempt.job.as_str() == "c"));
}

#[test]
fn a_job_has_no_more_workers_than_it_may() {
    let most = Terms { workers_max: Some(2), ..terms(TaskSize::Fixed(1)) };
    let mut scheduler = scheduler(&[("j", 100, most)]);
    let mut got = |worker: &str| given(scheduler.step(0, Event::Sync(report(worker, 2)))).len();
    assert_eq!((got("a"), got("b"), got("c")), (2, 2, 0));
    let gone = WorkerSync { leaving: true, ..report("a", 2) };
    scheduler.step(0, Event::Sync(gone));
    assert_eq!(given(scheduler.step(0, Event::Sync(report("c", 2)))).len(), 2);
}

#[test]
fn only_workers_with_the_labels_and_resources_get_tasks() {
    let mut wanted = Terms { labels: zone("a"), ..terms(TaskSize::Fixed(1)) };
    wanted.resources = Resources { cpus: 2, gpus: 1, gpu_memory_mb: 500 };
    let mut scheduler = scheduler(&[("j", 100, wanted)]);
    let has = Resources { cpus: 8, gpus: 4, gpu_memory_mb: 1_200 };
    let mut got = |name: &str, labels: Labels, resources| {
        let sync = WorkerSync { labels, resources, ..report(name, 8) };
        given(scheduler.step(0, Event::Sync(sync))).len()
    };
    assert_eq!(got("none", Labels::new(), has), 0);
    assert_eq!(got("other", zone("b"), has), 0);
    assert_eq!(got("poor", zone("a"), Resources { gpus: 0, ..has }), 0);
    // The memory of its GPUs is enough for two.
    assert_eq!(got("rich", zone("a"), has), 2);
}

#[test]
fn what_fails_for_every_row_is_not_split_for_ever() {
    let mut scheduler = scheduler(&[("j", 10_000, terms(TaskSize::Fixed(256)))]);
    scheduler.limits.hopeless_rows = 32;
    let (mut now_ms, mut attempts, mut rows) = (0, 0, 0);
    let mut failed: Vec<(AttemptId, String, bool)> = Vec::new();
    while rows < 10_000 {
        // Within the lease: nothing is lost.
        now_ms += 500;
        let sync = WorkerSync { failed: std::mem::take(&mut failed), ..report("w", 4) };
        let mut actions = scheduler.step(now_ms, Event::Sync(sync));
        let mut given_up = Vec::new();
        actions.retain(|action| match action {
            Action::GiveUp(attempt, _) => {
                given_up.push(attempt.clone());
                false
            }
            _ => true,
        });
        for attempt in given_up {
            rows += attempt.range().rows;
            scheduler.step(now_ms, Event::Recorded(attempt));
        }
        for attempt in given(actions) {
            attempts += 1;
            failed.push((attempt, "no".to_owned(), true));
        }
    }
    assert!(attempts < 400, "{attempts}");
}

#[test]
fn what_kills_every_worker_is_not_split_for_ever() {
    let mut scheduler = scheduler(&[("j", 10_000, terms(TaskSize::Fixed(256)))]);
    scheduler.limits.hopeless_rows = 32;
    let (mut now_ms, mut attempts, mut rows) = (0, 0, 0);
    while rows < 10_000 {
        now_ms += scheduler.limits.lease_ms + 1;
        let actions = scheduler.step(now_ms, Event::Sync(report(&format!("w{now_ms}"), 4)));
        for action in &actions {
            if let Action::GiveUp(attempt, _) = action {
                rows += attempt.range().rows;
                scheduler.step(now_ms, Event::Recorded(attempt.clone()));
            }
        }
        attempts += given(actions).len();
    }
    assert!(attempts < 3_000, "{attempts}");
}

#[test]
fn a_seed_can_be_replayed() {
    let seed = std::env::var("LAKEBED_SIM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(7);
    assert_eq!(run(seed), run(seed));
}
