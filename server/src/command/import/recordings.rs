//! Recordings of robots: a row for each bag in `recordings`, and one for each of its topics in `topics`.
//!
//! Topics are written before the recording that they belong to, and by upsert: a run that was cut off in
//! between leaves topics without a recording, which the next run writes again and completes.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use http::Method;
use lakebed_media::{
    RecordingFormat, RecordingHeader, Topic, read_bag, read_db3, read_mcap, recording_format,
};
use lakebed_proto::command::{CommitRule, WriteCommand, WriteMode};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::columns::{Cell, blob_column, blob_field, time_type};
use super::files::INLINE_BYTES_MAX;
use super::known::{Known, Shown, State, show};
use super::report::{Progress, Summary};
use super::upload::{self, Failure, Uploader};
use super::walk::{Found, Input, Met, walk};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::flight_client::{Batches, FlightClient};

/// The namespace of recordings that nobody named one for.
pub(super) const NAMESPACE_DEFAULT: &str = "recordings";
/// What one write commits.
const GROUP_BYTES: u64 = 32 << 20;
const GROUP_ROWS: usize = 64;
/// Bytes of topics that one write commits, about: beyond this there is another one.
const TOPICS_BYTES: usize = 16 << 20;
/// Topics in one message. Each may have a path and names of some kilobytes.
const TOPICS_A_MESSAGE: usize = 1_024;
/// Bytes of a file that tell its container.
const HEAD_BYTES: u64 = 16;
/// Recordings of one import.
const RECORDINGS_MAX: usize = 1_000_000;

/// The container of a file that is a recording.
pub(super) fn format_of(found: &Found) -> Option<RecordingFormat> {
    let name = found.path.rsplit('/').next().unwrap_or_default();
    let mut head = Vec::new();
    if let Ok(file) = File::open(&found.file) {
        let _ = file.take(HEAD_BYTES).read_to_end(&mut head);
    }
    recording_format(&head, name)
}

/// Whether all of what a PATH names are recordings: a bag, or the folder of a ROS 2 bag.
pub(super) fn is_recording(input: &Input) -> bool {
    match input.is_folder {
        true => input.path.join("metadata.yaml").is_file(),
        false => {
            let (file, path) = (input.path.clone(), input.prefix.clone());
            format_of(&Found { file, path, size: 0 }).is_some()
        }
    }
}

/// What an import of recordings needs to know.
pub(super) struct RecordingImport {
    pub(super) client: Arc<Client>,
    pub(super) flight: FlightClient,
    pub(super) uploader: Uploader,
    pub(super) namespace: String,
    pub(super) inputs: Vec<Input>,
    pub(super) progress: Progress,
}

/// What the walk met.
#[derive(Default)]
struct Walked {
    recordings: Vec<(Found, RecordingFormat)>,
    passed_over: u64,
    folders_unread: u64,
}

/// One recording as a row.
struct Row {
    path: String,
    format: RecordingFormat,
    size: u64,
    sha256: Option<String>,
    data: Cell,
    header: RecordingHeader,
    is_known: bool,
    note: Option<PathBuf>,
}

/// What became of a recording.
enum Looked {
    /// It is in the table already.
    Same,
    /// It cannot be read, and what the tables have of it stays; its path, and why.
    Kept(String, String),
    /// A row to write.
    Row(Box<Row>),
}

impl RecordingImport {
    /// Imports every recording below the inputs.
    ///
    /// # Errors
    /// The first failure of the server; what was committed before stays.
    pub(super) async fn run(self, summary: &mut Summary) -> Result<(), Exit> {
        let recordings = self.table("recordings");
        let topics = self.table("topics");
        let known = match show(&self.client, &recordings).await? {
            Some(shown) => Known::read(&self.flight, &recordings, &shown).await?,
            None => {
                self.create(&recordings, recordings_schema()).await?;
                Known::default()
            }
        };
        if show(&self.client, &topics).await?.is_none() {
            self.create(&topics, topics_schema()).await?;
        }
        let shown = show(&self.client, &recordings).await?;
        let version = shown.map_or(0, |shown: Shown| shown.version);
        summary.tables.extend([recordings, topics]);
        let Walked { recordings: found, passed_over, folders_unread } = self.find()?;
        summary.files += found.len() as u64;
        summary.passed_over += passed_over;
        summary.folders_unread += folders_unread;
        let mut group: Vec<Row> = Vec::new();
        // Where groups end depends on the files alone; see files.rs.
        let mut span = (0, 0);
        for (found, format) in found {
            if span.0 >= GROUP_ROWS || span.1 >= GROUP_BYTES {
                self.write(std::mem::take(&mut group), version, summary).await?;
                span = (0, 0);
            }
            span.0 += 1;
            span.1 += if found.size <= INLINE_BYTES_MAX { found.size } else { 0 };
            let row = match self.look_at(&known, found, format).await? {
                Looked::Row(row) => row,
                unchanged => {
                    if let Looked::Kept(path, error) = unchanged {
                        summary.errors += 1;
                        self.progress.wrong(&path, &error);
                    }
                    summary.files_unchanged += 1;
                    self.progress.add_done(1);
                    continue;
                }
            };
            if let Some(error) = &row.header.error {
                summary.errors += 1;
                self.progress.wrong(&row.path, error);
            }
            group.push(*row);
        }
        self.write(group, version, summary).await
    }

