//! Compresses answers of text for clients that ask for it.
//!
//! JSON and text shrink to a fraction. Other bodies go out as they are: Arrow has a compression of its
//! own inside its messages, pictures and videos are compressed already, and a blob is addressed by
//! ranges of its bytes. Nor is an answer that may not be stored: those carry secrets, whose length
//! must not show through.
//!
//! What always holds: a body streams through here in pieces, whatever its length; one that breaks off
//! breaks the answer too, and never gets the end of a gzip stream.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::{Body as _, Frame};

/// Below this size compressing costs more than it saves: it fits into one packet anyway.
const BODY_BYTES_MIN: u64 = 1_400;
/// What is compressed at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces after which other tasks of the thread get their turn; about 10 ms.
const PIECES_IN_A_ROW: usize = 16;
/// Compressed bytes that are worth sending.
const SEND_BYTES: usize = 16 << 10;
/// The network is more often fast than slow, and JSON shrinks well at any level.
const LEVEL: Compression = Compression::fast();

/// Compresses the answer if it is of text, the client takes gzip and it is worth it.
pub(crate) async fn gzip(request: Request, next: Next) -> Response {
    let is_wanted = request.method() != Method::HEAD && accepts_gzip(request.headers());
    let mut response = next.run(request).await;
    if !may_be_compressed(response.status(), response.headers()) {
        return response;
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
    if !is_wanted || response.body().size_hint().exact().is_some_and(|size| size < BODY_BYTES_MIN) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Response::from_parts(parts, Body::new(GzipBody::new(body)))
}

fn may_be_compressed(status: StatusCode, headers: &HeaderMap) -> bool {
    let has_body = !status.is_informational()
        && !matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED
        );
    // Ranges and strong entity tags are about bytes that must stay as they are.
    let is_about_bytes = [CONTENT_ENCODING, CONTENT_RANGE, ACCEPT_RANGES, ETAG]
        .iter()
        .any(|name| headers.contains_key(name));
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_kept_back = text(CACHE_CONTROL).is_some_and(|rules| {
        rules.split(',').map(str::trim).any(|rule| {
            rule.eq_ignore_ascii_case("no-store") || rule.eq_ignore_ascii_case("no-transform")
        })
    });
    has_body && !is_about_bytes && !is_kept_back && text(CONTENT_TYPE).is_some_and(is_text)
}

fn is_text(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json") || essence.starts_with("text/")
}

/// Whether the client takes gzip, and no worse than plain bytes.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, 0);
    let entries = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for entry in entries.flat_map(|value| value.split(',')) {
        let mut parts = entry.split(';');
        let name = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let quality = quality(parts);
        match name.as_str() {
            "gzip" | "x-gzip" => gzip = Some(quality),
            "*" => any = Some(quality),
            "identity" => identity = quality,
            _ => {}
        }
    }
    // A name goes before the star.
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity
}

/// The weight among the parameters of an entry, in thousandths; one that is malformed refuses.
fn quality<'a>(parameters: impl Iterator<Item = &'a str>) -> u16 {
    for parameter in parameters {
        if let Some((name, value)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("q")
        {
            return thousandths(value.trim()).unwrap_or(0);
        }
    }
    1_000
}

/// A number between 0 and 1 with up to three digits behind the point.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    if digits.len() > 3 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let fraction = format!("{digits:0<3}").parse().ok()?;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1_000),
        _ => None,
    }
}

/// A body on its way through the encoder.
struct GzipBody {
    inner: Body,
    /// What came and was not compressed yet.
    rest: Bytes,
    /// Gone once the body ended, in whatever way.
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// Whether the encoder holds bytes that a reader of what was sent does not see.
    holds_back: bool,
}

impl GzipBody {
    fn new(inner: Body) -> Self {
        let encoder = Some(GzEncoder::new(Vec::new(), LEVEL));
        GzipBody { inner, rest: Bytes::new(), encoder, holds_back: false }
    }

