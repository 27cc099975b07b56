//! Models that users registered: a record of each, and their files by digest.
//!
//! ```text
//!   models/<name>.json             versions, numbered from 1, and the tags that name them
//!   model_files/sha256/<digest>    the bytes; files that are the same are there once
//! ```
//!
//! A version is fixed for good; tags move. Storage keeps what was registered and knows nothing of what it
//! means: that is for the use cases and for workers. A file is there before a record names it, and goes when no
//! record does: models are changed one at a time in a process, and in a bucket by one server (that of the jobs).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, ErrorKind, Result, Subject, nearest_names};
use object_store::{GetOptions, GetRange, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};

use crate::blob::ByteStream;
use crate::lake::Lake;
use crate::lance_error::from_object_store;
use crate::root::SYSTEM_FOLDER;

const FORMAT: u32 = 1;
const RECORDS: &str = "models";
/// Where the bytes of models lie below the system's folder.
pub(crate) const MODEL_FILES: &str = "model_files";
/// Models of a lake: each listing reads all their records.
const MODELS_MAX: usize = 10_000;

/// A model with its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredModel {
    format: u32,
    /// Its name.
    pub name: String,
    /// The number of the next version.
    next: u64,
    /// What is registered, by version.
    pub versions: BTreeMap<u64, ModelVersion>,
    /// Which version each tag names.
    pub tags: BTreeMap<String, u64>,
}

/// One version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelVersion {
    /// `sha256:` and the digest of its files and of all else that decides its results.
    pub digest: String,
    /// Its files, sorted by path.
    pub files: Vec<ModelFile>,
    /// What decides its results beside the files.
    pub settings: serde_json::Value,
    /// What is said of it and decides nothing.
    pub notes: serde_json::Value,
    /// When it was registered, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Where it lies in the model's folder, with slashes.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes in hexadecimal digits.
    pub sha256: String,
}

impl StoredModel {
    /// The newest version that there is.
    pub fn newest(&self) -> Option<(u64, &ModelVersion)> {
        self.versions.last_key_value().map(|(number, version)| (*number, version))
    }

    /// One version.
    ///
    /// # Errors
    /// `NotFound` naming the versions that there are.
    pub fn version(&self, number: u64) -> Result<&ModelVersion> {
        self.versions.get(&number).ok_or_else(|| {
            let known: Vec<String> = self.versions.keys().map(u64::to_string).collect();
            let (name, known) = (&self.name, known.join(", "));
            let message = format!("model `{name}` has no version {number}; it has {known}");
            Error::not_found(message).about(Subject::Model)
        })
    }

    /// The version that a tag names.
    ///
    /// # Errors
    /// `NotFound` naming the nearest tags.
    pub fn tagged(&self, tag: &str) -> Result<u64> {
        self.tags.get(tag).copied().ok_or_else(|| {
            let near = nearest_names(tag, self.tags.keys().map(String::as_str));
            let message = format!("model `{}` has no tag `{tag}`{near}", self.name);
            Error::not_found(message).about(Subject::Model)
        })
    }
}

