//! Search: by vector, by text, by both, or a plain read with filter and order, over one pinned version.
//!
//! Flight, SQL and HTTP ask through one [`SearchRequest`], so they cannot disagree.

use arrow_schema::SchemaRef;
use base64::Engine as _;
use futures::StreamExt;
use lakebed_core::{
    Error, QueryVectors, RequestContext, Result, Role, SearchReport, StageClock, Subject,
};
use lakebed_index::Search;
use lakebed_jobs::QueryInput;
use lakebed_proto::command::ReadCommand;
use lakebed_proto::search::{Embed, SearchRequest};
use lakebed_storage::Snapshot;

use crate::authenticate::require;
use crate::read::READ_BYTES;
use crate::row_sets::fix_row_set;
use crate::{BatchStream, Service};

/// An answered search.
pub struct Found {
    /// The schema of the batches.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: BatchStream,
    /// Which version and index answered.
    pub report: SearchReport,
}

/// A search that is ready to be opened.
struct Prepared {
    snapshot: Snapshot,
    search: Search,
    report: SearchReport,
    /// What is searched by, also where the request brought a text or a picture.
    vector: Option<QueryVectors>,
    /// The version of the row set that is searched.
    row_set: Option<String>,
    clock: StageClock,
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
        // The ticket does not have the text that is searched by.
        let request = request.with_rerank_query();
        let Prepared { snapshot, search, mut report, vector, row_set, mut clock } =
            self.prepare_search(ctx, &request, StageClock::start()).await?;
        let schema = search.schema(&snapshot).await?;
        clock.end("start");
        report.stages = clock.stages();
        let expires_at_ms = self.clock.now_ms().saturating_add(self.limits.ticket_ttl_ms);
        snapshot.lease(expires_at_ms);
        let request = SearchRequest {
            version: Some(snapshot.version()),
            branch: snapshot.branch().map(str::to_owned),
            tag: None,
            as_of: None,
            // Made once, so that the ticket finds the same rows.
            vector,
            embed: None,
            row_set,
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
        let mut clock = StageClock::start();
        let running = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(READ_BYTES).await?;
        clock.end("admit");
        let Prepared { snapshot, search, mut report, mut clock, .. } =
            self.prepare_search(ctx, request, clock).await?;
        let (schema, batches) = search.open(&snapshot).await?;
        clock.end("start");
        report.stages = clock.stages();
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
        let Prepared { snapshot, search, .. } =
            self.prepare_search(ctx, request, StageClock::start()).await?;
        Ok((search.explain(&snapshot, verbose).await?, snapshot.version()))
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
        let Prepared { snapshot, search, .. } =
            self.prepare_search(ctx, request, StageClock::start()).await?;
        Ok((search.analyze(&snapshot).await?, snapshot.version()))
    }

    /// The version that a search names.
    pub(crate) async fn searched(
        &self,
        ctx: &RequestContext,
        request: &SearchRequest,
    ) -> Result<Snapshot> {
        let at = ReadCommand {
            table: request.table.clone(),
            version: request.version,
            tag: request.tag.clone(),
            as_of: request.as_of,
            branch: request.branch.clone(),
            ..ReadCommand::default()
        };
        self.snapshot(ctx, &at).await
    }

    async fn prepare_search(
        &self,
        ctx: &RequestContext,
        request: &SearchRequest,
        mut clock: StageClock,
    ) -> Result<Prepared> {
        let snapshot = self.searched(ctx, request).await?;
        clock.end("open");
        // Before the text that is searched by becomes a vector.
        let rerank = match request.rerank {
            Some(_) => request.clone().with_rerank_query().rerank,
            None => None,
        };
        let embedded = match &request.embed {
            None => None,
            Some(embed) => Some(self.embedded(&snapshot, request, embed).await?),
        };
        if embedded.is_some() {
            clock.end("embed");
        }
        let mut request = embedded.as_ref().unwrap_or(request).clone();
        fix_row_set(&snapshot, &mut request.row_set).await?;
        let search = lakebed_index::search_of(&snapshot, &request, &self.limits).await?;
        let (mut search, report) = search.fitted(&snapshot, Some(&self.residents)).await?;
        if let Some(rerank) = &rerank {
            let scorer = lakebed_sql::scorer(self.sql.callees(), &ctx.database, rerank).await?;
            search = search.with_scorer(scorer);
        }
        clock.end("plan");
        let SearchRequest { vector, row_set, .. } = request;
        Ok(Prepared { snapshot, search, report, vector, row_set, clock })
    }

    /// The request with the vector of its text or picture, by the model that made the column.
    pub(crate) async fn embedded(
        &self,
        snapshot: &Snapshot,
        request: &SearchRequest,
        embed: &Embed,
    ) -> Result<SearchRequest> {
        if request.vector.as_ref().is_some_and(|vectors| !vectors.is_empty()) {
            return Err(Error::invalid("`vector` and `embed` cannot both be given"));
        }
        let column =
            lakebed_index::vector_column(snapshot, request.vector_column.as_deref(), None)?;
        let (model, digest) = model_of(snapshot, &column)?;
        let input = match embed {
            Embed::Text(text) => QueryInput::Text(text.clone()),
            Embed::Picture(base64) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(base64);
                let bytes = bytes.map_err(|error| {
                    Error::invalid(format!("`embed.picture` is not base64: {error}"))
                })?;
                QueryInput::Picture(bytes.into())
            }
        };
        let vector = self.embed(&model, digest.as_deref(), input).await?;
        Ok(SearchRequest {
            vector: Some(QueryVectors::One(vector)),
            embed: None,
            vector_column: Some(column),
            ..request.clone()
        })
    }
}

/// The model that made a column, and its digest where the column says it.
///
/// # Errors
/// `NotFound` without the column, `InvalidArgument` where it does not say.
pub(crate) fn model_of(snapshot: &Snapshot, column: &str) -> Result<(String, Option<String>)> {
    let schema = snapshot.schema();
    let field = schema.field_with_name(column).map_err(|_| {
        Error::not_found(format!("column `{column}` does not exist")).about(Subject::Column)
    })?;
    let model = field.metadata().get("lakebed:model").ok_or_else(|| {
        Error::invalid(format!(
            "column `{column}` does not say which model made it: only columns that a job computed can \
             be searched by text or picture"
        ))
    })?;
    Ok((model.clone(), field.metadata().get("lakebed:model_digest").cloned()))
}
