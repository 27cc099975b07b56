//! A small HTTP client for the verbs of the command line, with TLS where the URL says `https`.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::exit::Exit;
use crate::trust;

const ANSWER_BYTES_MAX: usize = 256 << 20;
const TIME_MAX: Duration = Duration::from_secs(300);

/// Where the server is and who asks.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ClientSettings {
    /// The HTTP address.
    pub(crate) url: String,
    /// The key.
    pub(crate) api_key: Option<String>,
    /// The database.
    pub(crate) database: Option<String>,
    /// What a server's certificate is checked against; the system's roots when absent.
    pub(crate) ca_cert: Option<PathBuf>,
}

/// What a request sends: one piece, or a stream that may break on this side.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A client of one server.
pub(crate) struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>, Body>,
    base: String,
    settings: ClientSettings,
    headers: Vec<(&'static str, HeaderValue)>,
}

impl Client {
    /// A client as `settings` say.
    ///
    /// # Errors
    /// Wrong usage for a URL that is none, a key that cannot travel in a header, or a file of
    /// certificates that holds none.
    pub(crate) fn new(settings: ClientSettings) -> Result<Client, Exit> {
        let ClientSettings { url, api_key, database, ca_cert } = settings.clone();
        let mut headers = Vec::new();
        if let Some(key) = api_key {
            if key.lines().count() > 1 {
                let lines = key.lines().count();
                let message = format!("the API key has {lines} lines; it is one, of one file");
                return Err(Exit::usage(message));
            }
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| Exit::usage("the API key has characters that no header can carry"))?;
            value.set_sensitive(true);
            headers.push((AUTHORIZATION.as_str(), value));
        }
        if let Some(database) = database {
            let value = HeaderValue::try_from(&database)
                .map_err(|_| Exit::usage("the name of the database cannot travel in a header"))?;
            headers.push(("x-lancedb-database", value));
        }
        let base = base_of(&url)?;
        let connector = trust::connector(has_tls(&base), ca_cert.as_deref())?;
        let http = HyperClient::builder(TokioExecutor::new()).build(connector);
        Ok(Client { http, base, settings, headers })
    }

    /// Who asks, and whom.
    pub(crate) fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// Whether the connections are encrypted.
    pub(crate) fn has_tls(&self) -> bool {
        has_tls(&self.base)
    }

    /// Sends a request; `path` begins with a slash and is encoded already.
    ///
    /// # Errors
    /// What the server answered, or why it could not be reached.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Exit> {
        self.ask(method, path, body, TIME_MAX).await.map_err(Exit::from)
    }

    /// [`Client::send`] with another time to the answer, and an error that says what to do next.
    ///
    /// # Errors
    /// What the server answered, or why it could not be reached.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        time_max: Duration,
    ) -> Result<Value, Refusal> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let body = match body {
            None => Bytes::new(),
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
        };
        let body = Full::new(body).map_err(|never| match never {}).boxed();
        match tokio::time::timeout(time_max, self.exchange(request, body)).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::unreachable(format!(
                "{} did not answer within {} s",
                self.base,
                time_max.as_secs()
            ))),
        }
    }

    /// Sends a body that is streamed. Whoever feeds it bounds the time.
    ///
    /// # Errors
    /// What the server answered, or why it could not be reached.
    pub(crate) async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Value, Refusal> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        self.exchange(request, body).await
    }

    /// Reads an answer of any size, a piece at a time.
    ///
    /// # Errors
    /// What the server answered, or why it could not be reached, or what `take` says.
    pub(crate) async fn download(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), Refusal> {
        let request = Request::builder().method(Method::GET).uri(format!("{}{path}", self.base));
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
        let response = self.request(request, body).await?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            return Err(refused(status, &collected(body).await?));
        }
        loop {
            let next = tokio::time::timeout(TIME_MAX, body.frame()).await;
            let next = next.map_err(|_| Refusal::unreachable("the answer stands still".to_owned()));
            match next? {
                None => return Ok(()),
                Some(Err(error)) => return Err(broke_off(&error)),
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    take(&piece)
                        .map_err(|error| Refusal::unreachable(format!("write a file: {error}")))?;
                }
            }
        }
    }

    async fn request(
        &self,
        mut request: http::request::Builder,
        body: Body,
    ) -> Result<http::Response<Incoming>, Refusal> {
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(body)
            .map_err(|error| Refusal::wrong(format!("the request cannot be made: {error}")))?;
        self.http.request(request).await.map_err(|error| {
            Refusal::unreachable(format!("{} cannot be reached: {}", self.base, causes(&error)))
        })
    }

    async fn exchange(
        &self,
        request: http::request::Builder,
        body: Body,
    ) -> Result<Value, Refusal> {
        let response = self.request(request, body).await?;
        let status = response.status();
        let body = collected(response.into_body()).await?;
        if status.is_success() {
            if body.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&body)
                .map_err(|error| Refusal::unreachable(format!("the answer is not JSON: {error}")));
        }
        Err(refused(status, &body))
    }
}

