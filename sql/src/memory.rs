//! Memory of statements: each has its own bound, and all together have one.
//!
//! What can be spilled is told that there is no more and goes to disk; anything else ends the statement
//! with the name of the limit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

/// What all statements hold together.
#[derive(Debug)]
pub(crate) struct AllMemory {
    held: AtomicUsize,
    bytes_max: usize,
}

impl AllMemory {
    pub(crate) fn new(bytes_max: usize) -> Arc<AllMemory> {
        Arc::new(AllMemory { held: AtomicUsize::new(0), bytes_max })
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            held.checked_add(bytes).filter(|held| *held <= self.bytes_max)
        });
        taken.is_ok()
    }
}

/// The memory of one statement.
#[derive(Debug)]
pub(crate) struct StatementMemory {
    own: FairSpillPool,
    own_bytes_max: usize,
    all: Arc<AllMemory>,
}

impl StatementMemory {
    pub(crate) fn new(own_bytes_max: usize, all: Arc<AllMemory>) -> Self {
        StatementMemory { own: FairSpillPool::new(own_bytes_max), own_bytes_max, all }
    }

    fn refused(&self, reservation: &MemoryReservation, limit: &str, max: usize) -> DataFusionError {
        DataFusionError::ResourcesExhausted(format!(
            "the limit {limit} = {max} bytes is in full use; {} could get no more",
            reservation.consumer().name()
        ))
    }
}

impl fmt::Display for StatementMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "statement(held: {}, max: {})", self.own.reserved(), self.own_bytes_max)
    }
}

impl MemoryPool for StatementMemory {
    fn name(&self) -> &str {
        "statement"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.all.held.fetch_add(additional, Ordering::AcqRel);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.all.held.fetch_sub(shrink, Ordering::AcqRel);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if self.own.try_grow(reservation, additional).is_err() {
            let limit = "sql_query_memory_bytes_max";
            return Err(self.refused(reservation, limit, self.own_bytes_max));
        }
        if !self.all.take(additional) {
            self.own.shrink(reservation, additional);
            return Err(self.refused(reservation, "sql_memory_bytes_max", self.all.bytes_max));
        }
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.own_bytes_max)
    }
}

impl Drop for StatementMemory {
    fn drop(&mut self) {
        // Every reservation holds the pool, so nothing is left unless one of them broke its promise.
        self.all.held.fetch_sub(self.own.reserved(), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(own: usize, all: &Arc<AllMemory>) -> Arc<dyn MemoryPool> {
        Arc::new(StatementMemory::new(own, Arc::clone(all)))
    }

    #[test]
    fn both_limits_are_kept_and_named() {
        let all = AllMemory::new(150);
        let (a, b) = (pool(100, &all), pool(100, &all));
        let first = MemoryConsumer::new("sort").register(&a);
        let second = MemoryConsumer::new("join").register(&b);
        first.try_grow(90).unwrap();
        let error = first.try_grow(20).unwrap_err().to_string();
        assert!(error.contains("sql_query_memory_bytes_max = 100"), "{error}");
        let error = second.try_grow(70).unwrap_err().to_string();
        assert!(error.contains("sql_memory_bytes_max = 150"), "{error}");
        assert_eq!((a.reserved(), b.reserved()), (90, 0));
        drop(first);
        second.try_grow(70).unwrap();
        drop(second);
        assert_eq!(all.held.load(Ordering::Acquire), 0);
    }
}
