//! What every call begins with: who asks, for which database, under which request id, until when.
//!
//! The door (see `door.rs`) puts [`RequestId`] and [`Deadline`] into the extensions of every request;
//! a method makes a [`Call`] of them and turns every error into a status through it, so that no error
//! leaves without its request id.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{Extensions, HeaderMap};
use lakebed_core::{DatabaseName, Error, ErrorKind, Freshness, RequestContext, Result};
use lakebed_proto::status::{REQUEST_ID_HEADER, to_status};
use lakebed_service::Service;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::sql::{COLUMN_TYPES_HEADER, ColumnTypes};

const REQUEST_ID_BYTES_MAX: usize = 128;
const DATABASE_HEADERS: [&str; 2] = ["x-lancedb-database", "database"];
const DATABASE_PREFIX_HEADER: &str = "x-lancedb-database-prefix";
/// Where clients put the token of a handshake with payloads.
/// The namespace of tables that SQL names without one, as LanceDB's clients send it.
const NAMESPACE_HEADER: &str = "namespace-path";
const LEGACY_TOKEN_HEADER: &str = "auth-token-bin";

/// The id of a request: the client's own where it sent a usable one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    /// The id in `headers`, or a fresh one.
    pub(crate) fn of(headers: &HeaderMap) -> RequestId {
        let given = headers
            .get(REQUEST_ID_HEADER)
            .and_then(|value| value.to_str().ok())
            .filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX)
            .filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()));
        match given {
            Some(id) => RequestId(Arc::from(id)),
            None => RequestId(Arc::from(uuid::Uuid::now_v7().to_string())),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When the client stops waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// The deadline that `grpc-timeout` sets, counted from now; `None` without a readable one.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Deadline> {
        Instant::now().checked_add(timeout(headers)?).map(Deadline)
    }

    /// What a call answers that ran past its deadline.
    pub(crate) fn passed() -> Error {
        Error::new(ErrorKind::DeadlineExceeded, "the deadline of the call has passed")
    }
}

fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The protocol allows eight digits, so nothing below overflows.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Waits until `deadline`; forever without one.
pub(crate) async fn until(deadline: Option<Deadline>) {
    match deadline {
        Some(Deadline(at)) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One authenticated call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// What the use cases need to know.
    pub(crate) ctx: RequestContext,
    /// When the client stops waiting.
    pub(crate) deadline: Option<Deadline>,
    /// The namespace of tables that a statement names without one.
    pub(crate) namespace: Option<String>,
    /// The types of columns that the client can read in the answers of statements.
    pub(crate) column_types: ColumnTypes,
}

impl Call {
    /// Authenticates the call and reads its database.
    ///
    /// # Errors
    /// The status of a key that is missing or refused, or of a database name that breaks the rules.
    pub(crate) async fn begin(
        service: &Service,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Call, Status> {
        let request_id = match extensions.get::<RequestId>() {
            Some(id) => id.clone(),
            None => RequestId::of(&HeaderMap::new()),
        };
        let begun = async {
            let database = database(metadata)?;
            let namespace = text_header(metadata, NAMESPACE_HEADER)?.map(str::to_owned);
            let column_types = ColumnTypes::parse(text_header(metadata, COLUMN_TYPES_HEADER)?)?;
            let principal = service.authenticate(secret(metadata)?.as_deref()).await?;
            let request_id = request_id.as_str().to_owned();
            let freshness = Freshness::default();
            let ctx = RequestContext { principal, request_id, database, freshness };
            let deadline = extensions.get::<Deadline>().copied();
            Ok(Call { ctx, deadline, namespace, column_types })
        };
        begun.await.map_err(|error: Error| status(&error, request_id.as_str()))
    }

    /// The status of an error of this call; logs what the status leaves out.
    pub(crate) fn status(&self, error: &Error) -> Status {
        status(error, &self.ctx.request_id)
    }
}

/// The status of an error, logged with its causes: a status carries only the message.
pub(crate) fn status(error: &Error, request_id: &str) -> Status {
    let (kind, report) = (error.kind().name(), error.report());
    match error.kind() {
        ErrorKind::Internal | ErrorKind::Corrupt | ErrorKind::CommitUnknown => {
            tracing::error!(request_id, kind, error = report, "call failed");
        }
        _ => tracing::debug!(request_id, kind, error = report, "call failed"),
    }
    to_status(error, request_id)
}

fn database(metadata: &MetadataMap) -> Result<DatabaseName> {
    let prefix = text_header(metadata, DATABASE_PREFIX_HEADER)?;
    for header in DATABASE_HEADERS {
        if let Some(name) = text_header(metadata, header)? {
            return DatabaseName::parse_within(name, prefix);
        }
    }
    match prefix {
        None => Ok(DatabaseName::default_database()),
        Some(_) => Err(Error::invalid(format!(
            "header `{DATABASE_PREFIX_HEADER}` is given without a database"
        ))),
    }
}

fn text_header<'a>(metadata: &'a MetadataMap, header: &str) -> Result<Option<&'a str>> {
    let Some(value) = metadata.get(header) else { return Ok(None) };
    let text = value.to_str();
    text.map(Some).map_err(|_| Error::invalid(format!("header `{header}` is not text")))
}

