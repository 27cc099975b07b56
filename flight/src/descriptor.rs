//! What a flight descriptor names.
//!
//! A path is `[namespace…, table]`. A command is JSON if it looks like it, and otherwise tried as a
//! Flight SQL message, which is a protobuf `Any`.

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::Command as SqlCommand;
use lakebed_core::{DatabaseName, Error, Result, TableId};
use lakebed_proto::changes::ChangesCommand;
use lakebed_proto::command::{
    Command, CommitRule, ReadCommand, TaskCommand, WriteCommand, WriteMode,
};
use lakebed_proto::search::SearchRequest;

use crate::sql::command_of;

const SHOWN_CHARS_MAX: usize = 80;

/// The read that a descriptor names; a path reads the whole table at its latest version.
///
/// # Errors
/// `InvalidArgument` for what is not understood or is a write, `NotImplemented` for what is known.
pub(crate) fn read_command(
    database: &DatabaseName,
    descriptor: &FlightDescriptor,
) -> Result<ReadCommand> {
    match named(database, descriptor)? {
        Named::Table(id) => Ok(ReadCommand { table: id.text(), ..ReadCommand::default() }),
        Named::Command(Command::Read(read)) => Ok(read),
        Named::Command(Command::Write(_)) => {
            Err(Error::invalid("descriptor is a write command, which only DoPut takes"))
        }
        Named::Command(Command::Search(_)) => {
            Err(Error::invalid("descriptor is a search; a read command or a path is needed"))
        }
        Named::Command(Command::Changes(_)) => {
            Err(Error::invalid("descriptor is about changes; a read command or a path is needed"))
        }
        Named::Command(Command::Task(_) | Command::Tasks(_) | Command::Result(_)) => {
            Err(Error::invalid("descriptor is a worker's; a read command or a path is needed"))
        }
    }
}

/// The write that a descriptor names; a path appends to the table.
///
/// # Errors
/// `InvalidArgument` for what is not understood or is a read, `NotImplemented` for what is known.
pub(crate) fn write_command(
    database: &DatabaseName,
    descriptor: &FlightDescriptor,
) -> Result<WriteCommand> {
    match named(database, descriptor)? {
        Named::Table(id) => Ok(WriteCommand {
            table: id.text(),
            mode: WriteMode::Append,
            on: Vec::new(),
            branch: None,
            write_id: None,
            commit: CommitRule::OnEnd,
        }),
        Named::Command(Command::Write(write)) => Ok(write),
        Named::Command(_) => Err(Error::invalid(
            "descriptor of DoPut is a read; a write command or a path is needed",
        )),
    }
}

/// The Flight SQL command of a descriptor; nothing for a path and for what is JSON.
///
/// # Errors
/// `InvalidArgument` for a Flight SQL message that cannot be read.
pub(crate) fn sql_command(descriptor: &FlightDescriptor) -> Result<Option<SqlCommand>> {
    match descriptor.r#type() {
        DescriptorType::Cmd if !Command::is_json(&descriptor.cmd) => command_of(&descriptor.cmd),
        _ => Ok(None),
    }
}

/// The search of a descriptor; nothing for what is not one.
///
/// # Errors
/// `InvalidArgument` for JSON that is not understood.
pub(crate) fn search_command(descriptor: &FlightDescriptor) -> Result<Option<SearchRequest>> {
    if descriptor.r#type() != DescriptorType::Cmd || !Command::is_json(&descriptor.cmd) {
        return Ok(None);
    }
    match Command::parse(&descriptor.cmd)? {
        Command::Search(search) => Ok(Some(*search)),
        _ => Ok(None),
    }
}

/// The changes that a descriptor asks for; nothing for what does not.
///
/// # Errors
/// `InvalidArgument` for JSON that is not understood.
pub(crate) fn changes_command(descriptor: &FlightDescriptor) -> Result<Option<ChangesCommand>> {
    if descriptor.r#type() != DescriptorType::Cmd || !Command::is_json(&descriptor.cmd) {
        return Ok(None);
    }
    match Command::parse(&descriptor.cmd)? {
        Command::Changes(changes) => Ok(Some(*changes)),
        _ => Ok(None),
    }
}

