//! The file of one version, read as bytes: what it names, and the same with its base paths moved.
//!
//! Why it exists beside lance's own reader: a lake that was moved or copied has paths in its manifests
//! that lead elsewhere, so it cannot be opened before they are rewritten; and whoever copies or counts
//! files has to know what a version needs without opening it.
//!
//! The file ends in the position of the manifest message (8 bytes), two version numbers (2 each) and a
//! magic (4), little-endian; at the position stand the length of the message (4) and the message. See
//! `read_manifest` in lance-table's `io/manifest.rs`. The sections before it (indexes, the transaction)
//! are found by positions in the message.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use lance_table::feature_flags::{FLAG_FRAGMENT_TREE, FLAG_UNKNOWN};
use lance_table::format::{IndexMetadata, Manifest, pb};
use lance_table::io::deletion::relative_deletion_file_path;
use prost::Message;

const FOOTER_BYTES: usize = 16;

/// Paths below `from` are to lie below `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// How sure it is that a named thing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// A file without which the version is broken.
    File,
    /// A folder whose files belong to the version, where there is one.
    Folder,
    /// A file that may have been left out.
    MaybeFile,
}

/// A manifest that was read.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    bytes: Bytes,
    /// Where length and message stand.
    message: Range<usize>,
    manifest: pb::Manifest,
}

type Said<T> = std::result::Result<T, String>;

impl ManifestFile {
    /// Reads a manifest; what is wrong with it otherwise.
    pub(crate) fn parse(bytes: Bytes) -> Said<ManifestFile> {
        let footer_at = bytes.len().checked_sub(FOOTER_BYTES).ok_or("it is too short")?;
        let footer = &bytes[footer_at..];
        if &footer[12..] != lance_table::format::MAGIC {
            return Err("it has no magic".to_owned());
        }
        let position: [u8; 8] = footer[..8].try_into().map_err(|_| "it has no position")?;
        let position =
            usize::try_from(i64::from_le_bytes(position)).map_err(|_| "it has a bad position")?;
        let message = message_at(&bytes[..footer_at], position)?;
        let manifest = pb::Manifest::decode(&bytes[message.start + 4..message.end])
            .map_err(|error| error.to_string())?;
        Ok(ManifestFile { bytes, message, manifest })
    }

    /// The file with its base paths moved, or nothing when none has to be.
    pub(crate) fn moved(&self, moves: &[Move]) -> Said<Option<Bytes>> {
        let Some(manifest) = self.moved_message(moves) else { return Ok(None) };
        let message = manifest.encode_to_vec();
        let mut moved = BytesMut::with_capacity(self.bytes.len() + 64);
        moved.put_slice(&self.bytes[..self.message.start]);
        moved.put_u32_le(u32::try_from(message.len()).map_err(|_| "it is too large")?);
        moved.put_slice(&message);
        moved.put_slice(&self.bytes[self.message.end..]);
        Ok(Some(moved.freeze()))
    }

    /// The message alone, with its base paths moved, as lance takes it.
    pub(crate) fn message(&self, moves: &[Move]) -> Vec<u8> {
        match self.moved_message(moves) {
            Some(moved) => moved.encode_to_vec(),
            None => self.bytes[self.message.start + 4..self.message.end].to_vec(),
        }
    }

    /// Whether `other` is this version, its paths moved.
    pub(crate) fn is_same(&self, other: &ManifestFile, moves: &[Move]) -> bool {
        // The messages are compared and not their bytes: maps are written in any order.
        let moved = self.moved_message(moves);
        moved.as_ref().unwrap_or(&self.manifest) == &other.manifest
            && self.bytes[..self.message.start] == other.bytes[..other.message.start]
    }

    fn moved_message(&self, moves: &[Move]) -> Option<pb::Manifest> {
        let moved =
            |path: &str| moves.iter().find_map(|rule| moved_path(path, &rule.from, &rule.to));
        if !self.manifest.base_paths.iter().any(|base| moved(&base.path).is_some()) {
            return None;
        }
        let mut manifest = self.manifest.clone();
        for base in &mut manifest.base_paths {
            if let Some(path) = moved(&base.path) {
                base.path = path;
            }
        }
        Some(manifest)
    }

    /// The version, if all that it uses is known here.
    pub(crate) fn decoded(&self) -> Said<Manifest> {
        let manifest =
            Manifest::try_from(self.manifest.clone()).map_err(|error| error.to_string())?;
        if manifest.reader_feature_flags & FLAG_FRAGMENT_TREE != 0
            || manifest.reader_feature_flags >= FLAG_UNKNOWN
        {
            return Err(format!(
                "it uses features of lance that are not known here (flags {:#x})",
                manifest.reader_feature_flags
            ));
        }
        Ok(manifest)
    }

