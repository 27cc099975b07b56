//! `lakebed show TABLE`.

use clap::Args;
use http::Method;
use serde_json::Value;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// A version number, a tag, or a time of RFC 3339 [default: the latest version]
    #[arg(long, value_name = "VERSION|TAG|TIME")]
    at: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for Show {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let query = self.at.as_deref().map(at_query).unwrap_or_default();
        let path = format!("/v1/table/{}/show{query}", segment(&self.table));
        let shown = client.send(Method::GET, &path, None).await?;
        match self.format {
            Format::Json => print_json(&shown),
            Format::Table => print_shown(&shown),
        }
    }
}

/// A number is a version, what parses as a time with a zone is a time, anything else is a tag.
fn at_query(at: &str) -> String {
    let name = if at.bytes().all(|byte| byte.is_ascii_digit()) {
        "version"
    } else if chrono::DateTime::parse_from_rfc3339(at).is_ok() {
        "as_of"
    } else {
        "tag"
    };
    format!("?{name}={}", segment(at))
}

fn print_shown(shown: &Value) -> Result<(), Exit> {
    for name in ["database", "table", "version", "committed_at", "rows", "profile", "location"] {
        print(&format!("{name:<13}{}", cell(&shown[name])))?;
    }
    let list = |name: &str| shown[name].as_array().cloned().unwrap_or_default();
    let columns: Vec<Vec<String>> = list("columns")
        .iter()
        .map(|column| vec![cell(&column["name"]), cell(&column["type"]), cell(&column["nullable"])])
        .collect();
    print("")?;
    print_table(&["column", "type", "nullable"], &columns)?;
    let tags: Vec<Vec<String>> =
        list("tags").iter().map(|tag| vec![cell(&tag["name"]), cell(&tag["version"])]).collect();
    if tags.is_empty() {
        return Ok(());
    }
    print("")?;
    print_table(&["tag", "version"], &tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_version_a_time_or_a_tag() {
        assert_eq!(at_query("7"), "?version=7");
        assert_eq!(at_query("gold-1"), "?tag=gold-1");
        assert_eq!(at_query("2026-01-01T00:00:00Z"), "?as_of=2026-01-01T00%3A00%3A00Z");
        assert_eq!(at_query("2026-01-01T00:00:00"), "?tag=2026-01-01T00%3A00%3A00");
    }
}
