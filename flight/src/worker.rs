//! What workers call: Sync, as an action and as a gRPC service of its own, the rows of a task, and its
//! results. See `docs/worker-protocol.md`.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_flight::{FlightData, PutResult};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use lakebed_core::{Error, Limits, RequestContext, Result};
use lakebed_proto::command::{CommitRule, TaskCommand, TasksCommand};
use lakebed_proto::worker::v1;
use lakebed_proto::worker::v1::worker_service_server::WorkerServiceServer;
use lakebed_proto::worker::v1::{SyncRequest, SyncResponse};
use lakebed_service::{AttemptId, BatchStream, JobId, Service, WorkerServer};
use prost::Message;
use serde_json::json;
use tonic::server::NamedService;
use tonic::{Request, Status};

use crate::do_put::{PutMessages, admission, run};
use crate::forward::{Routed, route_worker};
use crate::request::Call;

/// The gRPC service of the worker protocol over `service`, ready for tonic's router.
pub fn worker_service(service: Arc<Service>) -> WorkerDoor {
    let message_bytes_max = service.limits().message_bytes_max;
    let here = Arc::clone(&service);
    let take = move |request: Request<SyncRequest>| {
        let service = Arc::clone(&here);
        async move {
            let call = Call::begin(&service, request.metadata(), request.extensions()).await?;
            let answer = service.sync_worker(&call.ctx, request.into_inner()).await;
            answer.map_err(|error| call.status(&error))
        }
        .boxed()
    };
    WorkerDoor { service, generated: WorkerServer::service(Box::new(take), message_bytes_max) }
}

/// The worker protocol's service: answered here, or by the server that runs the jobs.
#[derive(Clone)]
pub struct WorkerDoor {
    service: Arc<Service>,
    generated: WorkerServiceServer<WorkerServer>,
}

impl NamedService for WorkerDoor {
    const NAME: &'static str = <WorkerServiceServer<WorkerServer> as NamedService>::NAME;
}

impl tower::Service<http::Request<tonic::body::Body>> for WorkerDoor {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let mut door = self.clone();
        async move {
            match route_worker(&door.service, request).await {
                Routed::Here(request) => door.generated.call(request).await,
                Routed::Answered(answer) => Ok(answer),
            }
        }
        .boxed()
    }
}

/// Sync as an action.
pub(crate) async fn sync(service: &Service, call: &Call, body: &[u8]) -> Result<Bytes> {
    let request = SyncRequest::decode(body)
        .map_err(|error| Error::invalid(format!("the report is not protobuf: {error}")))?;
    let answer: SyncResponse = service.sync_worker(&call.ctx, request).await?;
    Ok(Bytes::from(answer.encode_to_vec()))
}

/// The function that an attempt is to run.
pub(crate) async fn function(service: &Service, call: &Call, body: &[u8]) -> Result<Bytes> {
    let attempt = v1::AttemptId::decode(body)
        .map_err(|error| Error::invalid(format!("the attempt is not protobuf: {error}")))?;
    let function = service.function_for_worker(&call.ctx, &attempt).await?;
    Ok(Bytes::from(function.to_string()))
}

/// The registered model that an attempt is to run.
pub(crate) async fn model(service: &Service, call: &Call, body: &[u8]) -> Result<Bytes> {
    let attempt = v1::AttemptId::decode(body)
        .map_err(|error| Error::invalid(format!("the attempt is not protobuf: {error}")))?;
    let model = service.model_for_worker(&call.ctx, &attempt).await?;
    Ok(Bytes::from(model.to_string()))
}

/// A piece of a file of that model.
pub(crate) async fn model_file(service: &Service, call: &Call, body: &[u8]) -> Result<Bytes> {
    let request = v1::ModelFileRequest::decode(body)
        .map_err(|error| Error::invalid(format!("the request is not protobuf: {error}")))?;
    service.model_piece_for_worker(&call.ctx, &request).await
}

/// The rows of tasks.
pub(crate) async fn read_tasks(
    service: &Service,
    call: &Call,
    tasks: &TasksCommand,
) -> Result<(SchemaRef, BatchStream)> {
    let job = JobId::new(&tasks.job);
    let attempt = |(task, attempt)| AttemptId { job: job.clone(), task, attempt };
    let attempts: Vec<AttemptId> = tasks.tasks.iter().copied().map(attempt).collect();
    service.read_tasks(&call.ctx, &attempts).await
}

/// The results of a task.
pub(crate) async fn put_results<S>(
    service: &Arc<Service>,
    ctx: RequestContext,
    task: TaskCommand,
    first: FlightData,
    messages: &mut PutMessages<S>,
    limits: &Limits,
) -> Result<PutResult>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
{
    let admit = admission(service);
    let service = Arc::clone(service);
    let put = async move |_, batches: BatchStream| {
        service.put_results(&ctx, &attempt(&task), batches).await
    };
    let rows = run(CommitRule::Explicit, first, messages, limits, admit, put).await?;
    let json = json!({ "rows": rows }).to_string();
    Ok(PutResult { app_metadata: Bytes::from(json) })
}

fn attempt(task: &TaskCommand) -> AttemptId {
    AttemptId { job: JobId::new(&task.job), task: task.task, attempt: task.attempt }
}
