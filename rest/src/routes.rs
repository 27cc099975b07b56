//! Which path leads to which verb.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Router};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};
use lakebed_core::{Error, ErrorKind};
use lakebed_service::{
    PEER_CALL_PATH, PEER_CATALOGUE_PATH, PEER_EMBED_PATH, PEER_GIVE_PATH, PEER_SQL_PATH, Service,
};
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::ApiError;
use crate::forward::{changes_table, changes_upload, runs_jobs};
use crate::guard::guard;
use crate::gzip::gzip;
use crate::observe::{observe, panicked};
use crate::protocol_version::protocol_version;
use crate::to_the_end::to_the_end;
use crate::{
    Door, RestOptions, backup, blob, blob_gc, catalogue, function, job, key, materialized_view,
    model, namespace, not_built, peers, secret, status, table, upload, view, worker,
};

/// The HTTP door over `service`.
pub fn router(service: Arc<Service>, options: RestOptions) -> Router {
    let door = Door { service, options };
    let routes = built()
        .into_iter()
        .fold(not_built::routes(), |router, (pattern, verb)| {
            with_both_slashes(router, pattern, verb)
        })
        .fallback(unknown_route)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(Extension(door.clone()))
        .layer(from_fn_with_state(door.clone(), guard))
        .layer(from_fn(observe))
        .layer(from_fn(gzip))
        .layer(from_fn(protocol_version))
        .with_state(door);
    // A layer of a router runs after the route was chosen; the path is tidied before.
    Router::new().fallback_service(routes.map_request(tidy_path))
}