    pub(super) fn table(&self, name: &str) -> String {
        format!("{}${name}", self.namespace)
    }

    async fn create(&self, table: &str, schema: SchemaRef) -> Result<(), Exit> {
        let command = command(table, WriteMode::Create, &[], None);
        let empty = || -> Batches { Box::pin(futures::stream::empty()) };
        match self.flight.write(command, schema, empty).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_existing() => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The recordings below the inputs.
    fn find(&self) -> Result<Walked, Exit> {
        let mut walked = Walked::default();
        for input in &self.inputs {
            walk(input, &mut |met| {
                match met {
                    Met::File(found) => match format_of(&found) {
                        Some(format) => walked.recordings.push((found, format)),
                        None => walked.passed_over += 1,
                    },
                    Met::Other => walked.passed_over += 1,
                    Met::Closed(folder, error) => {
                        walked.folders_unread += 1;
                        self.progress.wrong(&folder.to_string_lossy(), &error.to_string());
                    }
                }
                walked.recordings.len() <= RECORDINGS_MAX
            });
        }
        match walked.recordings.len() <= RECORDINGS_MAX {
            true => Ok(walked),
            false => Err(Exit::failed(format!(
                "there are more than {RECORDINGS_MAX} recordings; import them folder by folder"
            ))),
        }
    }

    /// Reads a recording, and sends its bytes where they are many.
    async fn look_at(
        &self,
        known: &Known,
        found: Found,
        format: RecordingFormat,
    ) -> Result<Looked, Exit> {
        let Found { file, path, size } = found;
        let is_known = known.has(&path);
        let mut row = Row {
            path,
            format,
            size,
            sha256: None,
            data: Cell::Null,
            header: RecordingHeader::default(),
            is_known,
            note: None,
        };
        let is_same = |row: &Row| {
            let size = i64::try_from(row.size).unwrap_or(i64::MAX);
            let digest = row.sha256.as_deref();
            digest.is_some_and(|digest| known.state(&row.path, size, digest) == State::Same)
        };
        let source = file.clone();
        let before = stamp(&file);
        let (header, sent) = if size <= INLINE_BYTES_MAX {
            let read = blocking(move || {
                let mut bytes = Vec::new();
                File::open(&source)?.take(INLINE_BYTES_MAX * 2).read_to_end(&mut bytes)?;
                let header = header_of(&source, format)?;
                Ok((header, super::hex(&Sha256::digest(&bytes)), bytes))
            });
            match read.await {
                Ok((header, digest, bytes)) => {
                    self.progress.add_bytes(bytes.len() as u64);
                    row.size = bytes.len() as u64;
                    row.sha256 = Some(digest);
                    if is_same(&row) {
                        return Ok(Looked::Same);
                    }
                    row.data = Cell::Bytes(Bytes::from(bytes));
                    (Ok(header), Ok(()))
                }
                Err(error) => (Err(error), Ok(())),
            }
        } else {
            if is_known {
                let hashed = file.clone();
                if let Ok((size, digest)) = blocking(move || upload::digest(&hashed)).await {
                    (row.size, row.sha256) = (size, Some(digest));
                    if is_same(&row) {
                        return Ok(Looked::Same);
                    }
                }
            }
            let recordings = self.table("recordings");
            let (header, uploaded) = tokio::join!(
                blocking(move || header_of(&source, format)),
                self.uploader.send(&recordings, &file)
            );
            let sent = match uploaded {
                Ok(uploaded) => {
                    (row.size, row.sha256) = (uploaded.size, Some(uploaded.sha256));
                    row.data = Cell::Upload(uploaded.id);
                    row.note = uploaded.note;
                    Ok(())
                }
                Err(Failure::File(error)) => Err(error),
                Err(Failure::Server(message)) => {
                    return Err(Exit::failed(format!("upload of `{}`: {message}", row.path)));
                }
            };
            (header, sent)
        };
        // A recording that is still going on: half of it must not stand for the whole.
        let unmoved = match (before, stamp(&file)) {
            (Ok(before), Ok(after)) if before == after => Ok(()),
            (Ok(_), Ok(_)) => Err(io::Error::other("it was written to meanwhile")),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        match (header, sent.and(unmoved)) {
            (Ok(header), Ok(())) => row.header = header,
            (Err(error), _) | (_, Err(error)) => {
                let error = format!("the file cannot be read: {error}");
                if let Cell::Upload(id) = &row.data {
                    self.uploader.discard(id, row.note.as_deref()).await;
                }
                if is_known {
                    return Ok(Looked::Kept(row.path, error));
                }
                row.header.error = Some(error);
                (row.sha256, row.data, row.note) = (None, Cell::Null, None);
            }
        }
        Ok(Looked::Row(Box::new(row)))
    }

    async fn write(&self, rows: Vec<Row>, version: u64, summary: &mut Summary) -> Result<(), Exit> {
        if rows.is_empty() {
            return Ok(());
        }
        let topics = self.table("topics");
        for row in rows.iter().filter(|row| row.is_known) {
            // Topics that the recording no longer has.
            let path = format!("/v1/table/{}/delete", segment(&topics));
            let predicate = format!("recording_id = '{}'", row.path.replace('\'', "''"));
            self.client.send(Method::POST, &path, Some(json!({ "predicate": predicate }))).await?;
        }
        let mut left = rows.as_slice();
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = |row: &&Row| {
                bytes += row.topics_bytes();
                bytes <= TOPICS_BYTES
            };
            let (run, rest) = left.split_at(left.iter().take_while(fits).count().max(1));
            left = rest;
            let batch = topics_batch(run).map_err(|error| Exit::failed(error.to_string()))?;
            summary.topics += batch.num_rows() as u64;
            if batch.num_rows() > 0 {
                let on = ["recording_id", "topic", "type"];
                let command = command(&topics, WriteMode::Upsert, &on, None);
                self.put(command, batch, TOPICS_A_MESSAGE, version).await?;
            }
        }
        let (changed, new): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.is_known);
        for (rows, mode) in [(new, WriteMode::Append), (changed, WriteMode::Upsert)] {
            if rows.is_empty() {
                continue;
            }
            let on: &[&str] = if mode == WriteMode::Upsert { &["recording_id"] } else { &[] };
            let id = write_id(mode, &rows);
            let command = command(&self.table("recordings"), mode, on, Some(id));
            let batch = recordings_batch(&rows).map_err(|error| Exit::failed(error.to_string()))?;
            // Each row may have as many bytes as travel in a message at all.
            self.put(command, batch, 1, version).await?;
            let count = rows.len() as u64;
            match mode == WriteMode::Upsert {
                true => summary.rows_replaced += count,
                false => summary.rows_added += count,
            }
            summary.bytes += rows.iter().map(|row| row.size).sum::<u64>();
            self.progress.add_done(count);
            rows.iter().for_each(|row| upload::forget(row.note.as_deref()));
        }
        Ok(())
    }

