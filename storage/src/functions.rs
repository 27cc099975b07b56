//! The functions that lance knows, for statements that run above it.
//!
//! A filter that calls one of them can then be handed down, where an index may answer it: words by
//! `contains_tokens`, documents by `json_get`.

use std::sync::{Arc, LazyLock};

use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;
use lance_datafusion::udf::register_functions;

static FUNCTIONS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    let context = SessionContext::new();
    register_functions(&context);
    let functions = context.state().scalar_functions().values().cloned().collect::<Vec<_>>();
    // What lance has in the place of functions over geometries says how to build lance.
    functions.into_iter().filter(|function| !function.name().starts_with("st_")).collect()
});

/// DataFusion's functions and lance's.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    FUNCTIONS.clone()
}
