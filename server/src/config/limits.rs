//! The `[limits]` section: every field of [`Limits`], each with the range that makes sense.
//!
//! The macro names every field when it applies the section, so a limit that is added to [`Limits`]
//! does not compile until it is configurable and documented here.

use lakebed_core::{Error, Limits, Result};
use serde::Deserialize;

use super::layer::FromText;

/// A limit as the reference page shows it.
#[cfg_attr(not(test), allow(dead_code, reason = "the page is written by a test"))]
pub(crate) struct LimitSetting {
    /// The key below `[limits]`; the variable is `LAKEBED_LIMITS_` and the key in capitals.
    pub(crate) key: &'static str,
    /// The smallest value that is accepted.
    pub(crate) min: i128,
    /// The largest value that is accepted.
    pub(crate) max: i128,
    /// What it means.
    pub(crate) text: &'static str,
    /// What is in force when nothing is set.
    pub(crate) default: fn(&Limits) -> i128,
}

macro_rules! limits {
    ($($key:ident: $kind:ty, $min:expr, $max:expr, $text:literal;)+) => {
        /// What one source says of the limits.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct LimitsLayer {
            $(#[doc = $text] pub(crate) $key: Option<$kind>,)+
        }

        impl LimitsLayer {
            /// This layer where it says something, `lower` elsewhere.
            pub(crate) fn over(self, lower: LimitsLayer) -> LimitsLayer {
                LimitsLayer { $($key: self.$key.or(lower.$key),)+ }
            }

            /// Sets `key` from text; false when there is no such limit.
            ///
            /// # Errors
            /// `InvalidArgument` when the text is no such number.
            pub(crate) fn set(&mut self, key: &str, text: &str) -> Result<bool> {
                match key {
                    $(stringify!($key) => self.$key = Some(<$kind>::from_text(text)?),)+
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// The limits in force.
            ///
            /// # Errors
            /// `InvalidArgument` naming a limit that is out of its range.
            pub(crate) fn apply(self) -> Result<Limits> {
                let Limits { $($key,)+ } = Limits::default();
                Ok(Limits {
                    $($key: {
                        let value = self.$key.unwrap_or($key);
                        check(stringify!($key), value as i128, $min, $max)?;
                        value
                    },)+
                })
            }
        }

        /// Every limit.
        pub(crate) const LIMITS: &[LimitSetting] = &[
            $(LimitSetting {
                key: stringify!($key),
                min: $min,
                max: $max,
                text: $text,
                default: |limits| limits.$key as i128,
            },)+
        ];
    };
}

const KIB: i128 = 1 << 10;
const MIB: i128 = 1 << 20;
const GIB: i128 = 1 << 30;
const TIB: i128 = 1 << 40;
const DAY_MS: i128 = 24 * 3_600_000;

limits! {
    message_bytes_max: usize, 4 * MIB, 2 * GIB - 1, "Largest gRPC message that is accepted.";
    batch_rows_max: usize, 1, 1 << 31, "Rows in one batch of a write.";
    batch_bytes_max: usize, MIB, 2 * GIB - 1, "Decoded bytes of one batch of a write.";
    columns_max: usize, 1, 1 << 20, "Columns of a table, nested fields included.";
    blob_cell_bytes_max: usize, KIB, GIB, "Bytes of one blob cell inside a batch.";
    upload_bytes_max: u64, MIB, 1_024 * TIB, "Bytes of one uploaded blob.";
    upload_ttl_ms: i64, 1_000, 365 * DAY_MS, "After this time an unreferenced upload is deleted.";
    uploads_max: usize, 1, 1 << 24, "Unfinished and unreferenced uploads at one time.";
    write_memory_bytes_max: usize, 16 * MIB, 64 * TIB,
        "Decoded input that all writes together may hold in memory.";
    read_memory_bytes_max: usize, 16 * MIB, 64 * TIB,
        "Read-ahead that all scans together may hold in memory.";
    admission_wait_ms_max: u64, 0, DAY_MS,
        "How long a request waits for admission before it is told to come back.";
    concurrent_requests_max: usize, 1, 1 << 20, "Requests that run at one time, over both ports.";
    changes_versions_max: usize, 1, 1 << 24, "Versions whose changes one read may tell.";
    stamps_bytes_max: u64, 0, TIB,
        "Bytes that each version of a table takes at most, beside 21 for each fragment, to say which \
         version changed which row last; beyond it old changes are told later than they were.";
    cursors_max: usize, 1, 1 << 20, "Cursors of one table.";
    row_ids_max: usize, 1, 1 << 30, "Rows that one read may ask for by row id.";
    row_sets_max: usize, 1, 1 << 20, "Row sets of one table, each version counted.";
    row_set_bytes_max: usize, KIB, 256 * MIB,
        "Bytes of the row ids of one row set, as they are stored.";
    upsert_rows_max: usize, 1, 1 << 26,
        "Rows of one upsert: a hash of each key is held while it runs.";
    sql_bytes_max: usize, 1, 16 * MIB, "Bytes of a filter or expression in SQL.";
    sql_depth_max: usize, 1, 1_000,
        "Operators, calls and parentheses in SQL that apply to the result of one another.";
    sql_terms_max: usize, 1, 20_000, "Conditions in SQL that `AND` and `OR` join.";
    sql_statement_bytes_max: usize, 1, 64 * MIB, "Bytes of a statement in SQL.";
    sql_tables_max: usize, 1, 1_000, "Tables that one statement in SQL may name.";
    sql_query_memory_bytes_max: usize, MIB, 64 * TIB,
        "Memory of one statement in SQL; what can be spilled goes to disk beyond that.";
    sql_memory_bytes_max: usize, MIB, 64 * TIB,
        "Memory that all statements in SQL together may hold.";
    sql_spill_bytes_max: u64, 0, 1_024 * TIB, "What one statement in SQL may spill to disk.";
    sql_time_ms_max: u64, 1, 30 * DAY_MS, "How long one statement in SQL may run.";
    sql_result_bytes_max: u64, 1, 1_024 * TIB, "Bytes of the result of one statement in SQL.";
    sql_blob_bytes_max: u64, 1, 2 * GIB - 1, "Bytes of one blob that `blob_bytes` gives.";
    sql_prepared_max: usize, 1, 1 << 24, "Prepared statements that are open at one time.";
    sql_parameters_bytes_max: usize, KIB, 2 * GIB - 1,
        "Bytes of the parameters that are bound to one prepared statement.";
    write_id_bytes_max: usize, 1, 64 * KIB, "Bytes of a write id.";
    ticket_ttl_ms: i64, 1_000, 30 * DAY_MS,
        "How long a ticket keeps its version, renewed by use.";
    index_wait_ms: u64, 0, 600_000,
        "How long the answer to who builds an index waits for the build, which goes on without it.";
    refresh_interval_ms: u64, 50, DAY_MS,
        "Time between two looks at the tables whose columns refresh themselves.";
    maintenance_interval_ms: u64, 100, 30 * DAY_MS,
        "Time between two passes of maintenance.";
    maintenance_share_percent: u64, 1, 100,
        "The share of its time, in percent, that maintenance works while requests run; it rests for \
         the other.";
    compaction_bytes_max: u64, 0, 1_024 * TIB,
        "Bytes that compaction reads of one table in a pass of maintenance; with 0 it runs only when it \
         is asked for, and indexes are not built anew.";
    server_ttl_ms: u64, 400, 3_600_000,
        "How long a server of a lake in a bucket may be silent before others take over what it led.";
    retention_ms: u64, 0, 36_500 * DAY_MS,
        "How long a version is kept at least, unless more are kept by their number.";
    retention_versions: u64, 1, 1 << 40,
        "Newest versions of a branch that are kept at least, whatever their age.";
    version_age_ms_min: u64, 0, 365 * DAY_MS,
        "How long a version, or a file that no version names, is kept in any case.";
    orphan_age_ms: u64, 0, 3_650 * DAY_MS,
        "How long a file that no version names is kept, `upload_ttl_ms` at least: a write that takes \
         longer loses it.";
    cleaning_interval_ms: u64, 100, 365 * DAY_MS,
        "Time between two passes that look for old versions of all tables.";
    task_lease_ms: i64, 500, 3_600_000,
        "How long a worker may be silent before its tasks go to others.";
    near_duplicates_memory_bytes_max: usize, MIB, 64 * TIB,
        "Memory of a job that finds near duplicates: the signatures of all rows, and 48 bytes more for \
         each.";
    read_stall_ms_max: u64, 1, 30 * DAY_MS,
        "How long a read may go without progress before it is ended.";
    write_stall_ms_max: u64, 1, 30 * DAY_MS,
        "How long a write may wait for the next message of its stream.";
    json_body_bytes_max: usize, KIB, GIB, "Bytes of a JSON request body.";
}

fn check(key: &str, value: i128, min: i128, max: i128) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("limit `{key}` is {value}; it can be {min} to {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_ranges() {
        assert_eq!(LimitsLayer::default().apply().unwrap(), Limits::default());
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_range() {
        let layer = LimitsLayer { columns_max: Some(0), ..LimitsLayer::default() };
        let error = layer.apply().unwrap_err();
        assert!(error.message().contains("columns_max") && error.message().contains("1 to"));
    }
}