impl Lake {
    /// All models, by name.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_models(&self) -> Result<Vec<StoredModel>> {
        let mut models = Vec::new();
        for object in self.system().list(RECORDS).await? {
            if let Some(bytes) = self.system().get(&object.path).await? {
                models.push(parse(&object.path, &bytes)?);
            }
        }
        models.sort_by(|a: &StoredModel, b| a.name.cmp(&b.name));
        Ok(models)
    }

    /// The model of that name, which is one that was checked.
    ///
    /// # Errors
    /// `NotFound` naming the nearest models.
    #[boxed]
    pub async fn model(&self, name: &str) -> Result<StoredModel> {
        let path = record_path(name);
        match self.system().get(&path).await? {
            Some(bytes) => parse(&path, &bytes),
            None => Err(self.no_model(name).await),
        }
    }

    async fn no_model(&self, name: &str) -> Error {
        let listed = self.system().list(RECORDS).await.unwrap_or_default();
        let known = listed.iter().filter_map(|object| name_of(&object.path));
        let near = nearest_names(name, known);
        Error::not_found(format!("model `{name}` does not exist{near}")).about(Subject::Model)
    }

    /// Which of some digests no file of a model has.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn missing_model_files(&self, digests: &[String]) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for sha256 in digests {
            if self.model_file_size(sha256).await?.is_none() {
                missing.push(sha256.clone());
            }
        }
        Ok(missing)
    }

    async fn model_file_size(&self, sha256: &str) -> Result<Option<u64>> {
        let path = self.shared.root.path(&format!("{SYSTEM_FOLDER}/{}", file_path(sha256)));
        match self.shared.root.store().head(&path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(from_object_store(error, "look at a model's file")),
        }
    }

    /// Registers a version of a model, and the model where it is new; returns its number. What has the digest
    /// of a version is that version, and takes over the notes. A file that is not there comes from the
    /// upload that `uploads` names for its digest.
    ///
    /// # Errors
    /// `InvalidArgument` for a file that is nowhere, or an upload that is another one.
    #[boxed]
    pub async fn register_model(
        &self,
        name: &str,
        version: ModelVersion,
        uploads: &BTreeMap<String, String>,
    ) -> Result<(StoredModel, u64)> {
        let _turn = self.modelling.lock().await;
        for file in &version.files {
            self.take_model_file(file, uploads.get(&file.sha256)).await?;
        }
        let mut number = 0;
        let model = self
            .change_model(name, |known| {
                let mut model = known.unwrap_or_else(|| StoredModel {
                    format: FORMAT,
                    name: name.to_owned(),
                    next: 1,
                    versions: BTreeMap::new(),
                    tags: BTreeMap::new(),
                });
                let same = model.versions.iter_mut().find(|(_, it)| it.digest == version.digest);
                number = match same {
                    Some((number, same)) => {
                        same.notes = version.notes.clone();
                        *number
                    }
                    None => {
                        let number = model.next;
                        model.versions.insert(number, version.clone());
                        model.next += 1;
                        number
                    }
                };
                Ok(Some(model))
            })
            .await?;
        let model = model.ok_or_else(|| Error::internal("a model was not registered"))?;
        Ok((model, number))
    }

    async fn take_model_file(&self, file: &ModelFile, upload: Option<&String>) -> Result<()> {
        let ModelFile { path, size, sha256 } = file;
        let wrong = |what: &str, found: String| {
            Err(Error::invalid(format!("file `{path}` is {what}; {found}")))
        };
        if let Some(there) = self.model_file_size(sha256).await? {
            return match there == *size {
                true => Ok(()),
                false => wrong(&format!("{size} bytes"), format!("{sha256} has {there}")),
            };
        }
        let Some(id) = upload else {
            return wrong(sha256, "no file of the lake has this SHA-256: upload it".to_owned());
        };
        let uploads = self.uploads();
        let upload = uploads.finished(id).await?;
        if (&upload.sha256, upload.size) != (sha256, *size) {
            let found = format!("upload `{id}` has {} and {} bytes", upload.sha256, upload.size);
            return wrong(&format!("{sha256} and {size} bytes"), found);
        }
        uploads.keep_as(&upload, &format!("{SYSTEM_FOLDER}/{}", file_path(sha256))).await?;
        uploads.mark_used(&upload).await
    }

    /// Has a tag name a version, whatever it named before.
    ///
    /// # Errors
    /// `NotFound` when there is no such model or version.
    #[boxed]
    pub async fn tag_model(&self, name: &str, tag: &str, number: u64) -> Result<StoredModel> {
        self.change_known_model(name, |model| {
            model.version(number)?;
            model.tags.insert(tag.to_owned(), number);
            Ok(())
        })
        .await
    }

    /// Takes a tag away.
    ///
    /// # Errors
    /// `NotFound` when there is no such model or tag.
    #[boxed]
    pub async fn untag_model(&self, name: &str, tag: &str) -> Result<StoredModel> {
        self.change_known_model(name, |model| {
            model.tagged(tag)?;
            model.tags.remove(tag);
            Ok(())
        })
        .await
    }

    async fn change_known_model(
        &self,
        name: &str,
        change: impl Fn(&mut StoredModel) -> Result<()> + Send + Sync,
    ) -> Result<StoredModel> {
        let _turn = self.modelling.lock().await;
        // For its error, which names others.
        self.model(name).await?;
        let changed = self
            .change_model(name, |known| {
                let mut model = known.ok_or_else(|| gone(name))?;
                change(&mut model)?;
                Ok(Some(model))
            })
            .await?;
        changed.ok_or_else(|| gone(name))
    }

    /// Forgets a version of a model with its tags, or the whole model, and the files that no other version
    /// has.
    ///
    /// # Errors
    /// `NotFound` when there is no such model or version.
    #[boxed]
    pub async fn drop_model(&self, name: &str, number: Option<u64>) -> Result<()> {
        let _turn = self.modelling.lock().await;
        self.model(name).await?;
        self.change_model(name, |known| {
            let mut model = known.ok_or_else(|| gone(name))?;
            let Some(number) = number else { return Ok(None) };
            model.version(number)?;
            model.versions.remove(&number);
            model.tags.retain(|_, tagged| *tagged != number);
            // Numbers of a model that is left without versions begin anew.
            Ok((!model.versions.is_empty()).then_some(model))
        })
        .await?;
        self.sweep_model_files().await
    }

    /// Deletes files that no model names: those of versions that were dropped, and those that were left
    /// behind when a registration was cut off.
    async fn sweep_model_files(&self) -> Result<()> {
        let models = self.list_models().await?;
        let versions = models.iter().flat_map(|model| model.versions.values());
        let used: BTreeSet<String> =
            versions.flat_map(|it| &it.files).map(|file| file_path(&file.sha256)).collect();
        for object in self.system().list(MODEL_FILES).await? {
            if !used.contains(&object.path) {
                self.system().delete(&object.path).await?;
            }
        }
        Ok(())
    }

    /// Writes what `change` makes of a record; nothing deletes it. The caller has the turn.
    async fn change_model(
        &self,
        name: &str,
        mut change: impl FnMut(Option<StoredModel>) -> Result<Option<StoredModel>> + Send,
    ) -> Result<Option<StoredModel>> {
        let (system, path) = (self.system(), record_path(name));
        loop {
            let stored = system.get_stored(&path).await?;
            let known = stored.as_ref().map(|stored| parse(&path, &stored.bytes)).transpose()?;
            if known.is_none() && system.list(RECORDS).await?.len() >= MODELS_MAX {
                return Err(Error::invalid(format!("a lake has at most {MODELS_MAX} models")));
            }
            let Some(model) = change(known)? else {
                system.delete(&path).await?;
                return Ok(None);
            };
            let bytes = serde_json::to_vec(&model)
                .map_err(|error| Error::internal("write a model's record").with_source(error))?;
            let is_done = match stored {
                Some(stored) => system.replace(&path, &stored, Bytes::from(bytes)).await?,
                None => system.create(&path, Bytes::from(bytes)).await?,
            };
            if is_done {
                return Ok(Some(model));
            }
        }
    }

    /// The bytes of a range of a model's file, which lies within it.
    ///
    /// # Errors
    /// `Corrupt` when the file is gone.
    #[boxed]
    pub async fn read_model_file(&self, file: &ModelFile, range: Range<u64>) -> Result<ByteStream> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let path = self.shared.root.path(&format!("{SYSTEM_FOLDER}/{}", file_path(&file.sha256)));
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..Default::default() };
        let read = |error| from_object_store(error, "read of a model's file");
        match self.shared.root.store().get_opts(&path, options).await {
            Ok(found) => Ok(found.into_stream().map_err(read).boxed()),
            Err(object_store::Error::NotFound { .. }) => {
                let message = format!("the file {} of a model is not in the lake", file.sha256);
                Err(Error::new(ErrorKind::Corrupt, message))
            }
            Err(error) => Err(read(error)),
        }
    }
}

