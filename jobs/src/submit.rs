//! Submitting a job, and pausing, resuming and calling it off.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Subject, nearest_names};
use lakebed_storage::{At, ScanSpec, Table};

use crate::models::{ModelInfo, ModelInput, named};
use crate::parts::vector_type;
use crate::registry::{COMPUTE_COLUMN, Job, JobState, REFRESH_COLUMNS, is_column_job};
use crate::runtime::{ColumnJobs, ColumnSpec};
use crate::scheduler::Event;
use crate::work::{FunctionWork, ModelWork, SOURCE_VERSION, Work};

/// Rows of a task unless the job says otherwise: a few seconds of a small model on a processor.
const TASK_ROWS: u32 = 256;
const TASK_ROWS_MAX: u32 = 65_536;
/// Bytes of the results of one task.
const TASK_BYTES_MAX: u32 = 64 << 20;

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
    /// Whether rows that have a value get a new one.
    pub recompute: bool,
    /// Rows of a task.
    pub task_rows: Option<u32>,
}

/// Which rows a function runs over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefreshRule {
    /// Only rows for which this SQL expression is true.
    pub filter: Option<String>,
    /// Whether rows that have a value get a new one.
    pub recompute: bool,
    /// Rows of a task.
    pub task_rows: Option<u32>,
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
        let model = named(&self.models(), &command.model)?;
        let task_rows = task_rows(command.task_rows, model.dimensions)?;
        let snapshot = table.snapshot(None, &At::Latest).await?;
        let schema = snapshot.written_schema();
        check_input(&schema, &command.input, &model)?;
        if command.filter.is_some() {
            let spec = ScanSpec { filter: command.filter.clone(), ..ScanSpec::default() };
            snapshot.scan_schema(&spec).await?;
        }
        let _submitting = self.submitting.lock().await;
        self.check_alone(table.uid(), &command.output)?;
        match schema.field_with_name(&command.output) {
            Ok(field) => check_output(field, &model, command.recompute)?,
            Err(_) => {
                let table = self.lake.insist(table).await?;
                let field = output_field(&command, &model);
                table.add_null_columns(None, Arc::new(Schema::new(vec![field]))).await?;
            }
        }
        // The newest again: it has the column.
        let snapshot = table.snapshot(None, &At::Latest).await?;
        let spec = ColumnSpec {
            table_uid: table.uid().to_owned(),
            work: Work::Model(ModelWork {
                input: command.input,
                output: command.output,
                model: model.name,
                dimensions: model.dimensions,
            }),
            filter: command.filter,
            recompute: command.recompute,
            task_rows,
            source_version: snapshot.version(),
            stale_since: None,
        };
        self.start(ctx, COMPUTE_COLUMN, name, &spec).await
    }

    /// Begins a job that runs a function over rows of a table; returns it, or the one that does that
    /// already.
    ///
    /// # Errors
    /// `NotFound` naming a column that is gone, `AlreadyExists` when another job writes one of the columns.
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
        let stale_since = last_refreshed(&schema, &work);
        if rule.filter.is_some() {
            let spec = ScanSpec { filter: rule.filter.clone(), ..ScanSpec::default() };
            snapshot.scan_schema(&spec).await?;
        }
        let _submitting = self.submitting.lock().await;
        if let Some(running) = self.running_for(table.uid(), &work) {
            return Ok(running);
        }
        for column in work.output_names() {
            self.check_alone(table.uid(), &column)?;
        }
        let spec = ColumnSpec {
            table_uid: table.uid().to_owned(),
            work,
            filter: rule.filter,
            recompute: rule.recompute,
            task_rows: task_rows(rule.task_rows, 1)?,
            source_version: snapshot.version(),
            stale_since,
        };
        self.start(ctx, REFRESH_COLUMNS, name, &spec).await
    }

    async fn start(
        self: &Arc<Self>,
        ctx: &RequestContext,
        job_type: &str,
        table: String,
        spec: &ColumnSpec,
    ) -> Result<Job> {
        let job = Job {
            job_id: uuid::Uuid::now_v7().to_string(),
            job_type: job_type.to_owned(),
            database: ctx.database.to_string(),
            table,
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
        let cancel = self.records.add(job.clone()).await?;
        self.take_up(job.clone(), cancel, term);
        Ok(job)
    }

    /// A job that does the same work: who asks again, such as a client whose answer was lost, gets that.
    fn running_for(&self, table_uid: &str, work: &Work) -> Option<Job> {
        let is_same = |job: &Job| {
            let spec = serde_json::from_value::<ColumnSpec>(job.spec.clone());
            spec.is_ok_and(|spec| spec.table_uid == table_uid && spec.work == *work)
        };
        self.records.unfinished().into_iter().map(|(job, _)| job).find(is_same)
    }

    fn check_alone(&self, table_uid: &str, output: &str) -> Result<()> {
        for (job, _) in self.records.unfinished() {
            let Ok(spec) = serde_json::from_value::<ColumnSpec>(job.spec.clone()) else { continue };
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

/// The version whose rows the last refresh of some columns computed.
fn last_refreshed(schema: &Schema, work: &Work) -> Option<u64> {
    let columns = work.output_names();
    let fields = columns.iter().map(|column| schema.field_with_name(column).ok());
    let versions = fields.map(|field| field?.metadata().get(SOURCE_VERSION)?.parse::<u64>().ok());
    // One that was never refreshed has no values that could be stale.
    versions.collect::<Option<Vec<u64>>>()?.into_iter().min()
}

fn task_rows(asked: Option<u32>, dimensions: u32) -> Result<u32> {
    let fitting = (TASK_BYTES_MAX / (dimensions * 4)).max(1);
    match asked {
        None => Ok(TASK_ROWS.min(fitting)),
        Some(rows @ 1..=TASK_ROWS_MAX) if rows <= fitting => Ok(rows),
        Some(rows) => Err(Error::invalid(format!(
            "`task_rows` is {rows}; 1 to {} are allowed for {dimensions} dimensions",
            fitting.min(TASK_ROWS_MAX)
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

fn check_output(field: &Field, model: &ModelInfo, recompute: bool) -> Result<()> {
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
        _ => Ok(()),
    }
}

fn output_field(command: &SubmitJob, model: &ModelInfo) -> Field {
    let metadata: HashMap<String, String> = [
        ("lakebed:model", model.name.clone()),
        ("lakebed:dimensions", model.dimensions.to_string()),
        ("lakebed:source_column", command.input.clone()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    Field::new(&command.output, vector_type(model.dimensions), true).with_metadata(metadata)
}
