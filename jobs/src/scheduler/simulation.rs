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
    /// What it works on, and when it is done.
    running: BTreeMap<AttemptId, i64>,
    done: BTreeSet<AttemptId>,
    failed: BTreeSet<AttemptId>,
    sync_at_ms: i64,
}

/// What outlives a restart of the server.
#[derive(Default)]
struct Disk {
    /// Attempts whose results are there.
    parts: BTreeSet<AttemptId>,
    /// How each task ended; nothing for one that was given up.
    records: BTreeMap<(JobId, u64), Option<u64>>,
    groups_done: BTreeSet<(JobId, u32)>,
}

struct World {
    dice: Dice,
    now_ms: i64,
    scheduler: Scheduler,
    starts: u32,
    disk: Disk,
    workers: Vec<SimWorker>,
    instances: u32,
    /// Tasks that always fail.
    poisoned: BTreeSet<(JobId, u64)>,
    has_faults: bool,
    jobs: Vec<(JobId, u64)>,
    /// Faults that fired, by kind.
    fired: BTreeMap<&'static str, u32>,
}

const GROUP_TASKS: u64 = 4;
const SLOTS: u32 = 2;

fn limits() -> SchedulerLimits {
    SchedulerLimits { lease_ms: 1_000, losses_max: 1_000, ..SchedulerLimits::default() }
}

