//! `lakebed find TEXT`: what there is, by names, columns, tags, owners and descriptions.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{cell, print, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct Find {
    /// Words; each has to be somewhere, and may be typed half or with one mistake
    #[arg(required = true)]
    text: Vec<String>,
    /// Only these kinds: table, view, `materialized_view`, function, model, tag, namespace
    #[arg(long = "kind", value_delimiter = ',', value_name = "KINDS")]
    kinds: Vec<String>,
    /// How many hits
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// How to print the hits
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for Find {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let body = json!({ "text": self.text.join(" "), "kinds": self.kinds, "limit": self.limit });
        let answer = client.send(Method::POST, "/v1/catalogue/search", Some(body)).await?;
        if self.format == Format::Json {
            return print_json(&answer);
        }
        let hits = answer["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rows: Vec<Vec<String>> = hits
            .iter()
            .map(|hit| {
                let of = hit["of"].as_str().map(|of| format!(" of {of}")).unwrap_or_default();
                let places = hit["matched_in"].as_array().into_iter().flatten();
                let places: Vec<&str> = places.filter_map(|place| place.as_str()).collect();
                vec![
                    cell(&hit["kind"]),
                    format!("{}{of}", cell(&hit["name"])),
                    places.join(", "),
                    hit["fragment"].as_str().unwrap_or_default().replace(['\n', '\r'], " "),
                ]
            })
            .collect();
        print_table(&["kind", "name", "matched in", "text"], &rows)?;
        let found = answer["found"].as_u64().unwrap_or(0);
        if found > hits.len() as u64 {
            print(&format!("{found} in all; see more with --limit"))?;
        }
        match answer["building"].as_bool() {
            Some(true) => print("the server still reads the catalogue: there may be more"),
            _ => Ok(()),
        }
    }
}
