//! `lakebed models register NAME --path DIR|FILE`: a version of a model, its files sent as uploads.
//!
//! Only files that the lake has not are sent; an upload that was cut off goes on where it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Map, Value, json};

use super::import::notes::Notes;
use super::import::report::Progress;
use super::import::upload::{Failure, Uploader, forget};
use super::model_folder::{LocalFile, declaration, files_of};
use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct ModelsRegister {
    /// The name of the model
    name: String,
    /// Its folder, or its only file
    #[arg(long, value_name = "DIR|FILE")]
    path: PathBuf,
    /// What it is for, such as embedding
    #[arg(long)]
    task: Option<String>,
    /// What it reads, where workers are to run it
    #[arg(long, value_enum)]
    input: Option<Input>,
    /// Numbers of its vectors
    #[arg(long)]
    dimensions: Option<u32>,
    /// Under which terms it may be used
    #[arg(long, visible_alias = "license")]
    licence: Option<String>,
    /// How to print the version
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Input {
    /// UTF-8 text.
    Text,
    /// The bytes of a picture.
    Picture,
}

impl ModelsRegister {
    /// What is declared: by the folder, and above it by flags.
    fn declared(&self) -> Result<Map<String, Value>, Exit> {
        let mut declared = declaration(&self.path)?;
        let input = self.input.map(|input| match input {
            Input::Text => "text",
            Input::Picture => "picture",
        });
        let flags = [
            ("task", self.task.as_deref().map(Value::from)),
            ("input", input.map(Value::from)),
            ("dimensions", self.dimensions.map(Value::from)),
            ("licence", self.licence.as_deref().map(Value::from)),
        ];
        for (name, value) in flags {
            if let Some(value) = value {
                declared.insert(name.to_owned(), value);
            }
        }
        Ok(declared)
    }
}

impl ClientVerb for ModelsRegister {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let mut body = self.declared()?;
        let root = self.path.clone();
        let files = tokio::task::spawn_blocking(move || files_of(&root)).await;
        let files = files.map_err(|_| Exit::failed("the reader of files failed"))??;
        let digests: Vec<&str> = files.iter().map(|file| file.sha256.as_str()).collect();
        let asked = json!({ "sha256": digests });
        let answer = client.send(Method::POST, "/v1/model_files/missing", Some(asked)).await?;
        let missing: Vec<&str> =
            answer["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let sent = self.send(client, &files, &missing).await?;
        let told: Vec<Value> = files
            .iter()
            .map(|file| {
                let LocalFile { path, size, sha256, .. } = file;
                let upload = sent.get(sha256).map(|(id, _)| id);
                json!({ "path": path, "size": size, "sha256": sha256, "upload": upload })
            })
            .collect();
        body.insert("files".to_owned(), told.into());
        let path = format!("/v1/models/{}/register", segment(&self.name));
        let made = client.send(Method::POST, &path, Some(Value::Object(body))).await?;
        for (_, note) in sent.values() {
            forget(note.as_deref());
        }
        match self.format {
            Format::Json => print_json(&made),
            Format::Table => print(&format!(
                "{}@{} {}",
                cell(&made["name"]),
                cell(&made["version"]),
                cell(&made["digest"])
            )),
        }
    }
}

/// The id of an upload and its note, by the digest of its bytes.
type Sent = BTreeMap<String, (String, Option<PathBuf>)>;

impl ModelsRegister {
    /// Sends what is missing.
    async fn send(
        &self,
        client: &Client,
        files: &[LocalFile],
        missing: &[&str],
    ) -> Result<Sent, Exit> {
        let version = client.send(Method::GET, "/version", None).await?;
        let lake = version["lake_id"].as_str().unwrap_or_default();
        let notes = Notes::new(lake, client.settings().database.as_deref());
        let progress = Progress::new();
        let own = Arc::new(Client::new(client.settings().clone())?);
        let uploader = Uploader::new(own, notes, progress.clone());
        let mut sent = Sent::new();
        for file in files {
            if !missing.contains(&file.sha256.as_str()) || sent.contains_key(&file.sha256) {
                continue;
            }
            let what = format!("model {}", self.name);
            let uploaded =
                uploader.send(&what, &file.source).await.map_err(|error| match error {
                    Failure::File(error) => {
                        Exit::failed(format!("`{}`: {error}", file.source.display()))
                    }
                    Failure::Server(message) => Exit::failed(message),
                })?;
            if uploaded.sha256 != file.sha256 {
                let changed = format!("`{}` changed while it was read", file.source.display());
                return Err(Exit::failed(changed));
            }
            sent.insert(file.sha256.clone(), (uploaded.id, uploaded.note));
            progress.add_done(1);
        }
        progress.end();
        Ok(sent)
    }
}
