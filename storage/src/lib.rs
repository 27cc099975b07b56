//! The lake's tables: opened, read, written and committed durably.
//!
//! This is where lance begins. Nothing above sees its types; whatever is promised about durability,
//! versions and blobs is kept here.
//!
//! | to | look in |
//! | --- | --- |
//! | open a lake, find a table | `lake.rs`, `catalog.rs`, `namespaces.rs`; a view: `views.rs`; a function: `user_functions.rs` |
//! | read a version | `snapshot.rs`, `scan.rs`, `search.rs`, `blob.rs`; in SQL `provider.rs` |
//! | tell what changed between two versions | `changes.rs`, `diff.rs`, `history.rs`; how far its readers are: `cursors.rs` |
//! | keep a set of rows, read only these | `row_sets.rs`, `row_mask.rs`; keep deleted rows from a search: `gone_rows.rs` |
//! | build an index, keep it up to date | `indexes.rs`, `scalar_index.rs`, `index_upkeep.rs` |
//! | write | `create.rs`, `append.rs`, `overwrite.rs`, `upsert.rs`, `update.rs`, `delete.rs`, `restore.rs` |
//! | create, compare and merge branches | `branches/` |
//! | change columns | `columns/`; give cells values that were computed elsewhere: `fill.rs` |
//! | see how anything becomes visible | `commit.rs`, `durable.rs` |
//! | know why a write sent twice is done once | `write_id.rs` |
//! | know who keeps a version, and how old ones go | `pins.rs`, `cleanup/` |
//! | keep what is read from a bucket | `read_cache.rs` |
//! | know who keeps a large blob, and how it goes | `blob_claims.rs`, `blob_sweep/` |
//! | copy a lake or a table elsewhere, or back | `backup/`; what a manifest names: `manifest_file.rs` |
#![recursion_limit = "256"]

mod append;
mod backup;
mod blob;
mod blob_bytes;
mod blob_claims;
mod blob_digest;
mod blob_sweep;
mod branches;
mod catalog;
mod changes;
mod checksums;
mod cleanup;
mod clones;
mod column_patch;
mod columns;
mod commit;
mod compact;
mod computed;
mod create;
mod creators;
mod cursors;
mod delete;
mod described;
mod diff;
mod direct_upload;
mod durable;
mod examine;
mod expressions;
mod fetch_blobs;
mod fill;
mod foreign;
mod fragment_marks;
mod functions;
mod gone_rows;
mod growing_part;
mod history;
mod index_upkeep;
mod indexes;
mod json_column;
mod keys;
mod lake;
mod lance_commit;
mod lance_error;
mod lineage;
mod local_parts;
mod manifest_file;
mod materialized;
mod models;
mod multipart;
mod namespaces;
mod notes;
mod overlay;
mod overwrite;
mod pace;
mod partial_upsert;
mod pieces;
mod pins;
mod profile;
mod provider;
mod read_cache;
mod registration;
mod relocate;
mod restore;
mod root;
mod row_mask;
mod row_sets;
mod row_width;
mod scalar_index;
mod scan;
mod schema;
mod search;
mod secrets;
mod servers;
mod snapshot;
mod spool;
mod sql_guard;
mod stamps;
mod stats;
mod stored_type;
mod system;
mod table;
mod tag;
#[cfg(test)]
mod test_lake;
mod text;
mod update;
mod update_group;
mod upload;
mod upsert;
mod upsert_group;
mod user_functions;
mod vector_aliases;
mod version;
mod views;
mod whole_merge;
mod wide_columns;
mod widen;
mod write;
mod write_id;

pub use backup::{
    BackedUpBranch, BackedUpTable, Backup, BackupCounts, BackupProgress, BackupRecord, BackupSpec,
    Pruned, RestoreTable, Restored, restore, restore_tables,
};
pub use blob::{BLOB_IN_TABLE_BYTES_MAX, ByteStream, OpenBlob};
pub use blob_digest::sha256_text;
pub use blob_sweep::{BlobCount, BlobSweepRule, KeptBlob, SweptBlobs};
pub use branches::{
    BranchConflict, BranchDiff, BranchEntry, BranchMerge, ColumnChange, ConflictKind, MergeSides,
    MergedBranch, RowChange, RowCounts,
};
pub use changes::{CHANGE_COLUMNS, CHANGES_KEY, ChangeKind, ChangedIds, ChangedRows, ChangesSpec};
pub use checksums::Claimed;
pub use cleanup::{CleanRule, Cleaned, PurgePlan, RetentionFacts};
pub use clones::Cloned;
pub use column_patch::RowPlaces;
pub use columns::{ColumnAlteration, FieldMetadata, MakeNote, NoteSource};
pub use compact::{Compacted, FragmentStats, LayoutStats};
pub use computed::FUNCTION_BINDINGS;
pub use cursors::Cursor;
pub use described::{CatalogueState, DescribedColumn, DescribedTable};
pub use direct_upload::{PARTS_MAX, SIGNED_PARTS_MAX, SignedPart, SignedParts};
pub use examine::{ExamineOptions, Finding, Severity};
pub use expressions::matching_rows;
pub use fill::{Filled, FragmentValues};
pub use foreign::ForeignDataset;
pub use fragment_marks::FragmentMark;
pub use functions::scalar_functions;
pub use indexes::{IndexSpec, IndexSummary, ScalarIndexKind, VectorIndexKind, VectorIndexSpec};
pub use json_column::{is_json_field, json_as_text, json_shown};
pub use lake::{LAKE_FORMAT, Lake, LakeOptions};
pub use lance_error::without_folders;
pub use lineage::Lineage;
pub use materialized::{MaterializedView, Refreshed, SOURCE_ROW_ID};
pub use models::{ModelFile, ModelVersion, StoredModel};
pub use namespaces::{CreateMode, Properties};
pub use overlay::{FoldRule, Folded, OverlaidFragment};
pub use pace::{Pace, Turn};
pub use profile::{OVERLAY_VARIABLE, Profile, reads_overlays};
pub use provider::{Extras, SYSTEM_COLUMNS, carried_error, carry, count_rule};
pub use read_cache::ReadCacheOptions;
pub use relocate::{Relocation, relocate};
pub use row_mask::RowMask;
pub use row_sets::{NewRowSet, RowSet};
pub use scan::{BatchStream, Projection, ScanSpec, Slice};
pub use schema::{schema_digest, stored_schema};
pub use search::{Ranking, SearchSpec, TextQuery, VectorQuery};
pub use secrets::{Seal, Sealed, Secret, SecretPlace};
pub use servers::{Leader, ServerAddresses, Servers};
pub use snapshot::{At, Snapshot};
pub use sql_guard::{check_statement, is_multiplying};
pub use stats::TableStats;
pub use system::{SystemObject, SystemStore};
pub use table::Table;
pub use tag::TagEntry;
pub use text::{Analyser, TextMatch, TextPart, Word};
pub use upload::Uploads;
pub use upsert::{Matched, MergeOutcome, MergeRule, Prepared, PreparedUpsert};
pub use user_functions::{UserFunction, UserFunctionVersion};
pub use version::VersionEntry;
pub use views::View;
pub use write::{CommitReceipt, WriteOptions};
