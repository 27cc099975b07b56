//! `POST /v1/keys`: a new key, whose text is in this answer and nowhere else.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::DateTime;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use lakebed_core::{Error, Result, Role};
use serde::Deserialize;
use serde_json::json;

use super::rfc3339;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::params::shown;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CreateKey {
    name: String,
    role: String,
    /// RFC 3339 with a zone.
    expires_at: Option<String>,
}

pub(crate) async fn create_key(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CreateKey>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let (role, expires_at_ms) = body.check()?;
    let key = door.service.create_key(target.ctx(), &body.name, role, expires_at_ms).await?;
    let answer = json!({
        "id": key.id,
        "name": body.name,
        "role": role.name(),
        "expires_at": expires_at_ms.map(rfc3339),
        "key": key.secret,
    });
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl CreateKey {
    fn check(&self) -> Result<(Role, Option<i64>)> {
        let role = Role::parse(&self.role).ok_or_else(|| {
            Error::invalid(format!(
                "field `role` is `{}`, not `admin`, `write` or `read`",
                shown(&self.role)
            ))
        })?;
        let expires_at = self.expires_at.as_deref().filter(|text| !text.is_empty());
        let expires_at_ms = expires_at
            .map(|text| {
                DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_millis()).map_err(
                    |error| {
                        Error::invalid(format!(
                            "field `expires_at` is `{}`, not a time of RFC 3339 with a zone: \
                             {error}",
                            shown(text)
                        ))
                    },
                )
            })
            .transpose()?;
        Ok((role, expires_at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_expiries_are_checked() {
        let body = |role: &str, expires_at: &str| CreateKey {
            name: "ci".to_owned(),
            role: role.to_owned(),
            expires_at: Some(expires_at.to_owned()),
        };
        assert_eq!(body("read", "").check().unwrap(), (Role::Read, None));
        let expiry = body("write", "2026-01-01T00:00:00+01:00").check().unwrap().1;
        assert_eq!(expiry, Some(1_767_222_000_000));
        assert!(body("owner", "").check().unwrap_err().message().contains("owner"));
        let error = body("read", "2026-01-01T00:00:00").check().unwrap_err();
        assert!(error.message().contains("zone"), "{error}");
    }
}
