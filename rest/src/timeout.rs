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

/// A time as the specification writes it, such as `30s` or `5m`.
///
/// # Errors
/// `InvalidArgument` for anything else.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let ms = match unit.trim() {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let ms = ms.zip(number).and_then(|(ms, number)| number.checked_mul(ms));
    ms.map(Duration::from_millis).ok_or_else(|| {
        Error::invalid(format!("`{}` is no time; `500ms`, `30s`, `5m` and `1h` are", shown(text)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms));
        }
        for text in ["", "30", "s", "-1s", "1.5s", "30 days", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