    /// Writes rows, `step` of them in each message.
    async fn put(
        &self,
        command: WriteCommand,
        batch: RecordBatch,
        step: usize,
        seen: u64,
    ) -> Result<(), Exit> {
        let schema = batch.schema();
        let rows = || -> Batches {
            let batch = batch.clone();
            let starts = (0..batch.num_rows()).step_by(step);
            let cut =
                move |start: usize| Ok(batch.slice(start, step.min(batch.num_rows() - start)));
            Box::pin(futures::stream::iter(starts.map(cut)))
        };
        match command.write_id.is_some() {
            true => self.flight.write_missing(command, schema, rows, seen).await?,
            false => self.flight.write(command, schema, rows).await?,
        };
        Ok(())
    }
}

impl Row {
    /// About the bytes of its topics as rows, each of which has its path.
    fn topics_bytes(&self) -> usize {
        let names = |topic: &Topic| topic.topic.len() + topic.type_name.len();
        self.header.topics.iter().map(|topic| self.path.len() + names(topic) + 64).sum()
    }
}

/// What changes when a file is written to.
fn stamp(file: &Path) -> io::Result<(u64, i64, i64)> {
    let metadata = std::fs::metadata(file)?;
    Ok((metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

fn command(table: &str, mode: WriteMode, on: &[&str], write_id: Option<String>) -> WriteCommand {
    WriteCommand {
        table: table.to_owned(),
        mode,
        on: on.iter().map(|name| (*name).to_owned()).collect(),
        branch: None,
        write_id,
        commit: CommitRule::Explicit,
    }
}

fn write_id(mode: WriteMode, rows: &[Row]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(mode.name());
    for row in rows {
        let digest = row.sha256.as_deref().unwrap_or_default();
        hasher.update(format!("{} {} {} {digest}", row.path.len(), row.path, row.size));
    }
    format!("import-recordings-{}", super::hex(&hasher.finalize()[..20]))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::other("it made its reader fail")),
    }
}

fn header_of(file: &Path, format: RecordingFormat) -> io::Result<RecordingHeader> {
    Ok(match format {
        RecordingFormat::Rosbag1 => read_bag(File::open(file)?),
        RecordingFormat::Mcap => read_mcap(File::open(file)?),
        RecordingFormat::Rosbag2Sqlite3 => read_db3(&std::fs::canonicalize(file)?),
    })
}

fn recordings_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        Field::new("recording_id", DataType::Utf8, false),
        text("path"),
        text("format"),
        Field::new("size_bytes", DataType::Int64, true),
        text("sha256"),
        Field::new("start_time", time_type(), true),
        Field::new("end_time", time_type(), true),
        Field::new("duration_ms", DataType::Int64, true),
        Field::new("messages", DataType::Int64, true),
        blob_field("data"),
        text("error"),
    ]))
}

