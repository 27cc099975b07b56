//! What a cleaning is about to delete, written before it deletes: a cleaning that was cut off leaves files
//! that no version names, and nothing else would tell them from those of a write that is under way.
//!
//! A journal is `_lakebed/cleanup/<table uid>/<branch>/<random>.json` with the names of the files.

use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::references::{FileKind, Names, StoredFile};
use crate::blob::hex;
use crate::system::SystemStore;

const FORMAT: u32 = 1;

/// A journal as it is stored.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    format: u32,
    /// Data files and what lies beside them, by their names without the ending.
    data: Vec<String>,
    indices: Vec<String>,
    deletions: Vec<String>,
    transactions: Vec<String>,
}

/// The journals of one branch.
pub(super) struct Journals<'a> {
    system: &'a SystemStore,
    folder: String,
}

/// What journals that were left say.
#[derive(Debug, Default)]
pub(super) struct Left {
    names: Names,
    paths: Vec<String>,
}

impl Left {
    /// Whether a file was about to be deleted.
    pub(super) fn has(&self, kind: &FileKind) -> bool {
        self.names.has(kind)
    }
}

impl<'a> Journals<'a> {
    pub(super) fn of(system: &'a SystemStore, uid: &str, branch: Option<&str>) -> Journals<'a> {
        Journals { system, folder: format!("cleanup/{uid}/{}", branch.unwrap_or("main")) }
    }

    /// What cleanings that were cut off have left.
    ///
    /// # Errors
    /// `Corrupt` for a journal that cannot be read, or of a newer format.
    pub(super) async fn read(&self) -> Result<Left> {
        let mut left = Left::default();
        for object in self.system.list(&self.folder).await? {
            // A branch may have the beginning of another's name.
            if object.path.rsplit_once('/').is_none_or(|(folder, _)| folder != self.folder) {
                continue;
            }
            let Some(bytes) = self.system.get(&object.path).await? else { continue };
            let record: Record = serde_json::from_slice(&bytes).map_err(|error| {
                let message = format!("the record `{}` is damaged", object.path);
                Error::new(ErrorKind::Corrupt, message).with_source(error)
            })?;
            if record.format > FORMAT {
                let message = format!("the record `{}` is of a newer Lakebed", object.path);
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            let Record { format: _, data, indices, deletions, transactions } = record;
            let kinds = data.into_iter().map(FileKind::Data);
            let kinds = kinds.chain(indices.into_iter().map(FileKind::Index));
            let kinds = kinds.chain(deletions.into_iter().map(FileKind::Deletion));
            for kind in kinds.chain(transactions.into_iter().map(FileKind::Transaction)) {
                left.names.insert(kind);
            }
            left.paths.push(object.path);
        }
        Ok(left)
    }

    /// Notes the files; its path, if there are any.
    pub(super) async fn write(&self, files: &[StoredFile]) -> Result<Option<String>> {
        if files.is_empty() {
            return Ok(None);
        }
        let mut record = Record { format: FORMAT, ..Record::default() };
        for file in files {
            match &file.kind {
                FileKind::Manifest(_) => {}
                FileKind::Data(stem) | FileKind::Blob(stem) => record.data.push(stem.clone()),
                FileKind::Index(id) => record.indices.push(id.clone()),
                FileKind::Deletion(name) => record.deletions.push(name.clone()),
                FileKind::Transaction(name) => record.transactions.push(name.clone()),
            }
        }
        for names in [&mut record.data, &mut record.indices] {
            names.sort_unstable();
            names.dedup();
        }
        let bytes = serde_json::to_vec(&record)
            .map_err(|error| Error::internal("encode a journal").with_source(error))?;
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random)
            .map_err(|error| Error::internal(format!("no randomness: {error}")))?;
        let path = format!("{}/{}.json", self.folder, hex(&random));
        self.system.put(&path, Bytes::from(bytes)).await?;
        Ok(Some(path))
    }

    /// Forgets a journal and those that were left: their files are gone.
    pub(super) async fn delete(&self, journal: Option<String>, left: &Left) -> Result<()> {
        for path in journal.iter().chain(&left.paths) {
            self.system.delete(path).await?;
        }
        Ok(())
    }
}
