//! Registering a function: checked here, tried by an attached worker, kept.
//!
//! User code never runs in the server. Where a worker with the function's Python is attached, it makes the
//! environment and loads the code before the function is kept, so that what is wrong with it is said to who
//! wrote it; where none is, that is found by the first worker that fills a column.

use std::sync::Arc;

use bytes::Bytes;
use lakebed_core::{Error, RequestContext, Result, Role, TableId};
use lakebed_jobs::Candidate;
use lakebed_storage::UserFunctionVersion;

use super::FunctionVersion;
use super::definition::Registration;
use crate::Service;
use crate::audit::AuditLine;

/// The type of the job that registers.
const CREATE_FUNCTION: &str = "create_function";

impl Service {
    /// Begins to register a version of a function; returns the id of the job, whose result is the version.
    ///
    /// # Errors
    /// `InvalidArgument` naming what does not fit, `NotImplemented` what is not built.
    pub async fn create_function(
        self: &Arc<Self>,
        ctx: &RequestContext,
        id: &TableId,
        mut registration: Registration,
    ) -> Result<String> {
        // Who registers code has it run on the workers.
        self.permit(ctx, Role::Admin, "create_function", Some(&id.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.begin_registration(ctx, id, &mut registration).await;
        let mut line = AuditLine::new(ctx, "create_function").outcome(&outcome);
        line.subject = Some(id.to_string());
        self.audit.record(line);
        outcome
    }

    async fn begin_registration(
        self: &Arc<Self>,
        ctx: &RequestContext,
        id: &TableId,
        registration: &mut Registration,
    ) -> Result<String> {
        if registration.name.as_deref().is_some_and(|name| name != id.name.as_str()) {
            return Err(Error::invalid("field `name` is another name than the path's"));
        }
        let code = registration.take_code()?;
        self.check_secrets(&id.database, &registration.secret_bindings).await?;
        let (definition, digest) = registration.kept()?;
        let version = UserFunctionVersion {
            digest,
            code_digest: registration.artifact.digest.clone(),
            definition,
            created_at_ms: self.clock.now_ms(),
        };
        let spec = serde_json::json!({ "name": id.text(), "digest": version.digest });
        let (service, registration) = (Arc::clone(self), registration.clone());
        let made_for = id.clone();
        let work = async move { service.register(made_for, registration, version, code).await };
        self.jobs.begin_unqueued(ctx, CREATE_FUNCTION, id.text(), spec, work).await
    }

    async fn register(
        self: Arc<Self>,
        id: TableId,
        registration: Registration,
        version: UserFunctionVersion,
        code: Vec<u8>,
    ) -> Result<serde_json::Value> {
        let interpreter = registration.interpreter();
        if self.column_jobs.is_attached(&interpreter) {
            let name = format!("{id} (new)");
            let bindings = &registration.secret_bindings;
            let secrets = self.secrets_of(&id.database, bindings).await?;
            let definition = super::for_workers::definition(
                &name,
                &version.digest,
                &version.definition,
                &code,
                None,
                &secrets,
            );
            let digest = version.digest.clone();
            let candidate = Candidate { name, digest, definition, interpreter };
            self.column_jobs.check_function(Arc::new(candidate)).await?;
        }
        let (function, number) = self.lake.add_function(&id, version, Bytes::from(code)).await?;
        let (function, version) = match function.versions.get(&number).cloned() {
            Some(version) => (function, version),
            None => return Err(Error::internal("a function was not registered")),
        };
        FunctionVersion { id, uid: function.uid, number, version }.json()
    }
}
