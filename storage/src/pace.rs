//! Room for users: after each piece of work, maintenance rests while requests run.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked whether requests still run.
const LOOK: Duration = Duration::from_millis(50);
/// How long work goes on between two rests, where it can be cut so small: less than a read takes, so that
/// none is much slower for the slice that it meets.
const SLICE: Duration = Duration::from_millis(2);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(120);

/// Which share of its time maintenance works while requests run.
#[derive(Clone)]
pub struct Pace {
    share_percent: u32,
    is_busy: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("share_percent", &self.share_percent).finish_non_exhaustive()
    }
}

impl Pace {
    /// Work for `share_percent` of the time while `is_busy`, and all the time otherwise.
    pub fn new(share_percent: u32, is_busy: impl Fn() -> bool + Send + Sync + 'static) -> Pace {
        Pace { share_percent: share_percent.clamp(1, 100), is_busy: Arc::new(is_busy) }
    }

    /// No rest: for what somebody waits for.
    pub fn at_once() -> Pace {
        Pace::new(100, || false)
    }

    /// Begins some work.
    pub fn turn(&self) -> Turn {
        Turn { pace: self.clone(), since: Instant::now() }
    }

    /// Rests after work that took `worked`, for as long as the share asks for and requests run.
    pub async fn rest(&self, worked: Duration) {
        let share = self.share_percent;
        let rest = (worked * (100 - share) / share).min(REST_MAX);
        let began = Instant::now();
        while (self.is_busy)() {
            let left = rest.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            let nap = left.min(LOOK);
            tokio::time::sleep(nap).await;
            let napped = u64::try_from(nap.as_millis()).unwrap_or(u64::MAX);
            metrics::counter!("lakebed_maintenance_rested_ms_total").increment(napped);
        }
    }
}

/// Some work, and how long it went on since its last rest.
#[derive(Debug)]
pub struct Turn {
    pace: Pace,
    since: Instant,
}

impl Turn {
    /// Does a part that may stop at any of its waits: while requests run, a slice at a time with rests in
    /// between. What the part started elsewhere goes on through them, as far as it reads ahead. Not for work
    /// that holds a lock others wait for.
    pub async fn work<T>(&mut self, part: impl Future<Output = T>) -> T {
        let mut part = pin!(part);
        loop {
            match tokio::time::timeout(SLICE, &mut part).await {
                Ok(done) => return done,
                Err(_) => self.rest().await,
            }
        }
    }

    /// Rests for what was done since the last rest.
    pub async fn rest(&mut self) {
        self.pace.rest(self.since.elapsed()).await;
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn it_rests_while_requests_run_and_no_longer() {
        let busy = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&busy);
        let pace = Pace::new(25, move || seen.load(Ordering::SeqCst));
        let began = Instant::now();
        pace.rest(Duration::from_millis(100)).await;
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());

        let began = Instant::now();
        let idle = Arc::clone(&busy);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            idle.store(false, Ordering::SeqCst);
        });
        pace.rest(Duration::from_secs(100)).await;
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

        let began = Instant::now();
        pace.rest(Duration::from_secs(100)).await;
        Pace::at_once().rest(Duration::from_secs(100)).await;
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn long_work_rests_in_between() {
        let steps = async || {
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            7
        };
        let began = Instant::now();
        let mut turn = Pace::new(20, || true).turn();
        assert_eq!(turn.work(steps()).await, 7);
        assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
        // What the rests were for is not counted again.
        let ended = Instant::now();
        turn.rest().await;
        assert!(ended.elapsed() < Duration::from_millis(200), "{:?}", ended.elapsed());

        let began = Instant::now();
        assert_eq!(Pace::at_once().turn().work(steps()).await, 7);
        assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    }
}
