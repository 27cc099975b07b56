//! Cursors: how far a reader of changes has come, kept by name beside the table.
//!
//! A cursor says "everything up to this version is done". It is one small record, replaced whole. What it
//! names is kept: cleaning of versions asks [`Table::cursor_versions`] first. It moves forward only, and
//! only from where its reader believes it to be, so two readers of one cursor cannot both take a step.
//!
//! What always holds: a record is durable before the answer; one step of two from the same place fails
//! with `Conflict`, in one process by a lock and on a bucket by the store itself.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lakebed_core::{CursorName, Error, ErrorKind, Result, Subject, nearest_names};
use serde::{Deserialize, Serialize};

use crate::snapshot::At;
use crate::system::StoredObject;
use crate::table::Table;

/// The newest format of a record that is understood.
const FORMAT: u32 = 1;

/// A cursor of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    format: u32,
    /// Its name.
    pub name: String,
    /// The branch whose changes it follows; main when absent.
    pub branch: Option<String>,
    /// The version up to which everything is done; 0 when nothing is.
    pub version: u64,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// When it moved last.
    pub moved_at_ms: i64,
    /// Tells this write of the record from every other one that says the same.
    #[serde(default)]
    step: String,
}

impl Table {
    /// Makes a cursor at a version of a branch, at the newest one without.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `NotFound` without such a version, `InvalidArgument` when
    /// the table has as many as it may.
    pub fn create_cursor<'a>(
        self: &'a Arc<Self>,
        name: &'a CursorName,
        branch: Option<&'a str>,
        version: Option<u64>,
    ) -> BoxFuture<'a, Result<Cursor>> {
        async move {
            let _turn = self.cursors.lock().await;
            let at = version.filter(|version| *version > 0).map_or(At::Latest, At::Version);
            // Pinned until the record stands, so that nothing takes the version away in between.
            let snapshot = self.snapshot(branch, &at).await?;
            let _led = self.branch(branch).await?.lead_surely().await?;
            let cursors_max = self.shared.limits.cursors_max;
            if self.shared.system.list(&self.cursors_folder()).await?.len() >= cursors_max {
                return Err(Error::invalid(format!(
                    "the table has cursors_max = {cursors_max} cursors; delete one first"
                )));
            }
            let now_ms = self.shared.clock.now_ms();
            let cursor = Cursor {
                format: FORMAT,
                name: name.to_string(),
                branch: snapshot.branch().map(str::to_owned),
                version: version.unwrap_or_else(|| snapshot.version()),
                created_at_ms: now_ms,
                moved_at_ms: now_ms,
                step: new_step(),
            };
            match self.shared.system.create(&self.cursor_path(name), encode(&cursor)?).await? {
                true => Ok(cursor),
                false => Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("cursor `{name}` already exists"),
                )
                .about(Subject::Cursor)),
            }
        }
        .boxed()
    }

    /// The cursors of the table, sorted by name.
    ///
    /// # Errors
    /// `Corrupt` for a record that cannot be read, `Unavailable` when the store does not answer.
    pub fn list_cursors(&self) -> BoxFuture<'_, Result<Vec<Cursor>>> {
        async move {
            let mut cursors = Vec::new();
            for object in self.shared.system.list(&self.cursors_folder()).await? {
                // One that goes meanwhile is not listed.
                if let Some(bytes) = self.shared.system.get(&object.path).await? {
                    cursors.push(decode(&object.path, &bytes)?);
                }
            }
            cursors.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(cursors)
        }
        .boxed()
    }

    /// The cursor of that name.
    ///
    /// # Errors
    /// `NotFound` naming the nearest cursors.
    pub fn cursor<'a>(&'a self, name: &'a CursorName) -> BoxFuture<'a, Result<Cursor>> {
        async move { Ok(self.stored_cursor(name).await?.0) }.boxed()
    }

    /// Moves a cursor forward to `version`: everything up to there is done. With `expected` only if it
    /// stands there. A cursor that stands at `version` already stays, without an error.
    ///
    /// # Errors
    /// `NotFound` for an unknown cursor or version; `Conflict` when it does not stand at `expected`;
    /// `InvalidArgument` for a step back.
    pub fn advance_cursor<'a>(
        self: &'a Arc<Self>,
        name: &'a CursorName,
        version: u64,
        expected: Option<u64>,
    ) -> BoxFuture<'a, Result<Cursor>> {
        async move {
            let _turn = self.cursors.lock().await;
            let (cursor, stored) = self.stored_cursor(name).await?;
            if let Some(expected) = expected
                && cursor.version != expected
            {
                return Err(moved(name, cursor.version, expected));
            }
            if version < cursor.version {
                return Err(Error::invalid(format!(
                    "cursor `{name}` is at version {} and does not go back to {version}",
                    cursor.version
                ))
                .about(Subject::Cursor));
            }
            if version == cursor.version {
                return Ok(cursor);
            }
            let _snapshot = self.snapshot(cursor.branch.as_deref(), &At::Version(version)).await?;
            let _led = self.branch(cursor.branch.as_deref()).await?.lead_surely().await?;
            let now_ms = self.shared.clock.now_ms();
            let was = cursor.version;
            let cursor = Cursor { version, moved_at_ms: now_ms, step: new_step(), ..cursor };
            let path = self.cursor_path(name);
            match self.shared.system.replace(&path, &stored, encode(&cursor)?).await? {
                true => Ok(cursor),
                // Another server was first.
                false => {
                    let now = self.cursor(name).await?;
                    Err(moved(name, now.version, expected.unwrap_or(was)))
                }
            }
        }
        .boxed()
    }

    /// Deletes a cursor and says where it stood: what only it kept may be cleaned.
    ///
    /// # Errors
    /// `NotFound` naming the nearest cursors.
    pub fn delete_cursor<'a>(&'a self, name: &'a CursorName) -> BoxFuture<'a, Result<Cursor>> {
        async move {
            let _turn = self.cursors.lock().await;
            let (cursor, _) = self.stored_cursor(name).await?;
            self.shared.system.delete(&self.cursor_path(name)).await?;
            Ok(cursor)
        }
        .boxed()
    }

    /// The cursors with the branches and versions that they stand at and still need.
    ///
    /// # Errors
    /// As [`Table::list_cursors`]; who cleans versions must not go on then.
    pub(crate) async fn cursor_versions(&self) -> Result<Vec<(String, Option<String>, u64)>> {
        let cursors = self.list_cursors().await?.into_iter();
        // Behind 0 lies the whole table, whatever its oldest version is.
        let needed = cursors.filter(|cursor| cursor.version > 0);
        Ok(needed.map(|cursor| (cursor.name, cursor.branch, cursor.version)).collect())
    }

    async fn stored_cursor(&self, name: &CursorName) -> Result<(Cursor, StoredObject)> {
        let path = self.cursor_path(name);
        if let Some(stored) = self.shared.system.get_stored(&path).await? {
            return Ok((decode(&path, &stored.bytes)?, stored));
        }
        let known = self.list_cursors().await?;
        let near = nearest_names(name.as_str(), known.iter().map(|known| known.name.as_str()));
        Err(Error::not_found(format!("cursor `{name}` does not exist{near}"))
            .about(Subject::Cursor))
    }

    fn cursors_folder(&self) -> String {
        folder_of(self.uid())
    }

    fn cursor_path(&self, name: &CursorName) -> String {
        format!("{}/{name}.json", self.cursors_folder())
    }
}