    /// Goes on until there is something to send; `None` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, axum::Error>> {
        for _ in 0..PIECES_IN_A_ROW {
            let Some(encoder) = &mut self.encoder else { return Poll::Ready(Ok(None)) };
            if self.rest.is_empty() {
                match Pin::new(&mut self.inner).poll_frame(cx) {
                    Poll::Ready(Some(frame)) => {
                        // Trailers of a body of text do not exist.
                        self.rest = frame?.into_data().unwrap_or_default();
                    }
                    Poll::Ready(None) => {
                        return Poll::Ready(self.finish().map_err(axum::Error::new));
                    }
                    Poll::Pending if self.holds_back => {
                        // What came so far must not wait for what comes next.
                        encoder.flush().map_err(axum::Error::new)?;
                        self.holds_back = false;
                        return Poll::Ready(Ok(Some(Bytes::from(std::mem::take(
                            encoder.get_mut(),
                        )))));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.rest.is_empty() {
                continue;
            }
            let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
            encoder.write_all(&piece).map_err(axum::Error::new)?;
            self.holds_back = true;
            if encoder.get_ref().len() >= SEND_BYTES {
                return Poll::Ready(Ok(Some(Bytes::from(std::mem::take(encoder.get_mut())))));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn finish(&mut self) -> io::Result<Option<Bytes>> {
        match self.encoder.take() {
            Some(encoder) => Ok(Some(Bytes::from(encoder.finish()?))),
            None => Ok(None),
        }
    }
}

impl http_body::Body for GzipBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let next = ready!(this.poll_next(cx));
        if next.is_err() {
            // Nothing comes after an error, the end of the gzip stream least of all.
            this.encoder = None;
        }
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)).transpose())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use futures::StreamExt as _;
    use futures::channel::mpsc;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn asks(header: &str) -> bool {
        let mut headers = HeaderMap::new();
        for value in header.split('|') {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap());
        }
        accepts_gzip(&headers)
    }

    #[test]
    fn weights_are_read() {
        for header in [
            "gzip",
            "GZIP",
            "x-gzip",
            "deflate, gzip;q=1.0, *;q=0.5",
            "*",
            "gzip;q=0.001",
            "br|gzip",
            "gzip , identity",
            "gzip ; Q = 0.5",
            "identity;q=0, *;q=0.5",
            "gzip, *;q=0",
        ] {
            assert!(asks(header), "{header}");
        }
        for header in [
            "",
            "identity",
            "br, deflate",
            "gzip;q=0",
            "gzip;q=0.000",
            "*;q=0",
            "*, gzip;q=0",
            "gzip;q=0.5, identity;q=0.6",
            "gzip;q=2",
            "gzip;q=0.0001",
            "gzip;q=-1",
            "gzip;q=",
            "gzip;q=1.5",
            "gzipped",
        ] {
            assert!(!asks(header), "{header}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn what_is_about_bytes_or_secret_stays_as_it_is() {
        let json = [("content-type", "application/json; charset=utf-8")];
        let may = |status: u16, more: &[(&'static str, &'static str)]| {
            let headers = json
                .iter()
                .chain(more)
                .map(|(name, value)| {
                    (http::HeaderName::from_static(name), HeaderValue::from_static(value))
                })
                .collect();
            may_be_compressed(StatusCode::from_u16(status).unwrap(), &headers)
        };
        assert!(may(200, &[]) && may(404, &[]) && may(200, &[("cache-control", "no-cache")]));
        assert!(!may(204, &[]) && !may(206, &[]) && !may(304, &[]));
        for (name, value) in [
            ("etag", "\"x\""),
            ("accept-ranges", "bytes"),
            ("content-encoding", "br"),
            ("cache-control", "private, no-store"),
            ("cache-control", "no-transform"),
        ] {
            assert!(!may(200, &[(name, value)]), "{name}: {value}");
        }
        for media in ["text/plain", "application/problem+json", "TEXT/CSV; header=present"] {
            assert!(is_text(media), "{media}");
        }
        for media in ["application/vnd.apache.arrow.stream", "image/png", "application/jsonx", ""] {
            assert!(!is_text(media), "{media}");
        }
    }

    fn gunzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain)?;
        Ok(plain)
    }

