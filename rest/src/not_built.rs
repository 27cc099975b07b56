//! Every route of the protocol that is known and not built: 501, and it says so.
//!
//! The SDKs read 404 on any table route as "no such table", so a missing verb must never answer
//! 404. A route that gets built moves from this table into `routes.rs`; a test keeps the two apart.

use axum::Router;
use axum::extract::MatchedPath;
use axum::routing::{MethodFilter, on};
use lakebed_core::{Error, ErrorKind};

use crate::Door;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::routes::with_both_slashes;

/// Method and pattern; every pattern also matches with a slash at its end.
pub(crate) const NOT_BUILT: &[(MethodFilter, &str)] = &[
    // Tables.
    (MethodFilter::POST, "/v1/table/{id}/refresh"),
    // Versions and transactions.
    (MethodFilter::POST, "/v1/table/{id}/version/create"),
    (MethodFilter::POST, "/v1/table/{id}/version/delete"),
    (MethodFilter::POST, "/v1/table/version/batch-create"),
    (MethodFilter::POST, "/v1/table/batch-commit"),
    (MethodFilter::POST, "/v1/transaction/{id}/describe"),
    (MethodFilter::POST, "/v1/transaction/{id}/alter"),
    // Blobs.
    (MethodFilter::POST, "/v1/table/{id}/blob/{column}/{row_id}/sign"),
    // Functions by their older names.
    (MethodFilter::POST, "/v1/functions/create"),
    (MethodFilter::POST, "/v1/functions/get"),
    // Real-time writes, under their two generations of names.
    (MethodFilter::POST, "/v1/table/{id}/enable_rte"),
    (MethodFilter::POST, "/v1/table/{id}/disable_rte"),
    (MethodFilter::POST, "/v1/table/{id}/flush_rte"),
    (MethodFilter::POST, "/v1/table/{id}/compact_rte"),
    (MethodFilter::POST, "/v1/table/{id}/set_lsm_write_spec"),
    (MethodFilter::POST, "/v1/table/{id}/unset_lsm_write_spec"),
    (MethodFilter::POST, "/v1/table/{id}/flush_lsm"),
    (MethodFilter::POST, "/v1/table/{id}/compact_lsm"),
    // Access control.
    (MethodFilter::POST, "/admin/authz/acl/list"),
    (MethodFilter::POST, "/admin/authz/acl/add"),
    (MethodFilter::POST, "/admin/authz/acl/delete"),
    (MethodFilter::POST, "/admin/authz/role_binding/list"),
    (MethodFilter::POST, "/admin/authz/role_binding/add"),
    (MethodFilter::POST, "/admin/authz/role_binding/delete"),
    (MethodFilter::POST, "/admin/authz/principal"),
    (MethodFilter::POST, "/admin/authz/group"),
    // The console.
    (MethodFilter::GET, "/"),
];

/// The routes of [`NOT_BUILT`].
pub(crate) fn routes() -> Router<Door> {
    NOT_BUILT.iter().fold(Router::new(), |router, (method, pattern)| {
        with_both_slashes(router, pattern, on(*method, not_built))
    })
}

async fn not_built(_caller: Caller, matched: MatchedPath) -> ApiError {
    let route = matched.as_str().trim_end_matches('/');
    let route = if route.is_empty() { "the web console" } else { route };
    let message = format!("{route} is known to the protocol and not built in this server");
    Error::new(ErrorKind::NotImplemented, message).into()
}
