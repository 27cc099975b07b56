//! A pinned version of a table: the only way to read.
//!
//! A [`Snapshot`] names one version and keeps it: whatever deletes versions asks the pins first. It is
//! cheap (an immutable dataset handle and a guard) and goes away when dropped.

use async_recursion::async_recursion as boxed;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use lakebed_core::{Error, ErrorKind, Result, Subject, nearest_names};
use lance::Dataset;

use crate::lance_error::from_lance;
use crate::pins::{Pin, PinnedVersion};
use crate::schema::{BLOB_METADATA, client_schema, declares_blob};
use crate::table::Table;
use crate::version::{oldest_version, version_at};

/// A schema in which blob columns are columns of bytes that say so.
pub(crate) fn plain_blobs(stored: &Schema) -> SchemaRef {
    let fields = stored.fields().iter().map(|field| match declares_blob(field) {
        true => {
            let metadata = [(BLOB_METADATA.to_owned(), "true".to_owned())];
            let bytes = Field::new(field.name(), DataType::LargeBinary, field.is_nullable());
            Arc::new(bytes.with_metadata(metadata.into()))
        }
        false => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()))
}

/// Which version of a branch to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum At {
    /// The newest.
    #[default]
    Latest,
    /// By number.
    Version(u64),
    /// By tag; a tag knows its branch.
    Tag(String),
    /// The newest that was committed at or before this time.
    AsOf(DateTime<Utc>),
}

/// A pinned version of one branch of a table.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) dataset: Arc<Dataset>,
    pinned: PinnedVersion,
    table: Arc<Table>,
    _pin: Arc<Pin>,
}

impl Table {
    /// Pins a version.
    ///
    /// # Errors
    /// `NotFound` naming the branch, tag or version and what there is.
    pub fn snapshot<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        at: &'a At,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        async move {
            let (branch, version) = match at {
                At::Tag(tag) => {
                    let (tagged_branch, version) = self.tagged_version(tag).await?;
                    if let Some(asked) = branch
                        && Some(asked) != tagged_branch.as_deref().or(Some("main"))
                    {
                        return Err(Error::invalid(format!(
                            "tag `{tag}` names a version of branch `{}`, not of `{asked}`",
                            tagged_branch.as_deref().unwrap_or("main")
                        )));
                    }
                    (self.branch(tagged_branch.as_deref()).await?, Some(version))
                }
                At::Latest => (self.branch(branch).await?, None),
                At::Version(version) => (self.branch(branch).await?, Some(*version)),
                At::AsOf(time) => {
                    let branch = self.branch(branch).await?;
                    let version = version_at(&*branch.latest().await?, *time).await?;
                    (branch, Some(version))
                }
            };
            let latest = branch.latest().await?;
            let number = version.unwrap_or(latest.version().version);
            // Pinned before it is opened: between the two nothing may take it away.
            let (pinned, pin) = self.pin(branch.name.as_deref(), number)?;
            let pin = Arc::new(pin);
            let dataset = if number == latest.version().version {
                latest
            } else {
                match latest.checkout_version(number).await {
                    Ok(dataset) => Arc::new(dataset),
                    Err(error) => return Err(unknown_version(&latest, number, error).await),
                }
            };
            Ok(Snapshot { dataset, pinned, table: self.clone(), _pin: pin })
        }
        .boxed()
    }
}

async fn unknown_version(latest: &Dataset, number: u64, error: lance::Error) -> Error {
    let error = from_lance(error);
    if error.kind() != ErrorKind::NotFound {
        return error.context(format!("open version {number}"));
    }
    let newest = latest.version().version;
    let message = match oldest_version(latest).await {
        Ok(oldest) if (1..oldest).contains(&number) => {
            format!("version {number} was cleaned; the oldest is {oldest}")
        }
        // Numbers have no gaps but those that cleaning leaves between versions that are kept.
        Ok(oldest) if (oldest..newest).contains(&number) => format!("version {number} was cleaned"),
        Ok(oldest) => {
            format!("version {number} does not exist; there are {oldest} to {newest}")
        }
        Err(_) => format!("version {number} does not exist; the newest is {newest}"),
    };
    Error::not_found(message).about(Subject::Version)
}

impl Snapshot {
    /// The version's number.
    pub fn version(&self) -> u64 {
        self.pinned.version
    }

    /// The version as its pin names it.
    pub(crate) fn pinned(&self) -> &PinnedVersion {
        &self.pinned
    }

    /// The branch; main is the branch without a name.
    pub fn branch(&self) -> Option<&str> {
        self.pinned.branch.as_deref()
    }

    /// The table this is a version of.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// When the version was committed.
    pub fn committed_at(&self) -> DateTime<Utc> {
        self.dataset.version().timestamp
    }

    /// The schema as clients write it.
    pub fn schema(&self) -> SchemaRef {
        client_schema(self.dataset.schema())
    }

    /// The schema of rows as plain clients write them: a blob column takes bytes.
    pub fn written_schema(&self) -> SchemaRef {
        plain_blobs(&self.schema())
    }

    /// Keeps the version at least until `until_ms`, also when the snapshot is gone.
    pub fn lease(&self, until_ms: i64) {
        self.table.shared.pins.lease(self.pinned.clone(), until_ms);
    }

    /// The rows of the version, from its manifest.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn count_rows(&self) -> Result<u64> {
        self.dataset.count_rows(None).await.map(|rows| rows as u64).map_err(from_lance)
    }

    /// Bytes of the data files of the version, where the manifest knows them. Large blobs, which lie
    /// outside, are not counted.
    pub fn data_bytes(&self) -> Option<u64> {
        self.dataset
            .fragments()
            .iter()
            .flat_map(|fragment| fragment.referenced_lance_files())
            .map(|file| file.file_size_bytes.get().map(u64::from))
            .sum()
    }

    /// The error for a column that the version does not have.
    pub(crate) fn unknown_column(&self, wanted: &str) -> Error {
        let names: Vec<&str> =
            self.dataset.schema().fields.iter().map(|field| field.name.as_str()).collect();
        let near = nearest_names(wanted, names);
        Error::not_found(format!("column `{wanted}` does not exist{near}")).about(Subject::Column)
    }

    /// The size of the version's manifest in bytes, where it is known.
    pub fn manifest_bytes(&self) -> Option<u64> {
        self.dataset.manifest_location().size
    }

    /// Checks lance's own invariants over the version; for tests after faults.
    ///
    /// # Errors
    /// `Corrupt` saying what does not hold.
    #[boxed]
    pub async fn validate(&self) -> Result<()> {
        self.dataset.validate().await.map_err(|error| {
            Error::new(ErrorKind::Corrupt, "the version breaks an invariant").with_source(error)
        })
    }
}
