//! Models as clients see them: listed, described, and their files read.

use std::ops::Range;

use futures::StreamExt as _;
use lakebed_core::{Error, ModelName, ModelRef, RequestContext, Result, Role, Subject};
use lakebed_jobs::{ModelInfo, ModelSettings, number_of};
use lakebed_storage::{ModelFile, ModelVersion, StoredModel};
use serde_json::{Value, json};

use super::RegisteredVersion;
use crate::Service;
use crate::audit::rfc3339;
use crate::authenticate::require;
use crate::uploads::ByteStream;

/// Memory that one open file may take: a chunk being read and one on its way to the client.
const READ_BYTES: usize = 4 << 20;

/// The bytes of a file of a model.
pub struct ModelBytes {
    /// The file.
    pub file: ModelFile,
    /// How many bytes come.
    pub size: u64,
    /// Its bytes, or those of the range that was asked for.
    pub bytes: ByteStream,
}

/// A version as clients know it.
fn version_json(number: u64, version: &ModelVersion) -> Value {
    let mut json = json!({
        "version": number,
        "digest": version.digest,
        "size": version.files.iter().map(|file| file.size).sum::<u64>(),
        "created_at": rfc3339(version.created_at_ms),
        "files": version.files,
    });
    for part in [&version.notes, &version.settings] {
        for (name, value) in part.as_object().into_iter().flatten() {
            json[name] = value.clone();
        }
    }
    json
}

/// A model as clients know it.
fn model_json(model: &StoredModel) -> Value {
    let versions: Vec<Value> =
        model.versions.iter().map(|(number, version)| version_json(*number, version)).collect();
    json!({ "name": model.name, "versions": versions, "tags": model.tags })
}

/// A model that workers bring, as it is listed.
fn offered_json(model: &ModelInfo) -> Value {
    json!({
        "name": model.name,
        "digest": model.digest,
        "dimensions": model.dimensions,
        "input": model.input,
        "workers": model.workers,
        "registered": false,
    })
}

impl RegisteredVersion {
    /// As clients know it.
    pub fn json(&self) -> Value {
        let mut json = match self.model.versions.get(&self.number) {
            Some(version) => version_json(self.number, version),
            None => json!({}),
        };
        json["name"] = self.model.name.clone().into();
        json
    }
}

impl Service {
    /// The models that are built into workers, offered by one that is attached, or registered, by name.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn list_models(&self, ctx: &RequestContext) -> Result<Vec<Value>> {
        require(ctx, Role::Read)?;
        let mut listed: Vec<Value> = self.column_jobs.models().iter().map(offered_json).collect();
        let runners = self.column_jobs.runners();
        for model in self.lake.list_models().await? {
            let Some((number, version)) = model.newest() else { continue };
            let ModelSettings { input, dimensions, .. } = ModelSettings::of(version)?;
            listed.push(json!({
                "name": model.name,
                "digest": version.digest,
                "dimensions": dimensions,
                "input": input,
                // None runs what says nothing of its vectors.
                "workers": if input.is_some() { runners } else { 0 },
                "registered": true,
                "version": number,
                "versions": model.versions.len(),
                "tags": model.tags,
            }));
        }
        listed.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        Ok(listed)
    }

    /// A registered model with its versions and tags.
    ///
    /// # Errors
    /// `NotFound` naming the nearest models.
    pub async fn describe_model(&self, ctx: &RequestContext, name: &str) -> Result<Value> {
        require(ctx, Role::Read)?;
        let name = ModelName::parse(name)?;
        Ok(model_json(&self.lake.model(name.as_str()).await?))
    }

    /// The version that a text names, as `NAME`, `NAME@VERSION` or `NAME@TAG`.
    ///
    /// # Errors
    /// `NotFound` naming what there is.
    pub async fn describe_model_version(
        &self,
        ctx: &RequestContext,
        text: &str,
    ) -> Result<RegisteredVersion> {
        require(ctx, Role::Read)?;
        self.model_version(text).await
    }

    pub(super) async fn model_version(&self, text: &str) -> Result<RegisteredVersion> {
        let wanted = ModelRef::parse(text)?;
        let model = self.lake.model(wanted.name.as_str()).await?;
        let number = number_of(&model, &wanted.at)?;
        Ok(RegisteredVersion { model, number })
    }

    /// The bytes of a file of a version, from `begin` on and at most `length` of them.
    ///
    /// # Errors
    /// `NotFound` for a version or a file that is not there.
    pub async fn read_model(
        &self,
        ctx: &RequestContext,
        text: &str,
        path: &str,
        begin: u64,
        length: Option<u64>,
    ) -> Result<ModelBytes> {
        require(ctx, Role::Read)?;
        let guard = self.gate.enter()?;
        let request = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(READ_BYTES).await?;
        let found = self.model_version(text).await?;
        let file = file_of(&found, path)?;
        let end = length.map_or(file.size, |length| begin.saturating_add(length).min(file.size));
        let range = begin.min(end)..end;
        let size = range.end - range.start;
        let held = (guard, request, memory);
        let bytes = self.lake.read_model_file(&file, range).await?.inspect(move |_| {
            // Gate and admission are held for as long as the stream lives.
            let _ = &held;
        });
        Ok(ModelBytes { file, size, bytes: bytes.boxed() })
    }

    /// A piece of a file, in memory.
    pub(super) async fn read_model_piece(
        &self,
        found: &RegisteredVersion,
        path: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>> {
        let file = file_of(found, path)?;
        let range = range.start.min(file.size)..range.end.min(file.size);
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let mut chunks = self.lake.read_model_file(&file, range).await?;
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes)
    }
}

fn file_of(found: &RegisteredVersion, path: &str) -> Result<ModelFile> {
    let version = found.model.version(found.number)?;
    let file = version.files.iter().find(|file| file.path == path).cloned();
    file.ok_or_else(|| {
        let shown: String = path.chars().take(80).flat_map(char::escape_debug).collect();
        let (name, number) = (&found.model.name, found.number);
        let message = format!("model {name}@{number} has no file `{shown}`");
        Error::not_found(message).about(Subject::Model)
    })
}
