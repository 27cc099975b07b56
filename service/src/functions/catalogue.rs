//! Functions as clients see them: described, listed, dropped.

use lakebed_core::{Error, NamespacePath, RequestContext, Result, Role, TableId};
use lakebed_storage::{UserFunction, UserFunctionVersion};
use serde_json::{Value, json};

use super::definition::Registration;
use crate::Service;
use crate::audit::{AuditLine, rfc3339};
use crate::authenticate::require;

/// One version of a function.
#[derive(Debug, Clone)]
pub struct FunctionVersion {
    /// Its database, namespace and name.
    pub id: TableId,
    /// Differs between a function and a later one of the same name.
    pub uid: String,
    /// The number of the version.
    pub number: u64,
    /// What is registered.
    pub version: UserFunctionVersion,
}

impl FunctionVersion {
    /// What clients know it by, beside its name.
    pub(super) fn location(&self) -> String {
        format!("lakebed://{}/functions/{}", self.id.database, self.uid)
    }

    /// What was registered.
    ///
    /// # Errors
    /// `Corrupt` when it cannot be read.
    pub(super) fn registration(&self) -> Result<Registration> {
        registration(&self.version)
    }

    /// As the SDKs read it: 0.40 needs `created_at`, 0.41 `created_at_millis`.
    ///
    /// # Errors
    /// `Corrupt` when what was registered cannot be read.
    pub fn json(&self) -> Result<Value> {
        let definition = &self.version.definition;
        let mut json = json!({
            "name": self.id.name.as_str(),
            "object_id": self.uid,
            "location": self.location(),
            "version": self.number.to_string(),
            "image": {
                "manifest_digest": self.version.digest,
                "descriptor": {
                    "format_version": 1,
                    "entrypoint": definition["artifact"]["entrypoint"],
                    "artifact": definition["artifact"],
                    "runtime": definition["runtime"],
                },
                "source": true,
            },
            "signature": definition["signature"],
            "created_at": rfc3339(self.version.created_at_ms),
            "created_at_millis": self.version.created_at_ms,
            "metadata": {},
            "disabled": false,
        });
        // The names of secrets; nobody is told their values.
        if let Some(bindings) = definition.get("secret_bindings") {
            json["secret_bindings"] = bindings.clone();
        }
        if !self.id.namespace.is_root() {
            json["namespace_path"] = json!(self.id.namespace.segments());
        }
        Ok(json)
    }
}

/// What was registered as a version.
pub(super) fn registration(version: &UserFunctionVersion) -> Result<Registration> {
    serde_json::from_value(version.definition.clone()).map_err(|error| {
        Error::new(lakebed_core::ErrorKind::Corrupt, "a function's definition cannot be read")
            .with_source(error)
    })
}

impl Service {
    /// One version of a function.
    ///
    /// # Errors
    /// `NotFound` when there is no such function or version.
    pub async fn describe_function(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        number: u64,
    ) -> Result<FunctionVersion> {
        require(ctx, Role::Read)?;
        let (function, version) = self.lake.function_version(id, number).await?;
        Ok(FunctionVersion { id: id.clone(), uid: function.uid, number, version })
    }

    /// All versions of the functions of a namespace, by name and number.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn list_functions(
        &self,
        ctx: &RequestContext,
        namespace: &NamespacePath,
    ) -> Result<Vec<FunctionVersion>> {
        require(ctx, Role::Read)?;
        let functions = self.lake.list_functions(&ctx.database, namespace).await?;
        let versions = functions.into_iter().flat_map(|(id, function)| {
            let UserFunction { uid, versions, .. } = function;
            versions.into_iter().map(move |(number, version)| FunctionVersion {
                id: id.clone(),
                uid: uid.clone(),
                number,
                version,
            })
        });
        Ok(versions.collect())
    }

    /// Forgets a function with all its versions, as the SDKs mean it; `number` has to be one of them. Columns
    /// that it computed keep their values and are not refreshed any more. Returns whether there was one.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn drop_function(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        number: u64,
    ) -> Result<bool> {
        self.permit(ctx, Role::Admin, "drop_function", Some(&id.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.drop_function(id, number).await;
        let mut line = AuditLine::new(ctx, "drop_function").outcome(&outcome);
        line.subject = Some(format!("{id}@{number}"));
        self.audit.record(line);
        outcome
    }
}
