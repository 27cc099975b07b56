//! Serves Arrow Flight over HTTP/2.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use lakebed_service::Service;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::connection::Connection;

/// A stream's window bounds what one DoPut may have under way; the default of 64 KiB would make its
/// throughput a matter of latency.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;
const HEAD_BYTES_MAX: u32 = 64 << 10;
/// Clients open one stream for each endpoint of a table and each of their threads.
const STREAMS_MAX: u32 = 1_024;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves the Flight door over `service` until `stop` is cancelled, then lets what runs finish.
///
/// # Errors
/// When the transport fails as a whole, which single connections cannot make it do.
pub(crate) async fn serve(
    incoming: impl Stream<Item = io::Result<Connection>>,
    service: Arc<Service>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEAD_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_service(lakebed_flight::flight_service(Arc::clone(&service)))
        .add_service(lakebed_flight::worker_service(service))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}
