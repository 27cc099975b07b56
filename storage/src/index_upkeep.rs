//! Keeping indexes up to date: an index that lacks rows is built anew, in place of all its segments.
//!
//! Searches are right without this: what an index does not cover is compared row by row. It makes them
//! fast again. Building runs beside everything else; the lock of changes is held for the commit.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lakebed_core::{Error, ErrorKind, Result};
use lance::index::optimize::{commit_optimize_indices, plan_optimize_indices};
use lance_index::optimize::OptimizeOptions;
use lance_table::format::IndexMetadata;

use crate::commit::sync_versions;
use crate::indexes::{IndexSpec, IndexSummary, ScalarIndexKind};
use crate::lance_error::from_lance;
use crate::snapshot::At;
use crate::table::Table;

impl Table {
    /// Builds an index of a branch anew from nothing but the rows that are there, whether it lacks any or
    /// not. Returns the version, or nothing where it is gone or rows are rewritten all the time.
    ///
    /// # Errors
    /// `NotImplemented` for an index of a kind that Lakebed does not build, `Unavailable` when the store
    /// does not answer.
    pub fn renew_index<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        async move {
            let snapshot = self.snapshot(branch, &At::Latest).await?;
            let indexes = snapshot.indexes().await?;
            let Some(index) = indexes.iter().find(|index| index.name == name) else {
                return Ok(None);
            };
            if index.type_url.ends_with("VectorIndexDetails") {
                return self.catch_up_index(branch, name).await;
            }
            let unknown = || {
                let kind = &index.index_type;
                let message =
                    format!("index `{name}` of type {kind} cannot be built anew; drop it");
                Error::new(ErrorKind::NotImplemented, message)
            };
            let [column] = index.columns.as_slice() else { return Err(unknown()) };
            let spec = match index.is_over_words() {
                true => IndexSpec::Text(snapshot.text_index_params(name).await?),
                false => scalar_spec(index).ok_or_else(unknown)?,
            };
            drop(snapshot);
            match self.build_index(branch, column, name, true, &spec).await {
                Ok(version) => Ok(Some(version)),
                Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    /// Builds an index of a branch anew, of the same kind. Returns the version, or nothing where
    /// there was nothing to do or rows were rewritten meanwhile.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
    pub fn catch_up_index<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        async move {
            let branch = self.branch(branch).await?;
            let _pin = branch.hold().await?;
            let built_on = branch.latest().await?;
            let options = OptimizeOptions::retrain().index_names(vec![name.to_owned()]);
            let plan = plan_optimize_indices(&built_on, &options).await.map_err(from_lance)?;
            let mut built = Vec::new();
            for task in &plan.tasks {
                built.extend(Box::pin(task.execute(&built_on)).await.map_err(from_lance)?);
            }
            let mut merged = Vec::new();
            for merge in &plan.merges {
                let done = Box::pin(merge.execute(&built_on, &built)).await.map_err(from_lance)?;
                merged.extend(done);
            }
            if merged.is_empty() {
                return Ok(None);
            }
            let new: Vec<IndexMetadata> =
                merged.iter().map(|result| result.segment.clone()).collect();
            let mutation = Arc::clone(&branch.mutation).lock_owned().await;
            let commit = async move {
                let _mutation = mutation;
                let _pin = branch.hold().await?;
                let latest = branch.latest().await?;
                let base = latest.branch_location().path.clone();
                let (outcome, newest) = branch
                    .commit_by_lance(&latest, move |dataset| {
                        async move { commit_optimize_indices(dataset, merged, &options).await }
                            .boxed()
                    })
                    .await?;
                use lance::index::DatasetIndexExt as _;
                let now = newest.load_indices().await.map_err(from_lance)?;
                let is_there = now.iter().any(|index| new.iter().any(|it| it.uuid == index.uuid));
                match outcome {
                    Ok(()) => {}
                    // A store may have done what it said it refused; then it is no loss.
                    Err(error) if is_there => {
                        tracing::info!(error = %error.report(), "an index was committed all the same");
                    }
                    // Rows of it were rewritten, or it was built anew; what was written for it is found
                    // by cleaning.
                    Err(error) if error.kind() == ErrorKind::Conflict => return Ok(None),
                    Err(error) => return Err(error),
                }
                sync_versions(&branch.shared, &base).await?;
                Ok(Some(newest.version().version))
            };
            // A task of its own, so that a caller that goes away cannot cut the commit in half.
            tokio::spawn(commit)
                .await
                .map_err(|error| Error::internal("the commit task failed").with_source(error))?
        }
        .boxed()
    }
}

/// How an index over values was built.
fn scalar_spec(index: &IndexSummary) -> Option<IndexSpec> {
    let kind = index.type_url.rsplit('.').next()?.strip_suffix("IndexDetails")?;
    let kind = match kind {
        "BTree" => ScalarIndexKind::BTree,
        "Bitmap" => ScalarIndexKind::Bitmap,
        "LabelList" => ScalarIndexKind::LabelList,
        "NGram" => ScalarIndexKind::NGram,
        "ZoneMap" => ScalarIndexKind::ZoneMap,
        "BloomFilter" => ScalarIndexKind::BloomFilter,
        "Fm" | "FM" => ScalarIndexKind::Fm,
        _ => return None,
    };
    Some(IndexSpec::Scalar(kind, serde_json::Map::new()))
}
