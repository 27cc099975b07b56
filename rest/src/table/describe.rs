//! `POST /v1/table/{id}/describe`: what a client has to know before it does anything else.
//!
//! The SDKs end the path in a slash; they need version and schema, with the names of types that lance
//! writes. Clients of the specification get them only when they ask for details, with Arrow's names.
//!
//! Clients that read and write files by themselves go by the location. They are told where the table lies
//! if they can reach it, in a bucket or on the machine of the server. Others get a URI that nobody can open:
//! a path of another machine would make them write into a folder of their own.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_proto::command::ReadCommand;
use lakebed_proto::schema_json::{Dialect, schema_to_json};
use lakebed_service::TableDetails;
use serde::Deserialize;
use serde_json::{Value, json};

use super::versioned;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DescribeTable {
    id: Option<Vec<String>>,
    version: Option<u64>,
    tag: Option<String>,
    branch: Option<String>,
    load_detailed_metadata: Option<bool>,
    with_table_uri: Option<bool>,
    check_declared: Option<bool>,
    vend_credentials: Option<bool>,
}

/// What a client of the specification wants to know; in the body or in the query string.
struct Wanted {
    details: bool,
    table_uri: bool,
    declared: bool,
}

const PARAMS: [&str; 7] = [
    "version",
    "tag",
    "branch",
    "load_detailed_metadata",
    "with_table_uri",
    "check_declared",
    "vend_credentials",
];

pub(crate) async fn describe_table(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DescribeTable>,
) -> Result<Response, ApiError> {
    target.params(&PARAMS)?;
    target.check_id(body.id.as_deref())?;
    let wanted = wanted(&target, &body)?;
    let at = read_at(&target, &body)?;
    let table = target.table()?;
    let details = match door.service.describe_table(target.ctx(), &table, &at).await {
        Err(error) if error.kind() == ErrorKind::NotFound && !target.is_sdk() => {
            // Clients of the specification write the first version of a declared table themselves.
            let declared = door.service.declared_location(target.ctx(), &table).await?;
            let relative = declared.ok_or(error)?;
            return Ok(Json(declared_answer(&location(&door, &target, &relative), &wanted))
                .into_response());
        }
        described => described?,
    };
    let location = location(&door, &target, &details.location);
    let answer = match target.is_sdk() {
        true => sdk_answer(&details, &location)?,
        false => spec_answer(&details, &wanted, &location)?,
    };
    Ok(versioned(answer, details.version))
}

fn wanted(target: &Target, body: &DescribeTable) -> Result<Wanted> {
    let params = target.params(&PARAMS)?;
    let is_set = |name: &str, sent: Option<bool>| match sent {
        Some(sent) => Ok(sent),
        None => params.flag(name),
    };
    if is_set("vend_credentials", body.vend_credentials)? {
        let message = "vending of storage credentials (`vend_credentials`) is not built";
        return Err(Error::new(ErrorKind::NotImplemented, message));
    }
    Ok(Wanted {
        details: is_set("load_detailed_metadata", body.load_detailed_metadata)?,
        table_uri: is_set("with_table_uri", body.with_table_uri)?,
        declared: is_set("check_declared", body.check_declared)?,
    })
}

fn read_at(target: &Target, body: &DescribeTable) -> Result<ReadCommand> {
    let params = target.params(&PARAMS)?;
    let tag = body.tag.as_deref().filter(|tag| !tag.is_empty());
    Ok(ReadCommand {
        version: body.version.or(params.number("version")?),
        tag: tag.or(params.text("tag")).map(str::to_owned),
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        ..ReadCommand::default()
    })
}

/// Where a client finds the folder of a table that lies at `relative` below the lake's root.
pub(crate) fn location(door: &Door, target: &Target, relative: &str) -> String {
    let is_near = door.service.is_in_bucket() || target.is_same_machine();
    match is_near && !door.options.hide_locations {
        true => door.service.uri_of(relative),
        false => format!("lakebed:///{relative}"),
    }
}

fn sdk_answer(details: &TableDetails, location: &str) -> Result<Value> {
    Ok(json!({
        "version": details.version,
        "schema": schema_to_json(&details.schema, Dialect::Sdk)?,
        "location": location,
    }))
}

fn declared_answer(location: &str, wanted: &Wanted) -> Value {
    let mut answer = json!({ "location": location, "managed_versioning": null });
    if wanted.table_uri {
        answer["table_uri"] = location.into();
    }
    if wanted.declared || wanted.details {
        answer["is_only_declared"] = true.into();
    }
    answer
}

fn spec_answer(details: &TableDetails, wanted: &Wanted, location: &str) -> Result<Value> {
    let mut answer = json!({ "location": location, "managed_versioning": null });
    if wanted.table_uri {
        answer["table_uri"] = location.into();
    }
    if wanted.declared || wanted.details {
        answer["is_only_declared"] = false.into();
    }
    if wanted.details {
        answer["table"] = details.id.name.as_str().into();
        answer["namespace"] = json!(details.id.namespace.segments());
        answer["version"] = details.version.into();
        answer["schema"] = schema_to_json(&details.schema, Dialect::Spec)?;
        answer["metadata"] = json!(details.schema.metadata());
        answer["stats"] = json!({
            "num_fragments": details.fragments,
            "num_deleted_rows": details.deleted_rows,
        });
    }
    Ok(answer)
}
