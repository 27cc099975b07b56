//! Verbs on views, one file each.

pub(crate) mod create;
pub(crate) mod describe;
pub(crate) mod drop_view;
pub(crate) mod list;

use lakebed_service::ViewDetails;
use serde::Deserialize;
use serde_json::{Value, json};

/// The body that names nothing but the view.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OneView {
    id: Option<Vec<String>>,
}

/// A view as clients know it.
fn described(view: &ViewDetails) -> Value {
    json!({
        "name": view.id.name.as_str(),
        "namespace": view.id.namespace.segments(),
        "query": view.query,
        "default_database": view.database,
        "default_namespace": view.namespace.segments(),
        "schema": view.schema,
    })
}
