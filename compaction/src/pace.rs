//! Room for users: after each piece of work, maintenance rests while requests run.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked whether requests still run.
const LOOK: Duration = Duration::from_millis(50);
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
}
