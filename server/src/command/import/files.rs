//! Files as rows: reads, hashes and sends them, many at a time, within stated memory.
//!
//! ```text
//!   walk (1 thread) ─► read, hash, parse (a thread a core) ─► in order again ─► groups ─► DoPut, two at
//!        │ takes the file's bytes from the budget   └ large ─► upload, two at a time ─┘      a time
//!        └──────────────────────── given back when the group is committed ◄──────────────────┘
//! ```
//!
//! A group commits as a whole, under a write id made of what is in it. Where groups end depends on the
//! files alone, not on what is in the table already. So the group that a killed run had under way is
//! either seen in the table by the next run, or sent again under the same id and written once; the server
//! may commit it at any moment in between.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use lakebed_media::{MediaHeader, media_type, probe};
use lakebed_proto::command::{CommitRule, WriteCommand, WriteMode};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::captions;
use super::columns::{Cell, FileRow, file_batch, file_schema};
use super::known::{Known, Shown, State, show};
use super::manifest::Manifest;
use super::report::{Progress, Summary};
use super::upload::{self, Failure, Uploaded, Uploader};
use super::walk::{Found, Input, Met, walk};
use crate::client::Client;
use crate::exit::Exit;
use crate::flight_client::FlightClient;

/// Files up to this size travel in the batch; the server keeps them in the table's own files. Larger
/// ones are uploaded, because nothing here may hold them whole.
pub(super) const INLINE_BYTES_MAX: u64 = 16 << 20;
/// Bytes of files that may be in memory at one time, in units of [`UNIT_BYTES`]. A file takes at least
/// one of them.
const BUDGET_UNITS: usize = units_of(72 << 20);
const UNIT_BYTES: u64 = 2 << 10;
/// What one write commits.
const GROUP_UNITS: usize = units_of(24 << 20);
const GROUP_ROWS: usize = 8_192;
// What is held for a group is given back when it is written. A group that is not full, and the file that
// fills it, must therefore fit: with less the file would wait for the group, and the group for the file.
const _: () = assert!(GROUP_UNITS + units_of(INLINE_BYTES_MAX) < BUDGET_UNITS);
/// What one message holds.
const BATCH_BYTES: u64 = 8 << 20;
/// Writes and uploads under way at one time.
const WRITES: usize = 2;
const UPLOADS: usize = 2;

/// What an import of files needs to know.
pub(super) struct FileImport {
    pub(super) client: Arc<Client>,
    pub(super) flight: FlightClient,
    pub(super) uploader: Uploader,
    pub(super) table: String,
    pub(super) blob_column: String,
    pub(super) inputs: Vec<Input>,
    pub(super) manifest: Option<Arc<Manifest>>,
    pub(super) labels: bool,
    /// Files that go elsewhere.
    pub(super) leaves_out: Box<dyn Fn(&Found) -> bool + Send + Sync>,
    pub(super) progress: Progress,
}

/// A file on its way, with its part of the budget.
struct Job {
    sequence: u64,
    found: Found,
    permit: OwnedSemaphorePermit,
}

enum Outcome {
    /// It is in the table already.
    Same,
    /// It cannot be read, and what the table has of it stays; its path, and why.
    Kept(String, String),
    /// A row to write, and whether one with its path is there.
    Row(Box<FileRow>, bool),
    /// It has to be uploaded first.
    Large(Box<FileRow>, PathBuf, bool),
}

struct Done {
    sequence: u64,
    outcome: Outcome,
    permit: OwnedSemaphorePermit,
}

/// Rows that are waiting for their write.
#[derive(Default)]
struct Group {
    rows: Vec<FileRow>,
    permits: Vec<OwnedSemaphorePermit>,
    notes: Vec<PathBuf>,
}

/// What the walk saw beside files.
#[derive(Default)]
struct Walked {
    files: u64,
    passed_over: u64,
    folders_unread: u64,
}

