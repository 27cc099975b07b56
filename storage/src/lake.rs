//! The lake: a root folder or bucket with its tables.
use crate::SystemStore;
use lakebed_core::Result;

/// How to open a lake.
#[derive(Debug, Clone, Default)]
pub struct LakeOptions {
    /// A local directory or `s3://bucket/prefix`.
    pub root: String,
}

/// An open lake.
#[derive(Debug)]
pub struct Lake {
    system: SystemStore,
}

impl Lake {
    /// Opens or makes the lake at the root.
    pub async fn open(_options: LakeOptions) -> Result<Lake> {
        unimplemented!()
    }

    /// The system's own state under `_lakebed/`.
    pub fn system(&self) -> &SystemStore {
        &self.system
    }
}
