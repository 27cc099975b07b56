//! Examines a lake at rest: what `lakebed doctor` says.
//!
//! What is looked at for every table is its newest version: that it opens and keeps lance's rules, that
//! the files it names are there, and that the large blobs it refers to are; and the manifests of all
//! versions, for files that none of them names. Bytes are read only when asked for (`examine/deep.rs`).
//! Nothing is changed, but what killed processes left half written is deleted when asked for
//! (`examine/strays.rs`).

mod deep;
mod strays;

pub(crate) use self::strays::is_half_written;

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use lakebed_core::{DatabaseName, Result, TableId};
use object_store::path::Path;

use crate::backup::uris;
use crate::lake::{Lake, LakeOptions, open_root, read_record};
use crate::lance_error::from_object_store;
use crate::root::BLOBS_FOLDER;
use crate::scan::{Projection, ScanSpec};
use crate::snapshot::{At, Snapshot};

/// From so many fragments on with fewer rows than [`FRAGMENT_ROWS_FEW`] on average, reading suffers.
const FRAGMENTS_MANY: u64 = 200;
const FRAGMENT_ROWS_FEW: u64 = 10_000;

/// How to examine a lake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExamineOptions {
    /// Read every blob and every row, and try the indexes.
    pub is_deep: bool,
    /// Delete what is safe to delete.
    pub is_repair: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// All is well.
    Fine,
    /// Nothing is lost, but something could be better or is left over.
    Note,
    /// Something is broken or missing.
    Problem,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, such as a table's id with its database.
    pub subject: String,
    /// What was found, and what to do about it.
    pub text: String,
}

impl Finding {
    fn new(severity: Severity, subject: &str, text: impl Into<String>) -> Self {
        Finding { severity, subject: subject.to_owned(), text: text.into() }
    }
}

impl Lake {
    /// Whether a lake is at the root; nothing is made there.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` when its record cannot be read.
    pub fn is_at(options: &LakeOptions) -> BoxFuture<'_, Result<bool>> {
        async move {
            // Opening a root makes its folder.
            if !options.root.contains("://") && !std::path::Path::new(&options.root).is_dir() {
                return Ok(false);
            }
            let (_, system) = open_root(options)?;
            Ok(read_record(&system).await?.is_some())
        }
        .boxed()
    }

    /// Looks at every table, and at what lies beside them.
    ///
    /// # Errors
    /// When the store does not answer; what is broken in the lake is a finding.
    pub fn examine<'a>(
        self: &'a Arc<Self>,
        options: ExamineOptions,
    ) -> BoxFuture<'a, Result<Vec<Finding>>> {
        async move {
            let mut findings = Vec::new();
            let blobs = self.names_below(BLOBS_FOLDER).await?;
            let mut known: HashSet<String> = HashSet::new();
            for database in self.list_databases().await? {
                for (id, location) in self.list_tables(&database, None).await? {
                    known.insert(location.clone());
                    self.examine_table(&id, &blobs, &mut findings).await?;
                    self.unnamed_files(&id, &location, &mut findings).await?;
                    if options.is_deep {
                        self.check_rows(&id, &location, &mut findings).await?;
                    }
                }
                self.strangers(&database, &known, &mut findings).await?;
            }
            if options.is_deep {
                self.check_blobs(&mut findings).await?;
            }
            self.left_over(&mut findings).await?;
            self.half_written(options.is_repair, &mut findings).await?;
            Ok(findings)
        }
        .boxed()
    }

    /// The names of the objects below a folder of the root.
    async fn names_below(&self, folder: &str) -> Result<HashSet<String>> {
        let root = &self.shared.root;
        let mut listing = root.store().list(Some(&root.path(folder)));
        let mut names = HashSet::new();
        loop {
            match listing.try_next().await {
                Ok(Some(object)) => names.extend(object.location.filename().map(str::to_owned)),
                Ok(None) => return Ok(names),
                Err(object_store::Error::NotFound { .. }) => return Ok(names),
                Err(error) => return Err(from_object_store(error, "listing of a folder")),
            }
        }
    }

    async fn examine_table(
        self: &Arc<Self>,
        id: &TableId,
        blobs: &HashSet<String>,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let subject = id.to_string();
        let opened = match self.table(id).await {
            Ok(table) => table.snapshot(None, &At::Latest).await,
            Err(error) => Err(error),
        };
        let snapshot = match opened {
            Ok(snapshot) => snapshot,
            Err(error) => {
                let text = format!("cannot be opened: {}", error.message());
                findings.push(Finding::new(Severity::Problem, &subject, text));
                return Ok(());
            }
        };
        let before = findings.len();
        let missing = self.missing_files(&snapshot).await?;
        if let Some(first) = missing.first() {
            let text = format!(
                "{} of the files of version {} are missing, such as {first}; older versions may be \
                 whole: try them with `--at`",
                missing.len(),
                snapshot.version()
            );
            findings.push(Finding::new(Severity::Problem, &subject, text));
        } else if let Err(error) = snapshot.validate().await {
            findings.push(Finding::new(Severity::Problem, &subject, error.report()));
        }
        match missing_blobs(&snapshot, blobs).await {
            Ok((0, _)) => {}
            Ok((missing, first)) => findings.push(Finding::new(
                Severity::Problem,
                &subject,
                format!("{missing} blobs refer to files under {BLOBS_FOLDER}/ that are missing, such as {first}"),
            )),
            Err(error) => findings.push(Finding::new(
                Severity::Problem,
                &subject,
                format!("its blobs cannot be listed: {}", error.message()),
            )),
        }
        let rows = match snapshot.count_rows().await {
            Ok(rows) => rows,
            Err(error) => {
                let text = format!("its rows cannot be counted: {}", error.message());
                findings.push(Finding::new(Severity::Problem, &subject, text));
                return Ok(());
            }
        };
        notes(&snapshot, rows, &subject, findings).await;
        if findings.len() == before {
            let text = format!("version {}, {rows} rows: whole", snapshot.version());
            findings.push(Finding::new(Severity::Fine, &subject, text));
        }
        Ok(())
    }

    /// The data and deletion files that a version names and that are not there.
    async fn missing_files(&self, snapshot: &Snapshot) -> Result<Vec<String>> {
        let location = snapshot.table().location();
        let data = self.names_below(&format!("{location}/data")).await?;
        let mut missing = Vec::new();
        for fragment in snapshot.dataset.fragments().iter() {
            for file in fragment.referenced_lance_files() {
                let name = Path::from(file.path.as_str());
                let is_here = name.filename().is_some_and(|name| data.contains(name));
                // A file of another base belongs to a branch or a clone and lies elsewhere.
                if !is_here && file.base_id.is_none() {
                    missing.push(file.path.clone());
                }
            }
        }
        Ok(missing)
    }

    /// Folders of tables that no catalogue names.
    async fn strangers(
        &self,
        database: &DatabaseName,
        known: &HashSet<String>,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let root = &self.shared.root;
        let depth = root.path("").parts().count();
        let mut unread = vec![root.path(database.as_str())];
        while let Some(prefix) = unread.pop() {
            let listed = root.store().list_with_delimiter(Some(&prefix)).await;
            let listed = listed.map_err(|error| from_object_store(error, "listing of a folder"))?;
            for folder in listed.common_prefixes {
                let location = Path::from_iter(folder.parts().skip(depth)).to_string();
                if !location.ends_with(".lance") {
                    // A namespace.
                    unread.push(folder);
                } else if !known.contains(&location) {
                    findings.push(Finding::new(
                        Severity::Note,
                        &location,
                        "no catalogue names this folder: a table that was made and never committed, \
                         one that waits to be deleted, or a dataset that was copied here and is taken \
                         in when somebody asks for it by its name",
                    ));
                }
            }
        }
        Ok(())
    }

    /// What lies under the system's folder and waits for something.
    async fn left_over(&self, findings: &mut Vec<Finding>) -> Result<()> {
        let system = self.system();
        let bytes: u64 = self.uploads().unused().await?.values().sum();
        if bytes > 0 {
            findings.push(Finding::new(
                Severity::Note,
                "uploads",
                format!(
                    "{bytes} bytes are uploaded and not referred to yet; they expire after a day"
                ),
            ));
        }
        let mut open = 0;
        for object in system.list("jobs").await? {
            let Some(bytes) = system.get(&object.path).await? else { continue };
            match serde_json::from_slice::<serde_json::Value>(&bytes) {
                Ok(job) if matches!(job["state"].as_str(), Some("IN_PROGRESS" | "PAUSED")) => {
                    open += 1;
                }
                Ok(_) => {}
                Err(_) => findings.push(Finding::new(
                    Severity::Problem,
                    &object.path,
                    "the record of a job cannot be read",
                )),
            }
        }
        if open > 0 {
            let text = format!("{open} jobs are not over and go on when a server runs");
            findings.push(Finding::new(Severity::Note, "jobs", text));
        }
        Ok(())
    }
}

