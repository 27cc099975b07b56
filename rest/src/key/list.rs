//! `GET /v1/keys`: every key without its text.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use lakebed_service::KeySummary;
use serde_json::{Value, json};

use super::rfc3339;
use crate::Door;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn list_keys(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let now_ms = Utc::now().timestamp_millis();
    let keys = door.service.list_keys(target.ctx()).await?;
    let keys: Vec<Value> = keys.iter().map(|key| entry(key, now_ms)).collect();
    Ok(Json(json!({ "keys": keys })).into_response())
}

fn entry(key: &KeySummary, now_ms: i64) -> Value {
    let state = if key.revoked_at_ms.is_some() {
        "revoked"
    } else if key.expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= now_ms) {
        "expired"
    } else {
        "active"
    };
    json!({
        "id": key.id,
        "name": key.name,
        "role": key.role.name(),
        "state": state,
        "created_at": rfc3339(key.created_at_ms),
        "expires_at": key.expires_at_ms.map(rfc3339),
        "revoked_at": key.revoked_at_ms.map(rfc3339),
    })
}

#[cfg(test)]
mod tests {
    use lakebed_core::Role;

    use super::*;

    #[test]
    fn the_state_says_why_a_key_is_refused() {
        let mut key = KeySummary {
            id: "a".to_owned(),
            name: "ci".to_owned(),
            role: Role::Read,
            created_at_ms: 0,
            expires_at_ms: Some(10),
            revoked_at_ms: None,
        };
        assert_eq!(entry(&key, 9)["state"], "active");
        assert_eq!(entry(&key, 10)["state"], "expired");
        key.revoked_at_ms = Some(5);
        assert_eq!(entry(&key, 9)["state"], "revoked");
    }
}
