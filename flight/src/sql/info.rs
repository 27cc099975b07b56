//! GetSqlInfo: what drivers ask about the server before they use it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    CommandGetSqlInfo, SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel,
    SqlSupportedCaseSensitivity, SqlSupportedGroupBy, SqlSupportedResultSetConcurrency,
    SqlSupportedSubqueries, SqlSupportedTransaction, SqlSupportedUnions, SupportedSqlGrammar,
};
use arrow_schema::SchemaRef;
use lakebed_core::{Limits, Result};

use super::encoding;

const ARROW_FORMAT_VERSION: &str = "1.3";
/// Of the format's SupportedAnsi92SqlGrammarLevel, which arrow keeps to itself.
const ANSI92_ENTRY_SQL: i32 = 0;
/// As the rules of names have it.
const TABLE_NAME_BYTES_MAX: i64 = 128;

/// The schema of the answer.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(SqlInfoDataBuilder::schema().clone())
}

/// What was asked for; everything where nothing was named.
pub(crate) fn info(limits: &Limits, command: CommandGetSqlInfo) -> Result<RecordBatch> {
    static KNOWN: OnceLock<SqlInfoData> = OnceLock::new();
    let known = match KNOWN.get() {
        Some(known) => known,
        None => {
            let built = build(limits)?;
            KNOWN.get_or_init(|| built)
        }
    };
    command.into_builder(known).build().map_err(encoding)
}