impl FileImport {
    /// Imports the files into the table, which is made where it is missing.
    ///
    /// # Errors
    /// The first failure of the server; what was committed before stays.
    pub(super) async fn run(self, shown: Option<Shown>) -> Result<Summary, Exit> {
        let made = if shown.is_none() { self.create().await? } else { None };
        let (shown, known) = match made {
            Some(shown) => (shown, Known::default()),
            None => {
                // It was there, or another import, perhaps a killed one, made it meanwhile.
                let again = show(&self.client, &self.table).await?;
                let shown = again.ok_or_else(|| {
                    Exit::failed(format!("table `{}` was dropped meanwhile", self.table))
                })?;
                self.check_columns(&shown)?;
                let known = Known::read(&self.flight, &self.table, &shown).await?;
                (shown, known)
            }
        };
        let import = Arc::new(self);
        let known = Arc::new(known);
        let budget = Arc::new(Semaphore::new(BUDGET_UNITS));
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let (jobs, queue) = sync_channel::<Job>(threads * 4);
        let (results, mut done) = mpsc::channel::<Done>(threads * 4);
        let walker = import.clone().start_walk(jobs, budget, Handle::current());
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let (import, known) = (Arc::clone(&import), Arc::clone(&known));
            let (queue, results) = (Arc::clone(&queue), results.clone());
            std::thread::spawn(move || import.work(&known, &queue, &results));
        }
        drop((results, queue));

