//! The functions that lance knows, for statements that run above it.
//!
//! A filter that calls one of them can then be handed down, where an index may answer it: words by
//! `contains_tokens`, documents by `json_get`, geometries by `st_intersects`.

use std::sync::{Arc, LazyLock};

use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;
use lance_datafusion::udf::register_functions;

static FUNCTIONS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    let context = SessionContext::new();
    register_functions(&context);
    context.state().scalar_functions().values().cloned().collect()
});

/// DataFusion's functions, lance's, and those over geometries (geodatafusion).
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    FUNCTIONS.clone()
}