    /// Tells `visit` everything that the version names: the folder that it lies below (nothing for the
    /// branch's own), its path in there, and what it is.
    pub(crate) fn visit(&self, mut visit: impl FnMut(Option<&str>, String, Named)) -> Said<()> {
        let manifest = self.decoded()?;
        // The folder of a base, and where data files lie in it.
        let place = |id: Option<u32>| -> Said<(Option<&str>, &'static str)> {
            let Some(id) = id else { return Ok((None, "data/")) };
            let base = manifest.base_paths.get(&id);
            let base = base.ok_or_else(|| format!("it has no base {id}"))?;
            Ok((Some(base.path.as_str()), if base.is_dataset_root { "data/" } else { "" }))
        };
        for fragment in manifest.fragments.iter() {
            for file in fragment.referenced_lance_files() {
                let (base, folder) = place(file.base_id)?;
                // Blobs beside a data file lie in a folder that has its name without the ending.
                if let Some(stem) = file.path.strip_suffix(".lance") {
                    visit(base, format!("{folder}{stem}"), Named::Folder);
                }
                visit(base, format!("{folder}{}", file.path), Named::File);
            }
            if let Some(deletion) = &fragment.deletion_file {
                let (base, _) = place(deletion.base_id)?;
                visit(base, relative_deletion_file_path(fragment.id, deletion), Named::File);
            }
        }
        for index in self.indexes()? {
            let (base, _) = place(index.base_id)?;
            visit(base, format!("_indices/{}", index.uuid), Named::Folder);
        }
        if let Some(file) = manifest.transaction_file.filter(|file| !file.is_empty()) {
            visit(None, format!("_transactions/{file}"), Named::MaybeFile);
        }
        Ok(())
    }

    fn indexes(&self) -> Said<Vec<IndexMetadata>> {
        let Some(position) = self.manifest.index_section else { return Ok(Vec::new()) };
        let position = usize::try_from(position).map_err(|_| "its indexes have a bad position")?;
        let section = message_at(&self.bytes[..self.message.start], position)?;
        let section = pb::IndexSection::decode(&self.bytes[section.start + 4..section.end])
            .map_err(|error| error.to_string())?;
        section
            .indices
            .into_iter()
            .map(|index| IndexMetadata::try_from(index).map_err(|error| error.to_string()))
            .collect()
    }
}

/// Where the length and the message at `position` stand.
fn message_at(bytes: &[u8], position: usize) -> Said<Range<usize>> {
    let length_end = position.checked_add(4).filter(|end| *end <= bytes.len());
    let length_end = length_end.ok_or("it has a bad position")?;
    let length: [u8; 4] = bytes[position..length_end].try_into().map_err(|_| "it has no length")?;
    let end = length_end
        .checked_add(u32::from_le_bytes(length) as usize)
        .filter(|end| *end <= bytes.len())
        .ok_or("it has a bad length")?;
    Ok(position..end)
}

/// The path below `to` of one below `from`.
pub(crate) fn moved_path(path: &str, from: &str, to: &str) -> Option<String> {
    let (scheme, bare) = match path.strip_prefix("file://") {
        // A bucket has a scheme of its own.
        Some(bare) if to.contains("://") => ("", bare),
        Some(bare) => ("file://", bare),
        None => ("", path),
    };
    let rest = bare.strip_prefix(from)?;
    // `/lake2` does not lie below `/lake`.
    (rest.is_empty() || rest.starts_with('/')).then(|| format!("{scheme}{to}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_old_root_move() {
        let moved = |path| moved_path(path, "/old/lake", "/new");
        assert_eq!(moved("/old/lake/_blobs").as_deref(), Some("/new/_blobs"));
        assert_eq!(moved("file:///old/lake/a.lance").as_deref(), Some("file:///new/a.lance"));
        assert_eq!(moved("/old/lake2/_blobs"), None);
        assert_eq!(moved("s3://bucket/old/lake"), None);
        let to_bucket = moved_path("file:///old/lake/a", "/old/lake", "s3://b/c");
        assert_eq!(to_bucket.as_deref(), Some("s3://b/c/a"));
        let from_bucket = moved_path("s3://b/c/a", "s3://b/c", "/new");
        assert_eq!(from_bucket.as_deref(), Some("/new/a"));
    }
}
