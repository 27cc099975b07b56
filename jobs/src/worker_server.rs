//! The gRPC service of the worker protocol. Who calls is found out by the door, which knows keys.

use futures::future::BoxFuture;
use lakebed_proto::worker::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use lakebed_proto::worker::v1::{SyncRequest, SyncResponse};
use tonic::{Request, Response, Status};

/// Authenticates a report and takes it.
pub type TakeReport = Box<
    dyn Fn(Request<SyncRequest>) -> BoxFuture<'static, Result<SyncResponse, Status>> + Send + Sync,
>;

/// The service over one way to take reports.
pub struct WorkerServer {
    take: TakeReport,
}

impl WorkerServer {
    /// The service as tonic routes it.
    pub fn service(
        take: TakeReport,
        message_bytes_max: usize,
    ) -> WorkerServiceServer<WorkerServer> {
        WorkerServiceServer::new(WorkerServer { take })
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max)
    }
}

#[async_trait::async_trait]
impl WorkerService for WorkerServer {
    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        (self.take)(request).await.map(Response::new)
    }
}
