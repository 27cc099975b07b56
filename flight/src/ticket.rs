//! The bytes of a ticket: one part of a planned read, a planned statement, or something that is planned
//! when it is opened.
//!
//! ```text
//!   "LBT"  version  json             crc32 of all before, little-endian
//!   3      1        …                4
//!          1: a part of a read   2: a statement in SQL   3: a feed of changes
//! ```
//!
//! Tickets live in clients for an hour and may come back damaged, from another server or from a newer
//! version of this one; each of these is told apart. A ticket carries no right: whoever opens it needs
//! a key that may read the table. A ticket that is plain JSON, `{"read": {…}}`,
//! `{"search": {…}}`, `{"changes": {…}}` or a worker's `{"task": {…}}` or `{"tasks": {…}}`, is taken as well, so
//! that a client can read without asking for a plan first, and so is a Flight SQL command.

use arrow_flight::sql::Command as SqlCommand;
use bytes::Bytes;
use lakebed_core::{Error, Result};
use lakebed_proto::changes::ChangesCommand;
use lakebed_proto::command::{Command, ReadCommand, TasksCommand};
use lakebed_proto::search::SearchRequest;
use lakebed_service::{ChangesPart, ReadPart};

use crate::sql::{SqlTicket, statement_in_ticket};

const MAGIC: &[u8; 3] = b"LBT";
const VERSION: u8 = 1;
const SQL_VERSION: u8 = 2;
const CHANGES_VERSION: u8 = 3;
const CHECKSUM_BYTES: usize = 4;

/// What a ticket asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TicketContents {
    /// One part of a plan.
    Part(Box<ReadPart>),
    /// A read that is planned now.
    Read(Box<ReadCommand>),
    /// A search.
    Search(Box<SearchRequest>),
    /// A planned feed of changes.
    ChangesPart(Box<ChangesPart>),
    /// Changes that are planned now.
    Changes(Box<ChangesCommand>),
    /// The rows of a worker's tasks.
    Tasks(TasksCommand),
    /// A planned statement.
    Sql(Box<SqlTicket>),
    /// A Flight SQL command that is answered now.
    Command(Box<SqlCommand>),
}

/// The ticket of one part.
///
/// # Errors
/// `Internal` if the part cannot be written as JSON, which no part that was planned does.
pub(crate) fn encode(part: &ReadPart) -> Result<Bytes> {
    let json = serde_json::to_vec(part)
        .map_err(|error| Error::internal("ticket cannot be written").with_source(error))?;
    Ok(seal(VERSION, &json))
}

/// The ticket of a planned statement.
///
/// # Errors
/// `Internal` if the statement cannot be written as JSON, which no statement does.
pub(crate) fn encode_sql(ticket: &SqlTicket) -> Result<Bytes> {
    let json = serde_json::to_vec(ticket)
        .map_err(|error| Error::internal("ticket cannot be written").with_source(error))?;
    Ok(seal(SQL_VERSION, &json))
}

/// The ticket of a planned feed of changes.
///
/// # Errors
/// `Internal` if the feed cannot be written as JSON, which no feed that was planned does.
pub(crate) fn encode_changes(part: &ChangesPart) -> Result<Bytes> {
    let json = serde_json::to_vec(part)
        .map_err(|error| Error::internal("ticket cannot be written").with_source(error))?;
    Ok(seal(CHANGES_VERSION, &json))
}

