//! The bridge between the handler that reads a write's messages and the task that runs the write.
//!
//! Why it exists: a handler is dropped when its client goes away, and the write must then see an error
//! and never a plain end. The [`Feed`] lives in the handler; the stream at the other end ends plainly
//! only after [`Feed::complete`], and only if the feed is still there when the write gets that far.
//! Once the stream has ended plainly the write no longer depends on the handler.
//!
//! What waits in between is bounded by bytes: a batch may be 256 MiB or 200 rows. Nothing is to be read
//! before the write asks for it ([`Feed::wanted`]): a write that waits for admission holds no memory.
//! Each batch comes with its share of the memory of all writes, which is given back when the write asks
//! for the next one.

use std::sync::{Arc, Weak};

use arrow_array::RecordBatch;
use futures::Stream;
use lakebed_core::{Error, Result};
use lakebed_service::BatchStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::batching::wire_bytes;
use crate::do_put::gone;
use crate::request::Deadline;

/// Decoded bytes that may wait; a larger batch waits alone.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Permits are counted in this unit because a semaphore counts in 32 bits.
const PERMIT_BYTES: usize = 1 << 10;
const WAITING_BATCHES_MAX: usize = 64;

/// The handler's end. Dropping it without [`Feed::complete`] breaks the stream.
pub(crate) struct Feed {
    items: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
    wanted: Arc<Notify>,
    _alive: Arc<()>,
}

/// A share of memory; dropping it gives it back.
pub(crate) type Share = Box<dyn Send>;

enum Item {
    Batch(RecordBatch, OwnedSemaphorePermit, Share),
    End(Result<()>),
}

/// A feed and the stream that it feeds, which does not end plainly after `deadline`.
pub(crate) fn feed(deadline: Option<Deadline>) -> (Feed, BatchStream) {
    let (items, receiver) = mpsc::channel(WAITING_BATCHES_MAX);
    let alive = Arc::new(());
    let wanted = Arc::new(Notify::new());
    let fed = Fed {
        items: receiver,
        wanted: Wanted(Arc::clone(&wanted)),
        feed: Arc::downgrade(&alive),
        deadline,
        failure: None,
        in_hand: None,
    };
    let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX / PERMIT_BYTES));
    (Feed { items, room, wanted, _alive: alive }, Box::pin(fed.into_stream()))
}

impl Feed {
    /// Waits until the write asks for its first batch or is over. To be called once.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Hands a batch on, once there is room for it. A write that is over takes nothing more.
    pub(crate) async fn batch(&self, batch: RecordBatch, share: Share) {
        let bytes = wire_bytes(&batch).clamp(PERMIT_BYTES, WAITING_BYTES_MAX);
        let permits = (bytes / PERMIT_BYTES) as u32;
        // The semaphore is never closed, and the queue only when the write is over.
        if let Ok(permit) = Arc::clone(&self.room).acquire_many_owned(permits).await {
            let _ = self.items.send(Item::Batch(batch, permit, share)).await;
        }
    }

    /// Whether the write still takes batches.
    pub(crate) fn is_open(&self) -> bool {
        !self.items.is_closed()
    }

    /// Ends the stream plainly. The feed has to be kept until the write is done with its stream.
    pub(crate) async fn complete(&self) {
        let _ = self.items.send(Item::End(Ok(()))).await;
    }

    /// Ends the stream with an error.
    pub(crate) async fn fail(&self, error: Error) {
        let _ = self.items.send(Item::End(Err(error))).await;
    }
}

/// The write's end.
struct Fed {
    items: mpsc::Receiver<Item>,
    wanted: Wanted,
    feed: Weak<()>,
    deadline: Option<Deadline>,
    failure: Option<Error>,
    /// Of the batch that the write works on.
    in_hand: Option<Share>,
}

