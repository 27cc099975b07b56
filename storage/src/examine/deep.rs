//! What takes as long as reading the lake once: bytes of large blobs against their digests, every row of
//! every version, and indexes against the rows that they answer for.

use std::collections::HashSet;

use async_recursion::async_recursion as boxed;
use datafusion::common::ScalarValue;
use datafusion::prelude::{ident, lit};
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result, TableId};
use lance::Dataset;
use lance::dataset::ProjectionRequest;
use lance_table::format::Fragment;
use object_store::ObjectStoreExt as _;
use sha2::{Digest as _, Sha256};

use super::{Finding, Severity};
use crate::backup::{branch_names, digest_of, listing, what_it_holds};
use crate::blob::hex;
use crate::lake::Lake;
use crate::lance_error::{from_lance, from_object_store};
use crate::root::BLOBS_FOLDER;
use crate::snapshot::{At, Snapshot};

/// Blobs that are hashed at once, and bytes that are read of each at once.
const BLOBS_AT_ONCE: usize = 4;
const PIECE_BYTES: u64 = 4 << 20;
/// Rows of a batch, and bytes that are read ahead.
const BATCH_ROWS: usize = 1_024;
const AHEAD_BYTES: u64 = 32 << 20;
/// Values of an indexed column that are looked up.
const LOOKUPS: u64 = 16;
/// Indexes that answer whether a value is equal to another.
const EQUALITY_INDEXES: [&str; 2] = ["BTREE", "BITMAP"];

impl Lake {
    /// Reads every large blob and compares it with its name.
    #[boxed]
    pub(super) async fn check_blobs(&self, findings: &mut Vec<Finding>) -> Result<()> {
        let root = &self.shared.root;
        let mut checked = listing(root, BLOBS_FOLDER)
            .map(|blob| async move {
                let blob = blob?;
                let why = self.why_broken(&blob.path, blob.size).await?;
                Ok::<_, Error>((blob, why))
            })
            .buffer_unordered(BLOBS_AT_ONCE);
        let (mut blobs, mut bytes) = (0_u64, 0);
        let before = findings.len();
        while let Some((blob, why)) = checked.try_next().await? {
            blobs += 1;
            bytes += blob.size;
            if let Some(why) = why {
                findings.push(Finding::new(Severity::Problem, &blob.path, why));
            }
        }
        if findings.len() == before && blobs > 0 {
            let text = format!("{blobs} large blobs, {bytes} bytes: all have their digests");
            findings.push(Finding::new(Severity::Fine, BLOBS_FOLDER, text));
        }
        Ok(())
    }

    async fn why_broken(&self, path: &str, size: u64) -> Result<Option<String>> {
        let Some(wanted) = digest_of(path) else {
            return Ok(Some("its name is no digest".to_owned()));
        };
        let root = &self.shared.root;
        let location = root.path(path);
        let mut hasher = Sha256::new();
        let mut at = 0;
        while at < size {
            let next = (at + PIECE_BYTES).min(size);
            let bytes = match root.store().get_range(&location, at..next).await {
                Ok(bytes) => bytes,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => {
                    let error = from_object_store(error, "a read");
                    return Ok(Some(format!("cannot be read: {}", error.message())));
                }
            };
            hasher.update(&bytes);
            at = next;
        }
        let is_whole = hex(&hasher.finalize()) == wanted;
        Ok((!is_whole).then(|| "its bytes do not have the digest in its name".to_owned()))
    }

    /// Reads every row of every version of every branch, each file once, and the indexes of the newest.
    #[boxed]
    pub(super) async fn check_rows(
        &self,
        id: &TableId,
        location: &str,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let subject = id.to_string();
        let table = self.table(id).await?;
        let mut branches: Vec<Option<String>> = vec![None];
        branches.extend(branch_names(&self.shared.root, location).await?.into_iter().map(Some));
        let mut seen = HashSet::new();
        for branch in &branches {
            let latest = table.snapshot(branch.as_deref(), &At::Latest).await;
            let numbers = match latest {
                Ok(latest) => crate::version::version_numbers(&latest.dataset).await?,
                Err(error) => {
                    let text = format!("cannot be opened: {}", error.message());
                    findings.push(Finding::new(Severity::Problem, &subject, text));
                    continue;
                }
            };
            for number in numbers.into_iter().rev() {
                let at = At::Version(number);
                let found = match table.snapshot(branch.as_deref(), &at).await {
                    Ok(snapshot) => unreadable(&snapshot.dataset, &mut seen).await,
                    Err(error) => Some(format!("cannot be opened: {}", error.message())),
                };
                if let Some(why) = found {
                    let branch = branch.as_deref().map(|name| format!(" of branch `{name}`"));
                    let text = format!("version {number}{}: {why}", branch.unwrap_or_default());
                    findings.push(Finding::new(Severity::Problem, &subject, text));
                }
            }
            if let Ok(latest) = table.snapshot(branch.as_deref(), &At::Latest).await {
                check_indexes(&latest, &subject, findings).await?;
            }
        }
        Ok(())
    }
}

