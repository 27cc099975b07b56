//! DataFusion's errors, sorted once by what the caller should do.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use lakebed_core::{Error, ErrorKind, Subject, nearest_names};
use lakebed_storage::carried_error;

/// Converts an error of parsing, planning or running a statement.
pub(crate) fn from_datafusion(error: DataFusionError) -> Error {
    if let Some(own) = carried_error(&error) {
        return own;
    }
    let place = place_of(&error);
    let (kind, message) = told(&error);
    let place = if message.contains("Line: ") { String::new() } else { place };
    let converted = match (kind, message) {
        (ErrorKind::NotFound, message) => Error::not_found(message).about(Subject::Column),
        (ErrorKind::Busy, message) => {
            Error::new(ErrorKind::Busy, message).with_retry_after_ms(1_000)
        }
        (kind, message) => Error::new(kind, format!("{message}{place}")),
    };
    converted.with_source(error)
}

fn told(error: &DataFusionError) -> (ErrorKind, String) {
    use DataFusionError as D;
    let invalid = ErrorKind::InvalidArgument;
    match error {
        D::SQL(error, _) => (invalid, plain(&error.to_string())),
        D::SchemaError(error, _) => schema_error(error),
        D::Plan(message) => (plan_kind(message), plain(message)),
        D::NotImplemented(message) => (ErrorKind::NotImplemented, plain(message)),
        D::Configuration(message) | D::Execution(message) => (invalid, plain(message)),
        // The engine names its own setting.
        D::ResourcesExhausted(message) if message.contains("max_temp_directory_size") => (
            ErrorKind::Busy,
            "the statement spilled more to disk than the limit sql_spill_bytes_max".to_owned(),
        ),
        D::ResourcesExhausted(message) => (ErrorKind::Busy, plain(message)),
        D::ArrowError(error, _) => match error.as_ref() {
            arrow_schema::ArrowError::IoError(message, _) => {
                (ErrorKind::Unavailable, plain(message))
            }
            error => (invalid, plain(&error.to_string())),
        },
        D::IoError(error) => (ErrorKind::Unavailable, plain(&error.to_string())),
        D::Context(_, inner) | D::Diagnostic(_, inner) => told(inner),
        D::Shared(inner) => told(inner),
        D::Collection(errors) => match errors.first() {
            Some(first) => told(first),
            None => (ErrorKind::Internal, "the statement failed".to_owned()),
        },
        // Its text may hold paths and addresses; the log has it.
        _ => (ErrorKind::Internal, "the statement failed inside the engine".to_owned()),
    }
}

fn plan_kind(message: &str) -> ErrorKind {
    match message.contains("table") && message.contains("not found") {
        true => ErrorKind::NotFound,
        false => ErrorKind::InvalidArgument,
    }
}

fn schema_error(error: &SchemaError) -> (ErrorKind, String) {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
            let near = nearest_names(&field.name, names);
            if field.name.starts_with("blob_bytes(") {
                return (
                    ErrorKind::InvalidArgument,
                    format!("{} needs a blob column of a table in the same FROM", field.name),
                );
            }
            (ErrorKind::NotFound, format!("column `{}` does not exist{near}", field.flat_name()))
        }
        other => (ErrorKind::InvalidArgument, plain(&other.to_string())),
    }
}

/// Where in the text the error lies, where DataFusion says so.
fn place_of(error: &DataFusionError) -> String {
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
    match span {
        Some(span) if span.start.line > 0 => {
            format!(" at Line: {}, Column: {}", span.start.line, span.start.column)
        }
        _ => String::new(),
    }
}

/// A message without the prefixes and back traces that DataFusion adds.
fn plain(message: &str) -> String {
    let message = message.split("\n\nbacktrace:").next().unwrap_or(message);
    let prefixes = [
        "sql parser error: ",
        "Error during planning: ",
        "Schema error: ",
        "Execution error: ",
        "This feature is not implemented: ",
        "type_coercion\ncaused by\n",
    ];
    let mut text = message;
    while let Some(rest) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    text.trim().to_owned()
}