/// Every built route: its pattern and its verb. Each also matches with a slash at its end, which is
/// how the SDKs write most of them.
fn built() -> Vec<(&'static str, MethodRouter<Door>)> {
    vec![
        ("/livez", get(status::livez)),
        ("/readyz", get(status::readyz)),
        ("/health", get(status::health)),
        ("/version", get(status::version)),
        ("/metrics", get(status::metrics)),
        ("/v1/keys", to_the_end(get(key::list::list_keys).post(key::create::create_key))),
        ("/v1/keys/{key}", to_the_end(delete(key::revoke::revoke_key))),
        ("/v1/servers", get(peers::list_servers)),
        (PEER_SQL_PATH, to_the_end(post(peers::change))),
        (PEER_EMBED_PATH, post(peers::embed)),
        (PEER_CALL_PATH, post(peers::call)),
        (PEER_GIVE_PATH, to_the_end(post(peers::give))),
        (PEER_CATALOGUE_PATH, post(peers::catalogue)),
        ("/v1/catalogue/search", post(catalogue::search::search_catalogue)),
        ("/v1/backup", to_the_end(post(backup::backup))),
        ("/v1/blobs/gc", to_the_end(post(blob_gc::gc_blobs))),
        ("/v1/uploads", to_the_end(post(upload::create::create_upload))),
        (
            "/v1/uploads/{id}",
            changes_upload(
                get(upload::offset::upload_offset)
                    .put(upload::put::put_upload)
                    .delete(upload::abort::abort_upload),
            ),
        ),
        ("/v1/uploads/{id}/parts", post(upload::parts::sign_parts)),
        ("/v1/uploads/{id}/complete", changes_upload(post(upload::complete::complete_upload))),
        ("/v1/table", get(table::list::list_all_tables)),
        ("/v1/namespace/{id}/table/list", get(table::list::list_tables)),
        ("/v1/namespace/{id}/list", get(namespace::list::list_namespaces)),
        ("/v1/namespace/{id}/create", to_the_end(post(namespace::create::create_namespace))),
        ("/v1/namespace/{id}/describe", post(namespace::describe::describe_namespace)),
        ("/v1/namespace/{id}/exists", post(namespace::exists::namespace_exists)),
        ("/v1/namespace/{id}/drop", to_the_end(post(namespace::drop_namespace::drop_namespace))),
        ("/v1/namespace/{id}/view/list", get(view::list::list_views)),
        ("/v1/namespace/{id}/function/list", get(function::list::list_functions)),
        ("/v1/function/{id}/create", runs_jobs(post(function::create::create_function))),
        ("/v1/function/{id}/describe", post(function::describe::describe_function)),
        ("/v1/function/{id}/drop", post(function::drop_function::drop_function)),
        (
            "/v1/namespace/{id}/materialized_view/list",
            get(materialized_view::list::list_materialized_views),
        ),
        (
            "/v1/materialized_view/{id}/create",
            runs_jobs(post(materialized_view::create::create_materialized_view)),
        ),
        (
            "/v1/materialized_view/{id}/describe",
            post(materialized_view::describe::describe_materialized_view),
        ),
        (
            "/v1/materialized_view/{id}/refresh",
            runs_jobs(post(materialized_view::refresh::refresh_materialized_view)),
        ),
        (
            "/v1/materialized_view/{id}/drop",
            changes_table(post(materialized_view::drop_view::drop_materialized_view)),
        ),
        ("/v1/namespace/{id}/secret/list", get(secret::list::list_secrets)),
        // By the server that hands their values to workers: it alone needs the key, and knows at once.
        ("/v1/secret/{id}/create", runs_jobs(post(secret::create::create_secret))),
        ("/v1/secret/{id}/alter", runs_jobs(post(secret::alter::alter_secret))),
        ("/v1/secret/{id}/describe", post(secret::describe::describe_secret)),
        ("/v1/secret/{id}/drop", runs_jobs(post(secret::drop_secret::drop_secret))),
        ("/v1/view/{id}/create", changes_table(post(view::create::create_view))),
        ("/v1/view/{id}/describe", post(view::describe::describe_view)),
        ("/v1/view/{id}/drop", changes_table(post(view::drop_view::drop_view))),
        ("/v1/table/{id}/describe", post(table::describe::describe_table)),
        ("/v1/table/{id}/exists", post(table::exists::table_exists)),
        ("/v1/table/{id}/stats", post(table::stats::table_stats)),
        ("/v1/table/{id}/get_rte_spec", post(table::real_time::rte_spec)),
        ("/v1/table/{id}/get_rte_stats", post(table::real_time::rte_stats)),
        ("/v1/table/{id}/get_lsm_write_spec", post(table::real_time::lsm_write_spec)),
        ("/v1/table/{id}/get_lsm_stats", post(table::real_time::lsm_stats)),
        ("/v1/table/{id}/show", get(table::show::show_table)),
        ("/v1/table/{id}/drop", changes_table(post(table::drop_table::drop_table))),
        ("/v1/table/{id}/clone", changes_table(post(table::clone_table::clone_table))),
        ("/v1/table/{id}/declare", changes_table(post(table::declare::declare_table))),
        ("/v1/table/{id}/register", changes_table(post(table::register::register_table))),
        ("/v1/table/{id}/deregister", changes_table(post(table::deregister::deregister_table))),
        ("/v1/table/{id}/rename", changes_table(post(table::rename::rename_table))),
        ("/v1/table/{id}/profile", changes_table(post(table::profile::set_profile))),
        ("/v1/table/{id}/compact", changes_table(post(table::compact::compact))),
        ("/v1/table/{id}/gc", changes_table(post(table::gc::gc))),
        ("/v1/table/{id}/purge", changes_table(post(table::purge::purge))),
        ("/v1/table/{id}/restore", changes_table(post(table::restore::restore))),
        ("/v1/table/{id}/delete", changes_table(post(table::delete::delete_rows))),
        ("/v1/table/{id}/create", changes_table(post(table::create::create_table))),
        ("/v1/table/{id}/insert", changes_table(post(table::insert::insert_rows))),
        (
            "/v1/table/{id}/multipart_write/create",
            changes_table(post(table::multipart_write::create)),
        ),
        (
            "/v1/table/{id}/multipart_write/complete",
            changes_table(post(table::multipart_write::complete)),
        ),
        (
            "/v1/table/{id}/multipart_write/abort",
            changes_table(post(table::multipart_write::abort)),
        ),
        ("/v1/table/{id}/merge_insert", changes_table(post(table::merge_insert::merge_insert))),
        ("/v1/table/{id}/query", post(table::query::query)),
        ("/v1/table/{id}/facets", post(table::facets::facets)),
        ("/v1/table/{id}/suggest", post(table::suggest::suggest)),
        ("/v1/table/{id}/explain_plan", post(table::query::explain_plan)),
        ("/v1/table/{id}/analyze_plan", post(table::query::analyze_plan)),
        ("/v1/table/{id}/create_index", changes_table(post(table::index::create::create_index))),
        (
            "/v1/table/{id}/create_scalar_index",
            changes_table(post(table::index::create::create_index)),
        ),
        ("/v1/table/{id}/index/list", post(table::index::list::list_indices)),
        ("/v1/table/{id}/index/{name}/stats", post(table::index::stats::index_stats)),
        (
            "/v1/table/{id}/index/{name}/drop",
            changes_table(post(table::index::drop_index::drop_index)),
        ),
        ("/v1/table/{id}/index/{name}/prewarm", post(table::index::prewarm::prewarm_index)),
        ("/v1/table/{id}/page_cache/prewarm", post(table::page_cache::prewarm_columns)),
        (
            "/v1/table/{id}/near_duplicates",
            changes_table(post(table::near_duplicates::near_duplicates)),
        ),
        ("/v1/jobs/list", runs_jobs(post(job::list::list_jobs))),
        ("/v1/jobs/describe", runs_jobs(post(job::describe::describe_job))),
        ("/v1/jobs/cancel", runs_jobs(post(job::cancel::cancel_job))),
        ("/v1/jobs/query_events", runs_jobs(post(job::query_events::query_events))),
        ("/v1/jobs/submit", runs_jobs(post(job::submit::submit_job))),
        ("/v1/jobs/pause", runs_jobs(post(job::pause::pause_job))),
        ("/v1/jobs/resume", runs_jobs(post(job::pause::resume_job))),
        ("/v1/workers", runs_jobs(get(worker::list_workers))),
        ("/v1/models", runs_jobs(get(model::list::list_models))),
        ("/v1/model_files/missing", runs_jobs(post(model::missing::missing_files))),
        ("/v1/models/{model}", get(model::describe::describe_model)),
        ("/v1/models/{model}/file", get(model::file::model_file)),
        ("/v1/models/{model}/register", runs_jobs(post(model::register::register_model))),
        ("/v1/models/{model}/tag", runs_jobs(post(model::tag::tag_model))),
        ("/v1/models/{model}/untag", runs_jobs(post(model::tag::untag_model))),
        ("/v1/models/{model}/drop", runs_jobs(post(model::drop_model::drop_model))),
        ("/v1/table/{id}/update", changes_table(post(table::update::update_rows))),
        (
            "/v1/table/{id}/backfill_column",
            runs_jobs(post(table::backfill_column::backfill_column)),
        ),
        ("/v1/table/{id}/errors", post(table::function_errors::function_errors)),
        ("/v1/table/{id}/add_columns", changes_table(post(table::add_columns::add_columns))),
        ("/v1/table/{id}/alter_columns", changes_table(post(table::alter_columns::alter_columns))),
        ("/v1/table/{id}/drop_columns", changes_table(post(table::drop_columns::drop_columns))),
        (
            "/v1/table/{id}/update_field_metadata",
            changes_table(post(table::field_metadata::update_field_metadata)),
        ),
        (
            "/v1/table/{id}/schema_metadata/update",
            changes_table(post(table::schema_metadata::replace_schema_metadata)),
        ),
        ("/v1/table/{id}/count_rows", post(table::count_rows::count_rows)),
        ("/v1/table/{id}/version/list", post(table::versions::list_versions)),
        ("/v1/table/{id}/version/describe", post(table::versions::describe_version)),
        (
            "/v1/table/{id}/branches/create",
            changes_table(post(table::branches::create::create_branch)),
        ),
        ("/v1/table/{id}/branches/list", post(table::branches::list::list_branches)),
        (
            "/v1/table/{id}/branches/delete",
            changes_table(post(table::branches::delete::delete_branch)),
        ),
        ("/v1/table/{id}/branches/diff", post(table::branches::diff::diff_branch)),
        (
            "/v1/table/{id}/branches/cherry_pick",
            changes_table(post(table::branches::cherry_pick::cherry_pick)),
        ),
        (
            "/v1/table/{id}/branches/merge",
            changes_table(post(table::branches::merge::merge_branch)),
        ),
        ("/v1/table/{id}/tags/create", changes_table(post(table::tags::create::create_tag))),
        ("/v1/table/{id}/tags/update", changes_table(post(table::tags::update::update_tag))),
        ("/v1/table/{id}/tags/delete", changes_table(post(table::tags::delete::delete_tag))),
        ("/v1/table/{id}/tags/list", post(table::tags::list::list_tags)),
        ("/v1/table/{id}/resident/create", post(table::resident::create::create_resident)),
        ("/v1/table/{id}/resident/list", post(table::resident::list::list_resident)),
        ("/v1/table/{id}/resident/drop", post(table::resident::drop::drop_resident)),
        (
            "/v1/table/{id}/vector_alias/set",
            changes_table(post(table::vector_alias::set::set_vector_alias)),
        ),
        ("/v1/table/{id}/vector_alias/list", post(table::vector_alias::list::list_vector_aliases)),
        (
            "/v1/table/{id}/vector_alias/drop",
            changes_table(post(table::vector_alias::drop_alias::drop_vector_alias)),
        ),
        ("/v1/table/{id}/compare_embeddings", post(table::compare_embeddings::compare_embeddings)),
        ("/v1/table/{id}/changes", post(table::changes::changes)),
        (
            "/v1/table/{id}/cursors/create",
            changes_table(post(table::cursors::create::create_cursor)),
        ),
        (
            "/v1/table/{id}/cursors/list",
            get(table::cursors::list::list_cursors).post(table::cursors::list::list_cursors),
        ),
        (
            "/v1/table/{id}/cursors/advance",
            changes_table(post(table::cursors::advance::advance_cursor)),
        ),
        (
            "/v1/table/{id}/cursors/delete",
            changes_table(post(table::cursors::delete::delete_cursor)),
        ),
        (
            "/v1/table/{id}/row_sets/create",
            changes_table(post(table::row_sets::create::create_row_set)),
        ),
        (
            "/v1/table/{id}/row_sets/list",
            get(table::row_sets::list::list_row_sets).post(table::row_sets::list::list_row_sets),
        ),
        ("/v1/table/{id}/row_sets/describe", post(table::row_sets::describe::describe_row_set)),
        ("/v1/table/{id}/row_sets/rows", post(table::row_sets::rows::row_set_rows)),
        (
            "/v1/table/{id}/row_sets/drop",
            changes_table(post(table::row_sets::drop_row_set::drop_row_set)),
        ),
        ("/v1/table/{id}/tags/version", post(table::tags::version::tag_version)),
        ("/v1/table/{id}/fetch_blobs", post(table::fetch_blobs::fetch_blobs)),
        ("/v1/table/{id}/blob/{column}/{row_id}/bytes", get(blob::read_blob)),
    ]
}

