//! `lakebed compare-embeddings TABLE --from A --to B`: what two columns of vectors find, side by side.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json, print_table};

/// Each query is an exact search over all rows.
const TIME_MAX: Duration = Duration::from_secs(3_600);
/// Queries of which the report shows their row ids.
const WORST_SHOWN: usize = 3;

#[derive(Debug, Args)]
pub(crate) struct CompareEmbeddings {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The column of vectors that is used now, or an alias of it
    #[arg(long)]
    from: String,
    /// The column that may take its place, or an alias of it
    #[arg(long)]
    to: String,
    /// How many rows are asked for, taken by chance
    #[arg(long, default_value_t = 100, conflicts_with = "text")]
    queries: usize,
    /// A text to ask for instead of rows, by the models of both columns; may be given several times
    #[arg(long)]
    text: Vec<String>,
    /// Takes other rows for another number
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many rows each query finds
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Only rows for which this is true
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// How to print the report
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for CompareEmbeddings {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let queries = match self.text.is_empty() {
            true => json!(self.queries),
            false => json!(self.text),
        };
        let body = json!({
            "from": self.from,
            "to": self.to,
            "queries": queries,
            "seed": self.seed,
            "k": self.k,
            "filter": self.filter,
        });
        let path = format!("/v1/table/{}/compare_embeddings", segment(&self.table));
        let report = client.ask(Method::POST, &path, Some(body), TIME_MAX).await?;
        match self.format {
            Format::Json => print_json(&report),
            Format::Table => show(&report),
        }
    }
}

fn show(report: &Value) -> Result<(), Exit> {
    let number = |value: &Value| match value.as_f64() {
        Some(number) => format!("{number:.3}"),
        None => "-".to_owned(),
    };
    let rows: Vec<Vec<String>> = ["from", "to"]
        .into_iter()
        .map(|side| {
            let of = &report[side];
            vec![
                side.to_owned(),
                cell(&of["column"]),
                cell(&of["model"]),
                cell(&of["dimensions"]),
                cell(&of["distance_type"]),
                cell(&of["index_type"]),
                cell(&of["unindexed_rows"]),
                number(&of["recall"]),
                number(&of["latency_ms_median"]),
            ]
        })
        .collect();
    let k = cell(&report["k"]);
    let recall = format!("recall@{k}");
    print_table(
        &["", "column", "model", "dimensions", "distance", "index", "unindexed", &recall, "ms"],
        &rows,
    )?;
    let overlap = &report["overlap"];
    print(&format!(
        "overlap@{k} of the exact answers of {} queries: mean {}, p10 {}, rank correlation {}",
        cell(&report["queries"]),
        number(&overlap["mean"]),
        number(&overlap["p10"]),
        number(&report["rank_correlation"]),
    ))?;
    let nulls = report["rows_with_null"].as_u64().unwrap_or(0);
    print(&format!("{nulls} of {} rows have no vector in one of them", cell(&report["rows"])))?;
    for worst in report["worst"].as_array().into_iter().flatten().take(WORST_SHOWN) {
        let of = match worst["text"].as_str() {
            Some(text) => format!("text {text:?}"),
            None => format!("row {}", worst["row_id"]),
        };
        print(&format!(
            "{of}: overlap {}, from {} to {}",
            number(&worst["overlap"]),
            worst["from"],
            worst["to"]
        ))?;
    }
    Ok(())
}
