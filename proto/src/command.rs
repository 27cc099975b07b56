//! The JSON commands of the Flight door: `read`, `search`, `changes` and `write`, and `task` and `result` for workers.
//!
//! They are parsed strictly: a field that is not known is refused by name and path, so that a misspelt
//! `filter` can never read a whole table. The same types are what the use cases take, so a new field
//! is declared once.

use std::fmt;

use chrono::{DateTime, Utc};
use lakebed_core::{Error, Result};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::changes::ChangesCommand;
use crate::search::SearchRequest;

/// A command descriptor or one that was refused with the reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Read rows.
    Read(ReadCommand),
    /// Write rows.
    Write(WriteCommand),
    /// Search by vector or text.
    Search(Box<SearchRequest>),
    /// Read what changed between two versions.
    Changes(Box<ChangesCommand>),
    /// Read the rows of a worker's task.
    Task(TaskCommand),
    /// Read the rows of several tasks of one job.
    Tasks(TasksCommand),
    /// Hand in the results of a worker's task. They are kept only if the last message carries a
    /// [`CommitMarker`].
    Result(TaskCommand),
}

impl Command {
    /// Parses the bytes of a command descriptor.
    ///
    /// # Errors
    /// `InvalidArgument` with the path of the field and the position in the text.
    pub fn parse(bytes: &[u8]) -> Result<Command> {
        let mut de = serde_json::Deserializer::from_slice(bytes);
        let command = serde_path_to_error::deserialize(&mut de).map_err(|error| {
            let path = error.path().to_string();
            Error::invalid(format!("command is not understood at `{path}`: {}", error.inner()))
        })?;
        de.end().map_err(|error| Error::invalid(format!("command has trailing bytes: {error}")))?;
        Ok(command)
    }

    /// Whether bytes look like a JSON command rather than a Flight SQL message.
    pub fn is_json(bytes: &[u8]) -> bool {
        bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
    }
}

/// `{"task": {…}}` and `{"result": {…}}`: one attempt of a task, see `docs/worker-protocol.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskCommand {
    /// The job's id.
    pub job: String,
    /// The task within it.
    pub task: u64,
    /// The attempt.
    pub attempt: u64,
}

/// `{"tasks": {…}}`: attempts of several tasks of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TasksCommand {
    /// The job's id.
    pub job: String,
    /// The tasks, each with its attempt.
    pub tasks: Vec<(u64, u64)>,
}

/// `{"read": {…}}`: which rows and columns of which version.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadCommand {
    /// Namespaces and table joined with `$`.
    pub table: String,
    /// A version by number. At most one of `version`, `tag` and `as_of` may be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// A version by tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The branch; main when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The newest version committed at or before this time, RFC 3339 with a zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<DateTime<Utc>>,
    /// Columns in the order of the answer; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// Rows for which this SQL expression is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Only rows of this row set: `NAME` for its newest version, or `NAME@VERSION`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_set: Option<String>,
    /// At most this many rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Skip this many rows first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Exactly these rows by stable row id, in this order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_ids: Option<Vec<u64>>,
    /// Whether rows come in stored order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// What a blob column shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blobs: Option<BlobMode>,
}

/// The order of the rows of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As stored; the default.
    Stored,
    /// Whatever is fastest.
    Any,
}

/// What a blob column shows in a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobMode {
    /// Where the bytes lie and how many; the default.
    Descriptor,
    /// The bytes.
    Bytes,
}

/// The columns of a read: names, or expressions under aliases, in the order of the answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Columns {
    /// Stored columns by name.
    Names(Vec<String>),
    /// `(alias, SQL expression)` pairs.
    Expressions(Vec<(String, String)>),
}

