//! Small durable objects under `_lakebed/`: keys, audit, the catalogue, write ids.

use bytes::Bytes;
use lakebed_core::Result;

/// One object of a listing.
#[derive(Debug, Clone)]
pub struct SystemObject {
    /// Its path below `_lakebed/`.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, in milliseconds since the Unix epoch.
    pub modified_ms: i64,
}

/// The system's own state of one lake. Every write is durable when it returns.
#[derive(Debug, Clone)]
pub struct SystemStore {}

impl SystemStore {
    /// The bytes at `path`, or nothing.
    pub async fn get(&self, _path: &str) -> Result<Option<Bytes>> {
        unimplemented!()
    }

    /// Writes `bytes` where nothing is; false when something is there already.
    pub async fn create(&self, _path: &str, _bytes: Bytes) -> Result<bool> {
        unimplemented!()
    }

    /// Replaces what is at `path`, atomically.
    pub async fn put(&self, _path: &str, _bytes: Bytes) -> Result<()> {
        unimplemented!()
    }

    /// The objects below `prefix`, sorted by path.
    pub async fn list(&self, _prefix: &str) -> Result<Vec<SystemObject>> {
        unimplemented!()
    }

    /// Deletes the object; one that is missing is fine.
    pub async fn delete(&self, _path: &str) -> Result<()> {
        unimplemented!()
    }
}
