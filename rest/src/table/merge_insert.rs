//! `POST /v1/table/{id}/merge_insert`: rows out of an Arrow stream, merged by key.
//!
//! What is not said is not done: without `when_not_matched_insert_all` nothing is inserted. The header
//! `x-request-timeout-ms` and the parameter `timeout` bound the time in which the rows have to arrive.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_service::{Matched, Merge, MergeRule};
use serde_json::json;

use super::{refused, versioned};
use crate::Door;
use crate::arrow_body::arrow_body;
use crate::error::ApiError;
use crate::params::Params;
use crate::target::Target;
use crate::timeout::{duration, request_timeout};

const KNOWN: [&str; 8] = [
    "branch",
    "when_matched_update_all",
    "when_matched_update_all_filt",
    "when_not_matched_insert_all",
    "when_not_matched_by_source_delete",
    "when_not_matched_by_source_delete_filt",
    "use_index",
    "timeout",
];

pub(crate) async fn merge_insert(
    State(door): State<Door>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let params = target.params_with_list(&KNOWN, "on")?;
    let merge = Merge {
        branch: params.text("branch").map(str::to_owned),
        on: params.list("on"),
        rule: rule(params)?,
        deadline: time_left(params, &headers)?.map(|left| tokio::time::Instant::now() + left),
    };
    let (schema, batches) = arrow_body(&door.service, &headers, body).await?;
    let outcome = door.service.merge(target.ctx(), &target.table()?, merge, schema, batches).await;
    let outcome = outcome.map_err(|error| match error.kind() {
        // The SDKs send a request again after a 504, and this one would only be as late again.
        ErrorKind::DeadlineExceeded => {
            ApiError::from(error).with_status(StatusCode::REQUEST_TIMEOUT)
        }
        _ => refused(error),
    })?;
    let version = outcome.receipt.version;
    let answer = json!({
        "version": version,
        "num_inserted_rows": outcome.inserted,
        "num_updated_rows": outcome.updated,
        "num_deleted_rows": outcome.deleted,
        "num_attempts": outcome.attempts,
        "num_rows": outcome.inserted + outcome.updated,
    });
    Ok(versioned(answer, version))
}

/// The time that the request has: the SDKs say it in a header, the specification in a parameter.
fn time_left(params: &Params, headers: &HeaderMap) -> Result<Option<Duration>> {
    let said = params.text("timeout").map(duration).transpose()?;
    Ok(said.into_iter().chain(request_timeout(headers)?).min())
}

fn rule(params: &Params) -> Result<MergeRule> {
    let update_if = params.text("when_matched_update_all_filt").map(str::to_owned);
    let delete_if = params.text("when_not_matched_by_source_delete_filt").map(str::to_owned);
    let matched = match (params.flag("when_matched_update_all")?, update_if) {
        (true, Some(condition)) => Matched::UpdateIf(condition),
        (true, None) => Matched::Update,
        (false, None) => Matched::Keep,
        (false, Some(_)) => return Err(idle("when_matched_update_all")),
    };
    let delete_unsent = match (params.flag("when_not_matched_by_source_delete")?, delete_if) {
        (true, condition) => Some(condition),
        (false, None) => None,
        (false, Some(_)) => return Err(idle("when_not_matched_by_source_delete")),
    };
    let use_index = match params.text("use_index") {
        None => true,
        Some(_) => params.flag("use_index")?,
    };
    let insert_new = params.flag("when_not_matched_insert_all")?;
    Ok(MergeRule { matched, insert_new, delete_unsent, use_index })
}

fn idle(name: &str) -> Error {
    Error::invalid(format!("query parameter `{name}_filt` is given and `{name}` is not true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_done() {
        let rule = |query: &str| rule(&Params::parse(query));
        let nothing = rule("on=id").unwrap();
        assert_eq!((nothing.matched, nothing.insert_new), (Matched::Keep, false));
        assert!(nothing.use_index && nothing.delete_unsent.is_none());
        let all = rule(
            "when_matched_update_all=true&when_matched_update_all_filt=target.a%20%3C%201\
             &when_not_matched_insert_all=true&when_not_matched_by_source_delete=true&use_index=false",
        )
        .unwrap();
        assert_eq!(all.matched, Matched::UpdateIf("target.a < 1".to_owned()));
        assert_eq!((all.insert_new, all.use_index), (true, false));
        assert_eq!(all.delete_unsent, Some(None));
        assert!(rule("when_matched_update_all_filt=x").is_err());
    }
}
