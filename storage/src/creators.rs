//! Who writes into the folder of a table that does not exist yet.
//!
//! Several creates of one name may write into one folder; the put of version 1 decides between them. If
//! the name went to a table in another folder meanwhile, the files are to be deleted, but not before the
//! last of them is gone: it would find its files missing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The folders that creates of this process write into.
#[derive(Debug, Clone, Default)]
pub(crate) struct Creators(Arc<Mutex<HashMap<String, usize>>>);

/// One create's presence in a folder.
#[derive(Debug)]
pub(crate) struct Inside {
    creators: Creators,
    location: String,
}

impl Creators {
    pub(crate) fn enter(&self, location: &str) -> Inside {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(location.to_owned()).or_default() += 1;
        Inside { creators: self.clone(), location: location.to_owned() }
    }

    /// Whether any create writes into the folder.
    pub(crate) fn are_in(&self, location: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(location)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut counts = self.creators.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.location) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.location);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_left_by_the_last() {
        let creators = Creators::default();
        let first = creators.enter("default/a.lance");
        let second = creators.enter("default/a.lance");
        assert!(creators.are_in("default/a.lance"));
        assert!(!creators.are_in("default/b.lance"));
        drop(first);
        assert!(creators.are_in("default/a.lance"));
        drop(second);
        assert!(!creators.are_in("default/a.lance"));
    }
}