/// Adds `pattern` as it is and with a slash at its end.
pub(crate) fn with_both_slashes(
    router: Router<Door>,
    pattern: &str,
    verb: MethodRouter<Door>,
) -> Router<Door> {
    let router = router.route(pattern, verb.clone());
    match pattern.ends_with('/') {
        true => router,
        false => router.route(&format!("{pattern}/"), verb),
    }
}

async fn unknown_route() -> ApiError {
    // Not "not found", which the protocol would number as a missing table.
    ApiError::from(Error::new(ErrorKind::NotImplemented, "this path is no route of the server"))
        .with_status(StatusCode::NOT_FOUND)
}

/// Several slashes at the beginning of a path count as one: a base URL that ends in a slash makes
/// them.
fn tidy_path(mut request: Request) -> Request {
    let Some(path) = request.uri().path_and_query().map(PathAndQuery::as_str) else {
        return request;
    };
    if !path.starts_with("//") {
        return request;
    }
    let tidy = format!("/{}", path.trim_start_matches('/'));
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = tidy.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::not_built::NOT_BUILT;

    #[test]
    fn slashes_at_the_beginning_count_as_one() {
        for (given, tidy) in [
            ("//v1/table?limit=1", "/v1/table?limit=1"),
            ("///", "/"),
            ("/v1//table", "/v1//table"),
            ("/v1/table/a%2Fb/drop", "/v1/table/a%2Fb/drop"),
        ] {
            let request = http::Request::builder().uri(given).body(Body::empty()).unwrap();
            assert_eq!(tidy_path(request).uri().path_and_query().unwrap().as_str(), tidy);
        }
    }

    #[test]
    fn no_route_is_built_and_not_built() {
        for (pattern, _) in built() {
            assert!(NOT_BUILT.iter().all(|(_, other)| *other != pattern), "{pattern}");
        }
        // Making the router panics on patterns that contradict each other.
        let _ = built().into_iter().fold(not_built::routes(), |router, (pattern, verb)| {
            with_both_slashes(router, pattern, verb)
        });
    }
}
