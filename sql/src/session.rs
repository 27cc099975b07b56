//! The DataFusion session of one statement: its settings, its memory and its disk.

use std::sync::Arc;

use datafusion::catalog::CatalogProviderList;
use datafusion::execution::FunctionRegistry as _;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use lakebed_core::{Limits, Result};
use lakebed_storage::{count_rule, scalar_functions};

use crate::calls::{CallPlanner, Callees, LiftCalls};
use crate::error::from_datafusion;
use crate::functions::functions_of;
use crate::memory::{AllMemory, StatementMemory};
use crate::names::Scope;
use crate::spill::Spill;
use crate::types::Types;

/// Rows of a batch that operators make; with blobs in them far fewer.
const BATCH_ROWS: usize = 8_192;
const BLOB_BATCH_ROWS: usize = 16;
/// What a sort keeps aside for merging what it spilled, unless the limit is small.
const SORT_RESERVE_BYTES_MAX: usize = 10 << 20;

/// What sessions share.
pub(crate) struct Sessions {
    pub(crate) all_memory: Arc<AllMemory>,
    pub(crate) spill: Spill,
    pub(crate) partitions: usize,
    pub(crate) callees: Arc<dyn Callees>,
}

impl Sessions {
    /// The session of one statement in `scope` over `catalog`.
    ///
    /// # Errors
    /// Those of making the statement's folder.
    pub(crate) fn session(
        &self,
        scope: &Scope,
        catalog: Arc<dyn CatalogProviderList>,
        limits: &Limits,
        has_blobs: bool,
    ) -> Result<SessionState> {
        let memory_bytes_max = limits.sql_query_memory_bytes_max;
        let memory: Arc<dyn MemoryPool> =
            Arc::new(StatementMemory::new(memory_bytes_max, Arc::clone(&self.all_memory)));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(memory)
            .with_disk_manager_builder(self.spill.disk())
            .build_arc()
            .map_err(from_datafusion)?;
        let mut config = SessionConfig::new()
            .with_target_partitions(self.partitions)
            .with_batch_size(if has_blobs { BLOB_BATCH_ROWS } else { BATCH_ROWS })
            .with_default_catalog_and_schema(scope.database(), scope.schema())
            .with_create_default_catalog_and_schema(false)
            // The catalogue has one of its own.
            .with_information_schema(false)
            .with_sort_spill_reservation_bytes(SORT_RESERVE_BYTES_MAX.min(memory_bytes_max / 16));
        let parser = &mut config.options_mut().sql_parser;
        // Names are taken as they are stored; the engine lowers those of functions by itself.
        parser.enable_ident_normalization = false;
        parser.map_string_types_to_utf8view = false;
        parser.collect_spans = true;
        let mut state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_catalog_list(catalog)
            .with_type_planner(Arc::new(Types))
            .with_scalar_functions(scalar_functions())
            .with_physical_optimizer_rule(count_rule())
            .with_query_planner(Arc::new(CallPlanner::new(Arc::clone(&self.callees))))
            // After the types of arguments are known.
            .with_analyzer_rule(Arc::new(LiftCalls::default()))
            .build();
        for function in functions_of(scope) {
            state.register_udf(function).map_err(from_datafusion)?;
        }
        // The moment that `now()` and its like stand for in this statement; they fail without one.
        state.mark_start_execution();
        Ok(state)
    }
}
