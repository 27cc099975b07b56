//! `POST /v1/table/{id}/row_sets/create`: the next version of a row set, of exactly one source.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{Error, Result, RowSetName, RowSetRef};
use lakebed_service::{CreateRowSet, RowSetSource};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::shown;
use crate::Door;
use crate::body::{BodyBytes, parse, parse_raw};
use crate::error::ApiError;
use crate::table::query_body::search_request;
use crate::table::refused;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CreateBody {
    id: Option<Vec<String>>,
    name: String,
    description: Option<String>,
    branch: Option<String>,
    version: Option<u64>,
    filter: Option<String>,
    sql: Option<String>,
    query: Option<Box<RawValue>>,
    row_ids: Option<Vec<u64>>,
    union: Option<Vec<String>>,
    intersect: Option<Vec<String>>,
    difference: Option<Vec<String>>,
}

pub(crate) async fn create_row_set(
    State(door): State<Door>,
    target: Target,
    BodyBytes(bytes): BodyBytes,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    let body: CreateBody = parse(&bytes)?;
    target.check_id(body.id.as_deref())?;
    let table = target.table()?;
    let command = CreateRowSet {
        name: RowSetName::parse(&body.name)?,
        description: body.description.clone().filter(|description| !description.is_empty()),
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        version: body.version,
        source: source(&table.text(), body)?,
    };
    let made = door.service.create_row_set(target.ctx(), &table, command).await;
    Ok(Json(shown(&made.map_err(refused)?)).into_response())
}

fn source(table: &str, body: CreateBody) -> Result<RowSetSource> {
    let text = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let query = match &body.query {
        Some(query) => {
            let query = parse_raw(query).map_err(|error| error.context("query"))?;
            let request = search_request(table.to_owned(), query)?;
            if request.version.is_some() || request.branch.is_some() {
                return Err(Error::invalid(
                    "`version` and `branch` stand beside `query`, not in it",
                ));
            }
            Some(RowSetSource::Query(Box::new(request)))
        }
        None => None,
    };
    let given = [
        text(body.filter).map(RowSetSource::Filter),
        text(body.sql).map(RowSetSource::Sql),
        query,
        body.row_ids.map(RowSetSource::RowIds),
        body.union.map(|sets| refs(&sets)).transpose()?.map(RowSetSource::Union),
        body.intersect.map(|sets| refs(&sets)).transpose()?.map(RowSetSource::Intersect),
        body.difference.map(|sets| refs(&sets)).transpose()?.map(RowSetSource::Difference),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(source), None) => Ok(source),
        _ => Err(Error::invalid(
            "a row set is made of exactly one of `filter`, `sql`, `query`, `row_ids`, `union`, \
             `intersect` and `difference`",
        )),
    }
}

fn refs(sets: &[String]) -> Result<Vec<RowSetRef>> {
    sets.iter().map(|set| RowSetRef::parse(set)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_source() {
        let of = |text: &str| source("t", parse(text.as_bytes()).unwrap());
        assert_eq!(of(r#"{"filter":"a > 1"}"#).unwrap(), RowSetSource::Filter("a > 1".to_owned()));
        let both = vec![RowSetRef::parse("a").unwrap(), RowSetRef::parse("b@2").unwrap()];
        assert_eq!(of(r#"{"union":["a","b@2"]}"#).unwrap(), RowSetSource::Union(both));
        assert_eq!(of(r#"{"row_ids":[]}"#).unwrap(), RowSetSource::RowIds(Vec::new()));
        let Ok(RowSetSource::Query(query)) = of(r#"{"query":{"vector":[1],"k":3}}"#) else {
            panic!("a query")
        };
        assert_eq!(query.k, Some(3));
        for wrong in [
            "{}",
            r#"{"filter":" "}"#,
            r#"{"filter":"a","sql":"SELECT 1"}"#,
            r#"{"union":["a","b@"]}"#,
            r#"{"query":{"version":3}}"#,
            r#"{"query":{"nprobs":3}}"#,
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
