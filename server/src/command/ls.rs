//! `lakebed ls [PREFIX]`.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

const PAGE: u64 = 1_000;

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only tables whose id begins with this
    #[arg(default_value = "")]
    prefix: String,
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for Ls {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let mut tables: Vec<Value> = Vec::new();
        let mut token = None::<String>;
        loop {
            let path = match &token {
                None => format!("/v1/table?limit={PAGE}"),
                Some(token) => format!("/v1/table?limit={PAGE}&page_token={}", segment(token)),
            };
            let page = client.send(Method::GET, &path, None).await?;
            tables.extend(page["tables"].as_array().into_iter().flatten().cloned());
            token =
                page["page_token"].as_str().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        tables.retain(|table| table.as_str().is_some_and(|id| id.starts_with(&self.prefix)));
        match self.format {
            Format::Json => print_json(&json!({ "tables": tables })),
            Format::Table => {
                let rows: Vec<Vec<String>> = tables.iter().map(|id| vec![cell(id)]).collect();
                print_table(&["table"], &rows)
            }
        }
    }
}
