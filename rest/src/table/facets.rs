//! `POST /v1/table/{id}/facets`: counts by value over what a query finds. The body is that of a query, and
//! `facets`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use lakebed_core::Error;
use lakebed_proto::text_help::Facet;
use serde_json::value::RawValue;

use super::query_body::{QueryBody, search_request};
use super::{refused, versioned};
use crate::Door;
use crate::body::{BodyBytes, parse};
use crate::error::ApiError;
use crate::target::Target;
use crate::timeout::within_request_timeout;

pub(crate) async fn facets(
    State(door): State<Door>,
    target: Target,
    headers: HeaderMap,
    BodyBytes(bytes): BodyBytes,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let (facets, query) = taken(&bytes)?;
    target.check_id(query.id.as_deref())?;
    let request = search_request(target.table()?.text(), query)?;
    let counting = door.service.facets(target.ctx(), &request, &facets);
    let counts = within_request_timeout(&headers, counting).await.map_err(refused)?;
    let version = counts.version;
    Ok(versioned(counts, version))
}

/// The facets of a body, and the query that is the rest of it.
fn taken(bytes: &[u8]) -> lakebed_core::Result<(Vec<Facet>, QueryBody)> {
    // Read as a query first where it is no object, which says what is wrong.
    let Ok(mut fields) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(bytes) else {
        return parse::<QueryBody>(bytes).and_then(|_| Err(missing()));
    };
    let facets = fields.remove("facets").ok_or_else(missing)?;
    let facets = serde_json::from_str(facets.get())
        .map_err(|error| Error::invalid(format!("field `facets`: {error}")))?;
    let rest = serde_json::to_vec(&fields)
        .map_err(|error| Error::internal("the rest of a body").with_source(error))?;
    Ok((facets, parse(&rest)?))
}

fn missing() -> Error {
    Error::invalid("field `facets` is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_query_and_facets() {
        let body = br#"{"k":3,"full_text_query":{"query":"x"},"facets":[{"column":"label"}]}"#;
        let (facets, query) = taken(body).unwrap();
        assert_eq!(facets, [Facet { column: "label".to_owned(), limit: None }]);
        let request = search_request("t".to_owned(), query).unwrap();
        assert_eq!(request.k, Some(3));
        let refusal = |body: &str| taken(body.as_bytes()).unwrap_err().message().to_owned();
        assert!(refusal("{}").contains("facets"));
        assert!(refusal(r#"{"facets":[{"colum":"x"}]}"#).contains("colum"));
        assert!(refusal(r#"{"facets":[],"kk":2}"#).contains("kk"));
        assert!(refusal("[1]").contains("not understood"));
    }
}
