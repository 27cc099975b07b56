//! From what storage knows to things that can be found.
//!
//! | what | where it is looked for, the first that says something |
//! | --- | --- |
//! | description of a table | `description`, `comment` in the metadata of its schema, of the table, in its settings |
//! | owner of a table | `owner` in the same places |
//! | description of a column | `description`, `comment` in the metadata of the field |
//! | description and owner of a namespace | its properties of these names |

use std::collections::{BTreeMap, BTreeSet};

use lakebed_core::DatabaseName;
use lakebed_index::catalogue::{Kind, Thing, ThingColumn};
use lakebed_storage::{CatalogueState, DescribedTable, StoredModel, UserFunction, View};
use serde_json::Value;

const DESCRIPTION: [&str; 2] = ["description", "comment"];
const OWNER: [&str; 1] = ["owner"];
/// How keys begin that say nothing to people.
const INTERNAL: [&str; 7] =
    ["lakebed", "lancedb", "lance", "_lakebed", "ARROW:", "pandas", "huggingface"];
/// Characters of a property that are searched.
const PROPERTY_CHARS: usize = 500;

/// A table and its tags.
pub(super) fn of_table(
    database: &DatabaseName,
    name: &str,
    described: Option<&DescribedTable>,
) -> Vec<Thing> {
    let mut thing = Thing::named(Kind::Table, Some(database.as_str()), name);
    let Some(table) = described else { return vec![thing] };
    if table.is_materialized {
        thing.kind = Kind::MaterializedView;
    }
    let pairs = || table.properties.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    thing.description = said(pairs(), &DESCRIPTION);
    thing.owner = said(pairs(), &OWNER);
    thing.properties = properties(pairs());
    thing.tags = table.tags.iter().map(|(tag, _)| tag.clone()).collect();
    thing.tags.sort();
    thing.columns = table
        .columns
        .iter()
        .map(|column| {
            let pairs =
                || column.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            let model = column.metadata.get("lakebed:model").map(String::as_str);
            let description = said(pairs(), &DESCRIPTION);
            let told = [description.as_str(), model.unwrap_or_default()];
            let told: Vec<&str> = told.into_iter().filter(|text| !text.is_empty()).collect();
            ThingColumn {
                name: column.path.clone(),
                data_type: column.data_type.clone(),
                description: told.join(" "),
            }
        })
        .collect();
    let tags = thing.tags.iter().map(|tag| tag_of(Some(database.as_str()), tag, name));
    let tags: Vec<Thing> = tags.collect();
    [thing].into_iter().chain(tags).collect()
}

fn tag_of(database: Option<&str>, tag: &str, of: &str) -> Thing {
    Thing { of: Some(of.to_owned()), ..Thing::named(Kind::Tag, database, tag) }
}

/// Everything of a database that has no rows of its own, by the group that it is replaced in.
pub(super) fn of_names(
    database: &DatabaseName,
    state: &CatalogueState,
) -> Vec<(String, Vec<Thing>)> {
    let mut things: Vec<Thing> = Vec::new();
    things.extend(state.views().map(|(name, view)| of_view(database, name, view)));
    things.extend(state.functions().map(|(name, function)| of_function(database, name, function)));
    let nothing = BTreeMap::new();
    let mut namespaces: BTreeMap<&str, &BTreeMap<String, String>> = BTreeMap::new();
    let names = state.tables().map(|(name, ..)| name).chain(state.views().map(|(name, _)| name));
    let above: BTreeSet<&str> = names.flat_map(namespaces_of).collect();
    namespaces.extend(above.into_iter().map(|name| (name, &nothing)));
    namespaces.extend(state.namespaces().filter(|(name, _)| !name.is_empty()));
    things.extend(namespaces.into_iter().map(|(name, noted)| {
        let pairs = || noted.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        Thing {
            description: said(pairs(), &DESCRIPTION),
            owner: said(pairs(), &OWNER),
            properties: properties(pairs()),
            ..Thing::named(Kind::Namespace, Some(database.as_str()), name)
        }
    }));
    let group = |thing: &Thing| format!("{database}\u{0}{}\u{0}{}", thing.kind.name(), thing.name);
    things.into_iter().map(|thing| (group(&thing), vec![thing])).collect()
}

