//! Search: by vector, by text, or a plain read with filter and order, over one pinned version.
//!
//! Flight, SQL and HTTP ask through one [`SearchRequest`], so they cannot disagree.

use arrow_schema::SchemaRef;
use futures::StreamExt;
use lakebed_core::{Error, QueryVectors, RequestContext, Result, Role, SearchReport};
use lakebed_index::SearchAnswer;
use lakebed_proto::command::{Columns, ReadCommand};
use lakebed_proto::search::{K_DEFAULT, SearchRequest};
use lakebed_storage::{Projection, Ranking, SearchSpec, Snapshot, TextQuery, VectorQuery};

use crate::authenticate::require;
use crate::read::READ_BYTES;
use crate::{BatchStream, Service};

/// From here on `k` means all rows: the SDKs send the largest signed number.
const ALL_ROWS: u64 = i64::MAX as u64;

/// An answered search.
pub struct Found {
    /// The schema of the batches.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: BatchStream,
    /// Which version and index answered.
    pub report: SearchReport,
}

/// A planned search.
pub struct SearchPlan {
    /// The schema of the rows.
    pub schema: SchemaRef,
    /// Which version and index will answer.
    pub report: SearchReport,
    /// The same search with its version fixed.
    pub request: SearchRequest,
    /// Until when that version is kept for it.
    pub expires_at_ms: i64,
}

impl Service {
    /// Plans a search: fixes the version and keeps it for as long as a ticket lives.
    ///
    /// # Errors
    /// As [`Service::search`].
    pub async fn plan_search(
        &self,
        ctx: &RequestContext,
        request: SearchRequest,
    ) -> Result<SearchPlan> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let (snapshot, spec) = self.prepare_search(ctx, &request).await?;
        let schema = snapshot.search_schema(&spec).await?;
        let report = lakebed_index::report(&snapshot, &spec).await?;
        let expires_at_ms = self.clock.now_ms().saturating_add(self.limits.ticket_ttl_ms);
        snapshot.lease(expires_at_ms);
        let request = SearchRequest {
            version: Some(snapshot.version()),
            branch: snapshot.branch().map(str::to_owned),
            tag: None,
            as_of: None,
            ..request
        };
        Ok(SearchPlan { schema, report, request, expires_at_ms })
    }

    /// Searches one version of a table.
    ///
    /// # Errors
    /// `NotFound` naming table, version, tag, branch or column; `InvalidArgument` for vectors that do
    /// not fit, expressions that do not parse or fields that contradict each other.
    pub async fn search(&self, ctx: &RequestContext, request: &SearchRequest) -> Result<Found> {
        require(ctx, Role::Read)?;
        let guard = self.gate.enter()?;
        let running = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(READ_BYTES).await?;
        let (snapshot, spec) = self.prepare_search(ctx, request).await?;
        let SearchAnswer { schema, batches, report } =
            lakebed_index::search(&snapshot, &spec).await?;
        let held = (guard, running, memory);
        let batches = batches.inspect(move |_| {
            // Gate and admission are held for as long as the stream lives.
            let _ = &held;
        });
        Ok(Found { schema, batches: batches.boxed(), report })
    }

    /// How a search would be run, and the version it would run on.
    ///
    /// # Errors
    /// As [`Service::search`].
    pub async fn explain_search(
        &self,
        ctx: &RequestContext,
        request: &SearchRequest,
        verbose: bool,
    ) -> Result<(String, u64)> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let (snapshot, spec) = self.prepare_search(ctx, request).await?;
        Ok((snapshot.explain_search(&spec, verbose).await?, snapshot.version()))
    }

    /// Runs a search and says what each of its steps did, and the version it ran on.
    ///
    /// # Errors
    /// As [`Service::search`].
    pub async fn analyze_search(
        &self,
        ctx: &RequestContext,
        request: &SearchRequest,
    ) -> Result<(String, u64)> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let _running = self.admission.admit_request().await?;
        let _memory = self.admission.read_bytes(READ_BYTES).await?;
        let (snapshot, spec) = self.prepare_search(ctx, request).await?;
        Ok((snapshot.analyze_search(&spec).await?, snapshot.version()))
    }

    async fn prepare_search(
        &self,
        ctx: &RequestContext,
        request: &SearchRequest,
    ) -> Result<(Snapshot, SearchSpec)> {
        self.check_search(request)?;
        let at = ReadCommand {
            table: request.table.clone(),
            version: request.version,
            tag: request.tag.clone(),
            as_of: request.as_of,
            branch: request.branch.clone(),
            ..ReadCommand::default()
        };
        let snapshot = self.snapshot(ctx, &at).await?;
        let ranking = ranking(&snapshot, request)?;
        let is_ranked = !matches!(ranking, Ranking::None);
        let spec = SearchSpec {
            limit: match request.k {
                None if is_ranked => Some(K_DEFAULT),
                // The SDKs' words for "all rows".
                Some(0 | ALL_ROWS..) if !is_ranked => None,
                k => k,
            },
            ranking,
            offset: request.offset.unwrap_or(0),
            projection: match &request.columns {
                None => Projection::All,
                Some(Columns::Names(names)) if names.is_empty() => Projection::All,
                Some(Columns::Names(names)) => Projection::Names(names.clone()),
                Some(Columns::Expressions(pairs)) => Projection::Expressions(pairs.clone()),
            },
            filter: request.filter.clone().filter(|filter| !filter.trim().is_empty()),
            prefilter: request.prefilter.unwrap_or(true),
            with_row_id: request.with_row_id.unwrap_or(false),
            fast_search: request.fast_search.unwrap_or(false),
            order_by: request.order_by.clone().unwrap_or_default(),
        };
        Ok((snapshot, spec))
    }

    fn check_search(&self, request: &SearchRequest) -> Result<()> {
        let sql_bytes_max = self.limits.sql_bytes_max;
        let in_columns = match &request.columns {
            Some(Columns::Expressions(pairs)) => pairs.iter().map(|(_, sql)| sql.len()).sum(),
            _ => 0,
        };
        let in_filter = request.filter.as_ref().map_or(0, String::len);
        if in_columns.max(in_filter) > sql_bytes_max {
            return Err(Error::invalid(format!(
                "the filter or the expressions have more than sql_bytes_max = {sql_bytes_max} bytes"
            )));
        }
        Ok(())
    }
}

