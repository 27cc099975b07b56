//! `PUT /v1/uploads/{id}?offset=n`: bytes, streamed to the store as they come.
//!
//! Whatever arrived before a connection broke is kept; the client asks for the offset and goes on.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::response::Response;
use futures::TryStreamExt as _;
use http::HeaderMap;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_service::ByteStream;

use super::progress;
use crate::Door;
use crate::body::refuse_encoding;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn put_upload(
    State(door): State<Door>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    refuse_encoding(&headers)?;
    let offset = target.params(&["offset"])?.number("offset")?.unwrap_or(0);
    let stall = Duration::from_millis(door.service.limits().write_stall_ms_max);
    let id = target.path("id")?;
    let offset = door.service.put_upload(target.ctx(), id, offset, bytes_of(body, stall)).await?;
    Ok(progress(id, offset))
}

/// The bytes of a body; a body that breaks off or stands still for `stall` ends with an error.
fn bytes_of(body: Body, stall: Duration) -> ByteStream {
    let next = move |mut body: BodyDataStream| async move {
        match tokio::time::timeout(stall, body.try_next()).await {
            Ok(Ok(Some(bytes))) => Ok(Some((bytes, body))),
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => {
                Err(Error::new(ErrorKind::Cancelled, "the upload broke off").with_source(error))
            }
            Err(_) => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                format!("no byte of the upload arrived for {} ms", stall.as_millis()),
            )),
        }
    };
    Box::pin(futures::stream::try_unfold(body.into_data_stream(), next))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_that_stands_still_ends_with_an_error() {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from("abc"))]);
        let body = Body::from_stream(first.chain(futures::stream::pending()));
        let mut bytes = bytes_of(body, Duration::from_millis(1));
        assert_eq!(bytes.next().await.unwrap().unwrap(), "abc");
        let error = bytes.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_ends_with_an_error() {
        let broken = futures::stream::iter([
            Ok(Bytes::from("abc")),
            Err(std::io::Error::other("connection reset")),
        ]);
        let mut bytes = bytes_of(Body::from_stream(broken), Duration::from_secs(60));
        assert!(bytes.next().await.unwrap().is_ok());
        assert_eq!(bytes.next().await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
