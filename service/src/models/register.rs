//! Registering a version of a model.
//!
//! Its files are there already: of versions before, or as uploads that are complete. So a registration moves no
//! bytes through this server, whatever their size.

use std::collections::{BTreeMap, BTreeSet};

use lakebed_core::{Error, ModelName, RequestContext, Result, Role};
use lakebed_jobs::{ModelNotes, ModelSettings, is_built_in};
use lakebed_storage::{ModelFile, ModelVersion, StoredModel, sha256_text};
use serde::Deserialize;
use serde_json::json;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

const FILES_MAX: usize = 1_000;
const PATH_BYTES_MAX: usize = 512;
const NOTE_BYTES_MAX: usize = 1_024;
const SHA256_CHARACTERS: usize = 64;

/// What is registered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RegisterModel {
    /// Its files.
    pub files: Vec<RegisterFile>,
    /// What decides its results beside them.
    pub settings: ModelSettings,
    /// What is said of it.
    pub notes: ModelNotes,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterFile {
    /// Where it lies in the model's folder, with slashes.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes in hexadecimal digits.
    pub sha256: String,
    /// The id of the upload that has it, where the lake may not have it yet.
    #[serde(default)]
    pub upload: Option<String>,
}

/// A version that is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredVersion {
    /// The model with all its versions.
    pub model: StoredModel,
    /// The number of this one.
    pub number: u64,
}

impl Service {
    /// Which of some digests no file of a model has, so that they have to be uploaded.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no digest.
    pub async fn missing_model_files(
        &self,
        ctx: &RequestContext,
        digests: &[String],
    ) -> Result<Vec<String>> {
        require(ctx, Role::Admin)?;
        if digests.len() > FILES_MAX {
            return Err(Error::invalid(format!("a model has at most {FILES_MAX} files")));
        }
        for digest in digests {
            check_sha256(digest)?;
        }
        self.lake.missing_model_files(digests).await
    }

    /// Registers a version of a model. The same files and settings again are the same version.
    ///
    /// # Errors
    /// `InvalidArgument` naming a field or a file that does not fit.
    pub async fn register_model(
        &self,
        ctx: &RequestContext,
        name: &str,
        command: RegisterModel,
    ) -> Result<RegisteredVersion> {
        let shown: String = name.chars().take(128).collect();
        self.permit(ctx, Role::Admin, "register_model", None)?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let outcome = self.begin_model(name, command).await;
        let mut line = AuditLine::new(ctx, "register_model").outcome(&outcome);
        line.subject = Some(match &outcome {
            Ok(registered) => format!("{shown}@{}", registered.number),
            Err(_) => shown,
        });
        self.audit.record(line);
        outcome
    }

    async fn begin_model(&self, name: &str, command: RegisterModel) -> Result<RegisteredVersion> {
        let name = ModelName::parse(name)?;
        if is_built_in(name.as_str()) {
            return Err(Error::invalid(format!("model `{name}` is built into workers")));
        }
        let RegisterModel { files, settings, notes } = command;
        let (files, uploads) = checked(files)?;
        check_note("task", notes.task.as_deref())?;
        check_note("licence", notes.licence.as_deref())?;
        let settings = settings.completed(&files)?;
        let text = |error| Error::internal("write a model").with_source(error);
        let settings = serde_json::to_value(settings).map_err(text)?;
        // The keys of objects are sorted, and so are the files: the same model has the same text.
        let decisive = json!({ "files": files, "settings": settings });
        let version = ModelVersion {
            digest: sha256_text(decisive.to_string().as_bytes()),
            files,
            settings,
            notes: serde_json::to_value(notes).map_err(text)?,
            created_at_ms: self.clock.now_ms(),
        };
        let (model, number) = self.lake.register_model(name.as_str(), version, &uploads).await?;
        Ok(RegisteredVersion { model, number })
    }
}

/// The files by path, and their uploads by digest.
fn checked(files: Vec<RegisterFile>) -> Result<(Vec<ModelFile>, BTreeMap<String, String>)> {
    if files.is_empty() || files.len() > FILES_MAX {
        return Err(Error::invalid(format!("a model has from 1 to {FILES_MAX} files")));
    }
    let mut uploads = BTreeMap::new();
    let mut paths = BTreeSet::new();
    let mut made = Vec::with_capacity(files.len());
    for RegisterFile { path, size, sha256, upload } in files {
        check_path(&path)?;
        check_sha256(&sha256)?;
        if !paths.insert(path.clone()) {
            return Err(Error::invalid(format!("file `{path}` is given twice")));
        }
        if let Some(upload) = upload {
            uploads.insert(sha256.clone(), upload);
        }
        made.push(ModelFile { path, size, sha256 });
    }
    made.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((made, uploads))
}

/// Refuses a path that leads out of the folder that a model is put into, on any system.
fn check_path(path: &str) -> Result<()> {
    let is_part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && !part.chars().any(|c| c.is_control() || matches!(c, '\\' | ':'))
    };
    match path.len() <= PATH_BYTES_MAX && path.split('/').all(is_part) {
        true => Ok(()),
        false => {
            let shown: String = path.chars().take(80).flat_map(char::escape_debug).collect();
            Err(Error::invalid(format!("`{shown}` is no path of a model's file")))
        }
    }
}

fn check_sha256(digest: &str) -> Result<()> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    match digest.len() == SHA256_CHARACTERS && digest.bytes().all(is_digit) {
        true => Ok(()),
        false => {
            let shown: String = digest.chars().take(80).flat_map(char::escape_debug).collect();
            Err(Error::invalid(format!("`{shown}` is no SHA-256 in 64 hexadecimal digits")))
        }
    }
}

fn check_note(name: &str, note: Option<&str>) -> Result<()> {
    match note {
        Some(note) if note.len() > NOTE_BYTES_MAX => {
            let bytes = note.len();
            Err(Error::invalid(format!(
                "`{name}` has {bytes} bytes; the limit is {NOTE_BYTES_MAX}"
            )))
        }
        _ => Ok(()),
    }
}