/// The namespaces above a thing, outermost first.
fn namespaces_of(name: &str) -> Vec<&str> {
    name.match_indices('$').filter_map(|(at, _)| name.get(..at)).collect()
}

fn of_view(database: &DatabaseName, name: &str, view: &View) -> Thing {
    let fields = view.schema["fields"].as_array().into_iter().flatten();
    let columns = fields.filter_map(|field| {
        let name = field["name"].as_str()?.to_owned();
        let of_type = &field["type"];
        let data_type = of_type["type"].as_str().or(of_type.as_str()).unwrap_or_default();
        Some(ThingColumn { name, data_type: data_type.to_owned(), description: String::new() })
    });
    Thing {
        columns: columns.collect(),
        properties: vec![("query".to_owned(), shortened(&view.query))],
        ..Thing::named(Kind::View, Some(database.as_str()), name)
    }
}

fn of_function(database: &DatabaseName, name: &str, function: &UserFunction) -> Thing {
    let mut thing = Thing::named(Kind::Function, Some(database.as_str()), name);
    let Some((_, version)) = function.newest() else { return thing };
    let definition = &version.definition;
    // Its parameters and results, wherever the definition names them.
    let mut names = Vec::new();
    gather_names(&definition["signature"], &mut names);
    thing.columns =
        names.into_iter().map(|name| ThingColumn { name, ..ThingColumn::default() }).collect();
    if let Some(entrypoint) = definition["artifact"]["entrypoint"].as_str() {
        thing.properties.push(("entrypoint".to_owned(), shortened(entrypoint)));
    }
    thing
}

fn gather_names(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("name").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| gather_names(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| gather_names(item, found)),
        _ => {}
    }
}

/// A model and its tags; they belong to the whole lake.
pub(super) fn of_model(model: &StoredModel) -> (String, Vec<Thing>) {
    let mut thing = Thing::named(Kind::Model, None, &model.name);
    thing.tags = model.tags.keys().cloned().collect();
    if let Some((_, version)) = model.newest() {
        for part in [&version.notes, &version.settings] {
            for (key, value) in part.as_object().into_iter().flatten() {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                thing.properties.push((key.clone(), shortened(&text)));
            }
        }
    }
    let pairs = || thing.properties.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let (description, owner) = (said(pairs(), &DESCRIPTION), said(pairs(), &OWNER));
    (thing.description, thing.owner) = (description, owner);
    let tags: Vec<Thing> = thing.tags.iter().map(|tag| tag_of(None, tag, &model.name)).collect();
    (format!("\u{0}model\u{0}{}", model.name), [thing].into_iter().chain(tags).collect())
}

/// What is said under the first of some keys.
fn said<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone, keys: &[&str]) -> String {
    let find = |key: &&str| {
        let mut pairs = pairs.clone();
        pairs.find(|(known, value)| known.eq_ignore_ascii_case(key) && !value.trim().is_empty())
    };
    keys.iter().find_map(find).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// What else is noted, for people.
fn properties<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    let is_other = |key: &str| {
        !INTERNAL.iter().any(|begins| key.starts_with(begins))
            && !DESCRIPTION.iter().chain(&OWNER).any(|known| key.eq_ignore_ascii_case(known))
    };
    let others = pairs.filter(|(key, _)| is_other(key));
    others.map(|(key, value)| (key.to_owned(), shortened(value))).collect()
}

fn shortened(text: &str) -> String {
    text.chars().take(PROPERTY_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_it_is_and_whose() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let table = DescribedTable {
            properties: vec![
                pair("comment", "a comment"),
                pair("description", " drives "),
                pair("Owner", "anna"),
                pair("lakebed.compaction", "off"),
                pair("license", "internal"),
            ],
            tags: vec![("gold".to_owned(), 3)],
            ..DescribedTable::default()
        };
        let database = DatabaseName::default_database();
        let things = of_table(&database, "team$cars", Some(&table));
        assert_eq!(things[0].description, "drives");
        assert_eq!(things[0].owner, "anna");
        assert_eq!(things[0].properties, [pair("license", "internal")]);
        assert_eq!((things[1].kind, things[1].of.as_deref()), (Kind::Tag, Some("team$cars")));
        assert_eq!(namespaces_of("a$b$c"), ["a", "a$b"]);
    }
}