fn gone(name: &str) -> Error {
    Error::not_found(format!("model `{name}` does not exist")).about(Subject::Model)
}

fn record_path(name: &str) -> String {
    format!("{RECORDS}/{name}.json")
}

fn name_of(path: &str) -> Option<&str> {
    path.rsplit('/').next()?.strip_suffix(".json")
}

fn file_path(sha256: &str) -> String {
    // Backups check what lies below a folder of that name.
    format!("{MODEL_FILES}/sha256/{sha256}")
}

fn parse(path: &str, bytes: &[u8]) -> Result<StoredModel> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let corrupt = |error: serde_json::Error| {
        let message = format!("the record `{path}` is damaged");
        Error::new(ErrorKind::Corrupt, message).with_source(error)
    };
    let version: Version = serde_json::from_slice(bytes).map_err(corrupt)?;
    if version.format > FORMAT {
        let format = version.format;
        let message =
            format!("model `{path}` has format {format}; this server reads up to {FORMAT}");
        return Err(Error::new(ErrorKind::Unavailable, message));
    }
    serde_json::from_slice(bytes).map_err(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksums::Claimed;
    use crate::test_lake::lake;

    async fn uploaded(lake: &Lake, bytes: &'static [u8]) -> (ModelFile, String) {
        let uploads = lake.uploads();
        let id = uploads.create().await.unwrap();
        let body = futures::stream::iter([Ok(Bytes::from_static(bytes))]).boxed();
        uploads.append(&id, 0, body).await.unwrap();
        let sha256 = crate::sha256_text(bytes).trim_start_matches("sha256:").to_owned();
        let size = bytes.len() as u64;
        uploads.complete(&id, size, &Claimed::Sha256(sha256.clone())).await.unwrap();
        (ModelFile { path: "model.onnx".to_owned(), size, sha256 }, id)
    }

    fn version(digest: &str, file: &ModelFile) -> ModelVersion {
        ModelVersion {
            digest: digest.to_owned(),
            files: vec![file.clone()],
            settings: serde_json::json!({ "dimensions": 2 }),
            notes: serde_json::Value::Null,
            created_at_ms: 7,
        }
    }

    async fn bytes_of(lake: &Lake, file: &ModelFile, range: Range<u64>) -> Vec<u8> {
        let stream = lake.read_model_file(file, range).await.unwrap();
        stream.try_collect::<Vec<Bytes>>().await.unwrap().concat()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn versions_tags_and_files_come_and_go() {
        let (lake, _folder) = lake().await;
        let (one, upload_one) = uploaded(&lake, b"the first").await;
        let (two, upload_two) = uploaded(&lake, b"the second").await;
        let from = |file: &ModelFile, id: &str| [(file.sha256.clone(), id.to_owned())].into();
        let none = BTreeMap::new();

        let error = lake.register_model("m", version("a", &one), &none).await.unwrap_err();
        assert!(error.message().contains("upload it"), "{error}");
        let wrong = from(&one, &upload_two);
        let error = lake.register_model("m", version("a", &one), &wrong).await.unwrap_err();
        assert!(error.message().contains(&two.sha256), "{error}");

        let number = |registered: (StoredModel, u64)| registered.1;
        let first = from(&one, &upload_one);
        assert_eq!(number(lake.register_model("m", version("a", &one), &first).await.unwrap()), 1);
        // The bytes are there by now.
        assert_eq!(number(lake.register_model("m", version("b", &one), &none).await.unwrap()), 2);
        let noted = ModelVersion { notes: serde_json::json!("new"), ..version("a", &one) };
        let (model, number) = lake.register_model("m", noted, &none).await.unwrap();
        assert_eq!((number, &model.version(1).unwrap().notes), (1, &serde_json::json!("new")));
        let second = from(&two, &upload_two);
        lake.register_model("other", version("c", &two), &second).await.unwrap();
        assert_eq!(bytes_of(&lake, &one, 0..9).await, b"the first");
        assert_eq!(bytes_of(&lake, &two, 4..7).await, b"sec");

        lake.tag_model("m", "gold", 1).await.unwrap();
        assert_eq!(lake.tag_model("m", "gold", 2).await.unwrap().tagged("gold").unwrap(), 2);
        assert!(lake.tag_model("m", "gold", 3).await.is_err());
        assert!(lake.untag_model("m", "silver").await.is_err());
        lake.drop_model("m", Some(2)).await.unwrap();
        let model = lake.model("m").await.unwrap();
        assert_eq!((model.tags.len(), model.newest().unwrap().0), (0, 1));
        assert_eq!(bytes_of(&lake, &one, 0..3).await, b"the");
        lake.drop_model("m", Some(1)).await.unwrap();
        assert_eq!(lake.model("m").await.unwrap_err().subject(), Some(Subject::Model));
        let Err(error) = lake.read_model_file(&one, 0..3).await else { panic!("it is there") };
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(bytes_of(&lake, &two, 0..3).await, b"the");
        assert_eq!(lake.missing_model_files(&[one.sha256, two.sha256]).await.unwrap().len(), 1);
        assert_eq!(lake.list_models().await.unwrap().len(), 1);
    }
}
