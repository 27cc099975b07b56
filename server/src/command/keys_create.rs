//! `lakebed keys create --name NAME --role ROLE`.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct KeysCreate {
    /// What to call the key
    #[arg(long)]
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    role: KeyRole,
    /// After this time it is refused, such as 30days or 12h [default: never]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
    /// How to print the key
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeyRole {
    /// Everything, keys included.
    Admin,
    /// Read and change tables.
    Write,
    /// Read tables.
    Read,
    /// Run tasks of jobs, and nothing else.
    Worker,
}

impl ClientVerb for KeysCreate {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let role = match self.role {
            KeyRole::Admin => "admin",
            KeyRole::Write => "write",
            KeyRole::Read => "read",
            KeyRole::Worker => "worker",
        };
        let expires_at = self.expires_in.map(expiry).transpose()?;
        let body = json!({ "name": self.name, "role": role, "expires_at": expires_at });
        let made = client.send(Method::POST, "/v1/keys", Some(body)).await?;
        match self.format {
            Format::Json => print_json(&made),
            // The key alone on standard output, so that `KEY=$(lakebed keys create …)` works.
            Format::Table => {
                eprintln!("key {} was made; it is not shown again", cell(&made["id"]));
                print(&cell(&made["key"]))
            }
        }
    }
}

fn expiry(after: Duration) -> Result<String, Exit> {
    chrono::Duration::from_std(after)
        .ok()
        .and_then(|after| Utc::now().checked_add_signed(after))
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
        .ok_or_else(|| Exit::usage("--expires-in lies too far ahead"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_beyond_the_calendar_is_refused() {
        assert!(expiry(Duration::from_secs(60)).is_ok());
        assert!(expiry(Duration::from_secs(u64::MAX)).is_err());
    }
}
