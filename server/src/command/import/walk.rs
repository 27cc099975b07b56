//! From the PATHs of the command line to files: which there are, and under which path each is stored.
//!
//! ```text
//!   one folder       its files, by their path below it
//!   one file         its name
//!   several PATHs    each under its own name: `a` and `b` give `a/…` and `b/…`, as `cp -r a b` would
//! ```
//!
//! Links are not followed below a PATH; a PATH that is a link itself is, because it was named.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::exit::Exit;

/// Names of one folder that are held and sorted at a time. A larger folder comes in such runs.
const NAMES_MAX: usize = 1_000_000;
/// How deep folders may lie in one another.
const DEPTH_MAX: usize = 256;

/// One PATH of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    /// Where it lies.
    pub(super) path: PathBuf,
    /// What its files' paths begin with: nothing, or its name and a slash; for a file its whole path.
    pub(super) prefix: String,
    /// Whether it is a folder.
    pub(super) is_folder: bool,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where it lies.
    pub(super) file: PathBuf,
    /// Under which path it is stored.
    pub(super) path: String,
    /// Its size in bytes when it was found.
    pub(super) size: u64,
}

/// What is met on the way.
#[derive(Debug)]
pub(super) enum Met {
    /// A regular file.
    File(Found),
    /// A link, a socket or the like, which is passed over.
    Other,
    /// A folder that could not be listed, and why.
    Closed(PathBuf, std::io::Error),
}

/// The PATHs with the beginning of the paths below them.
///
/// # Errors
/// Wrong usage for a PATH that does not exist, or is neither file nor folder.
pub(super) fn inputs(paths: &[PathBuf]) -> Result<Vec<Input>, Exit> {
    let mut inputs = Vec::new();
    for path in paths {
        let shown = path.display();
        let metadata =
            fs::metadata(path).map_err(|error| Exit::usage(format!("`{shown}`: {error}")))?;
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(Exit::usage(format!("`{shown}` is neither a file nor a folder")));
        }
        let name = name_of(path)?;
        let prefix = match (metadata.is_dir(), paths.len()) {
            (true, 1) => String::new(),
            (true, _) => format!("{name}/"),
            (false, _) => name,
        };
        inputs.push(Input { path: path.clone(), prefix, is_folder: metadata.is_dir() });
    }
    Ok(inputs)
}

/// Refuses PATHs whose files would be stored under one path. Rows are stored under none.
///
/// # Errors
/// Wrong usage for two PATHs of one name.
pub(super) fn distinct(inputs: &[Input]) -> Result<(), Exit> {
    let mut taken: HashMap<&str, &Path> = HashMap::new();
    for input in inputs {
        if let Some(other) = taken.insert(&input.prefix, &input.path) {
            return Err(Exit::usage(format!(
                "`{}` and `{}` would both be stored as `{}`; import the folder above them, or each \
                 into a table of its own",
                other.display(),
                input.path.display(),
                input.prefix
            )));
        }
    }
    Ok(())
}

/// The last name of a path, also of `.` and `..`.
fn name_of(path: &Path) -> Result<String, Exit> {
    let whole = match path.file_name() {
        Some(name) => return Ok(text(name.as_bytes())),
        None => fs::canonicalize(path)
            .map_err(|error| Exit::usage(format!("`{}`: {error}", path.display())))?,
    };
    Ok(whole.file_name().map_or_else(|| "root".to_owned(), |name| text(name.as_bytes())))
}

/// Calls `meet` with every file of an input, in the order of their names, until it says stop.
pub(super) fn walk(input: &Input, meet: &mut dyn FnMut(Met) -> bool) {
    if input.is_folder {
        walk_folder(&input.path, &input.prefix, 0, meet);
        return;
    }
    let size = fs::metadata(&input.path).map(|metadata| metadata.len()).unwrap_or(0);
    meet(Met::File(Found { file: input.path.clone(), path: input.prefix.clone(), size }));
}

fn walk_folder(
    folder: &Path,
    prefix: &str,
    depth: usize,
    meet: &mut dyn FnMut(Met) -> bool,
) -> bool {
    if depth == DEPTH_MAX {
        let error = std::io::Error::other(format!("folders lie more than {DEPTH_MAX} deep"));
        return meet(Met::Closed(folder.to_owned(), error));
    }
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return meet(Met::Closed(folder.to_owned(), error)),
    };
    loop {
        let mut names: Vec<OsString> = Vec::new();
        for entry in entries.by_ref().take(NAMES_MAX) {
            match entry {
                Ok(entry) => names.push(entry.file_name()),
                Err(error) => return meet(Met::Closed(folder.to_owned(), error)),
            }
        }
        if names.is_empty() {
            return true;
        }
        names.sort_unstable();
        for name in names {
            let path = folder.join(&name);
            let name = text(name.as_bytes());
            let goes_on = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    walk_folder(&path, &format!("{prefix}{name}/"), depth + 1, meet)
                }
                Ok(metadata) if metadata.is_file() => meet(Met::File(Found {
                    file: path,
                    path: format!("{prefix}{name}"),
                    size: metadata.len(),
                })),
                Ok(_) => meet(Met::Other),
                // Deleted since the folder was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
                Err(error) => meet(Met::Closed(path, error)),
            };
            if !goes_on {
                return false;
            }
        }
    }
}

/// A name as text; bytes that are none are written as `\xNN`, so that two names stay two.
fn text(name: &[u8]) -> String {
    name.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(inputs: &[Input]) -> Vec<String> {
        let mut paths = Vec::new();
        for input in inputs {
            walk(input, &mut |met| {
                if let Met::File(found) = met {
                    paths.push(found.path);
                }
                true
            });
        }
        paths
    }

    #[test]
    fn paths_are_as_of_cp() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a/x.png", "a/.hidden/y.png", "b/x.png", "c.png"] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        std::os::unix::fs::symlink("x.png", root.path().join("a/link.png")).unwrap();
        let of = |names: &[&str]| {
            let given: Vec<PathBuf> = names.iter().map(|name| root.path().join(name)).collect();
            let inputs = inputs(&given)?;
            distinct(&inputs).map(|()| paths(&inputs))
        };
        assert_eq!(of(&["a"]).unwrap(), [".hidden/y.png", "x.png"]);
        assert_eq!(of(&["a/."]).unwrap(), [".hidden/y.png", "x.png"]);
        assert_eq!(of(&["c.png"]).unwrap(), ["c.png"]);
        assert_eq!(
            of(&["a", "b", "c.png"]).unwrap(),
            ["a/.hidden/y.png", "a/x.png", "b/x.png", "c.png"]
        );
        assert!(of(&["a/x.png", "b/x.png"]).is_err(), "one path for two files");
        assert!(of(&["a", "b/../a"]).is_err(), "one path for two folders");
        assert!(of(&["nothing"]).is_err());
        assert_eq!(text(b"a\xffb"), "a\\xffb");
    }
}
