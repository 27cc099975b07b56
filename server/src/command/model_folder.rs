//! A model as it lies in a folder: its files, and what its `model.toml` declares.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::import::upload::digest;
use crate::exit::Exit;

/// What declares a model beside its files.
pub(crate) const DECLARATION: &str = "model.toml";
/// A declaration is small.
const DECLARATION_BYTES_MAX: u64 = 1 << 20;
const DEPTH_MAX: usize = 16;

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalFile {
    /// Where it lies here.
    pub(crate) source: PathBuf,
    /// Where it lies in the model's folder, with slashes.
    pub(crate) path: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The SHA-256 of its bytes in hexadecimal digits.
    pub(crate) sha256: String,
}

/// The files of a model, which is one file or a folder with all below it, but for what is hidden. Links are
/// followed: folders of downloaded models are made of them.
///
/// # Errors
/// Failure for what cannot be read, and where no file is.
pub(crate) fn files_of(root: &Path) -> Result<Vec<LocalFile>, Exit> {
    let mut sources = Vec::new();
    match root.is_dir() {
        true => walk(root, "", 0, &mut sources)?,
        false => {
            let name = root.file_name().and_then(|name| name.to_str());
            let name =
                name.ok_or_else(|| Exit::usage(format!("`{}` is no file", root.display())))?;
            sources.push((root.to_owned(), name.to_owned()));
        }
    }
    if sources.is_empty() {
        return Err(Exit::failed(format!("`{}` holds no file", root.display())));
    }
    sources.sort_by(|a, b| a.1.cmp(&b.1));
    sources
        .into_iter()
        .map(|(source, path)| {
            let (size, sha256) = digest(&source).map_err(|error| failed(&source, &error))?;
            Ok(LocalFile { source, path, size, sha256 })
        })
        .collect()
}

fn walk(
    folder: &Path,
    above: &str,
    depth: usize,
    found: &mut Vec<(PathBuf, String)>,
) -> Result<(), Exit> {
    if depth > DEPTH_MAX {
        return Err(Exit::failed(format!("`{}` lies too deep", folder.display())));
    }
    let entries = std::fs::read_dir(folder).map_err(|error| failed(folder, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| failed(folder, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name else {
            return Err(Exit::failed(format!("the name of `{}` is not UTF-8", path.display())));
        };
        if name.starts_with('.') {
            continue;
        }
        let inside = match above {
            "" => name.to_owned(),
            above => format!("{above}/{name}"),
        };
        let is_folder = std::fs::metadata(&path).map_err(|error| failed(&path, &error))?.is_dir();
        match is_folder {
            true => walk(&path, &inside, depth + 1, found)?,
            false => found.push((path, inside)),
        }
    }
    Ok(())
}

/// What a model's folder declares; nothing without a `model.toml`.
///
/// # Errors
/// Failure for one that is no TOML.
pub(crate) fn declaration(root: &Path) -> Result<Map<String, Value>, Exit> {
    let path = root.join(DECLARATION);
    let size = match std::fs::metadata(&path) {
        Ok(metadata) if root.is_dir() => metadata.len(),
        _ => return Ok(Map::new()),
    };
    if size > DECLARATION_BYTES_MAX {
        return Err(Exit::failed(format!("`{}` has {size} bytes", path.display())));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
    toml::from_str(&text)
        .map_err(|error| Exit::failed(format!("`{}`: {}", path.display(), error.message())))
}

fn failed(path: &Path, error: &std::io::Error) -> Exit {
    Exit::failed(format!("`{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_with_its_declaration_and_without_what_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("m");
        std::fs::create_dir_all(root.join("onnx")).unwrap();
        std::fs::create_dir_all(root.join(".git")).unwrap();
        std::fs::write(root.join("onnx/model.onnx"), b"graph").unwrap();
        std::fs::write(root.join(".git/config"), b"x").unwrap();
        std::fs::write(root.join("model.toml"), "dimensions = 3\nmean = [0.5, 0.5, 0.5]\n")
            .unwrap();
        std::fs::write(folder.path().join("elsewhere"), b"linked").unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), root.join("link")).unwrap();
        let files = files_of(&root).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["link", "model.toml", "onnx/model.onnx"]);
        assert_eq!(files[2].size, 5);
        assert_eq!(declaration(&root).unwrap()["dimensions"], 3);
        let alone = files_of(&root.join("onnx/model.onnx")).unwrap();
        assert_eq!(alone[0].path, "model.onnx");
        assert!(declaration(&root.join("onnx/model.onnx")).unwrap().is_empty());
        assert!(files_of(&root.join("none")).is_err());
    }
}
