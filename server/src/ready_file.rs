//! The ready file: says to whoever waits that both ports accept, and which they are.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::exit::Exit;
use crate::listen::Listeners;
use crate::serve::VERSION;

/// A ready file; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct ReadyFile(PathBuf);

impl ReadyFile {
    /// Removes what an earlier run left behind: it names ports of a server that is gone.
    ///
    /// # Errors
    /// Failure when there is something that cannot be removed.
    pub(crate) fn remove_stale(path: &Path) -> Result<(), Exit> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(path, &error)),
            _ => Ok(()),
        }
    }

    /// Writes the file under a temporary name and renames it, so that nobody reads half of it.
    ///
    /// # Errors
    /// Failure when it cannot be written.
    pub(crate) fn write(path: &Path, listeners: &Addresses) -> Result<ReadyFile, Exit> {
        let body = json!({
            "http": listeners.http,
            "flight": listeners.flight,
            "pid": std::process::id(),
            "version": VERSION,
        });
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let written = std::fs::File::create(&temporary)
            .and_then(|mut file| writeln!(file, "{body}"))
            .and_then(|()| std::fs::rename(&temporary, path));
        if let Err(error) = written {
            // What is left of a failed attempt is of no use to anybody.
            let _ = std::fs::remove_file(&temporary);
            return Err(failed(path, &error));
        }
        Ok(ReadyFile(path.to_owned()))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Err(error) = ReadyFile::remove_stale(&self.0) {
            tracing::warn!(?error, "the ready file stays behind");
        }
    }
}

/// Both addresses as text.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// HTTP.
    pub(crate) http: String,
    /// Flight.
    pub(crate) flight: String,
}

impl Addresses {
    /// Of two open ports.
    pub(crate) fn of(listeners: &Listeners) -> Self {
        Addresses {
            http: listeners.http_addr.to_string(),
            flight: listeners.flight_addr.to_string(),
        }
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Exit {
    Exit::failed(format!("ready file `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_appears_whole_and_goes_with_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        ReadyFile::remove_stale(&path).unwrap();
        let addresses =
            Addresses { http: "127.0.0.1:1".to_owned(), flight: "127.0.0.1:2".to_owned() };
        let ready = ReadyFile::write(&path, &addresses).unwrap();
        let body: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(body["http"], "127.0.0.1:1");
        assert_eq!(body["flight"], "127.0.0.1:2");
        assert_eq!(body["pid"], std::process::id());
        assert_eq!(body["version"], VERSION);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(ready);
        assert!(!path.exists());
        assert!(ReadyFile::write(&folder.path().join("no/such/x"), &addresses).is_err());
    }
}
