//! Submitting a job, and pausing, resuming and calling it off.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt as _;
use lakebed_core::{
    Error, ErrorKind, ModelRef, RequestContext, Result, RowSetRef, Subject, nearest_names,
};
use lakebed_storage::{At, ChangeKind, ChangesSpec, ScanSpec, Snapshot, Table};

use crate::drive::Begun;
use crate::ids::RowRange;
use crate::models::{self, ModelInfo, ModelInput};
use crate::parts::vector_type;
use crate::registered::RegisteredModel;
use crate::registry::{COMPUTE_COLUMN, Job, JobState, REFRESH_COLUMNS, is_column_job};
use crate::runtime::{ColumnJobs, ColumnSpec, JobTerms};
use crate::scheduler::Event;
use crate::work::{FunctionWork, JOB_ID, ModelWork, SOURCE_VERSION, Work};

/// Rows that a task may have.
const TASK_ROWS_MAX: u32 = RowRange::ROWS_MAX;
/// Bytes of the results of one task.
const TASK_BYTES_MAX: u32 = 64 << 20;

const PRIORITY_MAX: i32 = 100;
const LABELS_MAX: usize = 16;
const LABEL_BYTES_MAX: usize = 256;
const TIMEOUT_S_MAX: u64 = 366 * 24 * 3_600;

/// What a job shall compute.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubmitJob {
    /// The column to read.
    pub input: String,
    /// The column to write; made if it is missing.
    pub output: String,
    /// The model.
    pub model: String,
    /// Only rows for which this SQL expression is true.
    pub filter: Option<String>,
    /// Only rows of this row set, `NAME` or `NAME@VERSION`.
    pub row_set: Option<String>,
    /// Whether rows that have a value get a new one.
    pub recompute: bool,
    /// Rows of a task; as many as a worker does in a few seconds without it.
    pub task_rows: Option<u32>,
    /// Who may run it, and when.
    pub terms: JobTerms,
}

/// Which rows a function runs over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefreshRule {
    /// Only rows for which this SQL expression is true.
    pub filter: Option<String>,
    /// Only rows of this row set, `NAME` or `NAME@VERSION`.
    pub row_set: Option<String>,
    /// Whether rows that have a value get a new one.
    pub recompute: bool,
    /// Rows of a task; as many as a worker does in a few seconds without it.
    pub task_rows: Option<u32>,
    /// Who may run it, and when.
    pub terms: JobTerms,
    /// Whether the server asks by itself: rows that failed before are left alone.
    pub is_automatic: bool,
}

impl ColumnJobs {
    /// Begins a job over the newest version of a table; returns it.
    ///
    /// # Errors
    /// `NotFound` naming a column or model, `InvalidArgument` for columns that do not fit the model,
    /// `AlreadyExists` when another job writes the same column.
    pub async fn submit(
        self: &Arc<Self>,
        ctx: &RequestContext,
        table: &Arc<Table>,
        name: String,
        command: SubmitJob,
    ) -> Result<Job> {
        let (model, registered) = self.model_named(&command.model).await?;
        let task_rows_max = task_rows(command.task_rows, model.dimensions)?;
        check_terms(&command.terms)?;
        let mut snapshot = table.snapshot(None, &At::Latest).await?;
        let schema = snapshot.written_schema();
        check_input(&schema, &command.input, &model)?;
        if command.filter.is_some() {
            let spec = ScanSpec { filter: command.filter.clone(), ..ScanSpec::default() };
            snapshot.scan_schema(&spec).await?;
        }
        let row_set = fixed(&snapshot, command.row_set.as_deref()).await?;
        let _submitting = self.submitting.lock().await;
        self.check_alone(table.uid(), &command.output)?;
        match schema.field_with_name(&command.output) {
            Ok(field) => check_output(field, &model, registered.as_ref(), command.recompute)?,
            Err(_) => {
                let table = self.lake.insist(table).await?;
                let field = output_field(&command, &model, registered.as_ref());
                table.add_null_columns(None, Arc::new(Schema::new(vec![field]))).await?;
                // The newest again: it has the column.
                snapshot = table.snapshot(None, &At::Latest).await?;
            }
        }
        let spec = ColumnSpec {
            table_uid: table.uid().to_owned(),
            work: Work::Model(ModelWork {
                input: command.input,
                output: command.output,
                model: model.name,
                dimensions: model.dimensions,
                registered,
            }),
            filter: command.filter,
            row_set,
            recompute: command.recompute,
            task_rows: command.task_rows,
            task_rows_max,
            terms: command.terms,
            source_version: snapshot.version(),
            stale_since: None,
            is_automatic: false,
        };
        self.start(ctx, COMPUTE_COLUMN, (name, Arc::clone(table), snapshot), &spec).await
    }