/// An answer that is no success, or none at all.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The server's status; none when it did not answer.
    pub(crate) status: Option<StatusCode>,
    /// What to tell people.
    pub(crate) message: String,
    is_usage: bool,
}

impl Refusal {
    fn unreachable(message: String) -> Self {
        Refusal { status: None, message, is_usage: false }
    }

    fn wrong(message: String) -> Self {
        Refusal { status: Some(StatusCode::BAD_REQUEST), message, is_usage: true }
    }

    /// Whether the same request may do better a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        self.status.is_none_or(|status| {
            status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
                || status == StatusCode::TOO_MANY_REQUESTS
        })
    }
}

impl From<Refusal> for Exit {
    fn from(refusal: Refusal) -> Self {
        match refusal.is_usage {
            true => Exit::usage(refusal.message),
            false => Exit::failed(refusal.message),
        }
    }
}

async fn collected(body: Incoming) -> Result<Bytes, Refusal> {
    let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    collected.map(|body| body.to_bytes()).map_err(|error| broke_off(error.as_ref()))
}

fn broke_off(error: &dyn std::error::Error) -> Refusal {
    Refusal::unreachable(format!("the answer broke off: {error}"))
}

fn refused(status: StatusCode, body: &[u8]) -> Refusal {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = match (answer["error"].as_str(), answer["request_id"].as_str()) {
        (Some(error), Some(id)) => format!("{error} (request {id})"),
        (Some(error), None) => error.to_owned(),
        _ => format!("the server answered {status}"),
    };
    let message = match status {
        StatusCode::UNAUTHORIZED => format!(
            "{message}\nThe first start of a server writes its admin key to \
             ~/.config/lakebed/<lake id>.key; give it by LAKEBED_API_KEY or --api-key"
        ),
        _ => message,
    };
    Refusal { status: Some(status), message, is_usage: false }
}

/// An error and what caused it, each once: the outermost alone says only "client error".
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn base_of(url: &str) -> Result<String, Exit> {
    let wrong = |why: &str| Exit::usage(format!("the URL `{url}` {why}"));
    let base = url.trim_end_matches('/');
    let uri: Uri = base.parse().map_err(|_| wrong("is not a URL"))?;
    if uri.authority().is_none() || uri.query().is_some() {
        return Err(wrong("is not of the form http://host:port"));
    }
    match uri.scheme_str() {
        Some("http" | "https") => Ok(base.to_owned()),
        _ => Err(wrong("does not begin with http:// or https://")),
    }
}

fn has_tls(base: &str) -> bool {
    base.split(':').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// A text as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'$' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        assert_eq!(segment("ns$t-1_x.y"), "ns$t-1_x.y");
        assert_eq!(segment("a/b ä?"), "a%2Fb%20%C3%A4%3F");
    }

    #[test]
    fn urls_are_checked() {
        assert_eq!(base_of("http://localhost:10024/").unwrap(), "http://localhost:10024");
        assert_eq!(base_of("http://h:1/base").unwrap(), "http://h:1/base");
        assert_eq!(base_of("https://h:1").unwrap(), "https://h:1");
        for bad in ["localhost:10024", "", "ftp://h", "http://h?x=1"] {
            assert!(base_of(bad).is_err(), "{bad}");
        }
    }
}
