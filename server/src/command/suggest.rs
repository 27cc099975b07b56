//! `lakebed suggest TABLE TEXT`: the words that were meant.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct Suggest {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// What was asked for
    text: String,
    /// The column of texts [default: the only one with a text index]
    #[arg(long)]
    column: Option<String>,
    /// Suggestions for each word
    #[arg(long, default_value_t = 5)]
    limit: u64,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for Suggest {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/suggest", segment(&self.table));
        let body = json!({ "text": self.text, "column": self.column, "limit": self.limit });
        let answer = client.send(Method::POST, &path, Some(body)).await?;
        if let Format::Json = self.format {
            return print_json(&answer);
        }
        if !answer["corrected"].is_null() {
            print(&format!("did you mean: {}", cell(&answer["corrected"])))?;
        }
        let mut rows = Vec::new();
        for word in answer["words"].as_array().into_iter().flatten() {
            let near = word["suggestions"].as_array().into_iter().flatten();
            let near: Vec<String> = near
                .map(|near| format!("{} ({} rows)", cell(&near["word"]), cell(&near["rows"])))
                .collect();
            let is_known = if word["is_known"] == true { "rare" } else { "unknown" };
            rows.push(vec![cell(&word["word"]), is_known.to_owned(), near.join(", ")]);
        }
        print_table(&["WORD", "IS", "NEAREST"], &rows)
    }
}
