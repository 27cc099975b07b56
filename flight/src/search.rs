//! Searches over Flight: the same request as over HTTP, its answer as the rows of one ticket.
//!
//! What a search says of itself, such as the index that answers, stands in the app_metadata of the info
//! and in the metadata of the rows' schema under `lakebed:search`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use futures::TryStreamExt;
use lakebed_core::{Error, Result, SearchReport};
use lakebed_proto::command::Command;
use lakebed_proto::search::SearchRequest;
use lakebed_service::{BatchStream, Found, Service};

use crate::get_flight_info::expire;
use crate::request::Call;

/// Where the report stands in the metadata of a schema.
const REPORT_KEY: &str = "lakebed:search";

/// Plans a search over a fixed version.
pub(crate) async fn flight_info(
    service: &Service,
    call: &Call,
    request: SearchRequest,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let plan = service.plan_search(&call.ctx, request).await?;
    let ticket = serde_json::to_vec(&Command::Search(Box::new(plan.request)))
        .map_err(|error| Error::internal("a search cannot be written").with_source(error))?;
    let mut endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
    expire(&mut endpoint, plan.expires_at_ms);
    let schema = with_report(&plan.schema, &plan.report)?;
    let info = FlightInfo::new()
        .try_with_schema(&schema)
        .map_err(|error| Error::internal("a schema cannot be encoded").with_source(error))?;
    Ok(info
        .with_descriptor(descriptor)
        .with_endpoint(endpoint)
        .with_total_records(-1)
        .with_total_bytes(-1)
        .with_ordered(true)
        .with_app_metadata(Bytes::from(json(&plan.report)?)))
}

/// The schema of a search's answer.
pub(crate) async fn schema(
    service: &Service,
    call: &Call,
    request: SearchRequest,
) -> Result<SchemaRef> {
    let plan = service.plan_search(&call.ctx, request).await?;
    with_report(&plan.schema, &plan.report)
}

/// The rows of a search.
pub(crate) async fn do_get(
    service: &Arc<Service>,
    call: &Call,
    request: &SearchRequest,
) -> Result<(SchemaRef, BatchStream)> {
    let Found { schema, batches, report } = service.search(&call.ctx, request).await?;
    let schema = with_report(&schema, &report)?;
    let shown = Arc::clone(&schema);
    let batches = batches.and_then(move |batch| {
        let batch = batch.with_schema(Arc::clone(&shown)).map_err(|error| {
            Error::internal("the rows of a search do not fit its schema").with_source(error)
        });
        std::future::ready(batch)
    });
    Ok((schema, Box::pin(batches)))
}

fn with_report(schema: &Schema, report: &SearchReport) -> Result<SchemaRef> {
    let mut metadata: HashMap<String, String> = schema.metadata().clone();
    // Of one search every schema is the same, so what differs each time stands elsewhere.
    let report = SearchReport { stages: Vec::new(), ..report.clone() };
    metadata.insert(REPORT_KEY.to_owned(), json(&report)?);
    Ok(Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata)))
}

fn json(report: &SearchReport) -> Result<String> {
    serde_json::to_string(report)
        .map_err(|error| Error::internal("a report cannot be written").with_source(error))
}
