//! `lakebed backup --to PLACE`: copies a lake, or some of its tables, to another place.
//!
//! With `--data` it is done here, for a lake that no server has open. Without, the server does it, beside
//! its requests, and this follows its job.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Method;
use lakebed_core::{DatabaseName, ErrorKind, TableId};
use lakebed_storage::{BackupCounts, BackupProgress, BackupSpec, Lake};
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format, run_client, runtime};
use crate::client::Client;
use crate::config::{Config, Environment, Flags, Layer};
use crate::exit::Exit;
use crate::output::{cell, print, print_json};
use crate::serve::lake_options;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Where to: a directory or s3://bucket/prefix; of a running server, on its machine
    #[arg(long, value_name = "DIR|URL")]
    to: String,
    /// The root of a lake that no server has open [default: ask the server]
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    /// Only this table, as `database/ns$name` or `ns$name`; may be given again
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<String>,
    /// Delete from the backup what the lake has no more
    #[arg(long)]
    prune: bool,
    /// Copy the audit log too
    #[arg(long)]
    audit: bool,
    /// Only say what would be copied
    #[arg(long)]
    dry_run: bool,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Read settings from a TOML file; with --data
    #[arg(long, value_name = "FILE", requires = "data")]
    config: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(crate) fn run(verb: Backup, environment: &Environment) -> Result<(), Exit> {
    match &verb.data {
        Some(_) => run_here(&verb, environment),
        None => run_client(verb, environment),
    }
}

fn run_here(verb: &Backup, environment: &Environment) -> Result<(), Exit> {
    let layer = Layer { data: verb.data.clone(), ..Layer::default() };
    let config = Config::load(Flags { layer, config: verb.config.clone() }, environment)?;
    let options = lake_options(&config);
    let tables: Result<Vec<TableId>, Exit> = verb.tables.iter().map(|it| table_of(it)).collect();
    let spec = BackupSpec {
        tables: tables?,
        prune: verb.prune,
        with_audit: verb.audit,
        is_dry_run: verb.dry_run,
        ..BackupSpec::to(verb.to.clone())
    };
    let done = runtime()?.block_on(async {
        if !Lake::is_at(&options).await? {
            return Err(Exit::failed(format!("there is no lake at {}", options.root)));
        }
        let lake = match Lake::open(options.clone()).await {
            Ok(lake) => lake,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Exit::failed(format!(
                    "{}; leave out --data to have that server make the backup",
                    error.message()
                )));
            }
            Err(error) => return Err(error.into()),
        };
        let progress = BackupProgress::default();
        let done = shown(lake.backup(&spec, &progress), &progress).await?;
        Ok(serde_json::to_value(done).unwrap_or_default())
    })?;
    say(&done, verb.format, "backup")
}

impl ClientVerb for Backup {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let body = json!({
            "to": self.to,
            "tables": self.tables,
            "prune": self.prune,
            "audit": self.audit,
            "dry_run": self.dry_run,
        });
        let begun = client.send(Method::POST, "/v1/backup", Some(body)).await?;
        let job_id = cell(&begun["job_id"]);
        let is_shown = std::io::stderr().is_terminal();
        let ended = loop {
            let body = json!({ "job_id": job_id });
            let job = client.send(Method::POST, "/v1/jobs/describe", Some(body)).await?;
            if is_shown && let Ok(counts) = serde_json::from_value(job["progress"].clone()) {
                show(&counts);
            }
            match job["job_state"].as_str() {
                Some("IN_PROGRESS") => tokio::time::sleep(LOOK).await,
                _ => break job,
            }
        };
        if is_shown {
            eprintln!();
        }
        match ended["job_state"].as_str() {
            Some("DONE") => say(&ended["result"], self.format, "backup"),
            Some("CANCELLED") => Err(Exit::failed("the backup was called off")),
            _ => Err(Exit::failed(cell(&ended["failure"]["message"]))),
        }
    }
}

/// A table as it is named on the command line.
pub(super) fn table_of(text: &str) -> Result<TableId, Exit> {
    let (database, table) = match text.rsplit_once('/') {
        Some((database, table)) => (DatabaseName::parse(database)?, table),
        None => (DatabaseName::default_database(), text),
    };
    Ok(TableId::parse(&database, table)?)
}

/// Runs `work` to its end, with a line that tells how far it is where somebody looks.
pub(super) async fn shown<T, E>(
    work: impl Future<Output = Result<T, E>>,
    progress: &BackupProgress,
) -> Result<T, Exit>
where
    Exit: From<E>,
{
    let is_shown = std::io::stderr().is_terminal();
    let mut work = std::pin::pin!(work);
    let done = loop {
        match tokio::time::timeout(LOOK, &mut work).await {
            Ok(done) => break done,
            Err(_) if is_shown => show(&progress.counts()),
            Err(_) => {}
        }
    };
    if is_shown {
        eprintln!();
    }
    Ok(done?)
}

fn show(counts: &BackupCounts) {
    let BackupCounts { tables, tables_done, files_copied, bytes_copied, files_kept, .. } = counts;
    eprint!(
        "\r\x1b[2K{tables_done}/{tables} tables, {files_copied} files ({}), {files_kept} were there",
        size(*bytes_copied)
    );
    let _ = std::io::stderr().flush();
}

/// Prints what was done.
pub(super) fn say(done: &Value, format: Format, what: &str) -> Result<(), Exit> {
    if let Format::Json = format {
        return print_json(done);
    }
    print(&sentence(done, what))?;
    for note in done["notes"].as_array().into_iter().flatten() {
        print(&format!("note: {}", cell(note)))?;
    }
    Ok(())
}

fn sentence(done: &Value, what: &str) -> String {
    let count = |name: &str| done["counts"][name].as_u64().unwrap_or(0);
    let verb = if done["dry_run"] == true { "would copy" } else { "copied" };
    let mut sentence = format!(
        "{what}: {verb} {} files ({}) and {} versions of {} tables; {} files and {} versions were there",
        count("files_copied"),
        size(count("bytes_copied")),
        count("versions_copied"),
        count("tables"),
        count("files_kept"),
        count("versions_kept"),
    );
    if let Some(files @ 1..) = done["pruned"]["files"].as_u64() {
        sentence.push_str(&format!("; {files} files were deleted from it"));
    }
    sentence
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        unit => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_what_was_copied() {
        let done = json!({
            "dry_run": false,
            "counts": {"files_copied": 3, "bytes_copied": 1536, "tables": 2, "files_kept": 4},
            "pruned": {"files": 1, "bytes": 9},
        });
        let said = sentence(&done, "backup");
        assert!(said.starts_with("backup: copied 3 files (1.5 KiB)"), "{said}");
        assert!(said.ends_with("1 files were deleted from it"), "{said}");
    }

    #[test]
    fn tables_are_named_with_or_without_a_database() {
        assert_eq!(table_of("team/cars/ns$t").unwrap().to_string(), "team/cars/ns$t");
        assert_eq!(table_of("t").unwrap().to_string(), "default/t");
        assert!(table_of("a/").is_err());
    }
}
