//! Tags: names for versions, kept by lance beside the table and global to it across branches.

use std::collections::HashMap;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use lakebed_core::{Clock, Error, ErrorKind, Result, Subject, SystemClock, TagName, nearest_names};
use lance::Dataset;
use lance::dataset::refs::{Ref, TagContents};

use crate::lance_error::from_lance;
use crate::table::Table;

/// How often, and how far apart at first, a tag is created while a bucket says that it is there, and it
/// is not.
const TRIES_MAX: u32 = 5;
const WAIT: Duration = Duration::from_millis(50);

/// A tag in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagEntry {
    /// Its name.
    pub name: String,
    /// The version it names.
    pub version: u64,
    /// The branch of that version; main when absent.
    pub branch: Option<String>,
    /// The size of that version's manifest in bytes.
    pub manifest_bytes: u64,
}

impl Table {
    /// Names a version of a branch. One of two concurrent creations of a name wins.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `NotFound` without such a version, `Conflict` while another
    /// client makes it, `CommitUnknown` when nobody knows whether it was made.
    #[boxed]
    pub async fn create_tag(
        &self,
        tag: &TagName,
        branch: Option<&str>,
        version: u64,
    ) -> Result<()> {
        let branch = self.branch(branch).await?;
        let _led = branch.lead_surely().await?;
        // Until the tag is there, which keeps it from then on.
        let _pin = self.pin(branch.name.as_deref(), version)?;
        let dataset = branch.latest().await?;
        let began_ms = SystemClock.now_ms();
        let is_in_bucket = self.shared.root.local().is_none();
        let mut tries = 1;
        loop {
            let reference = Ref::Version(branch.name.clone(), Some(version));
            let Err(error) = dataset.tags().create(tag.as_str(), reference).await else {
                return Ok(());
            };
            let error = from_lance(error);
            let is_taken = error.kind() == ErrorKind::AlreadyExists;
            if is_in_bucket && (is_taken || error.kind() == ErrorKind::Unavailable) {
                match stored_tag(&dataset, tag).await? {
                    // A put that a bucket did without saying so is sent again and then meets itself.
                    Some(found)
                        if found.version == version
                            && found.branch == branch.name
                            && is_made_since(&found, began_ms) =>
                    {
                        return Ok(());
                    }
                    // A bucket says that it is there (409) while another put of it is under way.
                    None if is_taken && tries < TRIES_MAX => {
                        tokio::time::sleep(WAIT * tries).await;
                        tries += 1;
                        continue;
                    }
                    None if is_taken => {
                        let message = format!("tag `{tag}` is being created by another client");
                        return Err(Error::new(ErrorKind::Conflict, message).about(Subject::Tag));
                    }
                    _ => {}
                }
            }
            return Err(match is_taken {
                true => Error::new(ErrorKind::AlreadyExists, format!("tag `{tag}` already exists"))
                    .about(Subject::Tag),
                false => no_such_version(error, version),
            });
        }
    }

    /// Moves a tag to another version.
    ///
    /// # Errors
    /// `NotFound` naming the tag or version that does not exist.
    #[boxed]
    pub async fn update_tag(
        &self,
        tag: &TagName,
        branch: Option<&str>,
        version: u64,
    ) -> Result<()> {
        self.tagged_version(tag.as_str()).await?;
        let branch = self.branch(branch).await?;
        let _led = branch.lead_surely().await?;
        let _pin = self.pin(branch.name.as_deref(), version)?;
        // Lance replaces the file of a tag by its own writer, which is not synced; an old tag must not
        // come back after a power failure.
        let dataset = branch.latest().await?;
        dataset
            .tags()
            .update(tag.as_str(), Ref::Version(branch.name.clone(), Some(version)))
            .await
            .map_err(|error| no_such_version(from_lance(error), version))?;
        self.sync_tag(tag.as_str()).await
    }

    /// Deletes a tag.
    ///
    /// # Errors
    /// `NotFound` naming the nearest tags.
    #[boxed]
    pub async fn delete_tag(&self, tag: &TagName) -> Result<()> {
        self.tagged_version(tag.as_str()).await?;
        let dataset = self.branch(None).await?.latest().await?;
        dataset.tags().delete(tag.as_str()).await.map_err(from_lance)?;
        self.sync_tag(tag.as_str()).await
    }

    /// The tags of the table, sorted by name.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_tags(&self) -> Result<Vec<TagEntry>> {
        let dataset = self.branch(None).await?.latest().await?;
        let mut tags: Vec<TagEntry> = listed_tags(&dataset)
            .await?
            .into_iter()
            .map(|(name, contents)| TagEntry {
                name,
                version: contents.version,
                branch: contents.branch,
                manifest_bytes: contents.manifest_size as u64,
            })
            .collect();
        tags.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tags)
    }

    /// The branch and version that a tag names.
    pub(crate) async fn tagged_version(&self, tag: &str) -> Result<(Option<String>, u64)> {
        let dataset = self.branch(None).await?.latest().await?;
        match dataset.tags().get(tag).await {
            Ok(contents) => Ok((contents.branch, contents.version)),
            Err(error) => {
                let error = from_lance(error);
                if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidArgument) {
                    return Err(error);
                }
                let known = self.list_tags().await?;
                let near = nearest_names(tag, known.iter().map(|tag| tag.name.as_str()));
                let message = format!("tag `{tag}` does not exist{near}");
                Err(Error::not_found(message).about(Subject::Tag))
            }
        }
    }

    async fn sync_tag(&self, tag: &str) -> Result<()> {
        let dataset = self.branch(None).await?.current().await;
        let path = lance::dataset::refs::tag_path(&dataset.branch_location().path, tag);
        let Some(file) = self.shared.root.folder_of(&path)? else { return Ok(()) };
        let synced = tokio::task::spawn_blocking(move || {
            if file.exists() {
                crate::durable::sync_file(&file)?;
            }
            file.parent().map_or(Ok(()), crate::durable::sync_file)
        });
        synced.await.map_err(|error| Error::internal("sync task failed").with_source(error))?
    }
}

/// What a tag says, or nothing, after a put of it whose outcome is in doubt.
///
/// # Errors
/// `CommitUnknown` when the store does not answer.
async fn stored_tag(dataset: &Dataset, tag: &TagName) -> Result<Option<TagContents>> {
    match dataset.tags().get(tag.as_str()).await.map_err(from_lance) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidArgument) => {
            Ok(None)
        }
        Err(error) => {
            let message = format!("whether tag `{tag}` was made is not known");
            Err(Error::new(ErrorKind::CommitUnknown, message).with_source(error.report()))
        }
    }
}

/// Whether a tag was made since `began_ms`, by lance's clock, which is the machine's.
fn is_made_since(tag: &TagContents, began_ms: i64) -> bool {
    tag.created_at.is_some_and(|at| at.timestamp_millis() >= began_ms)
}

/// The tags of a data set by their names. Lance lists them and then reads each, and fails where one was
/// deleted in between.
pub(crate) async fn listed_tags(dataset: &Dataset) -> Result<HashMap<String, TagContents>> {
    const TRIES_MAX: usize = 20;
    let mut tries = 1;
    loop {
        match dataset.tags().list().await.map_err(from_lance) {
            Err(error) if error.kind() == ErrorKind::NotFound && tries < TRIES_MAX => tries += 1,
            listed => return listed,
        }
    }
}

fn no_such_version(error: Error, version: u64) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            Error::not_found(format!("version {version} does not exist")).about(Subject::Version)
        }
        _ => error,
    }
}
