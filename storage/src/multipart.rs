//! Writes in several parts: each part is written by a request of its own, and one commit makes all of
//! them visible.
//!
//! ```text
//!   create ─► part ─► part ─► …  (files in the table's folder, named by nothing)
//!                        └─► complete ─► one version        abort, or a day ─► files deleted
//! ```
//!
//! A part is noted under `_lakebed/multipart/<id>/` once its files are written: first the large blobs that
//! it refers to, so that these stay, and its transaction, then its note, which counts. Completing carries the upload's id as write id, so that doing it twice
//! commits once; parts that come after that are refused.

use async_recursion::async_recursion as boxed;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{InsertBuilder, WriteMode};
use lance_table::format::Fragment;
use prost::Message as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::blob::{BlobWriter, has_blob_column};
use crate::blob_digest::BlobDigest;
use crate::lake::{Lake, Shared};
use crate::lance_error::from_lance;
use crate::scan::BatchStream;
use crate::schema::{Conform, new_table_schema, schema_digest};
use crate::table::{Branch, Table};
use crate::write::{
    CommitReceipt, Counted, Start, WriteOptions, conformed, discard, write_error, write_params_into,
};
use crate::write_id::WriteRecord;

const FOLDER: &str = "multipart";
const RECORD: &str = "upload.json";
/// How the write id of a completed upload is noted.
const MODE: &str = "multipart";
/// How names end of notes which large blobs a part refers to.
const BLOBS_NOTE: &str = "blobs";
/// Parts of one upload.
const PARTS_MAX: usize = 10_000;

/// An upload that was begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct UploadRecord {
    table_uid: String,
    branch: Option<String>,
    created_at_ms: i64,
}

/// A part whose files are written.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PartRecord {
    overwrite: bool,
    schema: String,
    rows: u64,
    bytes: u64,
}

impl Table {
    /// Begins a write in parts; returns its id.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch.
    #[boxed]
    pub async fn create_multipart(&self, branch: Option<&str>) -> Result<String> {
        let branch = self.branch(branch).await?;
        branch.check_no_view().await?;
        let id = uuid::Uuid::now_v7().to_string();
        let record = UploadRecord {
            table_uid: self.uid().to_owned(),
            branch: branch.name.clone(),
            created_at_ms: self.shared.clock.now_ms(),
        };
        put(&self.shared, &format!("{FOLDER}/{id}/{RECORD}"), &record).await?;
        Ok(id)
    }

    /// Writes the rows of one part. Nothing becomes visible. The same part sent again counts once.
    ///
    /// # Errors
    /// `NotFound` for an unknown upload, `InvalidArgument` for rows that do not fit; the error of the
    /// stream.
    #[boxed]
    pub async fn write_part(
        &self,
        branch: Option<&str>,
        id: &str,
        part: &str,
        overwrite: bool,
        sent: SchemaRef,
        batches: BatchStream,
    ) -> Result<u64> {
        check_name("upload_part_id", part)?;
        let branch = self.branch_of_upload(branch, id).await?;
        let _pin = branch.hold().await?;
        if parts(&self.shared, id).await?.len() >= PARTS_MAX {
            return Err(Error::invalid(format!("the upload has its {PARTS_MAX} parts already")));
        }
        let counted = Arc::new(Counted::default());
        let claims = self.shared.write_claims();
        let blobs = BlobWriter::new(self.shared.clone(), Arc::clone(&claims));
        let transaction = match overwrite {
            false => self.stage_append(&branch, &sent, batches, blobs, &counted).await?,
            true => self.stage_overwrite(&branch, &sent, batches, blobs, &counted).await?,
        };
        // What stands for the claims until all parts are committed.
        note_blobs(&self.shared, id, part, &claims.digests()).await?;
        let note = PartRecord {
            overwrite,
            schema: schema_digest(&sent),
            rows: counted.rows(),
            bytes: counted.bytes(),
        };
        // Known files, then the note that counts; of one part sent twice at once the first stays.
        let encoded = encode(&transaction)?;
        let system = &self.shared.system;
        let path = |kind| format!("{FOLDER}/{id}/{part}.{kind}");
        let fragments = fragments_of(&transaction);
        let is_first = system.create(&path("txn"), encoded).await?;
        if !is_first {
            let base = branch.current().await.branch_location().path;
            discard(&self.shared, &base, &fragments).await?;
        }
        // Also then: whoever was first may not have got this far.
        put(&self.shared, &path("json"), &note).await?;
        Ok(counted.rows())
    }

