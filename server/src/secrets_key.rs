//! Where the key of secrets lies. It is made by the service, when the first secret is.

use std::path::PathBuf;

use crate::admin_key::beside_the_lake;
use crate::config::Config;
use crate::exit::Exit;

/// The file that the settings name, or the default one of the lake; nothing where there is no home directory
/// to put it in, or that lies inside the lake.
///
/// # Errors
/// Wrong usage for a file that was named and lies inside the lake.
pub(crate) fn file(config: &Config, lake_id: &str) -> Result<Option<PathBuf>, Exit> {
    let path = match (&config.secrets_key_file, &config.home) {
        (Some(path), _) => path.clone(),
        (None, Some(home)) => home.join(".config/lakebed").join(format!("{lake_id}.secrets-key")),
        (None, None) => return Ok(None),
    };
    match beside_the_lake(&path, &config.data, "key of secrets") {
        // Nobody said that the file should lie there, and most lakes have no secrets.
        Err(_) if config.secrets_key_file.is_none() => Ok(None),
        path => path.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Flags, Layer};

    fn config(data: &Path, file: Option<&Path>, home: Option<&str>) -> Config {
        let layer = Layer {
            data: Some(data.display().to_string()),
            secrets_key_file: file.map(Path::to_owned),
            ..Layer::default()
        };
        let home = home.map(|home| ("HOME".to_owned(), home.to_owned()));
        Config::load(Flags { layer, config: None }, &home.into_iter().collect()).unwrap()
    }

    #[test]
    fn the_file_is_at_home_or_where_it_was_said_and_never_in_the_lake() {
        let folder = tempfile::tempdir().unwrap();
        let lake = folder.path().join("lake");
        std::fs::create_dir(&lake).unwrap();
        let path = file(&config(&lake, None, Some("/home/a")), "id").unwrap().unwrap();
        assert_eq!(path, Path::new("/home/a/.config/lakebed/id.secrets-key"));
        assert_eq!(file(&config(&lake, None, None), "id").unwrap(), None);
        let beside = folder.path().join("k");
        assert_eq!(file(&config(&lake, Some(&beside), None), "id").unwrap(), Some(beside));
        assert!(file(&config(&lake, Some(&lake.join("deep/k")), None), "id").is_err());
        let inside = lake.join("home");
        assert_eq!(file(&config(&lake, None, inside.to_str()), "id").unwrap(), None);
    }
}
