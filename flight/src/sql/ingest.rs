//! CommandStatementIngest: a stream of rows becomes one write.

use arrow_flight::sql::{CommandStatementIngest, TableExistsOption, TableNotExistOption};
use lakebed_core::{DatabaseName, Error, ErrorKind, Result, TableId};
use lakebed_proto::command::{CommitRule, WriteCommand, WriteMode};
use lakebed_service::Service;

use super::query::no_transaction;
use crate::request::Call;

/// The write that an ingest asks for, and the database that it goes to.
///
/// # Errors
/// `NotImplemented` for a temporary table or a transaction, `InvalidArgument` for options that name no
/// mode.
pub(crate) async fn write_of(
    service: &Service,
    call: &Call,
    command: CommandStatementIngest,
) -> Result<(DatabaseName, WriteCommand)> {
    no_transaction(command.transaction_id.as_deref())?;
    if command.temporary {
        return Err(Error::new(ErrorKind::NotImplemented, "temporary tables are not built"));
    }
    if let Some(option) = command.options.keys().next() {
        return Err(Error::invalid(format!(
            "option `{}` of an ingest is not known",
            crate::descriptor::shown(option)
        )));
    }
    let table = table_of(call, &command)?;
    let options = command.table_definition_options.unwrap_or_default();
    let exists = options.if_exists();
    let mode = match (options.if_not_exist(), exists) {
        (TableNotExistOption::Create, TableExistsOption::Append) => {
            // Whoever loses the race to make it is told so and may send it again.
            match service.has_table(&call.ctx, &table).await? {
                true => WriteMode::Append,
                false => WriteMode::Create,
            }
        }
        (TableNotExistOption::Create, TableExistsOption::Fail) => WriteMode::Create,
        (TableNotExistOption::Create, TableExistsOption::Replace) => WriteMode::Overwrite,
        (_, TableExistsOption::Append) => WriteMode::Append,
        (TableNotExistOption::Fail, TableExistsOption::Replace) => {
            if !service.has_table(&call.ctx, &table).await? {
                return Err(Error::not_found(format!("table `{}` does not exist", table.text())));
            }
            WriteMode::Overwrite
        }
        _ => {
            return Err(Error::invalid(
                "the ingest says not what to do with a table that exists, or with one that does not",
            ));
        }
    };
    let write = WriteCommand {
        table: table.text(),
        mode,
        on: Vec::new(),
        branch: None,
        write_id: None,
        commit: CommitRule::OnEnd,
    };
    Ok((table.database, write))
}

/// The table that an ingest is about.
///
/// # Errors
/// `InvalidArgument` for names that break the rules.
pub(crate) fn table_of(call: &Call, command: &CommandStatementIngest) -> Result<TableId> {
    let database = match command.catalog.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => DatabaseName::parse(name)?,
        None => call.ctx.database.clone(),
    };
    let schema = command.schema.clone().filter(|name| !name.is_empty());
    let schema = schema.unwrap_or_else(|| super::default_schema(call));
    let mut segments: Vec<&str> = match schema.as_str() {
        "public" => Vec::new(),
        nested => nested.split('$').collect(),
    };
    segments.push(&command.table);
    TableId::from_segments(&database, &segments)
}
