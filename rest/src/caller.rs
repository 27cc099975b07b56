//! Who asks, and for which database: from headers to the context of a request.

use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;
use lakebed_core::{DatabaseName, Error, ErrorKind, RequestContext, Result};

use crate::Door;
use crate::error::ApiError;
use crate::observe::RequestId;

/// Selects the database of a request.
const DATABASE_HEADER: &str = "x-lancedb-database";
/// A path inside the database; part of the protocol, not built.
const DATABASE_PREFIX_HEADER: &str = "x-lancedb-database-prefix";
const API_KEY_HEADER: &str = "x-api-key";

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
        let caller = Caller(RequestContext { principal, request_id, database: database(parts)? });
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

fn database(parts: &Parts) -> Result<DatabaseName> {
    if header(parts, DATABASE_PREFIX_HEADER)?.is_some() {
        return Err(Error::new(
            ErrorKind::NotImplemented,
            format!("a path inside a database (header `{DATABASE_PREFIX_HEADER}`) is not built"),
        ));
    }
    match header(parts, DATABASE_HEADER)? {
        Some(name) => DatabaseName::parse(name),
        None => Ok(DatabaseName::default_database()),
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
    fn the_database_comes_by_header_and_is_checked() {
        assert_eq!(database(&parts(&[])).unwrap().as_str(), "default");
        let named = parts(&[("x-lancedb-database", "team/cars")]);
        assert_eq!(database(&named).unwrap().as_str(), "team/cars");
        assert!(database(&parts(&[("x-lancedb-database", "../x")])).is_err());
        let prefixed = database(&parts(&[("x-lancedb-database-prefix", "p")])).unwrap_err();
        assert_eq!(prefixed.kind(), ErrorKind::NotImplemented);
    }
}