impl Serialize for Columns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Columns::Names(names) => {
                let mut seq = serializer.serialize_seq(Some(names.len()))?;
                for name in names {
                    seq.serialize_element(name)?;
                }
                seq.end()
            }
            Columns::Expressions(pairs) => {
                let mut map = serializer.serialize_map(Some(pairs.len()))?;
                for (alias, sql) in pairs {
                    map.serialize_entry(alias, sql)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand because an untagged enum loses the path of an error, and a map type of serde_json
        // would sort the aliases.
        struct ColumnsVisitor;
        impl<'de> Visitor<'de> for ColumnsVisitor {
            type Value = Columns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of column names or an object of alias: expression")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Columns, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element::<String>()? {
                    names.push(name);
                }
                Ok(Columns::Names(names))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some((alias, sql)) = map.next_entry::<String, String>()? {
                    if pairs.iter().any(|(known, _)| *known == alias) {
                        return Err(de::Error::custom(format!("alias `{alias}` is given twice")));
                    }
                    pairs.push((alias, sql));
                }
                Ok(Columns::Expressions(pairs))
            }
        }
        deserializer.deserialize_any(ColumnsVisitor)
    }
}

/// `{"write": {…}}`: how the rows of a DoPut change a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteCommand {
    /// Namespaces and table joined with `$`.
    pub table: String,
    /// What happens to the rows that are there.
    pub mode: WriteMode,
    /// The key columns of an upsert.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
    /// The branch; main when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Unique text: the same write sent again returns the first receipt and writes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_id: Option<String>,
    /// When the write commits.
    #[serde(default)]
    pub commit: CommitRule,
}

/// What a write does to the rows that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// Make the table; it must not exist.
    Create,
    /// Add rows.
    Append,
    /// Replace rows and schema; makes the table where it is missing.
    Overwrite,
    /// Change rows whose key exists, add the others.
    Upsert,
}

impl WriteMode {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            WriteMode::Create => "create",
            WriteMode::Append => "append",
            WriteMode::Overwrite => "overwrite",
            WriteMode::Upsert => "upsert",
        }
    }
}

/// When a write commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitRule {
    /// When the stream ends cleanly.
    #[default]
    OnEnd,
    /// Only when the last message carries a [`CommitMarker`] with the right number of rows.
    Explicit,
}

/// The app_metadata of the last message of a write with `"commit": "explicit"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitMarker {
    /// Must be true.
    pub commit: bool,
    /// The rows that were sent.
    pub rows: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Command::parse(text.as_bytes()).unwrap_err().message().to_owned()
    }

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        let text = refusal(r#"{"read":{"table":"t","filtre":"a > 1"}}"#);
        assert!(text.contains("read.filtre") && text.contains("filtre"), "{text}");
        let text = refusal(r#"{"write":{"table":"t","mode":"replace"}}"#);
        assert!(text.contains("write.mode") && text.contains("replace"), "{text}");
        assert!(refusal(r#"{"read":{"table":"t"}} x"#).contains("trailing"));
        assert!(refusal(r#"{"raed":{}}"#).contains("raed"));
        assert!(
            refusal(r#"{"read":{"table":"t","as_of":"2026-01-01T00:00:00"}}"#).contains("as_of")
        );
    }

    #[test]
    fn expressions_keep_their_order() {
        let text = r#"{"read":{"table":"t","columns":{"z":"a + 1","a":"b"}}}"#;
        let Command::Read(read) = Command::parse(text.as_bytes()).unwrap() else { panic!() };
        let pairs = vec![("z".into(), "a + 1".into()), ("a".into(), "b".into())];
        assert_eq!(read.columns, Some(Columns::Expressions(pairs)));
        let again = serde_json::to_vec(&Command::Read(read.clone())).unwrap();
        assert_eq!(Command::parse(&again).unwrap(), Command::Read(read));
    }

    #[test]
    fn a_write_needs_a_mode() {
        assert!(refusal(r#"{"write":{"table":"t"}}"#).contains("mode"));
        let text = r#"{"write":{"table":"t","mode":"upsert","on":["id"],"commit":"explicit"}}"#;
        let Command::Write(write) = Command::parse(text.as_bytes()).unwrap() else { panic!() };
        assert_eq!(write.commit, CommitRule::Explicit);
    }
}
