//! Who asks, and for which database: from headers to the context of a request.

use axum::extract::FromRequestParts;
use chrono::DateTime;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::request::Parts;
use lakebed_core::{DatabaseName, Error, ErrorKind, Freshness, RequestContext, Result};

use crate::Door;
use crate::error::ApiError;
use crate::observe::RequestId;

/// Selects the database of a request.
const DATABASE_HEADER: &str = "x-lancedb-database";
/// A path inside the database; part of the protocol, not built.
const DATABASE_PREFIX_HEADER: &str = "x-lancedb-database-prefix";
const API_KEY_HEADER: &str = "x-api-key";
/// The version that a handle wrote last, and the newest that it saw.
const MIN_VERSION_HEADERS: [&str; 2] = ["x-lancedb-min-version", "x-lancedb-min-read-version"];
/// Nothing that was kept since before this time may be served.
const MIN_TIMESTAMP_HEADER: &str = "x-lancedb-min-timestamp";

/// An authenticated request's context.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) RequestContext);

impl FromRequestParts<Door> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, door: &Door) -> Result<Self, ApiError> {
        if let Some(known) = parts.extensions.get::<Caller>() {
            return Ok(known.clone());
        }
        let principal = door.service.authenticate(secret(parts)?.as_deref()).await?;
        let request_id = parts
            .extensions
            .get::<RequestId>()
            .map(|id| id.0.clone())
            .ok_or_else(|| Error::internal("a request reached its handler without an id"))?;
        let caller = Caller(RequestContext {
            principal,
            request_id,
            database: database(parts)?,
            freshness: freshness(parts)?,
        });
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

fn header<'a>(parts: &'a Parts, name: &str) -> Result<Option<&'a str>> {
    let Some(value) = parts.headers.get(name) else { return Ok(None) };
    let text = value
        .to_str()
        .map_err(|_| Error::invalid(format!("header `{name}` has bytes that are not ASCII")))?;
    Ok(Some(text.trim()).filter(|text| !text.is_empty()))
}

fn secret(parts: &Parts) -> Result<Option<String>> {
    if let Some(key) = header(parts, API_KEY_HEADER)? {
        return Ok(Some(key.to_owned()));
    }
    let Some(value) = header(parts, AUTHORIZATION.as_str())? else { return Ok(None) };
    match value.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(Some(key.trim().to_owned()))
        }
        _ => Err(Error::new(
            ErrorKind::Unauthenticated,
            "the authorization header is not of the form `Bearer KEY`",
        )),
    }
}

/// How new an answer has to be for this client.
fn freshness(parts: &Parts) -> Result<Freshness> {
    let mut freshness = Freshness::default();
    for name in MIN_VERSION_HEADERS {
        let Some(text) = header(parts, name)? else { continue };
        let version: u64 = text
            .parse()
            .map_err(|_| Error::invalid(format!("header `{name}` is no version number")))?;
        freshness.version_min = freshness.version_min.max(Some(version));
    }
    if let Some(text) = header(parts, MIN_TIMESTAMP_HEADER)? {
        let time = DateTime::parse_from_rfc3339(text).map_err(|error| {
            Error::invalid(format!("header `{MIN_TIMESTAMP_HEADER}` is no time: {error}"))
        })?;
        freshness.looked_up_ms_min = Some(time.timestamp_millis());
    }
    Ok(freshness)
}

/// Whether the request comes from a LanceDB SDK that chose no database: its namespaces are the databases.
pub(crate) fn is_catalog_mode(headers: &http::HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).map(http::HeaderValue::as_bytes).unwrap_or_default();
    agent.starts_with(b"LanceDB-") && !headers.contains_key(DATABASE_HEADER)
}

/// The database that is asked for. A path inside of one, `db://team/cars` in the SDKs, is one of its own,
/// whose tables lie in a folder below.
fn database(parts: &Parts) -> Result<DatabaseName> {
    let prefix = header(parts, DATABASE_PREFIX_HEADER)?;
    match header(parts, DATABASE_HEADER)? {
        Some(name) => DatabaseName::parse_within(name, prefix),
        None if prefix.is_none() => Ok(DatabaseName::default_database()),
        None => Err(Error::invalid(format!(
            "header `{DATABASE_PREFIX_HEADER}` is given without `{DATABASE_HEADER}`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_key_comes_by_either_header() {
        assert_eq!(secret(&parts(&[])).unwrap(), None);
        assert_eq!(secret(&parts(&[("x-api-key", "")])).unwrap(), None);
        assert_eq!(secret(&parts(&[("x-api-key", "k")])).unwrap().as_deref(), Some("k"));
        let bearer = parts(&[("authorization", "bearer  k ")]);
        assert_eq!(secret(&bearer).unwrap().as_deref(), Some("k"));
        let basic = secret(&parts(&[("authorization", "Basic eA==")])).unwrap_err();
        assert_eq!(basic.kind(), ErrorKind::Unauthenticated);
    }

    #[test]
    fn the_newest_of_what_was_seen_is_asked_for() {
        let asked = freshness(&parts(&[
            ("x-lancedb-min-version", "7"),
            ("x-lancedb-min-read-version", "9"),
            ("x-lancedb-min-timestamp", "2026-11-21T02:07:55.305114191+00:00"),
        ]))
        .unwrap();
        assert_eq!(asked.version_min, Some(9));
        assert_eq!(asked.looked_up_ms_min, Some(1_795_226_875_305));
        assert_eq!(freshness(&parts(&[])).unwrap(), Freshness::default());
        for bad in [("x-lancedb-min-version", "-1"), ("x-lancedb-min-timestamp", "yesterday")] {
            assert!(freshness(&parts(&[bad])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_an_sdk_without_a_database_sees_the_catalogue() {
        let agent = ("user-agent", "LanceDB-Python-Client/0.40.0");
        let is_catalog = |given: &[(&str, &str)]| is_catalog_mode(&parts(given).headers);
        assert!(is_catalog(&[agent]) && !is_catalog(&[]));
        assert!(!is_catalog(&[agent, ("x-lancedb-database", "default")]));
        assert!(!is_catalog(&[("user-agent", "python-requests/2")]));
    }

    #[test]
    fn the_database_comes_by_header_and_is_checked() {
        assert_eq!(database(&parts(&[])).unwrap().as_str(), "default");
        let named = parts(&[("x-lancedb-database", "team/cars")]);
        assert_eq!(database(&named).unwrap().as_str(), "team/cars");
        assert!(database(&parts(&[("x-lancedb-database", "../x")])).is_err());
        let prefix = |prefix| ("x-lancedb-database-prefix", prefix);
        let inside = parts(&[("x-lancedb-database", "team"), prefix("cars/new/")]);
        assert_eq!(database(&inside).unwrap().as_str(), "team/cars/new");
        let without = database(&parts(&[prefix("p")])).unwrap_err();
        assert_eq!(without.kind(), ErrorKind::InvalidArgument);
    }
}
