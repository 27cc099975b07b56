//! `lakebed import PATH… --table T`: files, rows and recordings into tables.
//!
//! ```text
//!   PATHs ─► walk ─┬─► files       a row each, the bytes as a blob
//!                  ├─► rows        Parquet, CSV, JSON lines, Arrow, Lance, tar shards
//!                  └─► recordings  bags and MCAP, with their topics, into a namespace
//! ```
//!
//! What always holds: what was imported is not imported again, so a run that was cut off is run again to
//! finish it; no file, table or folder is ever held whole in memory; and a file that is broken is a row
//! that says so, not the end of the import.

mod captions;
mod columns;
mod files;
mod known;
mod manifest;
mod report;
mod upload;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use http::Method;

use self::columns::file_schema;
use self::files::FileImport;
use self::manifest::Manifest;
use self::report::{Progress, Summary};
use self::upload::Uploader;
use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::flight_client::FlightClient;

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Files and folders
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The table for files and rows: its namespaces and name joined with `$`; made where it is missing
    #[arg(long)]
    table: Option<String>,
    /// Columns for the files: CSV or JSON lines with a column `path` or `file_name`
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The column that holds the bytes [default: data]
    #[arg(long, value_name = "NAME")]
    blob_column: Option<String>,
    /// Take every PATH for files, also where its format has rows
    #[arg(long = "as", value_enum)]
    kind: Option<Kind>,
    /// A column `label` with the name of the folder that each file lies in
    #[arg(long)]
    labels: bool,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

/// What a PATH is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A row for each file, with its bytes as a blob.
    Files,
}

impl ClientVerb for Import {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let start = Instant::now();
        let progress = Progress::new();
        let outcome = self.import(client, &progress).await;
        progress.end();
        outcome?.print(self.format, start.elapsed())
    }
}

impl Import {
    async fn import(&self, client: &Client, progress: &Progress) -> Result<Summary, Exit> {
        let inputs = walk::inputs(&self.paths)?;
        let Some(table) = self.table.clone() else {
            return Err(Exit::usage("give --table"));
        };
        let blob_column = self.blob_column.clone().unwrap_or_else(|| "data".to_owned());
        let manifest = match &self.manifest {
            None => None,
            Some(path) => Some(Arc::new(Manifest::read(path, &blob_column, self.labels)?)),
        };
        let names = file_schema("data", &[]);
        if blob_column != "data" && names.field_with_name(&blob_column).is_ok() {
            return Err(Exit::usage(format!(
                "--blob-column `{blob_column}` is the name of another column of the import"
            )));
        }
        let flight = FlightClient::connect(client).await?;
        let version = client.send(Method::GET, "/version", None).await?;
        let lake = version["lake_id"].as_str().unwrap_or_default().to_owned();
        let uploads = Arc::new(Client::new(client.settings().clone())?);
        let shown = known::show(client, &table).await?;
        let import = FileImport {
            flight,
            uploader: Uploader::new(uploads, lake, progress.clone()),
            table,
            blob_column,
            inputs,
            manifest,
            labels: self.labels,
            leaves_out: Box::new(|_| false),
            progress: progress.clone(),
        };
        import.run(shown).await
    }
}

/// Lower-case hexadecimal of a digest.
fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