    fn partly(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        // The stream has no end yet, so this is an error once everything is read.
        let _ = flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain);
        plain
    }

    async fn ask(body: Body, accept: &'static str, method: Method) -> Response {
        let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
        let answer = move || async move {
            let body = body.lock().unwrap().take().unwrap();
            ([(CONTENT_TYPE, "application/json")], body)
        };
        let router = Router::new().route("/", get(answer)).layer(from_fn(gzip));
        let request = Request::builder().method(method).uri("/").header(ACCEPT_ENCODING, accept);
        router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_long_answer_comes_back_whole() {
        let text: String = (0..400_000).map(|number| format!("{number},")).collect();
        let answer = ask(Body::from(text.clone()), "gzip", Method::GET).await;
        assert_eq!(answer.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(answer.headers()[VARY], "accept-encoding");
        assert!(!answer.headers().contains_key(CONTENT_LENGTH));
        let sent = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(sent.len() * 2 < text.len());
        assert!(gunzip(&sent).unwrap() == text.as_bytes());
    }

    #[tokio::test]
    async fn a_body_that_shrinks_to_nothing_comes_back_whole() {
        let text = vec![b' '; 20 << 20];
        let answer = ask(Body::from(text.clone()), "gzip", Method::GET).await;
        let sent = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(sent.len() < 1 << 20);
        assert!(gunzip(&sent).unwrap() == text);
    }

    #[tokio::test]
    async fn short_answers_heads_and_other_clients_get_plain_bytes() {
        let long = "x".repeat(10_000);
        for (text, accept, method) in [
            ("short", "gzip", Method::GET),
            (long.as_str(), "gzip;q=0", Method::GET),
            (long.as_str(), "gzip", Method::HEAD),
        ] {
            let answer = ask(Body::from(text.to_owned()), accept, method).await;
            assert!(!answer.headers().contains_key(CONTENT_ENCODING), "{accept}");
            assert_eq!(answer.headers()[VARY], "accept-encoding");
            assert_eq!(answer.headers()[CONTENT_LENGTH], text.len().to_string());
        }
    }

    #[tokio::test]
    async fn what_came_does_not_wait_for_what_comes_next() {
        let (mut send, receive) = mpsc::channel::<Result<Bytes, io::Error>>(1);
        let answer = ask(Body::from_stream(receive), "gzip", Method::GET).await;
        let mut body = answer.into_body().into_data_stream();
        send.try_send(Ok(Bytes::from_static(b"first"))).unwrap();
        let first = body.next().await.unwrap().unwrap();
        assert_eq!(partly(&first), b"first");
        assert!(futures::poll!(body.next()).is_pending());
        send.try_send(Ok(Bytes::from_static(b" second"))).unwrap();
        drop(send);
        let mut all = first.to_vec();
        while let Some(bytes) = body.next().await {
            all.extend(bytes.unwrap());
        }
        assert_eq!(gunzip(&all).unwrap(), b"first second");
    }

    #[tokio::test]
    async fn a_body_that_breaks_never_looks_complete() {
        let pieces = vec![Ok(Bytes::from("x".repeat(100_000))), Err(io::Error::other("disk"))];
        let answer =
            ask(Body::from_stream(futures::stream::iter(pieces)), "gzip", Method::GET).await;
        let mut body = answer.into_body();
        let (mut all, mut broke) = (Vec::new(), false);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => all.extend(frame.into_data().unwrap()),
                Err(_) => broke = true,
            }
        }
        assert!(broke && gunzip(&all).is_err());
    }
}
