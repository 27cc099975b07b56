//! Verbs on namespaces, one file each.
//!
//! In the LanceDB SDKs' catalogue mode, where a client chose no database, the root namespaces are the
//! databases, and their names may contain slashes.

pub(crate) mod create;
pub(crate) mod describe;
pub(crate) mod drop_namespace;
pub(crate) mod exists;
pub(crate) mod list;

use lakebed_core::{DatabaseName, Error, NamespacePath, Result};
use serde::Deserialize;

use crate::params::shown;
use crate::target::Target;

/// A namespace of a database; the root stands for the database.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    database: DatabaseName,
    path: NamespacePath,
}

impl Place {
    /// The namespace that a request names; nothing for the root of the catalogue.
    fn find(target: &Target) -> Result<Option<Place>> {
        if !target.is_catalog() {
            let database = target.ctx().database.clone();
            return Ok(Some(Place { database, path: target.namespace()? }));
        }
        if target.is_root()? {
            return Ok(None);
        }
        let segments = target.segments()?;
        let Some((database, path)) = segments.split_first() else { return Ok(None) };
        Ok(Some(Place {
            database: DatabaseName::parse(database)?,
            path: NamespacePath::parse(path)?,
        }))
    }

    /// The namespace that a request makes or drops.
    fn to_change(target: &Target) -> Result<Place> {
        match Place::find(target)? {
            Some(place) if target.is_catalog() || !place.path.is_root() => Ok(place),
            _ => Err(Error::invalid("the root namespace cannot be made or dropped")),
        }
    }
}

/// The body that names nothing but the namespace.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OneNamespace {
    id: Option<Vec<String>>,
}

/// Which of a field's values a request means, whatever its case and with or without underscores.
fn choice<T: Copy>(
    field: &str,
    sent: Option<&str>,
    choices: &[(&str, T)],
    default: T,
) -> Result<T> {
    let Some(sent) = sent.filter(|sent| !sent.is_empty()) else { return Ok(default) };
    // The Node client 0.39 sends them in quotes of their own.
    let plain = sent.trim_matches('"').replace('_', "").to_ascii_lowercase();
    let found = choices.iter().find(|(name, _)| name.to_ascii_lowercase() == plain);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Error::invalid(format!(
            "field `{field}` is `{}`, not one of {}",
            shown(sent),
            names.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_in_any_spelling() {
        let choices = [("Create", 1), ("ExistOk", 2)];
        for (sent, chosen) in [(None, 1), (Some("exist_ok"), 2), (Some("ExistOk"), 2)] {
            assert_eq!(choice("mode", sent, &choices, 1).unwrap(), chosen);
        }
        let error = choice("mode", Some("maybe"), &choices, 1).unwrap_err();
        assert!(error.message().contains("`mode`"), "{error}");
    }
}
