//! The time that a client gives a request.

use std::time::Duration;

use http::HeaderMap;
use lakebed_core::{Error, ErrorKind, Result};

use crate::params::shown;

const TIMEOUT_HEADER: &str = "x-request-timeout-ms";

/// Runs `work` within the time that the request gives it, if it gives one.
///
/// # Errors
/// `DeadlineExceeded` when it took longer, `InvalidArgument` for a header that is no number.
pub(crate) async fn within_request_timeout<T>(
    headers: &HeaderMap,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(timeout) = request_timeout(headers)? else { return work.await };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::DeadlineExceeded,
            format!("the request took longer than its {TIMEOUT_HEADER} of {}", timeout.as_millis()),
        ))
    })
}

/// The time that a request gives itself.
///
/// # Errors
/// `InvalidArgument` for a header that is no number.
pub(crate) fn request_timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let ms: u64 = text.trim().parse().map_err(|_| {
        Error::invalid(format!("header `{TIMEOUT_HEADER}` is `{}`, not a number", shown(text)))
    })?;
    Ok(Some(Duration::from_millis(ms)))
}
