//! What workers are told of a registered model, and its bytes.

use bytes::Bytes;
use lakebed_core::{Error, RequestContext, Result, Role};
use lakebed_proto::worker::v1;
use serde_json::{Value, json};

use super::RegisteredVersion;
use crate::Service;
use crate::authenticate::require;

/// Bytes of a file in one answer: within the messages that every server and worker takes.
const PIECE_BYTES_MAX: u64 = 2 << 20;

impl Service {
    /// The model that an attempt is to run, as workers read it.
    ///
    /// # Errors
    /// `Conflict` when the attempt does not hold its task, `NotFound` when the version was dropped.
    pub async fn model_for_worker(
        &self,
        ctx: &RequestContext,
        attempt: &v1::AttemptId,
    ) -> Result<Value> {
        require(ctx, Role::Worker)?;
        let RegisteredVersion { model, number } = self.model_of(attempt).await?;
        let version = model.version(number)?;
        Ok(json!({
            "name": model.name,
            "version": number,
            "digest": version.digest,
            "files": version.files,
            "settings": version.settings,
        }))
    }

    /// A piece of a file of the model that an attempt is to run.
    ///
    /// # Errors
    /// As [`Service::model_for_worker`]; `NotFound` when it has no such file.
    pub async fn model_piece_for_worker(
        &self,
        ctx: &RequestContext,
        request: &v1::ModelFileRequest,
    ) -> Result<Bytes> {
        require(ctx, Role::Worker)?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let length = request.length.min(PIECE_BYTES_MAX);
        let _memory = self.admission.read_bytes(PIECE_BYTES_MAX as usize).await?;
        let attempt = request.attempt.as_ref();
        let attempt = attempt.ok_or_else(|| Error::invalid("the request names no attempt"))?;
        let found = self.model_of(attempt).await?;
        let range = request.offset..request.offset.saturating_add(length);
        Ok(Bytes::from(self.read_model_piece(&found, &request.path, range).await?))
    }

    async fn model_of(&self, attempt: &v1::AttemptId) -> Result<RegisteredVersion> {
        let wanted = self.column_jobs.model_of(attempt)?;
        let model = self.lake.model(&wanted.name).await?;
        let number = wanted.version;
        if model.version(number)?.digest != wanted.digest {
            let name = &wanted.name;
            return Err(Error::not_found(format!("model {name}@{number} was replaced by another")));
        }
        Ok(RegisteredVersion { model, number })
    }
}
