//! `lakebed models describe NAME[@VERSION|@TAG]`: the versions of a registered model, or the files of one.

use clap::Args;
use http::Method;
use serde_json::Value;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct ModelsDescribe {
    /// The model, or a version of it as NAME@VERSION or NAME@TAG
    model: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for ModelsDescribe {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/models/{}", segment(&self.model));
        let model = client.send(Method::GET, &path, None).await?;
        if self.format == Format::Json {
            return print_json(&model);
        }
        match model["versions"].is_array() {
            true => print_versions(&model),
            false => {
                let names = ["path", "size", "sha256"];
                print_table(&["FILE", "BYTES", "SHA-256"], &rows(&model["files"], &names))
            }
        }
    }
}

fn print_versions(model: &Value) -> Result<(), Exit> {
    let names =
        ["version", "task", "input", "dimensions", "size", "licence", "created_at", "digest"];
    let mut rows = rows(&model["versions"], &names);
    for row in &mut rows {
        let tags = model["tags"].as_object().into_iter().flatten();
        let version = row.first().cloned().unwrap_or_default();
        let tags = tags.filter(|(_, number)| number.to_string() == version);
        let tags: Vec<&str> = tags.map(|(tag, _)| tag.as_str()).collect();
        row.insert(1, tags.join(", "));
    }
    let titles =
        ["VERSION", "TAGS", "TASK", "INPUT", "DIMENSIONS", "BYTES", "LICENCE", "CREATED", "DIGEST"];
    print_table(&titles, &rows)
}

fn rows(listed: &Value, names: &[&str]) -> Vec<Vec<String>> {
    let row = |one: &Value| names.iter().map(|name| cell(&one[*name])).collect();
    listed.as_array().into_iter().flatten().map(row).collect()
}
