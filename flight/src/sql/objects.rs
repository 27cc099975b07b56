//! Catalogue commands: what databases, namespaces, tables and keys there are.
//!
//! A catalogue is a database, a schema is a namespace. They are answered from the lake's own catalogue;
//! only `include_schema` opens tables.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTableTypes,
    CommandGetTables,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use lakebed_core::{Error, Result};
use lakebed_service::Service;

use super::encoding;
use crate::request::Call;

const TABLE: &str = "TABLE";
const VIEW: &str = "VIEW";
/// What lance writes at the fields of a primary key.
const PRIMARY_KEY: &str = "lance-schema:unenforced-primary-key";
const PRIMARY_KEY_POSITION: &str = "lance-schema:unenforced-primary-key:position";

/// The databases.
pub(crate) async fn catalogs(
    service: &Arc<Service>,
    call: &Call,
    command: CommandGetCatalogs,
) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    for name in service.sql_databases(&call.ctx).await? {
        builder.append(name);
    }
    builder.build().map_err(encoding)
}

/// The namespaces.
pub(crate) async fn schemas(
    service: &Arc<Service>,
    call: &Call,
    command: CommandGetDbSchemas,
) -> Result<RecordBatch> {
    let database = command.catalog.clone().filter(|name| !name.is_empty());
    let mut builder = command.into_builder();
    for (database, schema) in service.sql_schemas(&call.ctx, database.as_deref()).await? {
        builder.append(database, schema);
    }
    builder.build().map_err(encoding)
}

/// The tables and the views.
pub(crate) async fn tables(
    service: &Arc<Service>,
    call: &Call,
    command: CommandGetTables,
) -> Result<RecordBatch> {
    let database = command.catalog.clone().filter(|name| !name.is_empty());
    let include_schema = command.include_schema;
    let wanted = Wanted {
        schema: command.db_schema_filter_pattern.clone(),
        name: command.table_name_filter_pattern.clone(),
    };
    let none = Schema::empty();
    let mut builder = command.into_builder();
    for mut table in service.sql_tables(&call.ctx, database.as_deref()).await? {
        // The builder filters by patterns as well; here it saves opening tables.
        let is_wanted = matches(wanted.schema.as_deref(), &table.schema)
            && matches(wanted.name.as_deref(), &table.name);
        if !is_wanted {
            continue;
        }
        if include_schema && !service.fill_columns(&call.ctx, &mut table).await? {
            continue;
        }
        let columns = call.column_types.schema(table.columns.as_deref().unwrap_or(&none));
        let kind = if table.is_view { VIEW } else { TABLE };
        builder
            .append(&table.database, &table.schema, &table.name, kind, &columns)
            .map_err(encoding)?;
    }
    builder.build().map_err(encoding)
}

struct Wanted {
    schema: Option<String>,
    name: Option<String>,
}

/// Whether a LIKE pattern may match; a pattern with an escape is left to the builder.
fn matches(pattern: Option<&str>, name: &str) -> bool {
    let Some(pattern) = pattern else { return true };
    if pattern.contains('\\') {
        return true;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // `%` takes as little as it can, and one more each time the rest does not fit.
    let (mut p, mut n, mut retry) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('%') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '_' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '%')
}

/// The kinds of tables.
pub(crate) fn table_types(command: CommandGetTableTypes) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    builder.append(TABLE);
    builder.append(VIEW);
    builder.build().map_err(encoding)
}

/// The schema of a primary key's columns.
pub(crate) fn primary_keys_schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        text("key_name", true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// The primary key of a table, where its schema has one.
pub(crate) async fn primary_keys(
    service: &Arc<Service>,
    call: &Call,
    command: CommandGetPrimaryKeys,
) -> Result<RecordBatch> {
    // Some drivers send what they do not know as an empty name.
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let database = given(&command.catalog).unwrap_or_else(|| call.ctx.database.to_string());
    let schema = given(&command.db_schema).unwrap_or_else(|| super::default_schema(call));
    let tables = service.sql_tables(&call.ctx, Some(&database)).await?;
    let found =
        tables.into_iter().find(|table| table.schema == schema && table.name == command.table);
    let Some(mut table) = found else {
        return Err(Error::not_found(format!(
            "table `{}` does not exist",
            crate::descriptor::shown(&command.table)
        )));
    };
    service.fill_columns(&call.ctx, &mut table).await?;
    let columns = table.columns.unwrap_or_else(|| Arc::new(Schema::empty()));
    let mut keys: Vec<(i32, &str)> = columns
        .fields()
        .iter()
        .enumerate()
        .filter_map(|(at, field)| {
            let metadata = field.metadata();
            let position = metadata.get(PRIMARY_KEY_POSITION).and_then(|text| text.parse().ok());
            let is_key = metadata.get(PRIMARY_KEY).is_some_and(|value| value == "true");
            let position = position.or(is_key.then_some(at as i32 + 1))?;
            Some((position, field.name().as_str()))
        })
        .collect();
    keys.sort();
    let rows = keys.len();
    let repeated = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; rows])) };
    let names: Vec<&str> = keys.iter().map(|(_, name)| *name).collect();
    let sequence: Vec<i32> = (1..).take(rows).collect();
    let arrays: Vec<ArrayRef> = vec![
        repeated(&table.database),
        repeated(&table.schema),
        repeated(&table.name),
        Arc::new(StringArray::from(names)),
        Arc::new(StringArray::from(vec![None::<&str>; rows])),
        Arc::new(Int32Array::from(sequence)),
    ];
    RecordBatch::try_new(primary_keys_schema(), arrays).map_err(|error| encoding(error.into()))
}

/// The schema of foreign keys, of which there are none.
pub(crate) fn foreign_keys_schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_like_does() {
        for (pattern, name, expected) in [
            ("t", "t", true),
            ("t", "tt", false),
            ("%", "", true),
            ("a%c", "abbc", true),
            ("a%c", "abcd", false),
            ("a_c", "abc", true),
            ("%b%b", "abab", true),
            ("", "a", false),
            ("a\\_b", "anything", true),
        ] {
            assert_eq!(matches(Some(pattern), name), expected, "{pattern} {name}");
        }
        assert!(matches(None, "a"));
    }
}
