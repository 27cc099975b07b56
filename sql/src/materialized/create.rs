//! CREATE MATERIALIZED VIEW.

use datafusion::sql::sqlparser::ast::{CreateTableOptions, CreateView, Expr, SqlOption, Value};
use lakebed_core::{Error, ErrorKind, Result};

use super::syntax::without_data;
use crate::change::Change;
use crate::engine::Sql;
use crate::names::Scope;
use crate::views::text_after_as;

/// What the SDKs of LanceDB ask for: that a view is refreshed by itself, and how often.
const AUTO_REFRESH: &str = "auto_refresh_enabled";
const AUTO_REFRESH_SECONDS: &str = "auto_refresh_interval_seconds";

impl Sql {
    /// Understands CREATE MATERIALIZED VIEW; `text` is that of the whole statement.
    pub(crate) fn create_materialized_view(
        &self,
        scope: &Scope,
        create: &CreateView,
        text: &str,
    ) -> Result<Change> {
        let is_plain = !create.or_alter
            && !create.or_replace
            && !create.secure
            && !create.temporary
            && !create.copy_grants
            && !create.with_no_schema_binding
            && create.columns.is_empty()
            && create.cluster_by.is_empty()
            && create.comment.is_none()
            && create.to.is_none()
            && create.params.is_none();
        if !is_plain {
            return Err(not_built(
                "CREATE MATERIALIZED VIEW takes IF NOT EXISTS, AS and WITH NO DATA; OR REPLACE, columns \
                 and other clauses are not built",
            ));
        }
        match &create.options {
            CreateTableOptions::None => {}
            CreateTableOptions::With(options) => {
                for option in options {
                    check_option(option)?;
                }
            }
            _ => return Err(not_built("options of a materialized view are not built")),
        }
        let view = scope.table_of(&create.name)?;
        let query = text_after_as(text).unwrap_or_else(|| create.query.to_string());
        let (query, fill) = without_data(&query);
        let if_not_exists = create.if_not_exists;
        Ok(Change::CreateMaterializedView {
            view,
            query,
            scope: scope.clone(),
            fill,
            if_not_exists,
        })
    }
}

fn check_option(option: &SqlOption) -> Result<()> {
    let SqlOption::KeyValue { key, value } = option else {
        return Err(not_built(format!("option `{option}` of a materialized view is not built")));
    };
    let is_false = matches!(value, Expr::Value(value) if value.value == Value::Boolean(false));
    match key.value.as_str() {
        AUTO_REFRESH if is_false => Ok(()),
        AUTO_REFRESH => Err(not_built(
            "a materialized view that is refreshed by itself is not built; send REFRESH MATERIALIZED VIEW \
             when it is to be refreshed",
        )),
        // It says how often what is not done.
        AUTO_REFRESH_SECONDS => Ok(()),
        other => Err(not_built(format!("option `{other}` of a materialized view is not built"))),
    }
}

fn not_built(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotImplemented, what.into())
}
