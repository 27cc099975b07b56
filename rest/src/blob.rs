//! `GET|HEAD /v1/table/{id}/blob/{column}/{row_id}/bytes`: one blob, or a range of it.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, IF_RANGE, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_proto::command::ReadCommand;
use lakebed_service::Blob;

use crate::Door;
use crate::error::ApiError;
use crate::range::{self, Part};
use crate::table::VERSION_HEADER;
use crate::target::Target;

/// Parameters by which the SDKs read a blob of another table's lineage; not built.
const LINEAGE: [&str; 3] = ["source_uri", "row_is_address", "source_commit_micros"];

pub(crate) async fn read_blob(
    State(door): State<Door>,
    target: Target,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let at = read_at(&target)?;
    let (column, row_id) = (target.path("column")?, target.path_number("row_id")?);
    let opened =
        door.service.open_blob(target.ctx(), &target.table()?, &at, column, row_id).await?;
    match opened {
        (Some(blob), version) => answer(&blob, Some(version), &method, &headers),
        (None, version) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            response.headers_mut().insert(VERSION_HEADER, HeaderValue::from(version));
            Ok(response)
        }
    }
}

/// The version, tag or branch that the query string asks for.
fn read_at(target: &Target) -> Result<ReadCommand> {
    let known = ["version", "tag", "branch"].into_iter().chain(LINEAGE).collect::<Vec<_>>();
    let params = target.params(&known)?;
    if let Some(name) = LINEAGE
        .into_iter()
        .find(|name| params.text(name).is_some_and(|value| !matches!(value, "false" | "null")))
    {
        return Err(Error::new(
            ErrorKind::NotImplemented,
            format!("a blob by `{name}` is not built"),
        ));
    }
    Ok(ReadCommand {
        version: params.number("version")?,
        tag: params.text("tag").map(str::to_owned),
        branch: params.text("branch").map(str::to_owned),
        ..ReadCommand::default()
    })
}

fn answer(
    blob: &Blob,
    version: Option<u64>,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let etag = blob.etag();
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let mut response = Response::default();
    describe(response.headers_mut(), etag, blob.media_type(), version);

    if text(IF_NONE_MATCH).is_some_and(|tags| range::none_match_names(tags, etag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    // A range is defined for GET alone; HEAD describes the whole.
    let range =
        text(RANGE).filter(|_| method == Method::GET && range::range_holds(text(IF_RANGE), etag));
    let (status, wanted) = match range::part_of(range, blob.size()) {
        Part::Whole => (StatusCode::OK, 0..blob.size()),
        Part::Range(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Unsatisfiable => {
            let size = blob.size();
            let error = Error::invalid(format!("the range begins behind the end, {size} bytes"));
            let refusal = ApiError::from(error)
                .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
                .with_header(CONTENT_RANGE, header_value(format!("bytes */{size}"))?);
            // The SDKs learn the version of an empty blob from here.
            return Err(match version {
                Some(version) => refusal.with_header(
                    HeaderName::from_static(VERSION_HEADER),
                    HeaderValue::from(version),
                ),
                None => refusal,
            });
        }
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(wanted.end - wanted.start));
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{}", wanted.start, wanted.end - 1, blob.size());
        headers.insert(CONTENT_RANGE, header_value(text)?);
    }
    if method == Method::GET {
        // The length is promised above, so an error inside the stream breaks the connection and can
        // never look like the end of the blob.
        *response.body_mut() = Body::from_stream(blob.read(wanted));
    }
    Ok(response)
}

/// What is true of the blob whichever part of it is sent.
fn describe(headers: &mut HeaderMap, etag: &str, media_type: &str, version: Option<u64>) {
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        headers.insert(ETAG, etag);
    }
    let media = HeaderValue::from_str(media_type)
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_TYPE, media);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    // A blob is a stranger's bytes: whatever it is, it must not run as a page of this server.
    headers
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    if runs_in_a_browser(media_type) {
        headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    if let Some(version) = version {
        headers.insert(VERSION_HEADER, HeaderValue::from(version));
    }
}

fn runs_in_a_browser(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "text/html" | "text/javascript" | "application/javascript")
        || essence.ends_with("/xml")
        || essence.ends_with("+xml")
}

fn header_value(text: String) -> Result<HeaderValue> {
    HeaderValue::try_from(text)
        .map_err(|error| Error::internal("write a header of a blob").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_would_run_is_an_attachment() {
        for media in [
            "text/html",
            "image/svg+xml",
            "TEXT/HTML; charset=utf-8",
            "application/xml",
            "text/xml",
            "application/xhtml+xml",
            "text/javascript",
        ] {
            assert!(runs_in_a_browser(media), "{media}");
        }
        for media in ["image/png", "video/mp4", "application/octet-stream", "text/plain", ""] {
            assert!(!runs_in_a_browser(media), "{media}");
        }
    }

    #[test]
    fn the_headers_of_a_blob_keep_it_from_being_a_page() {
        let mut headers = HeaderMap::new();
        describe(&mut headers, "abc", "image/svg+xml", Some(7));
        assert_eq!(headers[ETAG], "\"abc\"");
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[CONTENT_DISPOSITION], "attachment");
        assert_eq!(headers[VERSION_HEADER], "7");
        describe(&mut headers, "abc", "not a\nheader", None);
        assert_eq!(headers[CONTENT_TYPE], "application/octet-stream");
    }
}