    async fn stage_append(
        &self,
        branch: &Arc<Branch>,
        sent: &SchemaRef,
        batches: BatchStream,
        blobs: BlobWriter,
        counted: &Arc<Counted>,
    ) -> Result<Transaction> {
        let shared = &self.shared;
        branch.ensure_blob_base_for(sent).await?;
        let dataset = branch.latest().await?;
        let stored = Schema::from(dataset.schema());
        let conform = Arc::new(Conform::new(&stored, sent, false, &shared.limits, blobs)?);
        let source = conformed(conform, batches, counted.clone());
        let params = write_params_into(shared, &dataset, WriteMode::Append, false);
        let insert = InsertBuilder::new(shared.root.writable(&dataset).await?).with_params(&params);
        Box::pin(insert.execute_uncommitted_stream(source)).await.map_err(write_error)
    }

    async fn stage_overwrite(
        &self,
        branch: &Arc<Branch>,
        sent: &SchemaRef,
        batches: BatchStream,
        blobs: BlobWriter,
        counted: &Arc<Counted>,
    ) -> Result<Transaction> {
        let shared = &self.shared;
        let stored = new_table_schema(sent, &shared.limits)?;
        let conform = Arc::new(Conform::new(&stored, sent, false, &shared.limits, blobs)?);
        if has_blob_column(&stored) {
            branch.ensure_blob_base().await?;
        }
        let source = conformed(conform, batches, counted.clone());
        let dataset = shared.root.writable(&*branch.latest().await?).await?;
        let has_blobs = has_blob_column(&stored);
        let params = write_params_into(shared, &dataset, WriteMode::Overwrite, has_blobs);
        let insert = InsertBuilder::new(dataset).with_params(&params);
        Box::pin(insert.execute_uncommitted_stream(source)).await.map_err(write_error)
    }

    /// Makes all parts visible in one version. Done twice, it commits once.
    ///
    /// # Errors
    /// `NotFound` for an unknown upload, `InvalidArgument` when its parts contradict each other,
    /// `Conflict` when the table was replaced meanwhile.
    #[boxed]
    pub async fn complete_multipart(
        &self,
        branch: Option<&str>,
        id: &str,
    ) -> Result<CommitReceipt> {
        check_name("upload_id", id)?;
        let options = WriteOptions {
            write_id: Some(id.to_owned()),
            mode: MODE.to_owned(),
            schema_digest: String::new(),
        };
        let name = match self.upload(id).await? {
            Some(record) => {
                same_branch(branch, &record)?;
                record.branch
            }
            // Completed before, or never there: the write ids know.
            None => branch.map(str::to_owned),
        };
        let (branch, _held) = match self.start(name.as_deref(), &options).await? {
            Start::Repeat(receipt) => return Ok(receipt),
            Start::Go(branch, held) => (branch, held),
        };
        if self.upload(id).await?.is_none() {
            return Err(unknown(id));
        }
        let staged = staged(&self.shared, id).await?;
        let now_ms = self.shared.clock.now_ms();
        let record = WriteRecord {
            mode: options.mode,
            schema: options.schema_digest,
            rows: staged.iter().map(|(note, _)| note.rows).sum(),
            bytes: staged.iter().map(|(note, _)| note.bytes).sum(),
            at_ms: now_ms,
        };
        let (rows, bytes) = (record.rows, record.bytes);
        let write = (id.to_owned(), record);
        let overwrite = staged.iter().any(|(note, _)| note.overwrite);
        if overwrite && staged.iter().any(|(note, _)| !note.overwrite) {
            return Err(Error::invalid("some parts of the upload overwrite and others append"));
        }
        let version = match join(staged)? {
            // Nothing was sent, and nothing changes.
            None => branch.latest().await?.version().version,
            Some(transaction) if overwrite => {
                let _mutation = branch.mutation.lock().await;
                let mut transaction = transaction;
                // It replaces whatever is newest by now, which is what an overwrite means.
                transaction.read_version = branch.latest().await?.version().version;
                branch.commit(transaction, vec![write], None).await?.version().version
            }
            Some(transaction) => branch.commit_append(transaction, Some(write)).await?,
        };
        if let Err(error) = forget(&self.shared, id).await {
            // Committed all the same; what stays is deleted when its time has run out.
            tracing::warn!(error = %error.report(), "a completed upload's notes stay behind");
        }
        Ok(CommitReceipt { version, rows, bytes, is_repeat: false })
    }