/// Wakes the feed when the write asks, and when its stream is dropped.
struct Wanted(Arc<Notify>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Fed {
    fn into_stream(self) -> impl Stream<Item = Result<RecordBatch>> + Send {
        futures::stream::unfold(self, |mut fed| async move {
            let next = fed.next().await?;
            // Should anything read past an error, it must not find a plain end there.
            if let Err(error) = &next {
                fed.failure = Some(Error::new(error.kind(), error.message()));
            }
            Some((next, fed))
        })
    }

    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        if let Some(failure) = &self.failure {
            return Some(Err(Error::new(failure.kind(), failure.message())));
        }
        self.in_hand = None;
        self.wanted.0.notify_one();
        match self.items.recv().await {
            Some(Item::Batch(batch, _room, share)) => {
                self.in_hand = Some(share);
                Some(Ok(batch))
            }
            Some(Item::End(Err(error))) => Some(Err(error)),
            Some(Item::End(Ok(()))) => {
                // Lets a cancellation that has already arrived drop the handler.
                tokio::task::yield_now().await;
                if self.feed.strong_count() == 0 {
                    return Some(Err(gone()));
                }
                if self.deadline.is_some_and(|Deadline(at)| at <= Instant::now()) {
                    return Some(Err(Deadline::passed()));
                }
                None
            }
            None => Some(Err(gone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow_array::{ArrayRef, Int64Array};
    use futures::{FutureExt, StreamExt};
    use lakebed_core::ErrorKind;

    use super::*;

    fn batch(rows: usize) -> RecordBatch {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![7; rows]));
        RecordBatch::try_from_iter([("n", values)]).unwrap()
    }

    fn no_share() -> Share {
        Box::new(())
    }

    async fn kinds(stream: BatchStream, items_max: usize) -> Vec<Result<usize, ErrorKind>> {
        let items = stream.take(items_max).collect::<Vec<_>>().await;
        items
            .into_iter()
            .map(|item| item.map(|batch| batch.num_rows()).map_err(|error| error.kind()))
            .collect()
    }

    #[tokio::test]
    async fn a_completed_feed_ends_plainly() {
        let (feed, stream) = feed(None);
        feed.batch(batch(3), no_share()).await;
        feed.batch(batch(4), no_share()).await;
        feed.complete().await;
        assert_eq!(kinds(stream, 9).await, [Ok(3), Ok(4)]);
    }

    #[tokio::test]
    async fn a_dropped_feed_breaks_and_stays_broken() {
        let (feed, stream) = feed(None);
        feed.batch(batch(3), no_share()).await;
        drop(feed);
        let cancelled = Err(ErrorKind::Cancelled);
        assert_eq!(kinds(stream, 4).await, [Ok(3), cancelled, cancelled, cancelled]);
    }

    #[tokio::test]
    async fn a_feed_dropped_between_its_end_and_the_writes_breaks() {
        let (feed, stream) = feed(None);
        feed.batch(batch(3), no_share()).await;
        feed.complete().await;
        drop(feed);
        assert_eq!(kinds(stream, 2).await, [Ok(3), Err(ErrorKind::Cancelled)]);
    }

    #[tokio::test]
    async fn a_failed_feed_gives_its_error() {
        let (feed, stream) = feed(None);
        feed.fail(Error::invalid("message 3: broken")).await;
        assert_eq!(kinds(stream, 1).await, [Err(ErrorKind::InvalidArgument)]);
    }

    #[tokio::test]
    async fn a_deadline_that_passed_never_ends_plainly() {
        let now = Instant::now();
        let (early, stream) = feed(Some(Deadline(now)));
        early.complete().await;
        assert_eq!(kinds(stream, 1).await, [Err(ErrorKind::DeadlineExceeded)]);
        let (late, stream) = feed(Some(Deadline(now + Duration::from_secs(3_600))));
        late.complete().await;
        assert_eq!(kinds(stream, 1).await, []);
    }

    #[tokio::test]
    async fn nothing_is_wanted_before_the_write_asks() {
        let (asked, mut stream) = feed(None);
        assert!(asked.wanted().now_or_never().is_none());
        assert!(stream.next().now_or_never().is_none());
        assert!(asked.wanted().now_or_never().is_some());
        let (over, stream) = feed(None);
        drop(stream);
        assert!(over.wanted().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_share_is_kept_until_the_next_batch_is_asked_for() {
        let (feed, mut stream) = feed(None);
        let shares = [Arc::new(()), Arc::new(())];
        for share in &shares {
            feed.batch(batch(1), Box::new(Arc::clone(share))).await;
        }
        feed.complete().await;
        let kept = || shares.each_ref().map(|share| Arc::strong_count(share) == 2);
        stream.next().await.unwrap().unwrap();
        assert_eq!(kept(), [true, true]);
        stream.next().await.unwrap().unwrap();
        assert_eq!(kept(), [false, true]);
        assert!(stream.next().await.is_none());
        assert_eq!(kept(), [false, false]);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_bytes() {
        let (feed, mut stream) = feed(None);
        let rows = WAITING_BYTES_MAX / 8 / 2;
        feed.batch(batch(rows), no_share()).await;
        feed.batch(batch(rows), no_share()).await;
        assert!(feed.batch(batch(1), no_share()).now_or_never().is_none());
        stream.next().await.unwrap().unwrap();
        assert!(feed.batch(batch(1), no_share()).now_or_never().is_some());
        // A batch above the bound waits alone instead of for ever.
        stream.next().await.unwrap().unwrap();
        stream.next().await.unwrap().unwrap();
        assert!(feed.batch(batch(8 * rows), no_share()).now_or_never().is_some());
        drop(stream);
        assert!(!feed.is_open());
        feed.batch(batch(8 * rows), no_share()).await;
    }
}