        let mut sender = Sender::new(Arc::clone(&import), shown.version);
        let mut waiting: BTreeMap<u64, Done> = BTreeMap::new();
        let mut next = 0;
        while let Some(found) = sender.next(&mut done).await? {
            waiting.insert(found.sequence, found);
            while let Some(found) = waiting.remove(&next) {
                next += 1;
                sender.take(found).await?;
            }
        }
        let mut summary = sender.finish().await?;
        let walked = walker.join().map_err(|_| Exit::failed("the walk over the files failed"))?;
        summary.files = walked.files;
        summary.passed_over = walked.passed_over;
        summary.folders_unread = walked.folders_unread;
        summary.tables = vec![import.table.clone()];
        Ok(summary)
    }

    fn check_columns(&self, shown: &Shown) -> Result<(), Exit> {
        let wanted = file_schema(&self.blob_column, &self.more_fields());
        let absent: Vec<&str> = wanted
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .filter(|name| !shown.columns.iter().any(|known| known == name))
            .collect();
        match absent.is_empty() {
            true => Ok(()),
            false => Err(Exit::failed(format!(
                "table `{}` has no column {}; import into another table, or add what is missing",
                self.table,
                absent.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// An empty table with the columns of this import; nothing when there is one already.
    async fn create(&self) -> Result<Option<Shown>, Exit> {
        let schema = file_schema(&self.blob_column, &self.more_fields());
        let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        let command = self.command(WriteMode::Create, None);
        let created = self.flight.write(command, schema, || Box::pin(futures::stream::empty()));
        match created.await {
            Ok(receipt) => Ok(Some(Shown { version: receipt.version, columns })),
            Err(failure) if failure.is_existing() => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    fn command(&self, mode: WriteMode, write_id: Option<String>) -> WriteCommand {
        let on = match mode {
            WriteMode::Upsert => vec!["path".to_owned()],
            WriteMode::Create | WriteMode::Append | WriteMode::Overwrite => Vec::new(),
        };
        let commit = CommitRule::Explicit;
        WriteCommand { table: self.table.clone(), mode, on, branch: None, write_id, commit }
    }

    /// The columns behind the named ones.
    fn more_fields(&self) -> Vec<Field> {
        let mut fields = self.manifest.as_ref().map_or_else(Vec::new, |found| found.fields());
        if self.labels {
            fields.push(Field::new("label", DataType::Utf8, true));
        }
        fields
    }

    fn start_walk(
        self: Arc<Self>,
        jobs: SyncSender<Job>,
        budget: Arc<Semaphore>,
        runtime: Handle,
    ) -> std::thread::JoinHandle<Walked> {
        std::thread::spawn(move || {
            let mut walked = Walked::default();
            for input in &self.inputs {
                walk(input, &mut |met| match met {
                    Met::File(found) if (self.leaves_out)(&found) => true,
                    Met::File(found) => {
                        // Taken in the order of the walk: whoever is next in line has its bytes, so
                        // that nobody behind it can make it wait for ever.
                        let bytes = match found.size > INLINE_BYTES_MAX {
                            true => 0,
                            false => found.size,
                        };
                        let units = u32::try_from(units_of(bytes)).unwrap_or(u32::MAX);
                        let acquired = Arc::clone(&budget).acquire_many_owned(units);
                        let Ok(permit) = runtime.block_on(acquired) else { return false };
                        let job = Job { sequence: walked.files, found, permit };
                        walked.files += 1;
                        jobs.send(job).is_ok()
                    }
                    Met::Other => {
                        walked.passed_over += 1;
                        true
                    }
                    Met::Closed(folder, error) => {
                        walked.folders_unread += 1;
                        self.progress.wrong(&folder.to_string_lossy(), &error.to_string());
                        true
                    }
                });
            }
            walked
        })
    }

    /// Takes jobs until there are no more, or nobody wants their outcome.
    fn work(&self, known: &Known, queue: &Mutex<Receiver<Job>>, results: &mpsc::Sender<Done>) {
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { sequence, found, permit }) = job else { return };
            let outcome = self.look_at(known, found);
            if results.blocking_send(Done { sequence, outcome, permit }).is_err() {
                return;
            }
        }
    }

    fn look_at(&self, known: &Known, found: Found) -> Outcome {
        let name = found.path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut row = FileRow {
            size: found.size,
            sha256: None,
            data: Cell::Null,
            header: MediaHeader { media_type: media_type(&[], &name), ..MediaHeader::default() },
            caption: None,
            listed: self
                .manifest
                .as_ref()
                .and_then(|manifest| manifest.find(&found.path, &found.file)),
            label: self.labels.then(|| label_of(&found.path)).flatten(),
            path: found.path,
        };
        let read = read_small(&found.file, found.size);
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => return unread(known, row, &error),
        };
        let Some(bytes) = bytes else {
            match File::open(&found.file) {
                Ok(file) => row.header = probe(file, &name),
                Err(error) => return unread(known, row, &error),
            }
            self.caption(&mut row, &found.file);
            let is_known = known.has(&row.path);
            if is_known {
                // Its row may be about the same bytes, which are then not worth sending.
                match upload::digest(&found.file) {
                    Ok((size, digest))
                        if known.state(&row.path, signed(size), &digest) == State::Same =>
                    {
                        return Outcome::Same;
                    }
                    Ok(_) => {}
                    Err(error) => return unread(known, row, &error),
                }
            }
            return Outcome::Large(Box::new(row), found.file, is_known);
        };
        self.progress.add_bytes(bytes.len() as u64);
        row.size = bytes.len() as u64;
        let digest = super::hex(&Sha256::digest(&bytes));
        let state = known.state(&row.path, signed(row.size), &digest);
        if state == State::Same {
            return Outcome::Same;
        }
        row.sha256 = Some(digest);
        row.header = probe(Cursor::new(&bytes), &name);
        self.caption(&mut row, &found.file);
        row.data = Cell::Bytes(Bytes::from(bytes));
        Outcome::Row(Box::new(row), state == State::Changed)
    }

    fn caption(&self, row: &mut FileRow, file: &std::path::Path) {
        let listed = self.manifest.as_ref().zip(row.listed);
        row.caption = listed.and_then(|(manifest, at)| manifest.caption(at)).or_else(|| {
            let kind = row.header.media_type.split('/').next();
            let is_medium = matches!(kind, Some("image" | "video" | "audio"));
            is_medium.then(|| captions::beside(file)).flatten()
        });
    }

    fn batches(&self, rows: &[FileRow]) -> Result<Vec<RecordBatch>, Exit> {
        let mut batches = Vec::new();
        let mut start = 0;
        while start < rows.len() {
            let mut bytes = 0;
            let mut end = start;
            while end < rows.len() && (end == start || bytes < BATCH_BYTES) {
                bytes += rows[end].bytes();
                end += 1;
            }
            let rows = &rows[start..end];
            let mut more: Vec<(Field, ArrayRef)> = Vec::new();
            let wrong = |error: arrow_schema::ArrowError| Exit::failed(error.to_string());
            if let Some(manifest) = &self.manifest {
                let listed: Vec<Option<usize>> = rows.iter().map(|row| row.listed).collect();
                more.extend(manifest.columns(&listed).map_err(wrong)?);
            }
            if self.labels {
                let labels: StringArray = rows.iter().map(|row| row.label.as_deref()).collect();
                more.push((Field::new("label", DataType::Utf8, true), Arc::new(labels)));
            }
            batches.push(file_batch(&self.blob_column, rows, more).map_err(wrong)?);
            start = end;
        }
        Ok(batches)
    }
}

/// Sends groups and uploads, and counts what came of them.
struct Sender {
    import: Arc<FileImport>,
    version: u64,
    /// Rows to add, and rows to put in place of others.
    groups: [Group; 2],
    /// Files since the last group ended, and their part of the budget.
    span: (usize, usize),
    writes: JoinSet<Result<Written, Exit>>,
    uploads: JoinSet<Result<Sent, Exit>>,
    write_room: Arc<Semaphore>,
    /// Two upserts at once would only make one of them begin again.
    upsert_room: Arc<Semaphore>,
    upload_room: Arc<Semaphore>,
    summary: Summary,
}

/// A large file that lies at the server, or could not be read.
struct Sent {
    row: FileRow,
    is_known: bool,
    /// The note of its upload, to delete with the commit.
    note: Option<PathBuf>,
}

struct Written {
    rows: u64,
    bytes: u64,
    is_upsert: bool,
}

impl Sender {
    fn new(import: Arc<FileImport>, version: u64) -> Self {
        Sender {
            import,
            version,
            groups: Default::default(),
            span: (0, 0),
            writes: JoinSet::new(),
            uploads: JoinSet::new(),
            write_room: Arc::new(Semaphore::new(WRITES)),
            upsert_room: Arc::new(Semaphore::new(1)),
            upload_room: Arc::new(Semaphore::new(UPLOADS)),
            summary: Summary::default(),
        }
    }

    /// The next file that was looked at; meanwhile uploads and writes are taken in.
    async fn next(&mut self, done: &mut mpsc::Receiver<Done>) -> Result<Option<Done>, Exit> {
        loop {
            tokio::select! {
                found = done.recv() => return Ok(found),
                Some(uploaded) = self.uploads.join_next() => self.take_upload(uploaded).await?,
                Some(written) = self.writes.join_next() => self.take_write(written)?,
            }
        }
    }

    async fn take(&mut self, done: Done) -> Result<(), Exit> {
        let Done { outcome, permit, .. } = done;
        self.span.0 += 1;
        self.span.1 += permit.num_permits();
        match outcome {
            Outcome::Same => self.unchanged(),
            Outcome::Kept(path, error) => self.kept(&path, &error),
            Outcome::Row(row, is_known) => {
                self.note_error(&row);
                let group = &mut self.groups[usize::from(is_known)];
                group.rows.push(*row);
                group.permits.push(permit);
            }
            Outcome::Large(row, file, is_known) => {
                let room = Arc::clone(&self.upload_room).acquire_owned().await.map_err(closed)?;
                let uploader = self.import.uploader.clone();
                let table = self.import.table.clone();
                self.uploads.spawn(async move {
                    let _held = (room, permit);
                    let mut row = *row;
                    let mut note = None;
                    match uploader.send(&table, &file).await {
                        Ok(Uploaded { id, size, sha256, note: noted }) => {
                            row.size = size;
                            row.sha256 = Some(sha256);
                            row.data = Cell::Upload(id);
                            note = noted;
                        }
                        Err(Failure::File(error)) => {
                            row.header.error = Some(unreadable(&error));
                        }
                        Err(Failure::Server(message)) => {
                            return Err(Exit::failed(format!(
                                "upload of `{}`: {message}",
                                row.path
                            )));
                        }
                    }
                    Ok(Sent { row, is_known, note })
                });
            }
        }
        if self.span.0 >= GROUP_ROWS || self.span.1 >= GROUP_UNITS {
            self.flush().await?;
        }
        Ok(())
    }

    /// Ends the groups here.
    async fn flush(&mut self) -> Result<(), Exit> {
        self.span = (0, 0);
        for is_upsert in [false, true] {
            let group = std::mem::take(&mut self.groups[usize::from(is_upsert)]);
            self.write(group, is_upsert).await?;
        }
        Ok(())
    }

    fn unchanged(&mut self) {
        self.summary.files_unchanged += 1;
        self.import.progress.add_done(1);
    }

    /// Counts a file that cannot be read now; its row may be of a day when it could.
    fn kept(&mut self, path: &str, error: &str) {
        self.summary.errors += 1;
        self.import.progress.wrong(path, error);
        self.unchanged();
    }

    fn note_error(&mut self, row: &FileRow) {
        if let Some(error) = row.error() {
            self.summary.errors += 1;
            self.import.progress.wrong(&row.path, error);
        }
    }

    async fn take_upload(
        &mut self,
        uploaded: Result<Result<Sent, Exit>, tokio::task::JoinError>,
    ) -> Result<(), Exit> {
        let Sent { row, is_known, note } =
            uploaded.map_err(|_| Exit::failed("an upload ended by itself"))??;
        if let (true, None, Some(error)) = (is_known, &row.sha256, row.error()) {
            self.kept(&row.path, error);
            return Ok(());
        }
        self.note_error(&row);
        // A large file is a write of its own: when it is done depends on the others.
        let notes = note.into_iter().collect();
        let group = Group { rows: vec![row], permits: Vec::new(), notes };
        self.write(group, is_known).await
    }

    fn take_write(
        &mut self,
        written: Result<Result<Written, Exit>, tokio::task::JoinError>,
    ) -> Result<(), Exit> {
        let Written { rows, bytes, is_upsert } =
            written.map_err(|_| Exit::failed("a write ended by itself"))??;
        match is_upsert {
            true => self.summary.rows_replaced += rows,
            false => self.summary.rows_added += rows,
        }
        self.summary.bytes += bytes;
        self.import.progress.add_done(rows);
        Ok(())
    }

    async fn write(&mut self, group: Group, is_upsert: bool) -> Result<(), Exit> {
        if group.rows.is_empty() {
            return Ok(());
        }
        let room = if is_upsert { &self.upsert_room } else { &self.write_room };
        let room = Arc::clone(room).acquire_owned().await.map_err(closed)?;
        let import = Arc::clone(&self.import);
        let version = self.version;
        self.writes.spawn(async move {
            let _room = room;
            let Group { rows, permits, notes } = group;
            let mode = if is_upsert { WriteMode::Upsert } else { WriteMode::Append };
            let command = import.command(mode, Some(write_id(mode, &rows)));
            let batches = Arc::new(import.batches(&rows)?);
            let bytes = rows.iter().map(|row| row.size).sum();
            let count = rows.len() as u64;
            // The batches have their own copy of the bytes.
            drop(rows);
            let schema = batches.first().map(RecordBatch::schema);
            let schema = schema.ok_or_else(|| Exit::failed("a write without rows"))?;
            let again = || -> crate::flight_client::Batches {
                let batches = batches.as_ref().clone();
                Box::pin(futures::stream::iter(batches.into_iter().map(Ok)))
            };
            let outcome = import.flight.write_missing(command, schema, again, version).await;
            drop(permits);
            outcome?;
            notes.iter().for_each(|note| upload::forget(Some(note)));
            Ok(Written { rows: count, bytes, is_upsert })
        });
        Ok(())
    }

    async fn finish(mut self) -> Result<Summary, Exit> {
        while let Some(uploaded) = self.uploads.join_next().await {
            self.take_upload(uploaded).await?;
        }
        self.flush().await?;
        while let Some(written) = self.writes.join_next().await {
            self.take_write(written)?;
        }
        Ok(self.summary)
    }
}

fn closed(_: tokio::sync::AcquireError) -> Exit {
    Exit::failed("the import was ended")
}

/// The text that makes a write unique: what is written, and how.
fn write_id(mode: WriteMode, rows: &[FileRow]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(mode.name());
    for row in rows {
        for part in [row.path.as_str(), row.sha256.as_deref().unwrap_or_default()] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.update(row.size.to_le_bytes());
    }
    format!("import-{}", super::hex(&hasher.finalize()[..20]))
}

fn unread(known: &Known, mut row: FileRow, error: &io::Error) -> Outcome {
    let error = unreadable(error);
    if known.has(&row.path) {
        return Outcome::Kept(row.path, error);
    }
    row.header.error = Some(error);
    Outcome::Row(Box::new(row), false)
}

fn unreadable(error: &io::Error) -> String {
    format!("the file cannot be read: {error}")
}

/// The part of the budget that bytes take.
const fn units_of(bytes: u64) -> usize {
    (bytes / UNIT_BYTES) as usize + 1
}

/// The bytes of a file, or nothing where it is a large one.
fn read_small(path: &std::path::Path, size: u64) -> io::Result<Option<Vec<u8>>> {
    if size > INLINE_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    // One byte more than it had: a file that grew beyond its part of the budget is a large one.
    let taken = size.saturating_add(UNIT_BYTES);
    File::open(path)?.take(taken).read_to_end(&mut bytes)?;
    Ok(((bytes.len() as u64) < taken).then_some(bytes))
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// The name of the folder that a file lies in.
fn label_of(path: &str) -> Option<String> {
    let (folder, _) = path.rsplit_once('/')?;
    Some(folder.rsplit('/').next().unwrap_or(folder).to_owned())
}
