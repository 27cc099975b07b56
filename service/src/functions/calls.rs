//! Calls of models and functions in SQL, run by attached workers.

use std::sync::{Arc, OnceLock, Weak};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::DataType;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lakebed_core::{DatabaseName, Error, ErrorKind, NamespacePath, Result, TableId};
use lakebed_jobs::{
    Evaluation, FunctionKey, FunctionWork, InputColumn, ModelInput, ModelWork, OutputColumn,
    QueryInput, ResultSource, Work,
};
use lakebed_sql::{CalledFunction, CalledModel, Callee, Callees, Parameter, RunningCall};
use tokio::sync::OnceCell;

use super::catalogue::registration;
use super::definition::{self, Given};
use super::refresh::VALUE;
use super::types;
use crate::Service;

/// What statements call, by the service that has them run.
#[derive(Default)]
pub(crate) struct Calls {
    service: OnceLock<Weak<Service>>,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Calls {
    /// From here on `service` has them run, which is made after its SQL.
    pub(crate) fn serve(&self, service: &Arc<Service>) {
        let _ = self.service.set(Arc::downgrade(service));
    }

    fn service(&self) -> Result<Arc<Service>> {
        let gone = || Error::new(ErrorKind::Unavailable, "the server starts or shuts down");
        self.service.get().and_then(Weak::upgrade).ok_or_else(gone)
    }
}

#[async_trait]
impl Callees for Calls {
    fn models(&self) -> Result<Vec<CalledModel>> {
        let models = self.service()?.column_jobs.models().into_iter();
        let called = models.map(|model| CalledModel {
            name: model.name,
            dimensions: model.dimensions,
            reads_text: model.input == ModelInput::Text,
        });
        Ok(called.collect())
    }

    async fn function(&self, id: &TableId, number: Option<u64>) -> Result<Option<CalledFunction>> {
        let service = self.service()?;
        let found = match number {
            Some(number) => service
                .lake
                .function_version(id, number)
                .await
                .map(|(function, version)| Some((function.uid, number, version))),
            None => service.lake.function(id).await.map(|function| {
                let newest = function.newest().map(|(number, version)| (number, version.clone()));
                newest.map(|(number, version)| (function.uid, number, version))
            }),
        };
        let (uid, number, version) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) if number.is_none() && error.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let registered = registration(&version)?;
        let parameters = |of: &[definition::Parameter]| {
            let parameters = of.iter().map(|parameter| {
                Ok(Parameter {
                    name: parameter.name.clone(),
                    data_type: types::parse(&parameter.arrow_type)?,
                    nullable: parameter.nullable,
                })
            });
            parameters.collect::<Result<Vec<Parameter>>>()
        };
        Ok(Some(CalledFunction {
            id: id.clone(),
            uid,
            number,
            parameters: parameters(&registered.signature.inputs)?,
            constants: parameters(&registered.signature.initialization)?,
            returns: match registered.given()? {
                Given::Scalar(data_type) => data_type,
                Given::Struct(fields) => DataType::Struct(fields),
            },
        }))
    }

    async fn function_names(
        &self,
        database: &DatabaseName,
        namespace: &NamespacePath,
    ) -> Result<Vec<String>> {
        let functions = self.service()?.lake.list_functions(database, namespace).await?;
        Ok(functions.into_iter().map(|(id, _)| id.name.to_string()).collect())
    }

    async fn begin(
        &self,
        callee: &Callee,
        constants: Option<RecordBatch>,
    ) -> Result<Arc<dyn RunningCall>> {
        let service = self.service()?;
        if service.is_alone() {
            let evaluation = service.evaluation(callee, constants.as_ref()).await?;
            return Ok(Arc::new(Local { evaluation }));
        }
        Ok(Arc::new(Anywhere { service, callee: callee.clone(), constants, here: OnceCell::new() }))
    }

    async fn embed_text(
        &self,
        model: &str,
        digest: Option<&str>,
        text: String,
    ) -> Result<Vec<f32>> {
        self.service()?.embed(model, digest, QueryInput::Text(text)).await
    }
}

/// A call that this server has its own workers run.
struct Local {
    evaluation: Evaluation,
}

#[async_trait]
impl RunningCall for Local {
    async fn evaluate(&self, arguments: &RecordBatch) -> Result<ArrayRef> {
        self.evaluation.evaluate(arguments).await
    }
}

/// A call on a lake with several servers: the workers are those of the one that runs the jobs.
struct Anywhere {
    service: Arc<Service>,
    callee: Callee,
    constants: Option<RecordBatch>,
    /// Begun when that is this one.
    here: OnceCell<Evaluation>,
}

#[async_trait]
impl RunningCall for Anywhere {
    async fn evaluate(&self, arguments: &RecordBatch) -> Result<ArrayRef> {
        let Anywhere { service, callee, constants, here } = self;
        let constants = constants.as_ref();
        if let Some(results) = service.call_elsewhere(callee, constants, arguments).await? {
            return Ok(results);
        }
        let evaluation = here.get_or_try_init(|| service.evaluation(callee, constants)).await?;
        evaluation.evaluate(arguments).await
    }
}

impl Service {
    /// Begins to have calls run by the workers of this server.
    ///
    /// # Errors
    /// `Unavailable` naming the worker that is needed where none is attached.
    pub(crate) async fn evaluation(
        &self,
        callee: &Callee,
        constants: Option<&RecordBatch>,
    ) -> Result<Evaluation> {
        let work = match callee {
            Callee::Model(model) => Work::Model(ModelWork {
                input: "input".to_owned(),
                output: VALUE.to_owned(),
                model: model.name.clone(),
                dimensions: model.dimensions,
                registered: None,
            }),
            Callee::Function(function) => {
                self.work_of(function, constants).await.map(Work::Function)?
            }
        };
        self.column_jobs.evaluation(work, callee.returns())
    }

    /// What workers are to run for a call of a function.
    async fn work_of(
        &self,
        called: &CalledFunction,
        constants: Option<&RecordBatch>,
    ) -> Result<FunctionWork> {
        let (function, version) = self.lake.function_version(&called.id, called.number).await?;
        if function.uid != called.uid {
            let message =
                format!("function `{}` was dropped and registered anew", called.id.text());
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let registered = registration(&version)?;
        let inputs = called.parameters.iter().map(|parameter| InputColumn {
            column: parameter.name.clone(),
            parameter: parameter.name.clone(),
        });
        let result = match &called.returns {
            DataType::Struct(fields) if matches!(registered.given()?, Given::Struct(_)) => {
                ResultSource::Struct(fields.iter().map(|field| field.name().clone()).collect())
            }
            _ => ResultSource::Field(VALUE.to_owned()),
        };
        Ok(FunctionWork {
            function: FunctionKey {
                database: called.id.database.to_string(),
                id: called.id.text(),
                version: called.number,
                digest: version.digest.clone(),
            },
            inputs: inputs.collect(),
            outputs: vec![OutputColumn { column: VALUE.to_owned(), result }],
            initialization: constants.map(encoded).transpose()?,
            interpreter: registered.interpreter(),
        })
    }
}

/// A row of constants as workers read it.
fn encoded(row: &RecordBatch) -> Result<String> {
    let failed = |error| Error::internal("write constants").with_source(error);
    let mut writer = StreamWriter::try_new(Vec::new(), &row.schema()).map_err(failed)?;
    writer.write(row).map_err(failed)?;
    Ok(STANDARD.encode(writer.into_inner().map_err(failed)?))
}
