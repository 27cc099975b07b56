//! Flight SQL messages in descriptors and tickets.

use arrow_flight::sql::{Any, Command};
use bytes::Bytes;
use lakebed_core::{Error, Result};
use prost::Message;

const TYPE_PREFIX: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

/// The command in `bytes`; nothing where they are no message of Flight SQL.
///
/// # Errors
/// `InvalidArgument` for a message of Flight SQL that cannot be read.
pub(crate) fn command_of(bytes: &[u8]) -> Result<Option<Command>> {
    let Ok(any) = Any::decode(bytes) else { return Ok(None) };
    let Some(name) = any.type_url.strip_prefix(TYPE_PREFIX).map(str::to_owned) else {
        return Ok(None);
    };
    let command = Command::try_from(any).map_err(|error| {
        Error::invalid(format!(
            "flight sql command {} cannot be read",
            crate::descriptor::shown(&name)
        ))
        .with_source(error)
    })?;
    Ok(Some(command))
}

/// A ticket that is a statement itself, as LanceDB's clients send it: a message with the command in its
/// second field.
#[derive(Clone, PartialEq, Message)]
struct StatementTicket {
    #[prost(bytes = "bytes", tag = "2")]
    command: Bytes,
}

/// The command that a ticket holds; nothing where it holds none.
///
/// # Errors
/// As [`command_of`].
pub(crate) fn statement_in_ticket(ticket: &[u8]) -> Result<Option<Command>> {
    if let Some(command) = command_of(ticket)? {
        return Ok(Some(command));
    }
    match StatementTicket::decode(ticket) {
        Ok(StatementTicket { command }) if !command.is_empty() => command_of(&command),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};

    use super::*;

    #[test]
    fn commands_are_found_in_both_places() {
        let query = CommandStatementQuery { query: "SELECT 1".to_owned(), transaction_id: None };
        let any = query.as_any().encode_to_vec();
        let expected = Some(Command::CommandStatementQuery(query));
        assert_eq!(command_of(&any).unwrap(), expected);
        assert_eq!(statement_in_ticket(&any).unwrap(), expected);
        let wrapped = StatementTicket { command: any.into() }.encode_to_vec();
        assert_eq!(command_of(&wrapped).unwrap(), None);
        assert_eq!(statement_in_ticket(&wrapped).unwrap(), expected);
        for other in [&b"LBT"[..], b"", b"{}", b"\x12\x03abc"] {
            assert_eq!(statement_in_ticket(other).unwrap(), None, "{other:?}");
        }
    }
}
