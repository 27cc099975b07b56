//! Watches how the body of a request ends, below everything that could hide it.
//!
//! Why it exists: a write commits when its stream ends cleanly, and the layers above the body cannot
//! tell. tonic hands a cancelled request stream on as its plain end, and hyper does the same for a
//! RST_STREAM with NO_ERROR. What is left to tell them apart is `is_end_stream` of the body itself: it
//! is true only once END_STREAM was received, and stays false after a reset.
//!
//! The watch wraps the body in the outermost layer of this crate and leaves a [`BodyEnd`] in the
//! request's extensions. What always holds: [`BodyEnd::is_clean`] is true only if the client itself
//! ended its stream; a body that was dropped, reset or broken never becomes clean.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use metrics::Counter;

const OPEN: u8 = 0;
const CLEAN: u8 = 1;
const BROKEN: u8 = 2;

/// How a request's body ended, shared between the watch and the method that reads it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyEnd(Arc<AtomicU8>);

impl BodyEnd {
    /// Whether the client ended its stream itself.
    pub(crate) fn is_clean(&self) -> bool {
        self.0.load(Ordering::Acquire) == CLEAN
    }

    /// Whether the stream was reset or its connection broke.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire) == BROKEN
    }

    /// The first end counts.
    fn set(&self, end: u8) {
        let _ = self.0.compare_exchange(OPEN, end, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// A request body that reports its end and counts its bytes.
pub(crate) struct WatchedBody<B> {
    inner: B,
    end: BodyEnd,
    bytes: Counter,
}

impl<B: Body> WatchedBody<B> {
    /// Watches `inner`, reporting into `end` and adding its bytes to `bytes`.
    pub(crate) fn new(inner: B, end: BodyEnd, bytes: Counter) -> Self {
        // A body that is over before it began may be replaced by an empty one and never be polled.
        if inner.is_end_stream() {
            end.set(CLEAN);
        }
        WatchedBody { inner, end, bytes }
    }
}

impl<B> Body for WatchedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => this.bytes.increment(data.len() as u64),
                // Trailers end the stream, and nothing polls again after them.
                None => this.end.set(if this.inner.is_end_stream() { CLEAN } else { BROKEN }),
            },
            Some(Err(_)) => this.end.set(BROKEN),
            None => this.end.set(if this.inner.is_end_stream() { CLEAN } else { BROKEN }),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod wire_tests;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use http::HeaderMap;

    use super::*;

    /// A body that plays a script and says END_STREAM when told.
    struct Scripted {
        frames: VecDeque<Result<Frame<Bytes>, &'static str>>,
        ended_by_client: bool,
    }

    impl Body for Scripted {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(self.frames.pop_front())
        }

        fn is_end_stream(&self) -> bool {
            self.frames.is_empty() && self.ended_by_client
        }
    }

    fn end_of(
        frames: impl IntoIterator<Item = Result<Frame<Bytes>, &'static str>>,
        ended_by_client: bool,
        polls: usize,
    ) -> BodyEnd {
        let end = BodyEnd::default();
        let inner = Scripted { frames: frames.into_iter().collect(), ended_by_client };
        let mut body = WatchedBody::new(inner, end.clone(), Counter::noop());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            let _ = Pin::new(&mut body).poll_frame(&mut cx);
        }
        end
    }

    fn data() -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::from_static(b"x")))
    }

    #[test]
    fn only_the_clients_own_end_is_clean() {
        assert!(end_of([data()], true, 2).is_clean());
        assert!(end_of([], true, 0).is_clean());
        assert!(end_of([data(), Ok(Frame::trailers(HeaderMap::new()))], true, 2).is_clean());
        // The plain end that hyper makes of a reset with NO_ERROR.
        let reset = end_of([data()], false, 2);
        assert!(!reset.is_clean() && reset.is_broken());
        let broken = end_of([data(), Err("reset")], true, 2);
        assert!(!broken.is_clean() && broken.is_broken());
        let unread = end_of([data(), data()], true, 1);
        assert!(!unread.is_clean() && !unread.is_broken());
    }

    #[test]
    fn a_broken_body_stays_broken() {
        assert!(end_of([Err("reset")], true, 3).is_broken());
    }
}