/// Reads the rows of fragments that were not read yet; what is wrong with the first that is broken.
async fn unreadable(dataset: &Dataset, seen: &mut HashSet<u64>) -> Option<String> {
    let unseen: Vec<Fragment> = dataset
        .fragments()
        .iter()
        .filter(|fragment| seen.insert(what_it_holds(fragment)))
        .cloned()
        .collect();
    for fragment in unseen {
        let file = fragment.files.first().map(|file| file.path.clone()).unwrap_or_default();
        let (number, wanted) = (fragment.id, fragment.num_rows());
        match rows_of(dataset, fragment).await {
            Ok(rows) if wanted.is_none_or(|wanted| wanted as u64 == rows) => {}
            Ok(rows) => {
                return Some(format!(
                    "fragment {number} (`{file}`) has {rows} rows, and its version says {}",
                    wanted.unwrap_or_default()
                ));
            }
            Err(error) => {
                return Some(format!(
                    "fragment {number} (`{file}`) cannot be read: {}",
                    error.message()
                ));
            }
        }
    }
    None
}

async fn rows_of(dataset: &Dataset, fragment: Fragment) -> Result<u64> {
    let mut scanner = dataset.scan();
    scanner.with_fragments(vec![fragment]);
    scanner.batch_size(BATCH_ROWS).batch_readahead(1).io_buffer_size(AHEAD_BYTES);
    let mut batches = scanner.try_into_stream().await.map_err(from_lance)?;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
        rows += batch.num_rows() as u64;
    }
    Ok(rows)
}

/// Looks values up with an index and without; both have to find the same rows.
async fn check_indexes(
    snapshot: &Snapshot,
    subject: &str,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    // What cannot be listed was found before.
    let Ok(indexes) = snapshot.indexes().await else { return Ok(()) };
    let rows = snapshot.count_rows().await?;
    for index in indexes {
        let kind = index.index_type.to_ascii_uppercase();
        let [column] = index.columns.as_slice() else { continue };
        let is_top = snapshot.dataset.schema().fields.iter().any(|field| field.name == *column);
        if rows == 0 || !is_top || !EQUALITY_INDEXES.contains(&kind.as_str()) {
            continue;
        }
        let found = match wrong_lookups(&snapshot.dataset, column, rows).await {
            Ok((0, looked)) => Finding::new(
                Severity::Fine,
                subject,
                format!("index {}: {looked} lookups find the rows that are there", index.name),
            ),
            Ok((wrong, looked)) => Finding::new(
                Severity::Problem,
                subject,
                format!(
                    "index {}: {wrong} of {looked} lookups do not find the rows that are there; build \
                     it again",
                    index.name
                ),
            ),
            Err(error) => Finding::new(
                Severity::Problem,
                subject,
                format!("index {} cannot be used: {}; build it again", index.name, error.message()),
            ),
        };
        findings.push(found);
    }
    Ok(())
}

async fn wrong_lookups(dataset: &Dataset, column: &str, rows: u64) -> Result<(u64, u64)> {
    let step = rows.div_ceil(LOOKUPS).max(1);
    let positions: Vec<u64> = (0..rows).step_by(usize::try_from(step).unwrap_or(1)).collect();
    let projection = ProjectionRequest::from_columns([column], dataset.schema());
    let sample = dataset.take(&positions, projection).await.map_err(from_lance)?;
    let (mut wrong, mut looked) = (0, 0);
    for row in 0..sample.num_rows() {
        let value = ScalarValue::try_from_array(sample.column(0), row).map_err(|error| {
            Error::new(ErrorKind::Internal, "a value cannot be looked up").with_source(error)
        })?;
        if value.is_null() {
            continue;
        }
        let count = |with_index: bool| {
            let value = value.clone();
            async move {
                let mut scanner = dataset.scan();
                scanner.filter_expr(ident(column).eq(lit(value)));
                scanner.use_scalar_index(with_index);
                scanner.project::<&str>(&[]).map_err(from_lance)?.with_row_id();
                let mut batches = scanner.try_into_stream().await.map_err(from_lance)?;
                let mut found = 0;
                while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
                    found += batch.num_rows();
                }
                Ok::<_, Error>(found)
            }
        };
        looked += 1;
        wrong += u64::from(count(true).await? != count(false).await?);
    }
    Ok((wrong, looked))
}
