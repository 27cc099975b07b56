//! Profiles: which tools can open a table.
//!
//! A table is **open**: it has only what every released reader of lance knows. Its owner may move it to
//! the **extended** profile, where cells change by overlays (`overlay/`), which cost a hundredth of the
//! bytes and which released readers refuse. The way back folds them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance::dataset::transaction::{Operation, UpdateMap, UpdateMapEntry};
use lance_table::feature_flags::{
    ENABLE_UNSTABLE_DATA_OVERLAY_FILES_ENV, FLAG_UNSTABLE_DATA_OVERLAY_FILES, can_read_dataset,
};

use crate::columns::Staged;
use crate::overlay::{FoldRule, Folded};
use crate::snapshot::{At, Snapshot};
use crate::table::Table;

/// What has to be in the environment before the first thread runs, with any value, so that lance opens
/// tables with overlays.
pub const OVERLAY_VARIABLE: &str = ENABLE_UNSTABLE_DATA_OVERLAY_FILES_ENV;
/// Where a table says its profile, in lance's table config.
const PROFILE_KEY: &str = "lakebed.profile";
/// Rounds of folding until a table that is written to all the time has no overlay left.
const ROUNDS_MAX: usize = 10;

/// Which tools can open a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Every released reader of lance.
    Open,
    /// Lakebed, and lance where [`OVERLAY_VARIABLE`] is set.
    Extended,
}

impl Profile {
    /// The profile of that name.
    ///
    /// # Errors
    /// `InvalidArgument` for any other name.
    pub fn parse(name: &str) -> Result<Profile> {
        match name {
            "open" => Ok(Profile::Open),
            "extended" => Ok(Profile::Extended),
            _ => {
                let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                Err(Error::invalid(format!("profile `{shown}` is neither `open` nor `extended`")))
            }
        }
    }

    pub(crate) fn of(dataset: &Dataset) -> Profile {
        match dataset.manifest().config.get(PROFILE_KEY).map(String::as_str) {
            Some("extended") => Profile::Extended,
            _ => Profile::Open,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Open => "open",
            Profile::Extended => "extended",
        })
    }
}

/// Whether this process can open tables with overlays.
pub fn reads_overlays() -> bool {
    can_read_dataset(FLAG_UNSTABLE_DATA_OVERLAY_FILES)
}

impl Snapshot {
    /// The profile of the version: open only when every released reader can open the table and nobody asked
    /// for more.
    pub fn profile(&self) -> Profile {
        // Flags 0 to 5 are known to every released reader, and 15 concerns writers only; see the
        // feature flags of lance-table.
        const OPEN_FLAGS: u64 = 0b11_1111;
        match self.dataset.manifest().reader_feature_flags & !OPEN_FLAGS {
            0 => Profile::of(&self.dataset),
            _ => Profile::Extended,
        }
    }

    /// The profile that the owner of the table chose.
    pub fn chosen_profile(&self) -> Profile {
        Profile::of(&self.dataset)
    }
}

impl Table {
    /// Moves a branch to a profile. On the way to the open one no more overlays are written from the first
    /// version on, and then all are folded: versions before keep theirs. Done twice is done once, and what was cut off is finished by the next time or by
    /// maintenance.
    ///
    /// # Errors
    /// `Conflict` when writers were faster than folding; `Unavailable` when the store does not answer.
    pub fn set_profile<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        profile: Profile,
    ) -> BoxFuture<'a, Result<Folded>> {
        self.changed_profile(branch, profile).boxed()
    }

    async fn changed_profile(
        self: &Arc<Self>,
        branch: Option<&str>,
        profile: Profile,
    ) -> Result<Folded> {
        let handle = self.branch(branch).await?;
        let before = self.snapshot(branch, &At::Latest).await?;
        let mut folded = Folded { version: before.version(), ..Folded::default() };
        if before.chosen_profile() != profile {
            let value = (profile == Profile::Extended).then(|| profile.to_string());
            let committed = self
                .change_columns(&handle, |_| {
                    let entry =
                        UpdateMapEntry { key: PROFILE_KEY.to_owned(), value: value.clone() };
                    let update = UpdateMap { update_entries: vec![entry], replace: false };
                    std::future::ready(Ok(Staged::metadata(Operation::UpdateConfig {
                        config_updates: Some(update),
                        table_metadata_updates: None,
                        schema_metadata_updates: None,
                        field_metadata_updates: HashMap::new(),
                    })))
                })
                .await?;
            folded.version = committed.version().version;
        }
        if profile == Profile::Extended {
            return Ok(folded);
        }
        // From here on nobody writes an overlay; one that was on its way may still come.
        for _ in 0..ROUNDS_MAX {
            let round = self.fold_overlays(branch, FoldRule::All).await?;
            folded.version = round.version;
            folded.fragments += round.fragments;
            folded.bytes += round.bytes;
            if self.snapshot(branch, &At::Latest).await?.overlaid_fragments().is_empty() {
                return Ok(folded);
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the table is changed faster than its overlays are folded; maintenance goes on with it",
        ))
    }
}
