//! What workers are told of a function: code, types, environment, constants.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lakebed_core::{Error, RequestContext, Result, Role, TableId};
use lakebed_jobs::FunctionOf;
use lakebed_proto::worker::v1;
use serde_json::{Value, json};

use super::catalogue::registration;
use crate::Service;
use crate::authenticate::require;
use crate::secrets::Zeroizing;

impl Service {
    /// The function that an attempt is to run, as workers read it.
    ///
    /// # Errors
    /// `Conflict` when the attempt does not hold its task, `NotFound` when the function was dropped,
    /// `InvalidArgument` when one of its secrets was.
    pub async fn function_for_worker(
        &self,
        ctx: &RequestContext,
        attempt: &v1::AttemptId,
    ) -> Result<Value> {
        require(ctx, Role::Worker)?;
        let work = match self.column_jobs.function_of(attempt)? {
            FunctionOf::Candidate(candidate) => return Ok(candidate.definition.clone()),
            FunctionOf::Registered(work) => work,
        };
        let key = &work.function;
        let database = lakebed_core::DatabaseName::parse(&key.database)?;
        let id = TableId::parse(&database, &key.id)?;
        let (_, version) = self.lake.function_version(&id, key.version).await?;
        if version.digest != key.digest {
            return Err(Error::not_found(format!("function `{id}` was replaced by another one")));
        }
        let code = self.lake.function_code(&version.code_digest).await?;
        let (name, digest) = (key.to_string(), work.digest());
        let initialization = work.initialization.as_deref();
        let bindings = registration(&version)?.secret_bindings;
        let secrets = self.secrets_of(&database, &bindings).await?;
        Ok(definition(&name, &digest, &version.definition, &code, initialization, &secrets))
    }
}

/// A function as workers read it.
pub(super) fn definition(
    name: &str,
    digest: &str,
    definition: &Value,
    code: &[u8],
    initialization: Option<&str>,
    secrets: &BTreeMap<String, Zeroizing<String>>,
) -> Value {
    let secrets: BTreeMap<&str, &str> =
        secrets.iter().map(|(variable, value)| (variable.as_str(), value.as_str())).collect();
    let mut artifact = definition["artifact"].clone();
    artifact["content"] = json!({ "encoding": "base64", "data": STANDARD.encode(code) });
    json!({
        "name": name,
        "digest": digest,
        "artifact": artifact,
        "signature": definition["signature"],
        "runtime": definition["runtime"],
        "initialization": initialization,
        "secrets": secrets,
    })
}