    /// Throws the parts of an upload away.
    ///
    /// # Errors
    /// `NotFound` for an unknown upload.
    #[boxed]
    pub async fn abort_multipart(&self, branch: Option<&str>, id: &str) -> Result<()> {
        let branch = self.branch_of_upload(branch, id).await?;
        let base = branch.current().await.branch_location().path;
        for (_, transaction) in staged(&self.shared, id).await? {
            discard(&self.shared, &base, &fragments_of(&transaction)).await?;
        }
        forget(&self.shared, id).await
    }

    async fn branch_of_upload(&self, named: Option<&str>, id: &str) -> Result<Arc<Branch>> {
        check_name("upload_id", id)?;
        let record = self.upload(id).await?.ok_or_else(|| unknown(id))?;
        same_branch(named, &record)?;
        self.branch(record.branch.as_deref()).await
    }

    /// The record of an upload to this table.
    async fn upload(&self, id: &str) -> Result<Option<UploadRecord>> {
        let record: Option<UploadRecord> =
            get(&self.shared, &format!("{FOLDER}/{id}/{RECORD}")).await?;
        match record {
            Some(record) if record.table_uid != self.uid() => Err(unknown(id)),
            record => Ok(record),
        }
    }
}

impl Lake {
    /// Throws away the uploads in parts whose time has run out; says how many. Files of a table that was
    /// dropped went with it.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer; what is left is tried again next time.
    #[boxed]
    pub async fn expire_multipart(&self) -> Result<usize> {
        let oldest = self.shared.clock.now_ms() - self.shared.limits.upload_ttl_ms;
        let mut expired = 0;
        for object in self.shared.system.list(FOLDER).await? {
            let Some(id) = object.path.strip_suffix(&format!("/{RECORD}")) else { continue };
            let id = id.rsplit('/').next().unwrap_or_default().to_owned();
            let record: Option<UploadRecord> = get(&self.shared, &object.path).await?;
            let Some(record) = record.filter(|record| record.created_at_ms < oldest) else {
                continue;
            };
            match self.table_anywhere(&record.table_uid).await? {
                Some(table) => match table.abort_multipart(record.branch.as_deref(), &id).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        forget(&self.shared, &id).await?;
                    }
                    Err(error) => return Err(error),
                },
                None => forget(&self.shared, &id).await?,
            }
            expired += 1;
        }
        Ok(expired)
    }

    async fn table_anywhere(&self, uid: &str) -> Result<Option<Arc<Table>>> {
        for database in self.catalog.databases().await? {
            match self.table_by_uid(&database, uid).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                found => return found.map(Some),
            }
        }
        Ok(None)
    }
}

/// An upload belongs to the branch that it was begun on.
fn same_branch(named: Option<&str>, record: &UploadRecord) -> Result<()> {
    let main = |branch: Option<&str>| branch.unwrap_or("main").to_owned();
    let (named, own) = (main(named), main(record.branch.as_deref()));
    match named == own {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "the upload was begun on branch `{own}`, and the request names `{named}`"
        ))),
    }
}

fn check_name(what: &str, name: &str) -> Result<()> {
    let is_fine = (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    match is_fine {
        true => Ok(()),
        false => {
            Err(Error::invalid(format!("`{what}` has to be 1 to 128 letters, digits, `-` or `_`")))
        }
    }
}

fn unknown(id: &str) -> Error {
    // Not "not found", which clients of the HTTP door take for a missing table.
    Error::invalid(format!("upload `{id}` of this table does not exist, or is over"))
}

async fn put(shared: &Shared, path: &str, record: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(record)
        .map_err(|error| Error::internal("write a record").with_source(error))?;
    shared.system.put(path, Bytes::from(bytes)).await
}

async fn get<T: DeserializeOwned>(shared: &Shared, path: &str) -> Result<Option<T>> {
    let Some(bytes) = shared.system.get(path).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("`{path}` cannot be read")).with_source(error)
    })
}

/// Notes which large blobs a part refers to; under a name of its own, because one of two that are sent at
/// once wins.
async fn note_blobs(shared: &Shared, id: &str, part: &str, digests: &[BlobDigest]) -> Result<()> {
    if digests.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = digests.iter().map(BlobDigest::hex).collect();
    let note = uuid::Uuid::now_v7().simple();
    let path = format!("{FOLDER}/{id}/{part}.{note}.{BLOBS_NOTE}");
    shared.system.put(&path, Bytes::from(lines.join("\n"))).await
}

