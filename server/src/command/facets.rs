//! `lakebed facets TABLE --by COLUMN`: counts by value over what a search by words finds.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct Facets {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// Columns to count by, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES", required = true)]
    by: Vec<String>,
    /// Words; without them all rows are counted
    #[arg(long)]
    words: Option<String>,
    /// Only rows for which this is true
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// How many values of each column
    #[arg(long, default_value_t = 10)]
    limit: u64,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for Facets {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/facets", segment(&self.table));
        let facet = |column: &String| json!({ "column": column, "limit": self.limit });
        let facets: Vec<_> = self.by.iter().map(facet).collect();
        let words = self.words.as_ref().map(|words| json!({ "query": words }));
        let body = json!({ "facets": facets, "full_text_query": words, "filter": self.filter });
        let answer = client.send(Method::POST, &path, Some(body)).await?;
        if let Format::Json = self.format {
            return print_json(&answer);
        }
        let mut rows = Vec::new();
        for facet in answer["facets"].as_array().into_iter().flatten() {
            let column = cell(&facet["column"]);
            for value in facet["values"].as_array().into_iter().flatten() {
                rows.push(vec![column.clone(), cell(&value["value"]), cell(&value["count"])]);
            }
            if facet["other"].as_u64().is_some_and(|other| other > 0) {
                rows.push(vec![column, "(others)".to_owned(), cell(&facet["other"])]);
            }
        }
        print_table(&["COLUMN", "VALUE", "ROWS"], &rows)?;
        if answer["is_cut"] == true {
            print(&format!(
                "more rows match; the first {} were counted",
                cell(&answer["matched"])
            ))?;
        }
        Ok(())
    }
}