fn topics_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("recording_id", DataType::Utf8, false),
        Field::new("topic", DataType::Utf8, false),
        Field::new("type", DataType::Utf8, false),
        Field::new("messages", DataType::Int64, true),
        Field::new("start_time", time_type(), true),
        Field::new("end_time", time_type(), true),
        Field::new("table_name", DataType::Utf8, true),
    ]))
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampNanosecondArray>().with_timezone("UTC"))
}

fn numbers(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn count(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

fn recordings_batch(rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let headers = || rows.iter().map(|row| &row.header);
    // Of a file that could not be read nothing was counted, which is not the same as no messages.
    let messages = |row: &Row| count(row.header.messages).filter(|_| row.sha256.is_some());
    let cells: Vec<&Cell> = rows.iter().map(|row| &row.data).collect();
    let (data, cells) = blob_column("data", &cells)?;
    let mut fields: Vec<Field> =
        recordings_schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[9] = data;
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        vec![
            texts(rows.iter().map(|row| Some(row.path.as_str()))),
            texts(rows.iter().map(|row| Some(row.path.as_str()))),
            texts(rows.iter().map(|row| Some(row.format.name()))),
            numbers(rows.iter().map(|row| count(row.size))),
            texts(rows.iter().map(|row| row.sha256.as_deref())),
            times(headers().map(|header| header.start_ns)),
            times(headers().map(|header| header.end_ns)),
            numbers(headers().map(RecordingHeader::duration_ms)),
            numbers(rows.iter().map(messages)),
            cells,
            texts(headers().map(|header| header.error.as_deref())),
        ],
    )
}

fn topics_batch(rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let topics: Vec<_> = rows
        .iter()
        .flat_map(|row| row.header.topics.iter().map(|topic| (row.path.as_str(), topic)))
        .collect();
    RecordBatch::try_new(
        topics_schema(),
        vec![
            texts(topics.iter().map(|(path, _)| Some(*path))),
            texts(topics.iter().map(|(_, topic)| Some(topic.topic.as_str()))),
            texts(topics.iter().map(|(_, topic)| Some(topic.type_name.as_str()))),
            numbers(topics.iter().map(|(_, topic)| count(topic.messages))),
            times(topics.iter().map(|(_, topic)| topic.start_ns)),
            times(topics.iter().map(|(_, topic)| topic.end_ns)),
            texts(topics.iter().map(|_| None)),
        ],
    )
}
