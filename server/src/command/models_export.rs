//! `lakebed models export NAME[@VERSION|@TAG] --to DIR`: the files of a version, as they were registered.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::import::hex;
use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct ModelsExport {
    /// The model: its newest version, or NAME@VERSION or NAME@TAG
    model: String,
    /// The folder to write to; it is made where it is not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for ModelsExport {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let model = match self.model.contains('@') {
            true => client.send(Method::GET, &path_of(&self.model, ""), None).await?,
            false => newest(client, &self.model).await?,
        };
        let (Some(name), Some(version)) = (model["name"].as_str(), model["version"].as_u64())
        else {
            return Err(Exit::failed("the server did not say which version it is"));
        };
        // From here on by its number: a tag may move meanwhile.
        let exact = format!("{name}@{version}");
        let mut count = 0;
        for file in model["files"].as_array().into_iter().flatten() {
            export(client, &exact, file, &self.to).await?;
            count += 1;
        }
        print(&format!("{exact}: {count} files in {}", self.to.display()))
    }
}

async fn newest(client: &Client, name: &str) -> Result<Value, Exit> {
    let model = client.send(Method::GET, &path_of(name, ""), None).await?;
    let mut version = model["versions"].as_array().and_then(|it| it.last()).cloned();
    if let Some(version) = version.as_mut() {
        version["name"] = model["name"].clone();
    }
    version.ok_or_else(|| Exit::failed(format!("model {name} has no version")))
}

fn path_of(model: &str, more: &str) -> String {
    format!("/v1/models/{}{more}", segment(model))
}

/// Writes one file, whole or not at all.
async fn export(client: &Client, exact: &str, file: &Value, to: &Path) -> Result<(), Exit> {
    let (Some(path), Some(sha256)) = (file["path"].as_str(), file["sha256"].as_str()) else {
        return Err(Exit::failed("the server described a file without path and digest"));
    };
    // What a server says is not trusted to stay inside of the folder.
    let is_inside =
        path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\\'));
    if !is_inside {
        return Err(Exit::failed(format!("`{path}` is no path of a model's file")));
    }
    let target = to.join(path);
    let failed = |error: &std::io::Error| Exit::failed(format!("`{}`: {error}", target.display()));
    let folder = target.parent().unwrap_or(to);
    std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(format!(".{}.part", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut out = File::create(&temporary).map_err(|error| failed(&error))?;
    let mut hasher = Sha256::new();
    let query = format!("/file?path={}", segment(path));
    let keep = |piece: &[u8]| {
        hasher.update(piece);
        out.write_all(piece)
    };
    let read = client.download(&path_of(exact, &query), keep).await;
    let written = match read {
        Err(refusal) => Err(Exit::from(refusal)),
        Ok(()) if hex(&hasher.finalize()) != sha256 => {
            Err(Exit::failed(format!("`{path}` arrived with another digest than {sha256}")))
        }
        Ok(()) => out
            .sync_all()
            .and_then(|()| std::fs::rename(&temporary, &target))
            .map_err(|error| failed(&error)),
    };
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