fn seal(version: u8, json: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(MAGIC.len() + 1 + json.len() + CHECKSUM_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.push(version);
    bytes.extend_from_slice(json);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    Bytes::from(bytes)
}

/// Reads a ticket.
///
/// # Errors
/// `InvalidArgument` saying whether the ticket is not one of ours, damaged, or from a newer server.
pub(crate) fn decode(ticket: &[u8]) -> Result<TicketContents> {
    if Command::is_json(ticket) {
        return match Command::parse(ticket)? {
            Command::Read(read) => Ok(TicketContents::Read(Box::new(read))),
            Command::Write(_) => Err(Error::invalid("ticket is a write command; a read is needed")),
            Command::Search(search) => Ok(TicketContents::Search(search)),
            Command::Changes(changes) => Ok(TicketContents::Changes(changes)),
            Command::Task(task) => Ok(TicketContents::Tasks(TasksCommand {
                job: task.job,
                tasks: vec![(task.task, task.attempt)],
            })),
            Command::Tasks(tasks) => Ok(TicketContents::Tasks(tasks)),
            Command::Result(_) => {
                Err(Error::invalid("ticket is a command for results; a task is needed"))
            }
        };
    }
    if !ticket.starts_with(MAGIC)
        && let Some(command) = statement_in_ticket(ticket)?
    {
        return Ok(TicketContents::Command(Box::new(command)));
    }
    let (version, json) = open(ticket)?;
    let broken = |what: &str, error: serde_json::Error| {
        Error::invalid(format!("ticket does not hold {what}")).with_source(error)
    };
    match version {
        SQL_VERSION => {
            let ticket = serde_json::from_slice(json);
            let ticket = ticket.map_err(|error| broken("a statement", error))?;
            Ok(TicketContents::Sql(Box::new(ticket)))
        }
        CHANGES_VERSION => {
            let part = serde_json::from_slice(json);
            let part = part.map_err(|error| broken("a feed of changes", error))?;
            Ok(TicketContents::ChangesPart(Box::new(part)))
        }
        _ => {
            let part = serde_json::from_slice(json);
            let part = part.map_err(|error| broken("a part of a read", error))?;
            Ok(TicketContents::Part(Box::new(part)))
        }
    }
}

/// The version of a sealed ticket, and the JSON inside.
fn open(ticket: &[u8]) -> Result<(u8, &[u8])> {
    if !ticket.starts_with(MAGIC) {
        return Err(Error::invalid("ticket was not made by this server"));
    }
    let damaged = || Error::invalid("ticket is damaged: its checksum does not fit");
    let (sealed, checksum) = ticket.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(damaged)?;
    if crc32fast::hash(sealed) != u32::from_le_bytes(*checksum) {
        return Err(damaged());
    }
    match sealed.get(MAGIC.len()) {
        Some(version @ &(VERSION | SQL_VERSION | CHANGES_VERSION)) => {
            Ok((*version, &sealed[MAGIC.len() + 1..]))
        }
        Some(version) => Err(Error::invalid(format!(
            "ticket has version {version}; this server reads versions {VERSION} to {CHANGES_VERSION}"
        ))),
        None => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use lakebed_core::ErrorKind;

    use super::*;

    const JSON: &[u8] = br#"{"command":{"table":"ns$t","version":7,"filter":"a > 1"}}"#;

    fn refusal(ticket: &[u8]) -> String {
        let error = decode(ticket).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error.message().to_owned()
    }

    #[test]
    fn what_is_sealed_can_be_opened() {
        assert_eq!(open(&seal(VERSION, JSON)).unwrap(), (VERSION, JSON));
        assert_eq!(open(&seal(SQL_VERSION, b"")).unwrap(), (SQL_VERSION, &b""[..]));
        assert_eq!(open(&seal(CHANGES_VERSION, b"")).unwrap(), (CHANGES_VERSION, &b""[..]));
    }

    #[test]
    fn plain_json_is_a_ticket() {
        let contents = decode(br#"{"read":{"table":"t","tag":"gold"}}"#).unwrap();
        let TicketContents::Read(read) = contents else { panic!() };
        assert_eq!((read.table.as_str(), read.tag.as_deref()), ("t", Some("gold")));
        assert!(refusal(br#"{"read":{"table":"t","tga":"gold"}}"#).contains("tga"));
        assert!(refusal(br#"{"write":{"table":"t","mode":"append"}}"#).contains("write"));
    }

    #[test]
    fn foreign_damaged_and_newer_tickets_are_told_apart() {
        let ticket = seal(VERSION, JSON);
        for foreign in [&b""[..], b"L", b"LB", b"\x00\x01\x02", b"parquet"] {
            assert!(refusal(foreign).contains("not made by this server"), "{foreign:?}");
        }
        for cut in MAGIC.len()..ticket.len() {
            assert!(refusal(&ticket[..cut]).contains("damaged"), "cut at {cut}");
        }
        let newer = seal(9, b"something else entirely");
        let text = refusal(&newer);
        assert!(text.contains("version 9") && text.contains("versions 1"), "{text}");
        assert!(refusal(&seal(VERSION, b"[]")).contains("does not hold"));
        assert!(refusal(&seal(VERSION, b"")).contains("does not hold"));
    }

    #[test]
    fn no_flipped_bit_passes() {
        let ticket = seal(VERSION, JSON);
        for at in 0..ticket.len() * 8 {
            let mut bytes = ticket.to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(open(&bytes).is_err(), "bit {at}");
        }
    }
}
