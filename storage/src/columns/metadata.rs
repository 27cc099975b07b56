//! What is noted about fields and about the schema: maps from text to text that clients keep there.
//!
//! What says how values are stored cannot be changed here: it would make stored bytes mean something
//! else.

use async_recursion::async_recursion as boxed;
use std::collections::{BTreeMap, HashMap};

use lakebed_core::{Error, Result};
use lance::dataset::transaction::{Operation, UpdateMap, UpdateMapEntry};

use super::{Staged, field_at};
use crate::computed::{FUNCTION_BINDINGS, is_computed_key};
use crate::table::Table;
use crate::vector_aliases::is_alias_key;

/// Bytes of the entries of one request.
const BYTES_MAX: usize = 1 << 20;

/// A change of one field's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMetadata {
    /// The field: a column, or a path below one such as `a.b`.
    pub path: String,
    /// New values; a key without one is taken out.
    pub entries: BTreeMap<String, Option<String>>,
    /// Whether the entries are everything that is left of the metadata.
    pub replace: bool,
}

impl Table {
    /// Changes the metadata of fields; returns the new version.
    ///
    /// # Errors
    /// `NotFound` for a field that does not exist, `InvalidArgument` naming a key that cannot be changed.
    #[boxed]
    pub async fn update_field_metadata(
        &self,
        branch: Option<&str>,
        changes: &[FieldMetadata],
    ) -> Result<u64> {
        if changes.is_empty() {
            return Err(Error::invalid("no field is given"));
        }
        let entries = || changes.iter().flat_map(|change| &change.entries);
        check_size(entries().map(|(key, value)| (key, value.as_deref().unwrap_or_default())))?;
        let branch = self.branch(branch).await?;
        let committed = self
            .change_columns(&branch, |latest| async move {
                let mut updates: HashMap<i32, UpdateMap> = HashMap::new();
                for change in changes {
                    let field = field_at(latest.schema(), &change.path)?;
                    check_kept(change, &field.metadata)?;
                    if updates.insert(field.id, update_map(change)).is_some() {
                        let message = format!("field `{}` is given twice", change.path);
                        return Err(Error::invalid(message));
                    }
                }
                Ok(Staged::metadata(Operation::UpdateConfig {
                    config_updates: None,
                    table_metadata_updates: None,
                    schema_metadata_updates: None,
                    field_metadata_updates: updates,
                }))
            })
            .await?;
        Ok(committed.version().version)
    }

    /// Replaces the metadata of the schema, but for aliases of columns, which stay where they are not given;
    /// returns what it is now, and the new version.
    ///
    /// # Errors
    /// `InvalidArgument` naming a key that cannot be changed.
    #[boxed]
    pub async fn replace_schema_metadata(
        &self,
        branch: Option<&str>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(BTreeMap<String, String>, u64)> {
        check_size(metadata.iter().map(|(key, value)| (key, value.as_str())))?;
        let branch = self.branch(branch).await?;
        let committed = self
            .change_columns(&branch, |latest| async move {
                let known = &latest.schema().metadata;
                for key in known.keys().chain(metadata.keys()).filter(|key| is_storage_key(key)) {
                    let stays = is_alias_key(key) && !metadata.contains_key(key);
                    if !stays && known.get(key) != metadata.get(key) {
                        return Err(kept(key, "the schema"));
                    }
                }
                let aliases = known.iter().filter(|(key, _)| is_alias_key(key));
                let all: BTreeMap<&String, &String> = aliases.chain(metadata).collect();
                let entries = all.into_iter().map(|(key, value)| UpdateMapEntry {
                    key: key.clone(),
                    value: Some(value.clone()),
                });
                let update = UpdateMap { update_entries: entries.collect(), replace: true };
                Ok(Staged::metadata(Operation::UpdateConfig {
                    config_updates: None,
                    table_metadata_updates: None,
                    schema_metadata_updates: Some(update),
                    field_metadata_updates: HashMap::new(),
                }))
            })
            .await?;
        let now = committed.schema().metadata.clone().into_iter().collect();
        Ok((now, committed.version().version))
    }
}

fn update_map(change: &FieldMetadata) -> UpdateMap {
    let entries = change.entries.iter().filter(|(_, value)| value.is_some() || !change.replace);
    let entries =
        entries.map(|(key, value)| UpdateMapEntry { key: key.clone(), value: value.clone() });
    UpdateMap { update_entries: entries.collect(), replace: change.replace }
}

fn check_size<'a>(entries: impl Iterator<Item = (&'a String, &'a str)>) -> Result<()> {
    let mut bytes = 0;
    for (key, value) in entries {
        if key.is_empty() {
            return Err(Error::invalid("a key of metadata is empty"));
        }
        bytes += key.len() + value.len();
    }
    match bytes > BYTES_MAX {
        true => Err(Error::invalid(format!("the metadata has more than {BYTES_MAX} bytes"))),
        false => Ok(()),
    }
}

/// Checks that a change leaves what says how the field is stored.
fn check_kept(change: &FieldMetadata, known: &HashMap<String, String>) -> Result<()> {
    for key in known.keys().chain(change.entries.keys()).filter(|key| is_storage_key(key)) {
        let now = match change.entries.get(key) {
            Some(value) => value.as_ref(),
            None if change.replace => None,
            None => known.get(key),
        };
        if now != known.get(key) {
            return Err(kept(key, &format!("field `{}`", change.path)));
        }
    }
    Ok(())
}

/// Whether a key says how values are stored or computed, or what their type is.
fn is_storage_key(key: &str) -> bool {
    is_computed_key(key)
        || key == FUNCTION_BINDINGS
        || is_alias_key(key)
        || key.starts_with("ARROW:extension:")
        || key.starts_with("lance-encoding:")
        || key.starts_with("lance.")
        || key == "packed"
}

fn kept(key: &str, of: &str) -> Error {
    Error::invalid(format!(
        "metadata `{key}` of {of} says how values are stored or computed, or is an alias, and cannot be changed here"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(entries: &[(&str, Option<&str>)], replace: bool) -> FieldMetadata {
        let entries =
            entries.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)));
        FieldMetadata { path: "a".to_owned(), entries: entries.collect(), replace }
    }

    #[test]
    fn what_says_how_a_field_is_stored_stays() {
        let blob = ("ARROW:extension:name".to_owned(), "lance.blob.v2".to_owned());
        let known = HashMap::from([blob, ("note".to_owned(), "x".to_owned())]);
        assert!(check_kept(&change(&[("note", None)], false), &known).is_ok());
        let same = [("ARROW:extension:name", Some("lance.blob.v2")), ("other", Some("y"))];
        assert!(check_kept(&change(&same, true), &known).is_ok());
        for bad in [
            change(&[("ARROW:extension:name", None)], false),
            change(&[("ARROW:extension:name", Some("arrow.json"))], false),
            change(&[("other", Some("y"))], true),
            change(&[("lance-encoding:blob", Some("true"))], false),
        ] {
            let error = check_kept(&bad, &known).unwrap_err();
            assert!(error.message().contains("cannot be changed"), "{error}");
        }
    }
}
