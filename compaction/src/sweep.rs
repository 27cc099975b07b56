//! One pass over what may be deleted by now.
//!
//! Every kind has its own reason and its own minimum age: an upload its time to live, a dropped table
//! the last pin or ticket on it. A pass that is cut off is finished by the next.

use std::sync::Arc;

use lakebed_core::{ErrorKind, Result};
use lakebed_storage::Lake;

/// What a pass deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Uploads whose time ran out.
    pub uploads: usize,
    /// Writes in parts whose time ran out.
    pub multipart: usize,
    /// Folders of dropped tables.
    pub tables: usize,
}

/// Deletes expired uploads, writes in parts that were never completed, and the folders of dropped tables that nobody holds.
///
/// # Errors
/// `Unavailable` when the store does not answer; what is left is tried by the next pass.
pub async fn sweep(lake: &Arc<Lake>) -> Result<Swept> {
    let mut swept = Swept::default();
    let uploads = lake.uploads();
    for id in uploads.expired().await? {
        match uploads.abort(&id).await {
            Ok(()) => swept.uploads += 1,
            // A request is changing it, or threw it away meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    swept.multipart = lake.expire_multipart().await?;
    swept.tables = lake.finish_drops().await?;
    Ok(swept)
}