/// What ranks the rows of a request.
fn ranking(snapshot: &Snapshot, request: &SearchRequest) -> Result<Ranking> {
    let vectors = request.vector.as_ref().filter(|vectors| !vectors.is_empty());
    match (vectors, &request.full_text_query) {
        (Some(_), Some(_)) => Err(Error::invalid(
            "`vector` and `full_text_query` are two searches: send them one by one and join the \
             answers, as the SDKs' hybrid search does",
        )),
        (Some(vectors), None) => by_vector(snapshot, request, vectors),
        (None, Some(text)) => {
            no_vector_fields(request)?;
            Ok(Ranking::Text(TextQuery {
                query: text.query.clone(),
                columns: text.columns.clone(),
            }))
        }
        (None, None) => {
            no_vector_fields(request)?;
            Ok(Ranking::None)
        }
    }
}

fn by_vector(
    snapshot: &Snapshot,
    request: &SearchRequest,
    vectors: &QueryVectors,
) -> Result<Ranking> {
    let column = match &request.vector_column {
        Some(column) => column.clone(),
        None => only_vector_column(snapshot)?,
    };
    Ok(Ranking::Vector(Box::new(VectorQuery {
        column,
        vectors: vectors.clone(),
        distance: request.distance_type,
        nprobes: request.nprobes,
        minimum_nprobes: request.minimum_nprobes,
        maximum_nprobes: request.maximum_nprobes,
        search_effort: request.search_effort,
        approx_mode: request.approx_mode,
        ef: request.ef,
        refine_factor: request.refine_factor,
        lower_bound: request.lower_bound,
        upper_bound: request.upper_bound,
        use_index: !request.bypass_vector_index.unwrap_or(false),
    })))
}

fn only_vector_column(snapshot: &Snapshot) -> Result<String> {
    let mut columns = snapshot.vector_columns();
    match columns.len() {
        1 => Ok(columns.remove(0)),
        0 => Err(Error::invalid("the table has no column of vectors")),
        _ => Err(Error::invalid(format!(
            "`vector_column` is missing: the table has several, `{}`",
            columns.join("`, `")
        ))),
    }
}

/// Refuses fields of a search by vector where there is no vector. Those that the SDKs always send are
/// let through.
fn no_vector_fields(request: &SearchRequest) -> Result<()> {
    let given = [
        ("refine_factor", request.refine_factor.is_some()),
        ("ef", request.ef.is_some()),
        ("lower_bound", request.lower_bound.is_some()),
        ("upper_bound", request.upper_bound.is_some()),
        ("search_effort", request.search_effort.is_some()),
        ("approx_mode", request.approx_mode.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => {
            Err(Error::invalid(format!("`{name}` is for a search by vector, and there is none")))
        }
        None => Ok(()),
    }
}
