//! Every limit of the server, by the name that is reported when it is hit.
//!
//! The configuration fills this struct once; everything else receives it by reference. A limit that is
//! not here does not exist.

/// The limits of one server. Units stand last in the names.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Largest gRPC message that is accepted, in bytes.
    pub message_bytes_max: usize,
    /// Rows in one batch of a write.
    pub batch_rows_max: usize,
    /// Decoded bytes of one batch of a write.
    pub batch_bytes_max: usize,
    /// Columns of a table, nested fields included.
    pub columns_max: usize,
    /// Bytes of one blob cell inside a batch.
    pub blob_cell_bytes_max: usize,
    /// Bytes of one uploaded blob.
    pub upload_bytes_max: u64,
    /// Milliseconds after which an unreferenced upload is deleted.
    pub upload_ttl_ms: i64,
    /// Unfinished and unreferenced uploads at one time.
    pub uploads_max: usize,
    /// Bytes of decoded input that all writes together may hold in memory.
    pub write_memory_bytes_max: usize,
    /// Bytes that all scans together may hold in memory for read-ahead.
    pub read_memory_bytes_max: usize,
    /// Milliseconds a request waits for admission before it is told to come back.
    pub admission_wait_ms_max: u64,
    /// Requests that run at one time, over both ports.
    pub concurrent_requests_max: usize,
    /// Versions whose changes one read may tell.
    pub changes_versions_max: usize,
    /// Bytes that a manifest takes at most to say which version changed which row last, beside 21 for each
    /// fragment.
    pub stamps_bytes_max: u64,
    /// Cursors of one table.
    pub cursors_max: usize,
    /// Rows that one read may ask for by row id.
    pub row_ids_max: usize,
    /// Row sets of one table, each version counted.
    pub row_sets_max: usize,
    /// Bytes of the row ids of one row set, as they are stored.
    pub row_set_bytes_max: usize,
    /// Rows of one upsert: a hash of each key is held while it runs.
    pub upsert_rows_max: usize,
    /// Bytes of a filter or expression in SQL.
    pub sql_bytes_max: usize,
    /// Operators, calls and parentheses in SQL that apply to the result of one another.
    pub sql_depth_max: usize,
    /// Conditions in SQL that `AND` and `OR` join.
    pub sql_terms_max: usize,
    /// Bytes of a statement in SQL.
    pub sql_statement_bytes_max: usize,
    /// Tables that one statement in SQL may name.
    pub sql_tables_max: usize,
    /// Bytes of memory that one statement in SQL may hold for what it sorts, joins and groups; what
    /// can be spilled goes to disk beyond that.
    pub sql_query_memory_bytes_max: usize,
    /// Bytes of memory that all statements in SQL together may hold.
    pub sql_memory_bytes_max: usize,
    /// Bytes that one statement in SQL may spill to disk.
    pub sql_spill_bytes_max: u64,
    /// Milliseconds that one statement in SQL may run.
    pub sql_time_ms_max: u64,
    /// Bytes of the result of one statement in SQL.
    pub sql_result_bytes_max: u64,
    /// Bytes of one blob that `blob_bytes` gives.
    pub sql_blob_bytes_max: u64,
    /// Prepared statements that are open at one time.
    pub sql_prepared_max: usize,
    /// Bytes of the parameters that are bound to one prepared statement.
    pub sql_parameters_bytes_max: usize,
    /// Bytes of a write id.
    pub write_id_bytes_max: usize,
    /// Milliseconds for which a ticket keeps its version, renewed by use.
    pub ticket_ttl_ms: i64,
    /// Milliseconds for which the answer to who builds an index waits for the build.
    pub index_wait_ms: u64,
    /// Milliseconds between two looks at the tables whose columns refresh themselves.
    pub refresh_interval_ms: u64,
    /// Milliseconds between two passes of maintenance.
    pub maintenance_interval_ms: u64,
    /// The share of its time, in percent, that maintenance works while requests run; the rest it rests.
    pub maintenance_share_percent: u64,
    /// Bytes that compaction reads of one table in a pass of maintenance; with 0 it runs only when it is
    /// asked for.
    pub compaction_bytes_max: u64,
    /// How long a server of a lake in a bucket may be silent before others take over what it led.
    pub server_ttl_ms: u64,
    /// Milliseconds that a version is kept at least, unless more are kept by their number.
    pub retention_ms: u64,
    /// Newest versions of a branch that are kept at least, whatever their age.
    pub retention_versions: u64,
    /// Milliseconds that a version, or a file that no version names, is kept in any case.
    pub version_age_ms_min: u64,
    /// Milliseconds after which a file that no version names is deleted.
    pub orphan_age_ms: u64,
    /// Milliseconds between two passes that look for old versions of all tables.
    pub cleaning_interval_ms: u64,
    /// How long a worker may be silent before its tasks go to others, in milliseconds.
    pub task_lease_ms: i64,
    /// Bytes that finding near duplicates may hold in memory: signatures, and 48 more for each row.
    pub near_duplicates_memory_bytes_max: usize,
    /// Milliseconds a read may go without progress before it is ended.
    pub read_stall_ms_max: u64,
    /// Milliseconds a write may wait for the next message of its stream.
    pub write_stall_ms_max: u64,
    /// Bytes of a JSON request body.
    pub json_body_bytes_max: usize,
}

const MIB: usize = 1 << 20;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: 64 * MIB,
            batch_rows_max: 4 << 20,
            batch_bytes_max: 256 * MIB,
            columns_max: 4_096,
            blob_cell_bytes_max: 64 * MIB,
            upload_bytes_max: 5 << 40,
            upload_ttl_ms: 24 * 3_600_000,
            uploads_max: 10_000,
            write_memory_bytes_max: 256 * MIB,
            read_memory_bytes_max: 128 * MIB,
            admission_wait_ms_max: 10_000,
            concurrent_requests_max: 512,
            changes_versions_max: 100_000,
            stamps_bytes_max: 512 << 10,
            cursors_max: 1_000,
            row_ids_max: 1_000_000,
            row_sets_max: 10_000,
            row_set_bytes_max: 64 * MIB,
            upsert_rows_max: 4 << 20,
            sql_bytes_max: MIB,
            sql_depth_max: 250,
            sql_terms_max: 5_000,
            sql_statement_bytes_max: MIB,
            sql_tables_max: 128,
            sql_query_memory_bytes_max: 256 * MIB,
            sql_memory_bytes_max: 1_024 * MIB,
            sql_spill_bytes_max: 16 << 30,
            sql_time_ms_max: 600_000,
            sql_result_bytes_max: 64 << 30,
            sql_blob_bytes_max: 64 << 20,
            sql_prepared_max: 10_000,
            sql_parameters_bytes_max: 64 * MIB,
            write_id_bytes_max: 256,
            ticket_ttl_ms: 3_600_000,
            index_wait_ms: 5_000,
            refresh_interval_ms: 2_000,
            maintenance_interval_ms: 60_000,
            maintenance_share_percent: 20,
            compaction_bytes_max: 1 << 30,
            server_ttl_ms: 4_000,
            retention_ms: 7 * 24 * 3_600_000,
            retention_versions: 1_000,
            version_age_ms_min: 3_600_000,
            orphan_age_ms: 7 * 24 * 3_600_000,
            cleaning_interval_ms: 3_600_000,
            task_lease_ms: 20_000,
            near_duplicates_memory_bytes_max: 2_048 * MIB,
            read_stall_ms_max: 600_000,
            write_stall_ms_max: 600_000,
            json_body_bytes_max: 4 * MIB,
        }
    }
}
