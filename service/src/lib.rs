//! The use cases of Lakebed: what a user may ask for, and who may ask for it.
//!
//! One file per verb, or for a few that belong together. A verb has these parts, in this order, as far
//! as it needs them: it authorises (always), enters the gate that shutdown waits for (unless it is over
//! in one look), checks what was asked for, takes its share of requests and memory (where it moves rows
//! or bytes), calls storage, and leaves an audit line (where it changes something). Both doors (Flight
//! and HTTP) call these verbs and nothing below them, so a promise is kept or broken in one place.
//!
//! ```text
//!   flight ──┐
//!            ├──► Service::{write, plan_read, read_part, create_tag, …} ──► storage, index, compaction
//!   rest ────┘
//! ```

mod admission;
mod audit;
mod authenticate;
mod backup;
mod blob;
mod blob_gc;
mod branches;
mod catalogue;
mod changes;
mod column_jobs;
mod columns;
mod compact;
mod compare_embeddings;
mod cursors;
mod delete_rows;
mod facets;
mod forward;
mod functions;
mod gate;
mod gc;
mod indexes;
mod jobs;
mod keys;
mod list;
mod maintenance;
mod materialized;
mod merge;
mod models;
mod multipart;
mod namespaces;
mod near_duplicates;
mod peer_calls;
mod peer_io;
mod peers;
mod prewarm;
mod private_file;
mod profile;
mod purge;
mod read;
mod registration;
mod resident;
mod resolve;
mod restore;
mod row_sets;
mod search;
mod secrets;
mod servers;
mod service;
mod sql;
mod suggest;
mod tables;
mod tags;
mod tickets;
mod update_rows;
mod uploads;
mod vector_aliases;
mod versions;
mod views;
mod write;

use std::pin::Pin;

use arrow_array::RecordBatch;
use futures::Stream;

pub use admission::Permit;
pub use backup::BackupCommand;
pub use blob::Blob;
pub use branches::{
    BranchConflict, BranchDiff, BranchEntry, BranchMerge, ColumnChange, ComparedBranch, MergeSides,
    MergedBranch, RowChange, RowCounts,
};
pub use catalogue::{FindThings, PEER_CATALOGUE_PATH, PeerCatalogue};
pub use changes::{Changes, ChangesPart, ChangesPlan};
pub use columns::{ColumnAlteration, FieldMetadata};
pub use compare_embeddings::{CompareEmbeddings, CompareQueries};
pub use cursors::Cursor;
pub use forward::{BodyError, ForwardBody, Forwarded, Led, Port};
pub use functions::{Declaration, FunctionFailures, FunctionVersion, Registration};
pub use gc::Keep;
pub use indexes::CreateIndex;
pub use keys::{ADMIN_KEY_ID, KeySummary, NewKey, check_secret};
pub use lakebed_compaction::{Pass as CompactionPass, Reason as CompactionReason};
pub use lakebed_jobs::Pooling as ModelPooling;
pub use lakebed_jobs::{
    AttemptId, Job, JobId, JobState, JobTerms, Labels, Likeness, ModelInfo, ModelInput, ModelNotes,
    ModelSettings, NearDuplicates, Progress, QueryInput, RefreshRule, Resources, SubmitJob,
    WorkerServer, WorkerView,
};
pub use lakebed_storage::Profile;
/// What an index and a merge are, for the doors.
pub use lakebed_storage::{
    BlobCount, Cleaned, IndexSpec, IndexSummary, Matched, MaterializedView, MergeOutcome,
    MergeRule, ScalarIndexKind, SweptBlobs, VectorIndexKind, VectorIndexSpec,
};
pub use list::{TableDetails, TableStats, TableSummary};
pub use materialized::RefreshView;
pub use merge::Merge;
pub use models::{ModelBytes, RegisterFile, RegisterModel, RegisteredVersion};
pub use multipart::Part;
pub use namespaces::{CreateMode, Properties};
pub use peer_calls::{PEER_CALL_BYTES_MAX, PEER_CALL_PATH};
pub use peer_io::PeerTls;
pub use peers::{
    PEER_EMBED_PATH, PEER_GIVE_PATH, PEER_HEADER, PEER_SQL_PATH, PeerChange, PeerEmbed, PeerGive,
};
pub use private_file::PrivateFile;
pub use read::{ReadPart, ReadPlan};
pub use row_sets::{CreateRowSet, RowSet, RowSetIds, RowSetSource};
pub use search::{Found, SearchPlan};
pub use secrets::{SecretSummary, Zeroizing};
pub use service::{ResidentSettings, Service, ServiceOptions};
pub use sql::{PreparedSql, SqlPart, SqlPlan, SqlRequest, TableEntry, count_schema};
pub use tags::TagSummary;
pub use uploads::{ByteStream, Claimed, SignedParts, StoredPart};
pub use vector_aliases::AliasEntry;
pub use versions::VersionSummary;
pub use views::ViewDetails;

/// A stream of batches that ends with `Err` when its source broke, was cancelled, or sent something
/// that cannot be decoded. Its plain end means that everything arrived.
pub type BatchStream = Pin<Box<dyn Stream<Item = lakebed_core::Result<RecordBatch>> + Send>>;
