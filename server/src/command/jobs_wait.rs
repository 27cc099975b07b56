//! `lakebed jobs wait`: waits for the end of a job, with a progress line where somebody looks.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(500);
const BAR_CHARS: u64 = 30;

#[derive(Debug, Args)]
pub(crate) struct JobsWait {
    /// The job
    job: String,
    /// How to print its end
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for JobsWait {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        wait_for(client, &self.job, self.format).await
    }
}

/// Waits until the job has ended; fails if it failed.
pub(super) async fn wait_for(client: &Client, job_id: &str, format: Format) -> Result<(), Exit> {
    let is_shown = std::io::stderr().is_terminal();
    let ended = loop {
        let body = json!({ "job_id": job_id });
        let job = client.send(Method::POST, "/v1/jobs/describe", Some(body)).await?;
        if is_shown {
            eprint!("\r\x1b[2K{}", line(&job));
            let _ = std::io::stderr().flush();
        }
        match job["job_state"].as_str() {
            Some("IN_PROGRESS" | "PAUSED") => tokio::time::sleep(LOOK).await,
            _ => break job,
        }
    };
    if is_shown {
        eprintln!();
    }
    match format {
        Format::Json => print_json(&ended)?,
        Format::Table => print(&summary(&ended))?,
    }
    match ended["job_state"].as_str() {
        Some("DONE") => Ok(()),
        _ => Err(Exit::failed(format!("job {job_id}: {}", cell(&ended["failure"]["message"])))),
    }
}

/// A bar, rows, rate and time that is left.
fn line(job: &Value) -> String {
    let progress = &job["progress"];
    let done = progress["rows_done"].as_u64().unwrap_or(0);
    let Some(rows) = progress["rows"].as_u64() else { return "planning".to_owned() };
    let filled = (done * BAR_CHARS).checked_div(rows).unwrap_or(BAR_CHARS).min(BAR_CHARS);
    let bar: String = (0..BAR_CHARS).map(|n| if n < filled { '█' } else { '░' }).collect();
    let mut line = format!("{bar} {done}/{rows} rows");
    if let Some(rate) = progress["rows_per_second"].as_f64() {
        line.push_str(&format!(", {rate:.0}/s"));
    }
    if let Some(left) = progress["remaining_ms"].as_u64() {
        let left = Duration::from_secs(left.div_ceil(1_000));
        line.push_str(&format!(", {} left", humantime::format_duration(left)));
    }
    if let Some(errors) = progress["errors"].as_u64().filter(|errors| *errors > 0) {
        line.push_str(&format!(", {errors} errors"));
    }
    if let Some(workers) = progress["workers"].as_array().filter(|workers| !workers.is_empty()) {
        line.push_str(&format!(", {} workers", workers.len()));
        if let Some(share) = progress["utilization"].as_f64() {
            line.push_str(&format!(" {:.0} % busy", share * 100.0));
        }
    }
    if let Some(retries) = progress["retries"].as_u64().filter(|retries| *retries > 0) {
        line.push_str(&format!(", {retries} retries"));
    }
    if let Some(what) = progress["waits_for"].as_str() {
        line.push_str(&format!(", waits for {what}"));
    }
    if job["job_state"] == "PAUSED" {
        line.push_str(", paused");
    }
    line
}

fn summary(job: &Value) -> String {
    let result = &job["result"];
    match job["job_state"].as_str() {
        Some("DONE") if result["duplicates"].is_u64() => format!(
            "done: {} rows, {} clusters, {} duplicates, in version {}",
            cell(&result["rows"]),
            cell(&result["clusters"]),
            cell(&result["duplicates"]),
            cell(&result["version"])
        ),
        Some("DONE") if result["rows"].is_u64() => format!(
            "done: {} rows, {} of them with an error, in version {}",
            cell(&result["rows"]),
            cell(&result["errors"]),
            cell(&result["version"])
        ),
        _ => format!("{}: {}", cell(&job["job_id"]), cell(&job["job_state"]).to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_what_is_known() {
        let job = json!({"job_state": "IN_PROGRESS", "progress": {
            "rows": 200, "rows_done": 100, "errors": 2, "rows_per_second": 10.4,
            "remaining_ms": 9_600, "workers": ["a", "b"], "utilization": 0.756, "retries": 3,
        }});
        let line = line(&job);
        let wanted = "100/200 rows, 10/s, 10s left, 2 errors, 2 workers 76 % busy, 3 retries";
        assert!(line.contains(wanted), "{line}");
        assert_eq!(super::line(&json!({"job_state": "IN_PROGRESS"})), "planning");
    }
}
