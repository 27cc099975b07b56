//! JSON bodies, read strictly.
//!
//! A field that is not understood is refused by name, unless its value says nothing: null, false,
//! an empty text or an empty list. Clients send such defaults for features that a table may lack,
//! and a misspelt `predicate` must never delete a whole table. The fields that are understood are
//! those of the type that is parsed, asked from serde itself, so that there is no second list to
//! keep.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use http::header::CONTENT_ENCODING;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use lakebed_core::{Error, ErrorKind, Result};
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

use crate::Door;
use crate::error::ApiError;
use crate::params::shown;

/// A body that dribbles in more slowly than this is given up.
const READ_TIME_MAX: Duration = Duration::from_secs(60);

/// A parsed JSON body. An empty body counts as `{}`: the SDKs send none where every field has a
/// default.
#[derive(Debug)]
pub(crate) struct StrictBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Door> for StrictBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, door: &Door) -> Result<Self, ApiError> {
        let BodyBytes(bytes) = BodyBytes::from_request(request, door).await?;
        Ok(StrictBody(parse(&bytes)?))
    }
}

/// The bytes of a JSON body, for whoever parses parts of it apart.
#[derive(Debug)]
pub(crate) struct BodyBytes(pub(crate) Vec<u8>);

impl FromRequest<Door> for BodyBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, door: &Door) -> Result<Self, ApiError> {
        refuse_encoding(request.headers())?;
        let bytes_max = door.service.limits().json_body_bytes_max;
        Ok(BodyBytes(read(request.into_body(), bytes_max).await?))
    }
}

/// Refuses a body in another encoding than plain bytes.
///
/// # Errors
/// `InvalidArgument` naming the encoding.
pub(crate) fn refuse_encoding(headers: &http::HeaderMap) -> Result<()> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if encoding.as_bytes() != b"identity" => Err(Error::invalid(format!(
            "content-encoding `{}` of a request is not understood",
            shown(&String::from_utf8_lossy(encoding.as_bytes()))
        ))),
        _ => Ok(()),
    }
}

/// Reads a whole body of at most `bytes_max` bytes.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Vec<u8>, ApiError> {
    let collected = tokio::time::timeout(READ_TIME_MAX, Limited::new(body, bytes_max).collect());
    match collected.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body is larger than json_body_bytes_max = {bytes_max}");
            Err(ApiError::from(Error::invalid(message)).with_status(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Ok(Err(error)) => {
            Err(Error::new(ErrorKind::Cancelled, "the body broke off").with_source(error).into())
        }
        Err(_) => {
            let message = format!("the body did not arrive within {} s", READ_TIME_MAX.as_secs());
            Err(Error::new(ErrorKind::DeadlineExceeded, message).into())
        }
    }
}

/// Parses a body strictly.
///
/// # Errors
/// `InvalidArgument` naming the field or the position.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let not_understood = |error: serde_json::Error| {
        Error::invalid(format!("the body is not understood: {}", shown(&error.to_string())))
    };
    // Before anything else: the limit of nesting is kept only by a parse of the whole.
    match bytes.iter().all(u8::is_ascii_whitespace) {
        true => parse_fields(Fields(Vec::new())),
        false => parse_fields(serde_json::from_slice(bytes).map_err(not_understood)?),
    }
}

/// Parses an object inside a body as strictly.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_raw<T: DeserializeOwned>(raw: &RawValue) -> Result<T> {
    parse(raw.get().as_bytes())
}

fn parse_fields<T: DeserializeOwned>(Fields(mut fields): Fields) -> Result<T> {
    if let Some(known) = field_names::<T>() {
        fields.retain(|(name, value)| known.contains(&name.as_str()) || !says_nothing(value));
        if let Some((name, _)) = fields.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            return Err(Error::invalid(format!("field `{}` is not understood", shown(name))));
        }
    }
    // From the texts of the values, not from a parsed tree: that would sort the keys of objects, whose
    // order is the order of columns.
    let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_ref()));
    let object = de::value::MapDeserializer::new(fields);
    serde_path_to_error::deserialize(object).map_err(|error: serde_path_to_error::Error<_>| {
        let path = error.path().to_string();
        let inner: serde_json::Error = error.into_inner();
        let inner = inner.to_string();
        match path.as_str() {
            "." => Error::invalid(format!("the body is not understood: {}", shown(&inner))),
            path => Error::invalid(format!("field `{}`: {}", shown(path), shown(&inner))),
        }
    })
}

fn says_nothing(value: &RawValue) -> bool {
    let text = value.get().trim();
    let is_empty_list = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .is_some_and(|items| items.trim().is_empty());
    matches!(text, "null" | "false" | "\"\"") || is_empty_list
}

/// The fields of a JSON object in their order, each at most once.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> de::Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
                let mut names = std::collections::HashSet::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if !names.insert(name.clone()) {
                        let message = format!("field `{}` is given twice", shown(&name));
                        return Err(de::Error::custom(message));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The names of the fields that `T` declares, or nothing for a type that is no struct.
fn field_names<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    struct Capture<'a>(&'a mut Option<&'static [&'static str]>);

    impl<'de> Deserializer<'de> for Capture<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only the names of fields are asked for"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = Some(fields);
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    let mut names = None;
    // The error is the capture's own way to stop.
    let _ = T::deserialize(Capture(&mut names));
    names
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        version: Option<u64>,
        tag: String,
        names: Option<Vec<String>>,
    }

    fn refusal(text: &str) -> String {
        parse::<Sample>(text.as_bytes()).unwrap_err().message().to_owned()
    }

    #[test]
    fn an_unknown_field_is_named_unless_it_says_nothing() {
        for nothing in ["null", "false", "\"\"", "[]"] {
            let text = format!("{{\"tag\":\"a\",\"later\":{nothing}}}");
            assert_eq!(parse::<Sample>(text.as_bytes()).unwrap().tag, "a");
        }
        for something in ["true", "0", "\"x\"", "[null]", "{}", "{\"a\":1}"] {
            let text = refusal(&format!("{{\"later\":{something}}}"));
            assert!(text.contains("`later`"), "{text}");
        }
    }

    #[test]
    fn no_body_is_an_empty_object() {
        assert_eq!(parse::<Sample>(b"").unwrap(), Sample::default());
        assert_eq!(parse::<Sample>(b" \n").unwrap(), Sample::default());
    }

    #[test]
    fn broken_bodies_are_refused_with_the_place() {
        assert!(refusal("{\"version\":-1}").contains("`version`"));
        assert!(refusal("{\"names\":[\"a\",3]}").contains("names[1]"));
        assert!(refusal("{\"tag\":\"a\",\"tag\":\"b\"}").contains("given twice"));
        assert!(refusal("{\"tag\":\"a\"} x").contains("column 13"));
        assert!(refusal("[]").contains("JSON object"));
        assert!(refusal("{\"tag\":").contains("column"));
        assert!(refusal(&"[".repeat(10_000)).contains("body"));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_by_name() {
        let error = read(Body::from(vec![b' '; 11]), 10).await.unwrap_err();
        let response = axum::response::IntoResponse::into_response(error);
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(read(Body::from("1234567890"), 10).await.unwrap(), b"1234567890");
    }
}
