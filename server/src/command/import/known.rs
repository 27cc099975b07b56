//! What a table holds already, so that importing again adds nothing.
//!
//! Two hashes of 64 bits a row: of the path, and of size and digest. A hundred bytes of text become
//! sixteen, because a table may have millions of rows. Two paths with one hash cost an upsert where an
//! append would have done; that a changed file is taken for an unchanged one needs both to collide.

use futures::StreamExt as _;
use http::{Method, StatusCode};
use lakebed_proto::command::{Columns, Order, ReadCommand};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{Array as _, RecordBatch};
use arrow_cast::cast;
use arrow_schema::DataType;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::flight_client::FlightClient;

/// Rows that are compared with; their hashes take sixteen bytes each.
const ROWS_MAX: usize = 8 << 20;
const TIME_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// A table as it was when the import began.
#[derive(Debug, Default)]
pub(super) struct Known {
    rows: Vec<(u64, u64)>,
}

/// Whether a file is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// No row has its path.
    New,
    /// A row has its path and other contents.
    Changed,
    /// A row has its path and its contents.
    Same,
}

/// A table that exists.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    /// Its latest version.
    pub(super) version: u64,
    /// The names of its columns.
    pub(super) columns: Vec<String>,
}

/// Looks for a table; nothing when there is none.
///
/// # Errors
/// What else the server answered.
pub(super) async fn show(client: &Client, table: &str) -> Result<Option<Shown>, Exit> {
    let path = format!("/v1/table/{}/show", segment(table));
    let shown = match client.ask(Method::GET, &path, None, TIME_MAX).await {
        Ok(shown) => shown,
        Err(refusal) if refusal.status == Some(StatusCode::NOT_FOUND) => return Ok(None),
        Err(refusal) => return Err(refusal.into()),
    };
    let columns = shown["columns"].as_array().into_iter().flatten();
    let name_of = |column: &Value| column["name"].as_str().map(str::to_owned);
    Ok(Some(Shown {
        version: shown["version"].as_u64().unwrap_or(0),
        columns: columns.filter_map(name_of).collect(),
    }))
}

impl Known {
    /// Reads path, size and digest of every row of a version.
    ///
    /// # Errors
    /// Failure for a table without these columns, or with more rows than are compared with.
    pub(super) async fn read(
        flight: &FlightClient,
        table: &str,
        shown: &Shown,
    ) -> Result<Known, Exit> {
        let names = ["path", "size_bytes", "sha256"];
        if let Some(absent) = names.iter().find(|name| !shown.columns.iter().any(|c| c == *name)) {
            return Err(Exit::failed(format!(
                "table `{table}` has no column `{absent}`, so it was not made by an import of files; \
                 name another table"
            )));
        }
        let command = ReadCommand {
            table: table.to_owned(),
            version: Some(shown.version),
            columns: Some(Columns::Names(names.map(str::to_owned).to_vec())),
            order: Some(Order::Any),
            ..ReadCommand::default()
        };
        let mut batches = std::pin::pin!(flight.read(command).await?);
        let mut known = Known::default();
        while let Some(batch) = batches.next().await {
            known.add(&batch?).map_err(|error| {
                Exit::failed(format!("the columns of table `{table}` are of other types: {error}"))
            })?;
            if known.rows.len() > ROWS_MAX {
                return Err(Exit::failed(format!(
                    "table `{table}` has more than {ROWS_MAX} rows, with which an import does not \
                     compare; import into another table"
                )));
            }
        }
        known.rows.sort_unstable();
        Ok(known)
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), arrow_schema::ArrowError> {
        let paths = cast(batch.column(0), &DataType::LargeUtf8)?;
        let sizes = cast(batch.column(1), &DataType::Int64)?;
        let digests = cast(batch.column(2), &DataType::LargeUtf8)?;
        let (paths, digests) = (paths.as_string::<i64>(), digests.as_string::<i64>());
        let sizes = sizes.as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let digest = digests.is_valid(row).then(|| digests.value(row));
            self.rows.push((path_hash(paths.value(row)), content_hash(sizes.value(row), digest)));
        }
        Ok(())
    }

    /// Whether any row has this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.of(path).next().is_some()
    }

    /// The hashes of the contents of rows with this path.
    fn of(&self, path: &str) -> impl Iterator<Item = u64> {
        let path = path_hash(path);
        let first = self.rows.partition_point(|(known, _)| *known < path);
        self.rows[first..]
            .iter()
            .take_while(move |(known, _)| *known == path)
            .map(|(_, content)| *content)
    }

    /// Whether a file with this path, size and digest is there.
    pub(super) fn state(&self, path: &str, size: i64, sha256: &str) -> State {
        let mut rows = self.of(path).peekable();
        if rows.peek().is_none() {
            return State::New;
        }
        let content = content_hash(size, Some(sha256));
        match rows.any(|known| known == content) {
            true => State::Same,
            false => State::Changed,
        }
    }
}

fn path_hash(path: &str) -> u64 {
    xxh3_64(path.as_bytes())
}

/// A row of a file that could not be read has no digest, and is like no file that could.
fn content_hash(size: i64, sha256: Option<&str>) -> u64 {
    xxh3_64(format!("{size} {}", sha256.unwrap_or("unread")).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_new_changed_or_the_same() {
        let mut known = Known::default();
        for (path, size, digest) in [("a", 1, Some("x")), ("b", 2, None), ("c", 3, Some("z"))] {
            known.rows.push((path_hash(path), content_hash(size, digest)));
        }
        known.rows.sort_unstable();
        assert_eq!(known.state("a", 1, "x"), State::Same);
        assert_eq!(known.state("a", 2, "x"), State::Changed);
        assert_eq!(known.state("b", 2, "x"), State::Changed);
        assert_eq!(known.state("d", 1, "x"), State::New);
        assert!(known.has("c") && !known.has("d"));
    }
}
