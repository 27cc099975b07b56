//! Admission: how much may run and how much memory it may hold, by named limits.
//!
//! Why it exists: memory stays bounded whatever clients send. A share is taken before the memory is,
//! and given back by dropping the permit. Three limits, each a fair queue of its own:
//! `concurrent_requests_max` counts requests, `write_memory_bytes_max` and `read_memory_bytes_max`
//! count bytes in units of 64 KiB, because a semaphore counts in `u32`.
//!
//! A write takes a share for each batch ([`Service::admit_batch`](crate::Service::admit_batch)): the
//! door asks before it decodes the batch, and the share goes back when the writer asks for the next
//! one. So a client that sends nothing holds no memory, however many there are. Not counted is what
//! the writer keeps of batches that it has taken: at most 8 MiB of pages that lance fills, or 16 MiB
//! of an upsert's spool. An upload and an open read take one fixed share for as long as they run.
//!
//! What always holds: a share is clamped to the whole limit, so one giant is admitted alone instead
//! of never; nobody waits longer than `admission_wait_ms_max`; a permit that is dropped gives back
//! all of it.
//!
//! The rule that callers keep: nobody waits for a share whose holder waits for the one who asks. A
//! task that waits for a second permit of a limit while it holds the first can wait for itself. The
//! door does not hold what it takes: the batches wait in its feed, and the writer, which needs no
//! share to go on, gives them back one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lakebed_core::{Error, ErrorKind, Limits, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;

const UNIT_BYTES: usize = 64 << 10;
const RETRY_AFTER_MS: u64 = 1_000;
/// How long a request counts as recent.
const RECENT_MS: u64 = 1_000;

/// The three limits of one service.
#[derive(Debug)]
pub(crate) struct Admission {
    requests: Limit,
    write_memory: Limit,
    read_memory: Limit,
    began: Instant,
    /// When the last request asked for its place, since `began`.
    last_request_ms: Arc<AtomicU64>,
}

/// A share of a limit, given back when it is dropped.
#[derive(Debug)]
#[must_use = "a share is given back when its permit is dropped"]
pub struct Permit {
    _share: OwnedSemaphorePermit,
}

impl Admission {
    /// Admission under `limits`.
    pub(crate) fn new(limits: &Limits) -> Self {
        let wait = Duration::from_millis(limits.admission_wait_ms_max);
        let limit = |name, total: usize, unit| Limit::new(name, total, unit, wait);
        Admission {
            requests: limit("concurrent_requests_max", limits.concurrent_requests_max, 1),
            write_memory: limit(
                "write_memory_bytes_max",
                limits.write_memory_bytes_max,
                UNIT_BYTES,
            ),
            read_memory: limit("read_memory_bytes_max", limits.read_memory_bytes_max, UNIT_BYTES),
            began: Instant::now(),
            last_request_ms: Arc::default(),
        }
    }

    /// Whether a request runs or was admitted within the last second, whenever it is called.
    pub(crate) fn is_in_use(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        self.is_in_use_beside(0, 0)
    }

    /// Whether a request other than the caller's, who has just been admitted, runs or was admitted since.
    pub(crate) fn is_in_use_by_others(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        self.is_in_use_beside(1, self.last_request_ms.load(Ordering::Relaxed))
    }

