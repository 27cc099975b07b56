//! `POST /v1/materialized_view/{id}/describe`: what a materialized view is made of.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::TableId;
use serde_json::json;

use super::OneView;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn describe_materialized_view(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneView>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let id = target.table()?;
    let view = door.service.describe_materialized_view(target.ctx(), &id).await?;
    let source = TableId::parse(&id.database, &view.source)?;
    let mut answer = json!({
        "source_table": source.name.as_str(),
        "projections": view.projections,
        "query": view.query,
    });
    if !source.namespace.is_root() {
        answer["source_namespace"] = json!(source.namespace.segments());
    }
    let more = [
        ("filter", view.filter.map(|it| json!(it))),
        ("order_by", view.order_by.map(|it| json!(it))),
        ("limit", view.limit.map(|it| json!(it))),
        ("source_version", view.source_version.map(|it| json!(it))),
        ("refreshed_at_ms", view.refreshed_at_ms.map(|it| json!(it))),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            answer[name] = value;
        }
    }
    Ok(Json(answer).into_response())
}
