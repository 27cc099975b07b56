//! Changes run to their end, also when the client goes away.
//!
//! A handler lives in its connection and is dropped with it. A change that is committed by then happened
//! all the same, so its audit line and its answer must not depend on who still listens.

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use lakebed_core::Error;

use crate::Door;
use crate::error::ApiError;
use crate::observe::panicked;

/// Runs the verbs of a route in tasks of their own.
pub(crate) fn to_the_end(verb: MethodRouter<Door>) -> MethodRouter<Door> {
    verb.layer(from_fn(in_own_task))
}

async fn in_own_task(request: Request, next: Next) -> Response {
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(error) if error.is_panic() => panicked(error.into_panic()),
        Err(error) => ApiError::from(Error::internal("the request was cut off").with_source(error))
            .into_response(),
    }
}