fn build(limits: &Limits) -> Result<SqlInfoData> {
    use SqlInfo as I;
    // Sets of choices travel as bits.
    let bits = |choices: &[i32]| choices.iter().fold(0_i32, |bits, choice| bits | (1 << choice));
    let mut info = SqlInfoDataBuilder::new();
    info.append(I::FlightSqlServerName, "Lakebed");
    info.append(I::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(I::FlightSqlServerArrowVersion, ARROW_FORMAT_VERSION);
    info.append(I::FlightSqlServerReadOnly, false);
    info.append(I::FlightSqlServerSql, true);
    info.append(I::FlightSqlServerSubstrait, false);
    info.append(I::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(I::FlightSqlServerCancel, true);
    info.append(I::FlightSqlServerBulkIngestion, true);
    info.append(I::FlightSqlServerIngestTransactionsSupported, false);
    info.append(
        I::FlightSqlServerStatementTimeout,
        i32::try_from(limits.sql_time_ms_max).unwrap_or(i32::MAX),
    );
    info.append(I::FlightSqlServerTransactionTimeout, 0_i32);
    info.append(I::SqlDdlCatalog, false);
    info.append(I::SqlDdlSchema, false);
    info.append(I::SqlDdlTable, true);
    let sensitive = SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32;
    info.append(I::SqlIdentifierCase, sensitive);
    info.append(I::SqlIdentifierQuoteChar, "\"");
    info.append(I::SqlQuotedIdentifierCase, sensitive);
    info.append(I::SqlAllTablesAreSelectable, true);
    info.append(I::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    info.append(
        I::SqlKeywords,
        words("VERSION TIMESTAMP OF ILIKE QUALIFY EXCLUDE EXPLAIN ANALYZE"),
    );
    info.append(
        I::SqlNumericFunctions,
        words(
            "abs acos asin atan atan2 ceil cos degrees exp floor ln log log10 log2 pi power \
               radians random round sign sin sqrt tan trunc",
        ),
    );
    info.append(
        I::SqlStringFunctions,
        words(
            "ascii btrim chr concat length lower ltrim position replace reverse right rtrim \
               split_part substr trim upper regexp_like regexp_match regexp_replace",
        ),
    );
    info.append(I::SqlSystemFunctions, words("coalesce nullif version arrow_typeof blob_bytes"));
    info.append(
        I::SqlDatetimeFunctions,
        words(
            "current_date current_time now date_bin date_part date_trunc to_timestamp \
               to_char from_unixtime",
        ),
    );
    info.append(I::SqlSearchStringEscape, "\\");
    info.append(I::SqlExtraNameCharacters, "$");
    info.append(I::SqlSupportsColumnAliasing, true);
    info.append(I::SqlNullPlusNullIsNull, true);
    info.append(I::SqlSupportsTableCorrelationNames, true);
    info.append(I::SqlSupportsDifferentTableCorrelationNames, false);
    info.append(I::SqlSupportsExpressionsInOrderBy, true);
    info.append(I::SqlSupportsOrderByUnrelated, true);
    info.append(
        I::SqlSupportedGroupBy,
        bits(&[
            SqlSupportedGroupBy::SqlGroupByUnrelated as i32,
            SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32,
        ]),
    );
    info.append(I::SqlSupportsLikeEscapeClause, true);
    info.append(I::SqlSupportsNonNullableColumns, true);
    info.append(
        I::SqlSupportedGrammar,
        bits(&[
            SupportedSqlGrammar::SqlMinimumGrammar as i32,
            SupportedSqlGrammar::SqlCoreGrammar as i32,
        ]),
    );
    info.append(I::SqlSupportsIntegrityEnhancementFacility, false);
    info.append(
        I::SqlOuterJoinsSupportLevel,
        bits(&[SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32]),
    );
    info.append(I::SqlSchemaTerm, "namespace");
    info.append(I::SqlProcedureTerm, "");
    info.append(I::SqlCatalogTerm, "database");
    info.append(I::SqlCatalogAtStart, true);
    info.append(I::SqlSchemasSupportedActions, 0_i32);
    info.append(I::SqlCatalogsSupportedActions, 0_i32);
    info.append(I::SqlSupportedPositionedCommands, 0_i32);
    info.append(I::SqlSelectForUpdateSupported, false);
    info.append(I::SqlStoredProceduresSupported, false);
    info.append(
        I::SqlSupportedSubqueries,
        bits(&[
            SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
            SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
            SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
        ]),
    );
    info.append(I::SqlCorrelatedSubqueriesSupported, true);
    info.append(
        I::SqlSupportedUnions,
        bits(&[SqlSupportedUnions::SqlUnion as i32, SqlSupportedUnions::SqlUnionAll as i32]),
    );
    info.append(I::SqlMaxColumnsInTable, limits.columns_max as i64);
    info.append(I::SqlMaxStatementLength, limits.sql_statement_bytes_max as i64);
    info.append(I::SqlMaxTablesInSelect, limits.sql_tables_max as i64);
    // Zero says that there is no limit, or none that is known. Each is there because the JDBC driver
    // fails on what it asks for and does not get.
    for unlimited in [
        I::SqlMaxBinaryLiteralLength,
        I::SqlMaxCharLiteralLength,
        I::SqlMaxColumnsInGroupBy,
        I::SqlMaxColumnsInIndex,
        I::SqlMaxColumnsInOrderBy,
        I::SqlMaxColumnsInSelect,
        I::SqlMaxColumnNameLength,
        I::SqlMaxConnections,
        I::SqlMaxCursorNameLength,
        I::SqlMaxIndexLength,
        I::SqlDbSchemaNameLength,
        I::SqlMaxProcedureNameLength,
        I::SqlMaxCatalogNameLength,
        I::SqlMaxRowSize,
        I::SqlMaxStatements,
        I::SqlMaxUsernameLength,
    ] {
        info.append(unlimited, 0_i64);
    }
    info.append(I::SqlMaxTableNameLength, TABLE_NAME_BYTES_MAX);
    info.append(I::SqlMaxRowSizeIncludesBlobs, false);
    info.append(I::SqlAnsi92SupportedLevel, bits(&[ANSI92_ENTRY_SQL]));
    info.append(I::SqlSupportsConvert, HashMap::<i32, Vec<i32>>::new());
    // Of each kind of result set: rows can be read, not changed in place.
    for concurrency in [
        I::SqlSupportedConcurrenciesForResultSetUnspecified,
        I::SqlSupportedConcurrenciesForResultSetForwardOnly,
        I::SqlSupportedConcurrenciesForResultSetScrollSensitive,
        I::SqlSupportedConcurrenciesForResultSetScrollInsensitive,
    ] {
        let read_only = SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32;
        let forward_only = I::SqlSupportedConcurrenciesForResultSetForwardOnly;
        let choices: &[i32] = if concurrency == forward_only { &[read_only] } else { &[] };
        info.append(concurrency, bits(choices));
    }
    info.append(I::SqlDefaultTransactionIsolation, 0_i64);
    info.append(I::SqlTransactionsSupported, false);
    info.append(I::SqlSupportedTransactionsIsolationLevels, 0_i32);
    info.append(I::SqlDataDefinitionCausesTransactionCommit, false);
    info.append(I::SqlDataDefinitionsInTransactionsIgnored, false);
    info.append(I::SqlSupportedResultSetTypes, bits(&[1]));
    info.append(I::SqlBatchUpdatesSupported, false);
    info.append(I::SqlSavepointsSupported, false);
    info.append(I::SqlNamedParametersSupported, false);
    info.append(I::SqlLocatorsUpdateCopy, false);
    info.append(I::SqlStoredFunctionsUsingCallSyntaxSupported, false);
    info.build().map_err(encoding)
}
