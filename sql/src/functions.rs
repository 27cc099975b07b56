//! Functions that tell a statement where it runs, as generic tools ask when they connect.

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionImplementation, ScalarUDF, Volatility, create_udf,
};
use datafusion::scalar::ScalarValue;

use crate::names::Scope;

/// The functions of a statement in `scope`; the first takes the place of the engine's own.
pub(crate) fn functions_of(scope: &Scope) -> Vec<Arc<ScalarUDF>> {
    let version = concat!("Lakebed ", env!("CARGO_PKG_VERSION"));
    [
        ("version", version),
        ("current_database", scope.database()),
        ("current_catalog", scope.database()),
        ("current_schema", scope.schema()),
    ]
    .map(|(name, value)| Arc::new(constant(name, value)))
    .into()
}

/// A function without arguments that always answers the same text.
fn constant(name: &str, value: &str) -> ScalarUDF {
    let value = ScalarValue::from(value);
    let answer: ScalarFunctionImplementation =
        Arc::new(move |_| Ok(ColumnarValue::Scalar(value.clone())));
    create_udf(name, Vec::new(), DataType::Utf8, Volatility::Stable, answer)
}