/// The data files of parts of writes to a table that are not complete, by their names without the ending.
pub(crate) async fn files_of_parts(shared: &Shared, uid: &str) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    for object in shared.system.list(FOLDER).await? {
        let Some(folder) = object.path.strip_suffix(&format!("/{RECORD}")) else { continue };
        let record: Option<UploadRecord> = get(shared, &object.path).await?;
        if record.is_none_or(|record| record.table_uid != uid) {
            continue;
        }
        for part in shared.system.list(folder).await? {
            if !part.path.ends_with(".txn") {
                continue;
            }
            let Some(bytes) = shared.system.get(&part.path).await? else { continue };
            for file in fragments_of(&decode(&bytes)?).iter().flat_map(|it| &it.files) {
                files.insert(file.path.trim_end_matches(".lance").to_owned());
            }
        }
    }
    Ok(files)
}

/// The large blobs that parts of writes refer to which are not complete.
pub(crate) async fn blobs_of_parts(shared: &Shared) -> Result<HashSet<BlobDigest>> {
    let mut digests = HashSet::new();
    for object in shared.system.list(FOLDER).await? {
        if !object.path.ends_with(&format!(".{BLOBS_NOTE}")) {
            continue;
        }
        // One that is gone was completed since, or thrown away.
        let Some(bytes) = shared.system.get(&object.path).await? else { continue };
        let text = String::from_utf8_lossy(&bytes);
        for line in text.lines() {
            let damaged = || {
                let message = format!("the record `{}` is damaged", object.path);
                Error::new(ErrorKind::Corrupt, message)
            };
            digests.insert(BlobDigest::parse(line).ok_or_else(damaged)?);
        }
    }
    Ok(digests)
}

/// The names of the parts that count, sorted.
async fn parts(shared: &Shared, id: &str) -> Result<Vec<String>> {
    let objects = shared.system.list(&format!("{FOLDER}/{id}")).await?;
    let mut parts: Vec<String> = objects
        .iter()
        .filter_map(|object| object.path.rsplit('/').next()?.strip_suffix(".json"))
        .filter(|name| format!("{name}.json") != RECORD)
        .map(str::to_owned)
        .collect();
    parts.sort();
    Ok(parts)
}

async fn staged(shared: &Shared, id: &str) -> Result<Vec<(PartRecord, Transaction)>> {
    let mut staged = Vec::new();
    for part in parts(shared, id).await? {
        let note: Option<PartRecord> = get(shared, &format!("{FOLDER}/{id}/{part}.json")).await?;
        let bytes = shared.system.get(&format!("{FOLDER}/{id}/{part}.txn")).await?;
        if let (Some(note), Some(bytes)) = (note, bytes) {
            staged.push((note, decode(&bytes)?));
        }
    }
    Ok(staged)
}

async fn forget(shared: &Shared, id: &str) -> Result<()> {
    let folder = format!("{FOLDER}/{id}");
    let mut objects = shared.system.list(&folder).await?;
    // The record last: without it nobody would find the rest.
    objects.sort_by_key(|object| object.path.ends_with(RECORD));
    for object in objects {
        shared.system.delete(&object.path).await?;
    }
    Ok(())
}

fn encode(transaction: &Transaction) -> Result<Bytes> {
    let message =
        lance_table::format::pb::Transaction::try_from(transaction).map_err(from_lance)?;
    Ok(Bytes::from(message.encode_to_vec()))
}

fn decode(bytes: &Bytes) -> Result<Transaction> {
    let message = lance_table::format::pb::Transaction::decode(bytes.clone()).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "a part's transaction cannot be read").with_source(error)
    })?;
    Transaction::try_from(message).map_err(from_lance)
}

fn fragments_of(transaction: &Transaction) -> Vec<Fragment> {
    match &transaction.operation {
        Operation::Append { fragments } | Operation::Overwrite { fragments, .. } => {
            fragments.clone()
        }
        _ => Vec::new(),
    }
}

/// One transaction of all parts; nothing without parts.
fn join(staged: Vec<(PartRecord, Transaction)>) -> Result<Option<Transaction>> {
    let mut staged = staged.into_iter();
    let Some((first_note, mut joined)) = staged.next() else { return Ok(None) };
    for (note, transaction) in staged {
        joined.read_version = joined.read_version.min(transaction.read_version);
        match (&mut joined.operation, transaction.operation) {
            (Operation::Append { fragments }, Operation::Append { fragments: more }) => {
                fragments.extend(more);
            }
            (
                Operation::Overwrite { fragments, schema, .. },
                Operation::Overwrite { fragments: more, schema: other, .. },
            ) => {
                if note.schema != first_note.schema || *schema != other {
                    return Err(Error::invalid("the parts of the upload have different schemas"));
                }
                fragments.extend(more);
            }
            _ => return Err(Error::internal("a part's transaction is of another kind")),
        }
    }
    Ok(Some(joined))
}
