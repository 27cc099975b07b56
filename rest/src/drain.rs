//! Reads on what a client still sends after its request was refused.
//!
//! Over HTTP/1 a client that is busy sending does not look at the answer; when the server closes
//! the connection with unread bytes in it, the client often sees a reset instead of the reason. So
//! the rest of a refused body is read and thrown away, up to a size and a time.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

const BYTES_MAX: usize = 16 << 20;
const TIME_MAX: Duration = Duration::from_secs(5);

/// A body that its handler and the drain hold together.
#[derive(Clone)]
pub(crate) struct SharedBody(Arc<Mutex<State>>);

struct State {
    body: Body,
    asked: bool,
}

impl SharedBody {
    /// Takes a body.
    pub(crate) fn new(body: Body) -> Self {
        SharedBody(Arc::new(Mutex::new(State { body, asked: false })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic inside the body's poll leaves a body that may be asked again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a handler has begun to read. Before that a client that sent `Expect: 100-continue`
    /// has sent nothing of the body.
    pub(crate) fn was_asked(&self) -> bool {
        self.lock().asked
    }

    /// Reads what is left, up to 16 MiB and five seconds.
    pub(crate) async fn drain(mut self) {
        let read = async {
            let mut bytes = 0;
            while bytes < BYTES_MAX {
                match self.frame().await {
                    Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) | None => break,
                }
            }
        };
        // A client that is slower than this gets the reset.
        let _ = tokio::time::timeout(TIME_MAX, read).await;
    }
}

impl http_body::Body for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut state = self.lock();
        state.asked = true;
        Pin::new(&mut state.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    #[tokio::test]
    async fn the_rest_is_read_up_to_the_limit() {
        let chunk = Bytes::from(vec![0; 1 << 20]);
        let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
        let body = SharedBody::new(Body::from_stream(endless));
        assert!(!body.was_asked());
        body.clone().drain().await;
        assert!(body.was_asked() && !body.is_end_stream());

        let body = SharedBody::new(Body::from("x"));
        body.clone().drain().await;
        assert!(body.is_end_stream());
    }
}