/// The task whose results a descriptor brings; nothing for what is not one.
///
/// # Errors
/// `InvalidArgument` for JSON that is not understood.
pub(crate) fn result_command(descriptor: &FlightDescriptor) -> Result<Option<TaskCommand>> {
    if descriptor.r#type() != DescriptorType::Cmd || !Command::is_json(&descriptor.cmd) {
        return Ok(None);
    }
    match Command::parse(&descriptor.cmd)? {
        Command::Result(task) => Ok(Some(task)),
        _ => Ok(None),
    }
}

enum Named {
    Table(TableId),
    Command(Command),
}

fn named(database: &DatabaseName, descriptor: &FlightDescriptor) -> Result<Named> {
    match descriptor.r#type() {
        DescriptorType::Path => {
            TableId::from_segments(database, &descriptor.path).map(Named::Table)
        }
        DescriptorType::Cmd if Command::is_json(&descriptor.cmd) => {
            Command::parse(&descriptor.cmd).map(Named::Command)
        }
        DescriptorType::Cmd => Err(not_json(&descriptor.cmd)),
        DescriptorType::Unknown => {
            Err(Error::invalid("descriptor is neither a path nor a command"))
        }
    }
}

fn not_json(command: &[u8]) -> Error {
    match command_of(command) {
        Ok(Some(command)) => Error::invalid(format!(
            "flight sql command {} does not belong to this method",
            shown(command.type_url().rsplit('.').next().unwrap_or_default())
        )),
        Ok(None) => Error::invalid("command is neither a JSON object nor a flight sql message"),
        Err(error) => error,
    }
}

/// Text of a client, fit for an error message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
    use lakebed_core::ErrorKind;
    use prost::Message;

    use super::*;

    fn db() -> DatabaseName {
        DatabaseName::default_database()
    }

    fn cmd(bytes: impl Into<bytes::Bytes>) -> FlightDescriptor {
        FlightDescriptor::new_cmd(bytes)
    }

    fn path(segments: &[&str]) -> FlightDescriptor {
        FlightDescriptor::new_path(segments.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn a_path_reads_and_appends() {
        let read = read_command(&db(), &path(&["ns", "t"])).unwrap();
        assert_eq!(read, ReadCommand { table: "ns$t".to_owned(), ..ReadCommand::default() });
        let write = write_command(&db(), &path(&["t"])).unwrap();
        assert_eq!((write.table.as_str(), write.mode), ("t", WriteMode::Append));
        for bad in [&[][..], &["a$b"], &[".."], &["a/b"], &["ns", ""]] {
            let error = read_command(&db(), &path(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn commands_go_where_they_belong() {
        let read = r#"{"read":{"table":"t","limit":3}}"#;
        let write = r#" {"write":{"table":"t","mode":"create"}}"#;
        assert_eq!(read_command(&db(), &cmd(read)).unwrap().limit, Some(3));
        assert_eq!(write_command(&db(), &cmd(write)).unwrap().mode, WriteMode::Create);
        assert!(read_command(&db(), &cmd(write)).unwrap_err().message().contains("DoPut"));
        assert!(write_command(&db(), &cmd(read)).unwrap_err().message().contains("is a read"));
        let search = cmd(r#"{"search":{"table":"t","vector":[1,2],"k":3}}"#);
        assert_eq!(search_command(&search).unwrap().unwrap().k, Some(3));
        assert!(search_command(&cmd(read)).unwrap().is_none());
        assert!(search_command(&path(&["t"])).unwrap().is_none());
        assert!(search_command(&cmd(r#"{"search":{"kk":3}}"#)).is_err());
        assert!(read_command(&db(), &search).is_err());
    }

    #[test]
    fn flight_sql_is_told_apart() {
        let query = CommandStatementQuery { query: "select 1".to_owned(), transaction_id: None };
        let descriptor = cmd(query.as_any().encode_to_vec());
        let found = sql_command(&descriptor).unwrap();
        assert_eq!(found, Some(SqlCommand::CommandStatementQuery(query)));
        let error = write_command(&db(), &descriptor).unwrap_err();
        assert!(error.message().contains("CommandStatementQuery"), "{error}");
        assert_eq!(sql_command(&path(&["t"])).unwrap(), None);
        for bytes in [&b""[..], b"select 1", b"\xff\xff", b"\x0a\x03abc"] {
            assert_eq!(sql_command(&cmd(bytes.to_vec())).unwrap(), None);
            let error = read_command(&db(), &cmd(bytes.to_vec())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bytes:?}");
        }
    }
}