    /// Whether more requests than these run, or one was admitted within the last second and after that
    /// moment.
    fn is_in_use_beside(
        &self,
        running: usize,
        after_ms: u64,
    ) -> impl Fn() -> bool + Send + Sync + 'static {
        let (semaphore, units) = (Arc::clone(&self.requests.semaphore), self.requests.units);
        let (began, last_ms) = (self.began, Arc::clone(&self.last_request_ms));
        move || {
            let (now_ms, last_ms) = (millis(began.elapsed()), last_ms.load(Ordering::Relaxed));
            let is_recent = last_ms > after_ms && now_ms.saturating_sub(last_ms) < RECENT_MS;
            is_recent || semaphore.available_permits() + running < units as usize
        }
    }

    /// Takes the place of one running request.
    ///
    /// # Errors
    /// `Busy` naming the limit when no place became free in time.
    pub(crate) async fn admit_request(&self) -> Result<Permit> {
        self.last_request_ms.store(millis(self.began.elapsed()), Ordering::Relaxed);
        self.requests.take(1).await
    }

    /// Takes memory for decoded input.
    ///
    /// # Errors
    /// `Busy` naming the limit when not enough became free in time.
    pub(crate) async fn write_bytes(&self, bytes: usize) -> Result<Permit> {
        self.write_memory.take(bytes).await
    }

    /// Takes memory for read-ahead.
    ///
    /// # Errors
    /// `Busy` naming the limit when not enough became free in time.
    pub(crate) async fn read_bytes(&self, bytes: usize) -> Result<Permit> {
        self.read_memory.take(bytes).await
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Limit {
    name: &'static str,
    total: usize,
    unit: usize,
    units: u32,
    wait: Duration,
    semaphore: Arc<Semaphore>,
}

impl Limit {
    fn new(name: &'static str, total: usize, unit: usize, wait: Duration) -> Self {
        let units = u32::try_from(total / unit).unwrap_or(u32::MAX).max(1);
        let semaphore = Arc::new(Semaphore::new(units as usize));
        Limit { name, total, unit, units, wait, semaphore }
    }

    async fn take(&self, amount: usize) -> Result<Permit> {
        let units = u32::try_from(amount.div_ceil(self.unit)).unwrap_or(u32::MAX);
        let units = units.clamp(1, self.units);
        match Arc::clone(&self.semaphore).try_acquire_many_owned(units) {
            Ok(share) => return Ok(Permit { _share: share }),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {}
        }
        let began = Instant::now();
        let waited =
            tokio::time::timeout(self.wait, Arc::clone(&self.semaphore).acquire_many_owned(units))
                .await;
        metrics::histogram!("lakebed_admission_wait_seconds", "limit" => self.name)
            .record(began.elapsed());
        match waited {
            Ok(Ok(share)) => Ok(Permit { _share: share }),
            Ok(Err(_)) => Err(Error::internal(format!("the queue of {} was closed", self.name))),
            Err(_) => {
                metrics::counter!("lakebed_admission_refused_total", "limit" => self.name)
                    .increment(1);
                Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "the limit {} = {} was in full use for {} ms",
                        self.name,
                        self.total,
                        self.wait.as_millis()
                    ),
                )
                .with_retry_after_ms(RETRY_AFTER_MS))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(wait_ms: u64) -> Admission {
        Admission::new(&Limits {
            concurrent_requests_max: 2,
            write_memory_bytes_max: 4 * UNIT_BYTES,
            read_memory_bytes_max: 1,
            admission_wait_ms_max: wait_ms,
            ..Limits::default()
        })
    }

    #[tokio::test]
    async fn a_full_limit_is_refused_by_name_with_a_delay() {
        let admission = admission(1);
        let first = admission.admit_request().await.unwrap();
        let _second = admission.admit_request().await.unwrap();
        let error = admission.admit_request().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.message().contains("concurrent_requests_max = 2"), "{error}");
        assert!(error.retry_after_ms().is_some());
        drop(first);
        let _third = admission.admit_request().await.unwrap();
    }

    #[tokio::test]
    async fn a_giant_is_admitted_alone() {
        let admission = admission(1);
        let giant = admission.write_bytes(usize::MAX).await.unwrap();
        assert_eq!(admission.write_bytes(1).await.unwrap_err().kind(), ErrorKind::Busy);
        drop(giant);
        let _small = admission.write_bytes(1).await.unwrap();
        let _rest = admission.write_bytes(3 * UNIT_BYTES).await.unwrap();
        assert!(admission.write_bytes(1).await.is_err());
    }

    #[tokio::test]
    async fn a_limit_below_one_unit_still_admits_one() {
        let admission = admission(1);
        let _one = admission.read_bytes(10 * UNIT_BYTES).await.unwrap();
        assert!(admission.read_bytes(1).await.is_err());
    }

    #[tokio::test]
    async fn a_waiting_request_gets_what_another_gives_back() {
        let admission = Arc::new(admission(60_000));
        let whole = admission.write_bytes(4 * UNIT_BYTES).await.unwrap();
        let waiting = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.write_bytes(UNIT_BYTES).await }
        });
        tokio::task::yield_now().await;
        drop(whole);
        drop(waiting.await.unwrap().unwrap());
    }
}
