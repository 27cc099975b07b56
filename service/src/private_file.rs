//! A small file that only its owner reads, beside the lake and never in it: a key.
//!
//! Nobody ever sees half of one: it is written under another name, synced, and then gets its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
const OTHERS_MASK: u32 = 0o077;

/// One line of text in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateFile(PathBuf);

impl PrivateFile {
    /// The file at `path`, which need not be there.
    pub fn new(path: PathBuf) -> PrivateFile {
        PrivateFile(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its text without white space around it, or nothing where there is no file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(&self.0) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The mode of the file where others than its owner may do something with it.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn mode_for_others(&self) -> io::Result<Option<u32>> {
        let mode = fs::metadata(&self.0)?.permissions().mode() & 0o777;
        Ok((mode & OTHERS_MASK != 0).then_some(mode))
    }

    /// Writes the text, whatever was there.
    ///
    /// # Errors
    /// When it cannot be written; what was there stays.
    pub fn write(&self, text: &str) -> io::Result<()> {
        self.place(text, |temporary, path| fs::rename(temporary, path))
    }

    /// Writes the text where no file is; false where one is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(&self, text: &str) -> io::Result<bool> {
        let placed = self.place(text, |temporary, path| {
            fs::hard_link(temporary, path)?;
            fs::remove_file(temporary)
        });
        match placed {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn place(
        &self,
        text: &str,
        place: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let folder = self.0.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
        let mut temporary = self.0.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        // A file of an earlier process with this id may have another mode.
        let _ = fs::remove_file(&temporary);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&temporary)?;
        let written = writeln!(file, "{text}")
            .and_then(|()| file.sync_all())
            .and_then(|()| place(&temporary, &self.0))
            .and_then(|()| File::open(folder)?.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_private_and_survives_a_second_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = PrivateFile::new(folder.path().join("deep/er/x.key"));
        assert_eq!(file.read().unwrap(), None);
        assert!(file.create("first").unwrap());
        assert!(!file.create("other").unwrap());
        assert_eq!(file.read().unwrap().as_deref(), Some("first"));
        file.write("second").unwrap();
        assert_eq!(file.read().unwrap().as_deref(), Some("second"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(file.path()), FILE_MODE);
        assert_eq!(mode(file.path().parent().unwrap()), FOLDER_MODE);
        assert_eq!(fs::read_dir(file.path().parent().unwrap()).unwrap().count(), 1);
        assert_eq!(file.mode_for_others().unwrap(), None);
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(file.mode_for_others().unwrap(), Some(0o640));
    }
}
