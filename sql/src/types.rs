//! Names of types that DataFusion does not know, or knows as something else.
//!
//! `BLOB` is a blob column: bytes that lie beside the table's rows. `BINARY`, `VARBINARY` and `BYTES` are
//! bytes inside them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::DataType as Named;

/// What makes a column of bytes a blob column.
pub(crate) fn blob_metadata() -> HashMap<String, String> {
    [("lance-encoding:blob".to_owned(), "true".to_owned())].into()
}

#[derive(Debug)]
pub(crate) struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, named: &Named) -> Result<Option<FieldRef>> {
        let field = |data_type| Field::new("", data_type, true);
        Ok(match named {
            Named::Blob(_) | Named::TinyBlob | Named::MediumBlob | Named::LongBlob => {
                Some(Arc::new(field(DataType::LargeBinary).with_metadata(blob_metadata())))
            }
            Named::Binary(_) | Named::Varbinary(_) | Named::Bytes(_) => {
                Some(Arc::new(field(DataType::Binary)))
            }
            _ => None,
        })
    }
}