/// The secret of a call's key: bearer, `x-api-key`, or the token of a handshake.
fn secret(metadata: &MetadataMap) -> Result<Option<String>> {
    if let Some(value) = metadata.get(http::header::AUTHORIZATION.as_str()) {
        return match authorization(value.as_bytes())? {
            Authorization::Bearer(key) => Ok(Some(key)),
            Authorization::Basic(_) => Err(Error::new(
                ErrorKind::Unauthenticated,
                "basic authorization is for the handshake, which answers with a bearer token",
            )),
        };
    }
    if let Some(value) = metadata.get("x-api-key") {
        let text = value.to_str().map_err(|_| not_text("x-api-key"))?;
        return Ok(Some(text.trim().to_owned()));
    }
    if let Some(value) = metadata.get_bin(LEGACY_TOKEN_HEADER) {
        let bytes = value.to_bytes().map_err(|_| not_text(LEGACY_TOKEN_HEADER))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| not_text(LEGACY_TOKEN_HEADER))?;
        return Ok(Some(text.to_owned()));
    }
    Ok(None)
}

/// A read `authorization` header.
#[derive(PartialEq, Eq)]
pub(crate) enum Authorization {
    /// The key itself.
    Bearer(String),
    /// The password of a basic login, which is the key; the user's name says nothing.
    Basic(String),
}

/// Reads an `authorization` header.
///
/// # Errors
/// `Unauthenticated` for a scheme that is not known or text that does not fit its scheme. The text
/// itself never appears: it may be a key.
pub(crate) fn authorization(value: &[u8]) -> Result<Authorization> {
    let text = std::str::from_utf8(value).map_err(|_| not_text("authorization"))?;
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Authorization::Bearer(rest.to_owned()));
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = STANDARD.decode(rest).or_else(|_| STANDARD_NO_PAD.decode(rest));
        return decoded
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|pair| pair.split_once(':').map(|(_, password)| password.to_owned()))
            .map(Authorization::Basic)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Unauthenticated,
                    "basic authorization is not base64 of `user:password`",
                )
            });
    }
    Err(Error::new(
        ErrorKind::Unauthenticated,
        "authorization has a scheme that is not known; bearer is taken, and basic in the handshake",
    ))
}

fn not_text(header: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, format!("header `{header}` is not text"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect()
    }

    fn metadata(pairs: &[(&'static str, &'static str)]) -> MetadataMap {
        MetadataMap::from_headers(headers(pairs))
    }

    #[test]
    fn a_usable_request_id_is_kept() {
        let id = |text| RequestId::of(&headers(&[("x-request-id", text)]));
        assert_eq!(id("r-1").as_str(), "r-1");
        for odd in ["", "two words", "tab\t"] {
            assert_eq!(id(odd).as_str().len(), 36, "{odd:?}");
        }
        assert_ne!(RequestId::of(&HeaderMap::new()), RequestId::of(&HeaderMap::new()));
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        let read = |text| timeout(&headers(&[("grpc-timeout", text)]));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("1500m"), Some(Duration::from_millis(1_500)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for odd in ["", "S", "5", "5x", "123456789S", "-1S", "1.5S"] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn databases_come_from_either_header() {
        let name = |pairs: &[_]| database(&metadata(pairs)).map(|name| name.to_string());
        assert_eq!(name(&[]).unwrap(), "default");
        assert_eq!(name(&[("database", "a")]).unwrap(), "a");
        assert_eq!(name(&[("database", "a"), ("x-lancedb-database", "b")]).unwrap(), "b");
        let prefix = ("x-lancedb-database-prefix", "b/c");
        assert_eq!(name(&[("database", "a"), prefix]).unwrap(), "a/b/c");
        assert!(name(&[prefix]).is_err());
        assert_eq!(name(&[("database", "..")]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn keys_come_from_every_place_that_clients_use() {
        let key = |pairs| secret(&metadata(pairs)).unwrap();
        assert_eq!(key(&[]), None);
        assert_eq!(key(&[("authorization", "Bearer k1")]).as_deref(), Some("k1"));
        assert_eq!(key(&[("authorization", "bearer  k1 ")]).as_deref(), Some("k1"));
        assert_eq!(key(&[("x-api-key", "k2")]).as_deref(), Some("k2"));
        assert_eq!(key(&[("auth-token-bin", "azM")]).as_deref(), Some("k3"));
    }

    #[test]
    fn a_refused_authorization_never_shows_its_text() {
        for header in ["Basic !!!", "Basic c2VjcmV0", "Digest secret", "secret"] {
            let Err(error) = authorization(header.as_bytes()) else { panic!("{header}") };
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
            assert!(!error.message().contains("secret"), "{error}");
        }
        let basic = authorization(b"Basic dXNlcjpwYXNzOndvcmQ=").ok();
        assert!(basic == Some(Authorization::Basic("pass:word".to_owned())));
        let error = secret(&metadata(&[("authorization", "Basic dXNlcjpwYXNz")])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    }
}
