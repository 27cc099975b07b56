//! What a table says of real-time writes, under the two generations of their names: that it has none.
//!
//! The SDKs ask before they write, so the questions are answered; turning them on is not built.

use axum::extract::State;
use axum::response::Response;
use lakebed_proto::command::ReadCommand;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::versioned;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Question {
    id: Option<Vec<String>>,
    branch: Option<String>,
    /// Details of what is not there.
    #[serde(rename = "include_sstable_rows")]
    _include_sstable_rows: Option<bool>,
    #[serde(rename = "include_generation_rows")]
    _include_generation_rows: Option<bool>,
}

/// `get_rte_spec`.
pub(crate) async fn rte_spec(
    door: State<Door>,
    target: Target,
    body: StrictBody<Question>,
) -> Result<Response, ApiError> {
    nothing("rte_spec", door, target, body).await
}

/// `get_rte_stats`.
pub(crate) async fn rte_stats(
    door: State<Door>,
    target: Target,
    body: StrictBody<Question>,
) -> Result<Response, ApiError> {
    nothing("rte_stats", door, target, body).await
}

/// `get_lsm_write_spec`.
pub(crate) async fn lsm_write_spec(
    door: State<Door>,
    target: Target,
    body: StrictBody<Question>,
) -> Result<Response, ApiError> {
    nothing("lsm_write_spec", door, target, body).await
}

/// `get_lsm_stats`.
pub(crate) async fn lsm_stats(
    door: State<Door>,
    target: Target,
    body: StrictBody<Question>,
) -> Result<Response, ApiError> {
    nothing("lsm_stats", door, target, body).await
}

async fn nothing(
    key: &str,
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Question>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let at = ReadCommand {
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        ..ReadCommand::default()
    };
    let details = door.service.describe_table(target.ctx(), &target.table()?, &at).await?;
    let answer = Map::from_iter([(key.to_owned(), Value::Null)]);
    Ok(versioned(answer, details.version))
}
