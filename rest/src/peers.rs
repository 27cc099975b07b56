//! The servers of one lake: who they are, and what they ask of each other, for which nobody else is let in.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use lakebed_service::{
    PEER_CALL_BYTES_MAX, PEER_HEADER, PeerCatalogue, PeerChange, PeerEmbed, PeerGive,
};
use serde_json::json;

use crate::Door;
use crate::body::{StrictBody, read};
use crate::error::ApiError;
use crate::target::Target;

async fn authenticate(door: &Door, headers: &HeaderMap) -> Result<(), ApiError> {
    let peer = headers.get(PEER_HEADER).and_then(|value| value.to_str().ok());
    Ok(door.service.authenticate_peer(peer).await?)
}

/// `GET /v1/servers`: the servers of the lake that are there, this one first. A lake on a folder has one,
/// which needs no addresses.
pub(crate) async fn list_servers(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let servers = door.service.list_servers(target.ctx())?;
    let servers: Vec<_> = servers
        .into_iter()
        .map(|at| json!({ "id": at.id, "http": at.http, "flight": at.flight }))
        .collect();
    Ok(Json(json!({ "servers": servers })).into_response())
}

/// `POST /v1/peers/sql`: a change in SQL that another server was asked for.
pub(crate) async fn change(
    State(door): State<Door>,
    headers: HeaderMap,
    StrictBody(change): StrictBody<PeerChange>,
) -> Result<Response, ApiError> {
    authenticate(&door, &headers).await?;
    let rows = door.service.change_for_peer(change).await?;
    Ok(Json(json!({ "rows": rows })).into_response())
}

/// `POST /v1/peers/embed`: the vector of a text or a picture.
pub(crate) async fn embed(
    State(door): State<Door>,
    headers: HeaderMap,
    StrictBody(asked): StrictBody<PeerEmbed>,
) -> Result<Response, ApiError> {
    authenticate(&door, &headers).await?;
    let vector = door.service.embed_for_peer(asked).await?;
    Ok(Json(json!({ "vector": vector })).into_response())
}

/// `POST /v1/peers/call`: the results of a model or function for some rows.
pub(crate) async fn call(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    authenticate(&door, &headers).await?;
    let rows = read(body, PEER_CALL_BYTES_MAX).await?;
    let results = door.service.call_for_peer(&rows).await?;
    Ok(([(CONTENT_TYPE, "application/vnd.apache.arrow.stream")], results).into_response())
}

/// `POST /v1/peers/give`: the lead of a table for another server.
pub(crate) async fn give(
    State(door): State<Door>,
    headers: HeaderMap,
    StrictBody(asked): StrictBody<PeerGive>,
) -> Result<Response, ApiError> {
    authenticate(&door, &headers).await?;
    door.service.give_to_peer(asked).await?;
    Ok(Json(json!({})).into_response())
}

/// `POST /v1/peers/catalogue`: what another server changed of what can be found.
pub(crate) async fn catalogue(
    State(door): State<Door>,
    headers: HeaderMap,
    StrictBody(changed): StrictBody<PeerCatalogue>,
) -> Result<Response, ApiError> {
    authenticate(&door, &headers).await?;
    door.service.catalogue_changed(changed);
    Ok(Json(json!({})).into_response())
}