    /// The model that a text names: built in or offered by a worker, else registered, which may say a version
    /// behind an `@`.
    async fn model_named(&self, text: &str) -> Result<(ModelInfo, Option<RegisteredModel>)> {
        let offered = self.models();
        if let Some(model) = offered.iter().find(|model| model.name == text) {
            return Ok((model.clone(), None));
        }
        match self.registered(text).await {
            Ok((registered, model)) => Ok((model, Some(registered))),
            Err(_) if self.is_unknown(text).await? => {
                let known = self.lake.list_models().await?;
                let known: Vec<String> = known.into_iter().map(|model| model.name).collect();
                Err(models::unknown(&offered, &known, text))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a text names no registered model, whatever version it says.
    async fn is_unknown(&self, text: &str) -> Result<bool> {
        let Ok(wanted) = ModelRef::parse(text) else { return Ok(true) };
        match self.lake.model(wanted.name.as_str()).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Begins a job that runs a function over rows of a table; returns it, or one under way that does all
    /// that this one would. It waits for a job that writes the same columns, and covers what came meanwhile.
    ///
    /// # Errors
    /// `NotFound` naming a column that is gone, `AlreadyExists` when a model writes one of the columns.
    pub async fn refresh(
        self: &Arc<Self>,
        ctx: &RequestContext,
        table: &Arc<Table>,
        name: String,
        work: FunctionWork,
        rule: RefreshRule,
    ) -> Result<Job> {
        let snapshot = table.snapshot(None, &At::Latest).await?;
        let schema = snapshot.written_schema();
        let work = Work::Function(work);
        for column in work.input_names() {
            schema.field_with_name(&column).map_err(|_| unknown(&schema, &column))?;
        }
        work.results(&schema)?;
        check_terms(&rule.terms)?;
        if rule.filter.is_some() {
            let spec = ScanSpec { filter: rule.filter.clone(), ..ScanSpec::default() };
            snapshot.scan_schema(&spec).await?;
        }
        let row_set = fixed(&snapshot, rule.row_set.as_deref()).await?;
        let (stale_since, is_automatic) = since(&schema, &work, rule.is_automatic);
        let spec = ColumnSpec {
            table_uid: table.uid().to_owned(),
            work,
            filter: rule.filter,
            row_set,
            recompute: rule.recompute,
            task_rows: rule.task_rows,
            task_rows_max: task_rows(rule.task_rows, 1)?,
            terms: rule.terms,
            source_version: snapshot.version(),
            stale_since,
            is_automatic,
        };
        let _submitting = self.submitting.lock().await;
        if let Some(running) = self.job_that_covers(table, &snapshot, &spec).await? {
            return Ok(running);
        }
        for (job, other) in self.unfinished() {
            if matches!(other.work, Work::Model(_)) && other.writes_what(&spec) {
                return Err(is_written(&job, &spec));
            }
        }
        self.start(ctx, REFRESH_COLUMNS, (name, Arc::clone(table), snapshot), &spec).await
    }

    /// What a job that waited for another one is to compute: all that is there by now.
    pub(crate) async fn renewed(&self, table: &Arc<Table>, spec: ColumnSpec) -> Result<ColumnSpec> {
        let snapshot = table.snapshot(None, &At::Latest).await?;
        let (stale_since, is_automatic) =
            since(&snapshot.written_schema(), &spec.work, spec.is_automatic);
        Ok(ColumnSpec { source_version: snapshot.version(), stale_since, is_automatic, ..spec })
    }

    /// The job that writes a column of the given one and was asked for before it.
    pub(crate) fn before(&self, job_id: &str) -> Option<String> {
        let unfinished = self.unfinished();
        let (_, spec) = unfinished.iter().find(|(job, _)| job.job_id == job_id)?;
        // Ids are ordered by time.
        let earlier = unfinished.iter().filter(|(job, _)| job.job_id.as_str() < job_id);
        let found =
            earlier.map(|(job, other)| (job, other)).find(|(_, other)| other.writes_what(spec));
        found.map(|(job, _)| job.job_id.clone())
    }

    /// Whether a job that is not over writes a column of a table.
    pub fn is_filled(&self, table_uid: &str, column: &str) -> bool {
        self.unfinished().iter().any(|(_, spec)| {
            spec.table_uid == table_uid && spec.work.output_names().iter().any(|it| it == column)
        })
    }

    /// The jobs that are not over, with what they do.
    fn unfinished(&self) -> Vec<(Job, ColumnSpec)> {
        let spec = |job: Job| Some((serde_json::from_value(job.spec.clone()).ok()?, job));
        let found = self.records.unfinished().into_iter().filter_map(|(job, _)| spec(job));
        found.map(|(spec, job)| (job, spec)).collect()
    }

    /// Begins a job over a version of a table. Its tasks may be given away before its record is durable,
    /// which it is when this returns; until then nothing of it is written.
    async fn start(
        self: &Arc<Self>,
        ctx: &RequestContext,
        job_type: &str,
        (name, table, snapshot): (String, Arc<Table>, Snapshot),
        spec: &ColumnSpec,
    ) -> Result<Job> {
        let job = Job {
            job_id: uuid::Uuid::now_v7().to_string(),
            job_type: job_type.to_owned(),
            database: ctx.database.to_string(),
            table: name,
            state: JobState::InProgress,
            created_at_ms: self.clock.now_ms(),
            ended_at_ms: None,
            spec: serde_json::to_value(spec)
                .map_err(|error| Error::internal("write a job's spec").with_source(error))?,
            result: None,
            failure: None,
            server: None,
        };
        let term = self.term()?;
        let (cancel, is_stored) = self.records.note(job.clone());
        let begun = Begun { table, snapshot, is_stored };
        self.take_up(job.clone(), cancel, term, Some(begun));
        let (records, job_id) = (Arc::clone(&self.records), job.job_id.clone());
        // To its end, also when the caller goes away.
        let stored = tokio::spawn(async move { records.store_noted(&job_id).await });
        let broken = |error| Error::internal("a submission broke off").with_source(error);
        stored.await.map_err(broken)??;
        Ok(job)
    }

    /// A job that computes all that another one would: who asks again, such as a client whose answer was
    /// lost, gets that.
    async fn job_that_covers(
        &self,
        table: &Arc<Table>,
        snapshot: &Snapshot,
        spec: &ColumnSpec,
    ) -> Result<Option<Job>> {
        for (job, other) in self.unfinished() {
            if !other.does_what(spec) {
                continue;
            }
            // One that waits sees what there is when it begins.
            let is_ahead = self.before(&job.job_id).is_some();
            let (inputs, source) = (spec.work.input_names(), other.source_version);
            if is_ahead || !has_new_inputs(table, snapshot, &inputs, source).await? {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }

    fn check_alone(&self, table_uid: &str, output: &str) -> Result<()> {
        for (job, spec) in self.unfinished() {
            if spec.table_uid == table_uid && spec.work.output_names().iter().any(|it| it == output)
            {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("job {} writes column `{output}`", job.job_id),
                ));
            }
        }
        Ok(())
    }

    /// Gives out no more tasks of a job, or goes on with it.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, `InvalidArgument` when it has ended or is none that can be
    /// paused.
    pub async fn set_paused(
        &self,
        ctx: &RequestContext,
        job_id: &str,
        is_paused: bool,
    ) -> Result<()> {
        let (job, _) = self.records.get(ctx, job_id)?;
        if !is_column_job(&job) {
            return Err(Error::invalid(format!("a job of type {} cannot be paused", job.job_type)));
        }
        if job.state.is_ended() {
            return Err(Error::invalid("the job has ended"));
        }
        let state = match is_paused {
            true => JobState::Paused,
            false => JobState::InProgress,
        };
        // One that ends at the same moment stays ended.
        self.records
            .change(job_id, |job| {
                if !job.state.is_ended() {
                    job.state = state;
                }
            })
            .await?;
        let id = crate::ids::JobId::new(job_id);
        self.step(match is_paused {
            true => Event::Pause(id),
            false => Event::Resume(id),
        });
        self.wake();
        Ok(())
    }
}

/// The version that the values of a column are of; nothing for one that was never filled.
pub fn last_refreshed(field: &Field) -> Option<u64> {
    field.metadata().get(JOB_ID)?;
    field.metadata().get(SOURCE_VERSION)?.parse().ok()
}

/// From when on changed inputs make the values of columns stale, and whether a job that nobody asked for may
/// leave it at these: the first has to fill what there is.
fn since(schema: &Schema, work: &Work, is_automatic: bool) -> (Option<u64>, bool) {
    let columns = work.output_names();
    let fields: Vec<&Field> =
        columns.iter().filter_map(|column| schema.field_with_name(column).ok()).collect();
    let version = |field: &&Field| field.metadata().get(SOURCE_VERSION)?.parse::<u64>().ok();
    let versions: Option<Vec<u64>> = fields.iter().map(version).collect();
    let is_filled = fields.iter().all(|field| last_refreshed(field).is_some());
    (versions.and_then(|versions| versions.into_iter().min()), is_automatic && is_filled)
}

/// Whether rows came, or values of columns changed, between a version and a snapshot.
///
/// # Errors
/// Those of reading; where the version is gone the answer is yes.
pub async fn has_new_inputs(
    table: &Arc<Table>,
    snapshot: &Snapshot,
    inputs: &[String],
    since: u64,
) -> Result<bool> {
    let changes = ChangesSpec {
        columns: Some(inputs.to_vec()),
        kinds: Some(vec![ChangeKind::Insert, ChangeKind::Update]),
        ..ChangesSpec::default()
    };
    let found: Result<bool> = async {
        let begin = table.snapshot(None, &At::Version(since)).await?;
        let (_, mut batches) = snapshot.changes(Some(&begin), &changes).await?;
        while let Some(batch) = batches.try_next().await? {
            if batch.num_rows() > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
    .await;
    match found {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidArgument) => {
            Ok(true)
        }
        found => found,
    }
}

fn is_written(job: &Job, spec: &ColumnSpec) -> Error {
    let columns = spec.work.output_names().join(", ");
    let message = format!("job {} writes one of the columns {columns}", job.job_id);
    Error::new(ErrorKind::AlreadyExists, message)
}

/// Rows that a task may have whose results are vectors.
fn task_rows(asked: Option<u32>, dimensions: u32) -> Result<u32> {
    let fitting = (TASK_BYTES_MAX / (dimensions * 4)).clamp(1, TASK_ROWS_MAX);
    match asked {
        None => Ok(fitting),
        Some(rows) if (1..=fitting).contains(&rows) => Ok(rows),
        Some(rows) => Err(Error::invalid(format!(
            "`task_rows` is {rows}; 1 to {fitting} are allowed for {dimensions} dimensions"
        ))),
    }
}

fn check_terms(terms: &JobTerms) -> Result<()> {
    let JobTerms { priority, max_workers, labels, resources: _, timeout_s } = terms;
    if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(priority) {
        return Err(Error::invalid(format!(
            "`priority` is {priority}; -{PRIORITY_MAX} to {PRIORITY_MAX} are allowed"
        )));
    }
    if *max_workers == Some(0) {
        return Err(Error::invalid("`max_workers` is 0; pause the job instead"));
    }
    let is_long = |text: &String| text.is_empty() || text.len() > LABEL_BYTES_MAX;
    if labels.len() > LABELS_MAX
        || labels.iter().any(|(name, value)| is_long(name) || is_long(value))
    {
        return Err(Error::invalid(format!(
            "`labels` are at most {LABELS_MAX}, each name and value of 1 to {LABEL_BYTES_MAX} bytes"
        )));
    }
    match timeout_s {
        None | Some(1..=TIMEOUT_S_MAX) => Ok(()),
        Some(seconds) => Err(Error::invalid(format!(
            "`timeout_s` is {seconds}; 1 to {TIMEOUT_S_MAX} are allowed"
        ))),
    }
}

fn unknown(schema: &Schema, column: &str) -> Error {
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let near = nearest_names(column, names);
    Error::not_found(format!("column `{column}` does not exist{near}")).about(Subject::Column)
}

fn check_input(schema: &Schema, column: &str, model: &ModelInfo) -> Result<()> {
    let field = schema.field_with_name(column).map_err(|_| unknown(schema, column))?;
    let fits = match model.input {
        ModelInput::Text => matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8),
        ModelInput::Picture => {
            matches!(field.data_type(), DataType::Binary | DataType::LargeBinary)
        }
    };
    let wanted = match model.input {
        ModelInput::Text => "text",
        ModelInput::Picture => "bytes of pictures",
    };
    match fits {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "model {} reads {wanted}; column `{column}` has type {}",
            model.name,
            field.data_type()
        ))),
    }
}

fn check_output(
    field: &Field,
    model: &ModelInfo,
    registered: Option<&RegisteredModel>,
    recompute: bool,
) -> Result<()> {
    if field.data_type() != &vector_type(model.dimensions) {
        return Err(Error::invalid(format!(
            "column `{}` has type {}; model {} gives {} numbers of float32",
            field.name(),
            field.data_type(),
            model.name,
            model.dimensions
        )));
    }
    if !field.is_nullable() {
        return Err(Error::invalid(format!("column `{}` does not allow null", field.name())));
    }
    match field.metadata().get("lakebed:model") {
        Some(known) if *known != model.name && !recompute => Err(Error::invalid(format!(
            "column `{}` holds vectors of model {known}; with `recompute` they are replaced",
            field.name()
        ))),
        _ => match (field.metadata().get("lakebed:model_digest"), registered) {
            // Vectors of two versions are not to be compared.
            (Some(known), Some(registered)) if *known != registered.digest && !recompute => {
                Err(Error::invalid(format!(
                    "column `{}` holds vectors of another version of model {}, {known}; with `recompute` they \
                     are replaced",
                    field.name(),
                    model.name
                )))
            }
            _ => Ok(()),
        },
    }
}

fn output_field(
    command: &SubmitJob,
    model: &ModelInfo,
    registered: Option<&RegisteredModel>,
) -> Field {
    let mut metadata: HashMap<String, String> = [
        ("lakebed:model", model.name.clone()),
        ("lakebed:dimensions", model.dimensions.to_string()),
        ("lakebed:source_column", command.input.clone()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if let Some(registered) = registered {
        // From the first row on: a job that is called off leaves vectors of this version.
        metadata.insert("lakebed:model_digest".to_owned(), registered.digest.clone());
        metadata.insert("lakebed:model_version".to_owned(), registered.version.to_string());
    }
    Field::new(&command.output, vector_type(model.dimensions), true).with_metadata(metadata)
}

/// A row set with its version, which the job keeps to.
async fn fixed(snapshot: &Snapshot, row_set: Option<&str>) -> Result<Option<String>> {
    let Some(text) = row_set else { return Ok(None) };
    let mut wanted = RowSetRef::parse(text)?;
    let (set, _) = snapshot.row_set(&wanted).await?;
    wanted.version = Some(set.version);
    Ok(Some(wanted.to_string()))
}
