//! `PRIMARY KEY … NOT ENFORCED`: said by CREATE TABLE, kept with the columns, shown to tools.
//!
//! Nothing looks for a second row of a key on an append, so a key that claims to be enforced is refused.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{Field, FieldRef, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{ColumnOption, CreateTable, Expr, TableConstraint};
use datafusion::sql::sqlparser::ast::{ConstraintCharacteristics, PrimaryKeyConstraint};
use lakebed_core::{Error, ErrorKind, Result, Subject};

/// What lance writes at the fields of a primary key.
const KEY: &str = "lance-schema:unenforced-primary-key";
const POSITION: &str = "lance-schema:unenforced-primary-key:position";

/// A CREATE TABLE without its primary key, and the columns of that.
///
/// # Errors
/// `NotImplemented` for a key that is to be enforced, `InvalidArgument` for two keys.
pub(crate) fn take(create: &CreateTable) -> Result<(CreateTable, Vec<String>)> {
    let mut create = create.clone();
    let mut keys: Vec<(PrimaryKeyConstraint, Vec<String>)> = Vec::new();
    for column in &mut create.columns {
        let name = column.name.value.clone();
        column.options.retain(|option| match &option.option {
            ColumnOption::PrimaryKey(key) => {
                keys.push((key.clone(), vec![name.clone()]));
                false
            }
            _ => true,
        });
    }
    let mut rest = Vec::new();
    for constraint in std::mem::take(&mut create.constraints) {
        match constraint {
            TableConstraint::PrimaryKey(key) => {
                let columns = columns_of(&key)?;
                keys.push((key, columns));
            }
            other => rest.push(other),
        }
    }
    create.constraints = rest;
    if keys.len() > 1 {
        return Err(Error::invalid("a table has one primary key; name its columns together"));
    }
    let Some((key, columns)) = keys.pop() else { return Ok((create, Vec::new())) };
    let not_enforced =
        ConstraintCharacteristics { deferrable: None, initially: None, enforced: Some(false) };
    if key.characteristics != Some(not_enforced) {
        return Err(Error::new(
            ErrorKind::NotImplemented,
            "a primary key is not enforced by this server; write PRIMARY KEY NOT ENFORCED, and rows by \
             MERGE",
        ));
    }
    Ok((create, columns))
}

fn columns_of(key: &PrimaryKeyConstraint) -> Result<Vec<String>> {
    let name = |expr: &Expr| match expr {
        Expr::Identifier(ident) => Ok(ident.value.clone()),
        other => Err(Error::invalid(format!("`{other}` in a primary key is no column"))),
    };
    key.columns.iter().map(|column| name(&column.column.expr)).collect()
}

/// The schema with a primary key, whose columns allow no null.
///
/// # Errors
/// `NotFound` for a column that is not there.
pub(crate) fn put(schema: &SchemaRef, key: &[String]) -> Result<SchemaRef> {
    if let Some(missing) = key.iter().find(|name| schema.field_with_name(name).is_err()) {
        let message = format!("column `{missing}` of the primary key does not exist");
        return Err(Error::not_found(message).about(Subject::Column));
    }
    let fields = schema.fields().iter().map(|field| {
        let Some(at) = key.iter().position(|name| name == field.name()) else {
            return field.clone();
        };
        let mut metadata: HashMap<String, String> = field.metadata().clone();
        metadata.insert(KEY.to_owned(), "true".to_owned());
        metadata.insert(POSITION.to_owned(), (at + 1).to_string());
        Arc::new(Field::clone(field).with_nullable(false).with_metadata(metadata))
    });
    let fields: Vec<FieldRef> = fields.collect();
    Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType;
    use datafusion::sql::sqlparser::ast::Statement as Ast;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn key_of(text: &str) -> Result<Vec<String>> {
        let tree = Parser::parse_sql(&GenericDialect {}, text).unwrap().pop();
        let Some(Ast::CreateTable(create)) = tree else { panic!("{text}") };
        let (rest, key) = take(&create)?;
        assert!(!rest.to_string().contains("PRIMARY"), "{rest}");
        Ok(key)
    }

    #[test]
    fn both_ways_to_say_a_key() {
        let column = "CREATE TABLE t (a INT PRIMARY KEY NOT ENFORCED, b INT)";
        assert_eq!(key_of(column).unwrap(), ["a"]);
        let table = "CREATE TABLE t (a INT, b INT, PRIMARY KEY (b, a) NOT ENFORCED)";
        assert_eq!(key_of(table).unwrap(), ["b", "a"]);
        assert!(key_of("CREATE TABLE t (a INT)").unwrap().is_empty());
        for enforced in ["", " ENFORCED", " DEFERRABLE"] {
            let text = format!("CREATE TABLE t (a INT PRIMARY KEY{enforced})");
            assert_eq!(key_of(&text).unwrap_err().kind(), ErrorKind::NotImplemented, "{text}");
        }
        let two = "CREATE TABLE t (a INT PRIMARY KEY NOT ENFORCED, PRIMARY KEY (a) NOT ENFORCED)";
        assert_eq!(key_of(two).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn columns_of_a_key_allow_no_null() {
        let fields = ["a", "b"].map(|name| Field::new(name, DataType::Int32, true));
        let schema: SchemaRef = Arc::new(Schema::new(fields.to_vec()));
        let keyed = put(&schema, &["b".to_owned()]).unwrap();
        assert!(keyed.field(0).is_nullable() && !keyed.field(1).is_nullable());
        assert_eq!(keyed.field(1).metadata()[POSITION], "1");
        assert!(put(&schema, &["c".to_owned()]).is_err());
    }
}