/// Where the cursors of a table lie, below `_lakebed/`.
pub(crate) fn folder_of(uid: &str) -> String {
    format!("cursors/{uid}")
}

fn new_step() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

fn moved(name: &CursorName, now: u64, expected: u64) -> Error {
    let message = format!("cursor `{name}` is at version {now}, not at {expected}");
    Error::new(ErrorKind::Conflict, message).about(Subject::Cursor)
}

fn encode(cursor: &Cursor) -> Result<Bytes> {
    serde_json::to_vec(cursor)
        .map(Bytes::from)
        .map_err(|error| Error::internal("encode a cursor").with_source(error))
}

fn decode(path: &str, bytes: &[u8]) -> Result<Cursor> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let damaged = |error: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, format!("the record `{path}` is damaged")).with_source(error)
    };
    let Version { format } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("the record `{path}` has format {format}; this server reads up to {FORMAT}"),
        ));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_lake::{self, id, lake};

    fn name(text: &str) -> CursorName {
        CursorName::parse(text).unwrap()
    }

    async fn table_of(versions: i64) -> (Arc<Table>, Arc<crate::Lake>, tempfile::TempDir) {
        let (lake, folder) = lake().await;
        test_lake::create(&lake, "t").await;
        let table = lake.table(&id("t")).await.unwrap();
        for n in 1..versions {
            let (schema, batches, options) = test_lake::row(n);
            table.append(None, schema, batches, options).await.unwrap();
        }
        (table, lake, folder)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cursor_goes_forward_from_where_it_is_expected() {
        let (table, _lake, _folder) = table_of(4).await;
        let made = table.create_cursor(&name("c"), None, Some(1)).await.unwrap();
        assert_eq!((made.version, made.branch.as_deref()), (1, None));
        let error = table.create_cursor(&name("c"), None, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let moved = table.advance_cursor(&name("c"), 3, Some(1)).await.unwrap();
        assert_eq!((moved.version, moved.created_at_ms), (3, made.created_at_ms));
        assert_eq!(table.advance_cursor(&name("c"), 3, None).await.unwrap(), moved);
        for (version, expected, kind) in [
            (4, Some(1), ErrorKind::Conflict),
            (2, None, ErrorKind::InvalidArgument),
            (9, Some(3), ErrorKind::NotFound),
        ] {
            let error = table.advance_cursor(&name("c"), version, expected).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
        assert_eq!(table.cursor(&name("c")).await.unwrap(), moved);
        let error = table.cursor(&name("d")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_of_many_steps_from_the_same_place_is_taken() {
        let (table, _lake, _folder) = table_of(6).await;
        table.create_cursor(&name("c"), None, Some(1)).await.unwrap();
        let steps = (2..=6).map(|version| {
            let table = table.clone();
            tokio::spawn(async move { table.advance_cursor(&name("c"), version, Some(1)).await })
        });
        let outcomes = futures::future::join_all(steps).await;
        let taken = outcomes.into_iter().filter(|outcome| match outcome.as_ref().unwrap() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict);
                false
            }
        });
        assert_eq!(taken.count(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cursors_keep_their_versions_and_go_with_their_table() {
        let (table, lake, _folder) = table_of(3).await;
        table.create_cursor(&name("a"), None, Some(2)).await.unwrap();
        table.create_cursor(&name("all"), None, Some(0)).await.unwrap();
        table.create_cursor(&name("new"), None, None).await.unwrap();
        let names = table.list_cursors().await.unwrap().into_iter().map(|cursor| cursor.name);
        assert_eq!(names.collect::<Vec<_>>(), ["a", "all", "new"]);
        let needed = |name: &str, version| (name.to_owned(), None, version);
        let both = [needed("a", 2), needed("new", 3)];
        assert_eq!(table.cursor_versions().await.unwrap(), both);
        table.delete_cursor(&name("new")).await.unwrap();
        assert_eq!(table.cursor_versions().await.unwrap(), both[..1]);
        lake.drop_table(&id("t")).await.unwrap();
        assert!(lake.system().list("cursors").await.unwrap().is_empty());
    }
}
