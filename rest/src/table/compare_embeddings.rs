//! `POST /v1/table/{id}/compare_embeddings`: what two columns of vectors find, side by side.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use lakebed_core::{Error, Result};
use lakebed_proto::command::ReadCommand;
use lakebed_service::{CompareEmbeddings, CompareQueries};
use serde::Deserialize;

use super::query_body::distance_type;
use super::{refused, versioned};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;
use crate::timeout::within_request_timeout;

const QUERIES_DEFAULT: usize = 100;
const K_DEFAULT: usize = 10;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Compare {
    id: Option<Vec<String>>,
    branch: Option<String>,
    version: Option<u64>,
    tag: Option<String>,
    from: String,
    to: String,
    queries: Option<QueriesField>,
    seed: Option<u64>,
    k: Option<usize>,
    filter: Option<String>,
    distance_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum QueriesField {
    Count(usize),
    Texts(Vec<String>),
}

pub(crate) async fn compare_embeddings(
    State(door): State<Door>,
    target: Target,
    headers: HeaderMap,
    StrictBody(body): StrictBody<Compare>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let at = ReadCommand {
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        version: body.version,
        tag: body.tag.clone().filter(|tag| !tag.is_empty()),
        ..ReadCommand::default()
    };
    let (asked, table) = (asked(body)?, target.table()?);
    let compared = door.service.compare_embeddings(target.ctx(), &table, &at, asked);
    let (report, version) = within_request_timeout(&headers, compared).await.map_err(refused)?;
    Ok(versioned(report, version))
}

fn asked(body: Compare) -> Result<CompareEmbeddings> {
    for (name, column) in [("from", &body.from), ("to", &body.to)] {
        if column.is_empty() {
            return Err(Error::invalid(format!("field `{name}` is missing: a column of vectors")));
        }
    }
    Ok(CompareEmbeddings {
        from: body.from,
        to: body.to,
        queries: match body.queries {
            None => CompareQueries::Rows(QUERIES_DEFAULT),
            Some(QueriesField::Texts(texts)) if texts.is_empty() => {
                CompareQueries::Rows(QUERIES_DEFAULT)
            }
            Some(QueriesField::Count(count)) => CompareQueries::Rows(count),
            Some(QueriesField::Texts(texts)) => CompareQueries::Texts(texts),
        },
        seed: body.seed.unwrap_or(0),
        k: body.k.unwrap_or(K_DEFAULT),
        filter: body.filter.filter(|filter| !filter.trim().is_empty()),
        distance: body.distance_type.as_deref().map(distance_type).transpose()?,
    })
}
