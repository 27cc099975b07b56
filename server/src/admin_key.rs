//! The operator's key: made at the first start, kept in a file beside the operator's other secrets.
//!
//! The lake keeps only a hash, so a key that was lost cannot be shown again, only replaced. The
//! file is written before the lake learns of the key: were it the other way round, a crash between
//! the two would leave a lake whose key nobody has. A start that finds a file and a lake without a
//! key uses the file's.

use std::fs;
use std::path::{Path, PathBuf};

use lakebed_core::{ErrorKind, Role};
use lakebed_service::{NewKey, PrivateFile, Service, check_secret};

use crate::config::Config;
use crate::exit::Exit;

/// Where the admin key of a lake is kept for its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyFile(PrivateFile);

impl KeyFile {
    /// The file that the settings name, or the default one of the lake.
    ///
    /// # Errors
    /// Wrong usage for a file inside the lake, or where there is no home directory to put it in.
    pub(crate) fn of(config: &Config, lake_id: &str) -> Result<KeyFile, Exit> {
        let path = match (&config.api_key_file, &config.home) {
            (Some(path), _) => path.clone(),
            (None, Some(home)) => home.join(".config/lakebed").join(format!("{lake_id}.key")),
            (None, None) => {
                return Err(Exit::usage(
                    "HOME is not set, so there is no place for the admin key; \
                     say --api-key-file or set LAKEBED_ADMIN_KEY",
                ));
            }
        };
        let path = beside_the_lake(&path, &config.data, "key file")?;
        Ok(KeyFile(PrivateFile::new(path)))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self) -> Result<Option<String>, Exit> {
        let Some(key) = self.0.read().map_err(|error| self.failed(&error))? else {
            return Ok(None);
        };
        if key.is_empty() {
            let message = format!("key file `{}` is empty; remove it", self.path().display());
            return Err(Exit::failed(message));
        }
        if let Some(mode) = self.0.mode_for_others().map_err(|error| self.failed(&error))? {
            tracing::warn!(
                file = %self.path().display(),
                mode = format_args!("{mode:o}"),
                "the admin key can be read by others"
            );
        }
        Ok(Some(key))
    }