/// What makes a table slow.
async fn notes(snapshot: &Snapshot, rows: u64, subject: &str, findings: &mut Vec<Finding>) {
    let fragments = snapshot.fragments();
    if fragments >= FRAGMENTS_MANY && rows / fragments < FRAGMENT_ROWS_FEW {
        findings.push(Finding::new(
            Severity::Note,
            subject,
            format!(
                "{fragments} fragments for {rows} rows: reads are faster with fewer, larger writes"
            ),
        ));
    }
    match snapshot.indexes().await {
        Ok(indexes) => {
            for index in indexes.iter().filter(|index| index.unindexed_rows * 10 > rows) {
                findings.push(Finding::new(
                    Severity::Note,
                    subject,
                    format!(
                        "index {} does not cover {} of {rows} rows: searches compare those one by \
                         one until it is built again",
                        index.name, index.unindexed_rows
                    ),
                ));
            }
        }
        Err(error) => findings.push(Finding::new(
            Severity::Problem,
            subject,
            format!("its indexes cannot be read: {}", error.message()),
        )),
    }
}

/// How many blobs refer to files that are not there, and the first of these.
async fn missing_blobs(snapshot: &Snapshot, blobs: &HashSet<String>) -> Result<(u64, String)> {
    let fields = &snapshot.dataset.schema().fields;
    let columns: Vec<String> =
        fields.iter().filter(|field| field.is_blob()).map(|field| field.name.clone()).collect();
    let (mut missing, mut first) = (0, String::new());
    if columns.is_empty() {
        return Ok((missing, first));
    }
    let spec = ScanSpec { projection: Projection::Names(columns), ..ScanSpec::default() };
    let (_, mut batches) = snapshot.scan(&spec).await?;
    while let Some(batch) = batches.next().await {
        for column in batch?.columns() {
            for uri in uris(column.as_struct()).into_iter().flatten().flatten() {
                let name = uri.rsplit('/').next().unwrap_or_default();
                if !uri.is_empty() && !blobs.contains(name) {
                    missing += 1;
                    if first.is_empty() {
                        first = name.to_owned();
                    }
                }
            }
        }
    }
    Ok((missing, first))
}