fn model() -> ModelKey {
    ModelKey { name: "m".to_owned(), digest: Some("sha256:1".to_owned()) }
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let jobs: Vec<(JobId, u64)> = (0..1 + dice.roll(3))
            .map(|n| (JobId::new(&format!("j{n}")), 1 + dice.roll(24)))
            .collect();
        let mut poisoned = BTreeSet::new();
        for (job, tasks) in &jobs {
            for task in 0..*tasks {
                if dice.happens(3) {
                    poisoned.insert((job.clone(), task));
                }
            }
        }
        let mut world = World {
            scheduler: Scheduler::new(limits(), 1),
            starts: 0,
            dice,
            now_ms: 0,
            disk: Disk::default(),
            workers: Vec::new(),
            instances: 0,
            poisoned,
            has_faults: true,
            jobs,
            fired: BTreeMap::new(),
        };
        world.start_server();
        for _ in 0..1 + world.dice.roll(4) {
            let worker = world.new_worker();
            world.workers.push(worker);
        }
        world
    }

    fn new_worker(&mut self) -> SimWorker {
        self.instances += 1;
        SimWorker { instance: format!("w{}", self.instances), ..SimWorker::default() }
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
        for (job, tasks) in self.jobs.clone() {
            self.scheduler.step(self.now_ms, Event::AddJob { job: job.clone(), model: model() });
            let open: Vec<(u64, u32)> = (0..tasks)
                .filter(|task| !self.disk.records.contains_key(&(job.clone(), *task)))
                .map(|task| (task, (task / GROUP_TASKS) as u32))
                .collect();
            // Whoever drives the scheduler looks for whole groups itself when it starts.
            for group in 0..=(tasks - 1) / GROUP_TASKS {
                if open.iter().all(|(_, of)| u64::from(*of) != group) {
                    self.disk.groups_done.insert((job.clone(), group as u32));
                }
            }
            self.scheduler.step(self.now_ms, Event::AddTasks { job, tasks: open });
        }
        for attempt in self.disk.parts.clone() {
            self.scheduler.step(self.now_ms, Event::Staged(attempt));
        }
    }

    /// Carries out what a step says; returns what the worker is told. False in the second place when
    /// the server died on the way.
    fn carry_out(&mut self, actions: Vec<Action>) -> (Vec<Action>, bool) {
        let mut told = Vec::new();
        let mut queue = std::collections::VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            let (attempt, end) = match action {
                Action::Record(attempt) => {
                    assert!(self.disk.parts.contains(&attempt), "{attempt} has no results");
                    let end = Some(attempt.attempt);
                    (attempt, end)
                }
                Action::GiveUp(attempt, _) => {
                    let of = (attempt.job.clone(), attempt.task);
                    assert!(self.poisoned.contains(&of), "{attempt} was given up");
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
                queue.extend(self.scheduler.step(self.now_ms, Event::RecordFailed(attempt)));
                continue;
            }
            let before = self.disk.records.insert((attempt.job.clone(), attempt.task), end);
            assert_eq!(before, None, "{attempt} was recorded a second time");
            if self.fault("server died after a record", 2) {
                return (told, false);
            }
            queue.extend(self.scheduler.step(self.now_ms, Event::Recorded(attempt)));
        }
        (told, true)
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
            leaving: false,
        };
        if self.fault("worker leaves", 1) {
            let leaving = WorkerSync { leaving: true, ..sync.clone() };
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
            self.workers[n] = self.new_worker();
            return;
        }
        if self.fault("request lost", 10) {
            return;
        }
        let times = if self.fault("request repeated", 5) { 2 } else { 1 };
        let mut told = Vec::new();
        for _ in 0..times {
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
        if self.fault("answer lost", 10) {
            return;
        }
        for action in told {
            let ready_ms = self.now_ms + 50 + self.dice.roll(1_500) as i64;
            let worker = &mut self.workers[n];
            match action {
                Action::Assign { attempt, .. } => {
                    let is_known =
                        worker.done.contains(&attempt) || worker.failed.contains(&attempt);
                    if !is_known {
                        worker.running.entry(attempt).or_insert(ready_ms);
                    }
                }
                Action::Stop { attempt, .. } => {
                    worker.running.remove(&attempt);
                }
                Action::Forget { attempt, .. } => {
                    worker.done.remove(&attempt);
                    worker.failed.remove(&attempt);
                }
                _ => {}
            }
        }
    }

    /// What a worker has computed it puts, and a put under a stale attempt is refused.
    fn put_results(&mut self, n: usize) {
        let now_ms = self.now_ms;
        let ended: Vec<AttemptId> = self.workers[n]
            .running
            .iter()
            .filter(|(_, ready_ms)| **ready_ms <= now_ms)
            .map(|(attempt, _)| attempt.clone())
            .collect();
        for attempt in ended {
            if self.poisoned.contains(&(attempt.job.clone(), attempt.task)) {
                self.workers[n].running.remove(&attempt);
                self.workers[n].failed.insert(attempt);
                continue;
            }
            if self.fault("put lost", 5) {
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
        for n in 0..self.workers.len() {
            if self.fault("worker killed", 1) {
                self.workers[n] = self.new_worker();
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
        let tasks: u64 = self.jobs.iter().map(|(_, tasks)| tasks).sum();
        self.disk.records.len() as u64 == tasks
    }
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
    for (task, end) in &world.disk.records {
        assert_eq!(end.is_none(), world.poisoned.contains(task), "seed {seed}: {task:?}");
    }
    for (job, tasks) in &world.jobs {
        for group in 0..=(tasks - 1) / GROUP_TASKS {
            let group = (job.clone(), group as u32);
            assert!(world.disk.groups_done.contains(&group), "seed {seed}: {group:?} is open");
        }
    }
    world.fired
}

#[test]
fn every_history_ends_with_every_task_recorded_once() {
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
    assert_eq!(fired.len(), 14, "{fired:?}");
    assert!(fired.values().all(|times| *times > 100), "{fired:?}");
}

#[test]
fn a_failure_that_is_said_twice_counts_once() {
    let job = JobId::new("j");
    let mut scheduler = Scheduler::new(limits(), 1);
    scheduler.step(0, Event::AddJob { job: job.clone(), model: model() });
    scheduler.step(0, Event::AddTasks { job: job.clone(), tasks: vec![(0, 0)] });
    let sync = |failed: &[AttemptId]| {
        Event::Sync(WorkerSync {
            instance: "w".to_owned(),
            slots: 1,
            failed: failed.iter().map(|it| (it.clone(), "no".to_owned(), true)).collect(),
            models: vec![model()],
            ..WorkerSync::default()
        })
    };
    let given = |actions: Vec<Action>| {
        actions.into_iter().find_map(|action| match action {
            Action::Assign { attempt, .. } => Some(attempt),
            _ => None,
        })
    };
    let first = given(scheduler.step(0, sync(&[]))).unwrap();
    for _ in 0..5 {
        let actions = scheduler.step(1, sync(std::slice::from_ref(&first)));
        assert!(!actions.iter().any(|action| matches!(action, Action::GiveUp(..))));
    }
    assert!(given(scheduler.step(60_000, sync(&[]))).unwrap().attempt > first.attempt);
}

#[test]
fn a_seed_can_be_replayed() {
    let seed = std::env::var("LAKEBED_SIM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(7);
    assert_eq!(run(seed), run(seed));
}
