//! What lies below a folder of a root, told a piece at a time.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::Result;
use object_store::path::Path;

use crate::lance_error::from_object_store;
use crate::root::Root;

/// An object below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its path below the root.
    pub(crate) path: String,
    pub(crate) size: u64,
}

/// The objects below a folder; none where there is no such folder. What is being written is not shown.
pub(crate) fn listing<'a>(root: &'a Root, folder: &str) -> BoxStream<'a, Result<Found>> {
    let depth = root.path("").parts().count();
    let found = root.store().list(Some(&root.path(folder)));
    found
        .filter_map(move |object| {
            let found = match object {
                Ok(object) => {
                    let path = Path::from_iter(object.location.parts().skip(depth)).to_string();
                    Some(Ok(Found { path, size: object.size }))
                }
                // The folder, or a file of it that went meanwhile.
                Err(object_store::Error::NotFound { .. }) => None,
                Err(error) => Some(Err(from_object_store(error, "listing of a folder"))),
            };
            futures::future::ready(found)
        })
        .boxed()
}

/// A few bytes for each path: what is known of many files at once.
#[derive(Debug, Default)]
pub(crate) struct Paths<T> {
    hashes: RandomState,
    known: HashMap<u64, T>,
}

impl<T> Paths<T> {
    pub(crate) fn insert(&mut self, path: &str, value: T) {
        self.known.insert(self.hashes.hash_one(path), value);
    }

    pub(crate) fn get(&self, path: &str) -> Option<&T> {
        self.known.get(&self.hashes.hash_one(path))
    }

    pub(crate) fn get_mut(&mut self, path: &str) -> Option<&mut T> {
        self.known.get_mut(&self.hashes.hash_one(path))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.known.values()
    }
}

/// The sizes of what lies below a folder.
pub(crate) async fn sizes(root: &Root, folder: &str) -> Result<Paths<u64>> {
    let mut sizes = Paths::default();
    let mut found = listing(root, folder);
    while let Some(object) = found.try_next().await? {
        sizes.insert(&object.path, object.size);
    }
    Ok(sizes)
}