    /// Writes the key so that nobody ever sees half of it and nobody else can read it.
    fn write(&self, key: &str) -> Result<(), Exit> {
        self.0.write(key).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Exit {
        Exit::failed(format!("key file `{}`: {error}", self.path().display()))
    }
}

/// Refuses a key in the settings that cannot be one.
///
/// # Errors
/// Wrong usage, saying what a key is like.
pub(crate) fn check(config: &Config) -> Result<(), Exit> {
    match &config.admin_key {
        Some(key) => Ok(check_secret(key).map_err(|error| error.context("LAKEBED_ADMIN_KEY"))?),
        None => Ok(()),
    }
}

/// Sees to it that somebody has the admin key of the lake.
///
/// # Errors
/// When the key cannot be read, written or stored.
pub(crate) async fn ensure(service: &Service, config: &Config) -> Result<(), Exit> {
    if let Some(key) = &config.admin_key {
        service.set_admin_key(key).await.map_err(|error| error.context("LAKEBED_ADMIN_KEY"))?;
        tracing::info!("the admin key is the one of LAKEBED_ADMIN_KEY");
        return Ok(());
    }
    if config.allow_anonymous && config.api_key_file.is_none() {
        // Nobody needs a key here, and a file in the home directory would surprise.
        return Ok(());
    }
    let file = KeyFile::of(config, service.lake_id())?;
    match (file.read()?, service.has_admin_key().await?) {
        (Some(key), false) => {
            service
                .set_admin_key(&key)
                .await
                .map_err(|error| error.context(format_args!("`{}`", file.path().display())))?;
            tracing::info!(file = %file.path().display(), "the admin key is the one of the file");
        }
        (Some(key), true) => check_known(service, &key, &file).await?,
        (None, false) => {
            replace(service, &file).await?;
            tracing::info!(file = %file.path().display(), "the admin key was made");
        }
        (None, true) => tracing::warn!(
            file = %file.path().display(),
            "the lake has an admin key and the file is not there; if the key is lost, stop the \
             server and run `lakebed keys reset --data …`, or start it with LAKEBED_ADMIN_KEY set"
        ),
    }
    Ok(())
}

/// Makes a new admin key, writes it to the file and then tells the lake.
///
/// # Errors
/// When the key cannot be written or stored.
pub(crate) async fn replace(service: &Service, file: &KeyFile) -> Result<(), Exit> {
    let key = NewKey::generate_admin()?;
    file.write(&key.secret)?;
    service.set_admin_key(&key.secret).await?;
    Ok(())
}

async fn check_known(service: &Service, key: &str, file: &KeyFile) -> Result<(), Exit> {
    match service.authenticate(Some(key)).await {
        Ok(principal) if principal.role == Role::Admin => {
            tracing::info!(file = %file.path().display(), "the admin key is in the file");
        }
        Ok(_) => tracing::warn!(
            file = %file.path().display(),
            "the key of the file is one of this lake and not an admin's"
        ),
        Err(error) if error.kind() == ErrorKind::Unauthenticated => tracing::warn!(
            file = %file.path().display(),
            reason = error.message(),
            "the key of the file does not open this lake; if its admin key is lost, stop the \
             server and run `lakebed keys reset --data …`, or start it with LAKEBED_ADMIN_KEY set"
        ),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The whole path of a key's file.
///
/// # Errors
/// Wrong usage for a file inside the lake.
pub(crate) fn beside_the_lake(path: &Path, data: &str, what: &str) -> Result<PathBuf, Exit> {
    let path = std::path::absolute(path)
        .map_err(|error| Exit::usage(format!("{what} `{}`: {error}", path.display())))?;
    if is_inside(&path, Path::new(data)) {
        return Err(Exit::usage(format!(
            "{what} `{}` lies inside the lake; whoever copies the lake would have its key",
            path.display()
        )));
    }
    Ok(path)
}

/// Whether `path` lies below the local folder `data`, links followed as far as they exist.
fn is_inside(path: &Path, data: &Path) -> bool {
    let Ok(data) = fs::canonicalize(data) else { return false };
    path.ancestors().any(|above| fs::canonicalize(above).is_ok_and(|above| above == data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Layer};

    fn config(data: &Path, file: Option<&Path>, home: Option<&Path>) -> Config {
        let layer = Layer {
            data: Some(data.display().to_string()),
            api_key_file: file.map(Path::to_owned),
            ..Layer::default()
        };
        let home = home.map(|home| ("HOME".to_owned(), home.display().to_string()));
        Config::load(Flags { layer, config: None }, &home.into_iter().collect()).unwrap()
    }

    #[test]
    fn the_file_never_lies_inside_the_lake() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("lake");
        fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&data, folder.path().join("link")).unwrap();
        for inside in ["lake/x.key", "lake/deep/er/x.key", "link/x.key", "lake/../lake/x.key"] {
            let path = folder.path().join(inside);
            assert!(KeyFile::of(&config(&data, Some(&path), None), "id").is_err(), "{inside}");
        }
        let beside = folder.path().join("x.key");
        assert!(KeyFile::of(&config(&data, Some(&beside), None), "id").is_ok());
    }

    #[test]
    fn the_default_is_in_the_home_directory() {
        let data = Path::new("/nonexistent/lake");
        let file = KeyFile::of(&config(data, None, Some(Path::new("/home/a"))), "id").unwrap();
        assert_eq!(file.path(), Path::new("/home/a/.config/lakebed/id.key"));
        assert!(KeyFile::of(&config(data, None, None), "id").is_err());
    }

    #[test]
    fn an_empty_file_is_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile(PrivateFile::new(folder.path().join("x.key")));
        fs::write(file.path(), " \n").unwrap();
        assert!(file.read().is_err());
    }
}
