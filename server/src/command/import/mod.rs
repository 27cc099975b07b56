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
pub(crate) mod notes;
mod recordings;
pub(crate) mod report;
mod rows;
pub(crate) mod upload;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use http::Method;

use self::columns::file_schema;
use self::files::FileImport;
use self::manifest::Manifest;
use self::notes::Notes;
use self::recordings::{NAMESPACE_DEFAULT, RecordingImport};
use self::report::{Progress, Summary};
use self::rows::{Options, RowFormat, RowImport};
use self::upload::Uploader;
use self::walk::Input;
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
    /// The namespace for recordings: its tables `recordings` and `topics`
    #[arg(long, value_name = "NAMESPACE")]
    into: Option<String>,
    /// Rows of CSV and JSON that tell the types of the columns, 0 for all [default: 20000]
    #[arg(long, value_name = "ROWS")]
    sample_rows: Option<usize>,
    /// Import files of rows once more that were imported before
    #[arg(long)]
    again: bool,
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

/// Rows that tell the types of a text's columns.
const SAMPLE_ROWS: usize = 20_000;

impl Import {
    async fn import(&self, client: &Client, progress: &Progress) -> Result<Summary, Exit> {
        let inputs = walk::inputs(&self.paths)?;
        let into = match (&self.into, &self.table) {
            (Some(namespace), _) => Some(namespace.clone()),
            (None, Some(_)) => None,
            (None, None) if inputs.iter().all(recordings::is_recording) => {
                Some(NAMESPACE_DEFAULT.to_owned())
            }
            (None, None) => {
                return Err(Exit::usage(
                    "give --table for files and rows, or --into for recordings",
                ));
            }
        };
        let formats = self.formats(&inputs, into.is_some())?;
        if formats.is_none() {
            walk::distinct(&inputs)?;
        }
        let manifest = self.manifest(formats.is_some())?;
        let flight = FlightClient::connect(client).await?;
        let version = client.send(Method::GET, "/version", None).await?;
        let lake = version["lake_id"].as_str().unwrap_or_default();
        let client = Arc::new(Client::new(client.settings().clone())?);
        let notes = Notes::new(lake, client.settings().database.as_deref());
        let uploader = Uploader::new(Arc::clone(&client), notes.clone(), progress.clone());
        let mut summary = Summary::default();
        if let Some(namespace) = &into {
            let import = RecordingImport {
                client: Arc::clone(&client),
                flight: flight.clone(),
                uploader: uploader.clone(),
                namespace: namespace.clone(),
                inputs: inputs.clone(),
                progress: progress.clone(),
            };
            let _lock = notes.lock(&import.table("recordings"))?;
            import.run(&mut summary).await?;
        }
        let Some(table) = self.table.clone() else { return Ok(summary) };
        // Files of rows are kept from being added twice by their write ids.
        let _lock = match formats {
            Some(_) => None,
            None => Some(notes.lock(&table)?),
        };
        let shown = known::show(&client, &table).await?;
        let progress = progress.clone();
        let second = match formats {
            Some(formats) => {
                let options = Options {
                    sample_rows: match self.sample_rows.unwrap_or(SAMPLE_ROWS) {
                        0 => None,
                        rows => Some(rows),
                    },
                    blob_column: self.blob_column.clone(),
                    shards: None,
                };
                let inputs = inputs.into_iter().zip(formats).collect();
                let again = self.again;
                RowImport { flight, table, inputs, options, again, progress }.run(shown).await?
            }
            None => {
                let has_recordings = into.is_some();
                let listed = manifest.clone();
                let import = FileImport {
                    client: Arc::clone(&client),
                    flight,
                    uploader,
                    table,
                    blob_column: self.blob_column().to_owned(),
                    inputs,
                    manifest: manifest.clone(),
                    labels: self.labels,
                    leaves_out: Box::new(move |found| {
                        listed.as_ref().is_some_and(|manifest| manifest.is_at(&found.file))
                            || (has_recordings && recordings::format_of(found).is_some())
                    }),
                    progress,
                };
                let mut summary = import.run(shown).await?;
                summary.manifest_rows_unused = manifest.map_or(0, |manifest| manifest.unused());
                summary
            }
        };
        Ok(summary.and(second))
    }

    fn blob_column(&self) -> &str {
        self.blob_column.as_deref().unwrap_or("data")
    }

    /// The formats of PATHs that have rows; nothing when they are files.
    fn formats(
        &self,
        inputs: &[Input],
        has_recordings: bool,
    ) -> Result<Option<Vec<RowFormat>>, Exit> {
        if self.kind == Some(Kind::Files) || has_recordings {
            return Ok(None);
        }
        let formats: Vec<_> = inputs.iter().map(rows::format_of).collect();
        let has_rows = |wanted: bool| {
            inputs.iter().zip(&formats).find(|(_, format)| format.is_some() == wanted)
        };
        match (has_rows(true), has_rows(false)) {
            (None, _) => Ok(None),
            (Some(_), None) => Ok(formats.into_iter().collect()),
            (Some((rows, _)), Some((files, _))) => Err(Exit::usage(format!(
                "`{}` would be imported as rows and `{}` as files; import them one after the other, \
                 or give --as files",
                rows.path.display(),
                files.path.display()
            ))),
        }
    }

    fn manifest(&self, has_rows: bool) -> Result<Option<Arc<Manifest>>, Exit> {
        let blob = self.blob_column();
        if !has_rows && blob != "data" && file_schema("data", &[]).field_with_name(blob).is_ok() {
            return Err(Exit::usage(format!(
                "--blob-column `{blob}` is the name of another column of the import"
            )));
        }
        if self.labels && blob == "label" {
            return Err(Exit::usage("--blob-column `label` is the column that --labels makes"));
        }
        if has_rows && (self.manifest.is_some() || self.labels) {
            return Err(Exit::usage("--manifest and --labels are for files, not for rows"));
        }
        match &self.manifest {
            None => Ok(None),
            Some(path) => {
                Manifest::read(path, blob, self.labels).map(|found| Some(Arc::new(found)))
            }
        }
    }
}

/// Lower-case hexadecimal of a digest.
pub(crate) fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
