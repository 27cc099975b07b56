//! The search over the catalogue: things with names and what is said of them in, the best of them out.
//!
//! ```text
//!   Thing ─► words of each field ─► tantivy, in memory ─┐
//!   text  ─► words ─► exact, beginning, one edit apart ─┴─► hits, best first, with where they match
//! ```
//!
//! Nothing in here does IO or knows a lake. All of it works on the processor and is meant for threads that may
//! block.
//!
//! What always holds: the score of a thing depends on the thing and on the text alone, never on what else there
//! is, so that no answer tells of things of another database. Scores are therefore constants by field, and not
//! the statistics that searches over texts use.
//!
//! - `words.rs`: how names and texts are cut into words, and when two words match.
//! - `store.rs`: the index, and what is kept of the things.
//! - `find.rs`: a search.

mod find;
mod store;
mod words;

pub use find::{Find, Found, Hit};
pub use store::CatalogueIndex;

/// The kinds of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A table.
    Table,
    /// A query that is kept under a name.
    View,
    /// A table that a query fills.
    MaterializedView,
    /// A function that a user registered.
    Function,
    /// A model that a user registered.
    Model,
    /// A tag of a table or a model.
    Tag,
    /// A namespace.
    Namespace,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] = [
        Kind::Table,
        Kind::View,
        Kind::MaterializedView,
        Kind::Function,
        Kind::Model,
        Kind::Tag,
        Kind::Namespace,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Table => "table",
            Kind::View => "view",
            Kind::MaterializedView => "materialized_view",
            Kind::Function => "function",
            Kind::Model => "model",
            Kind::Tag => "tag",
            Kind::Namespace => "namespace",
        }
    }
}

/// A column, a field or a parameter of a thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ThingColumn {
    /// Its name or path.
    pub name: String,
    /// Its type.
    pub data_type: String,
    /// What is said of it.
    pub description: String,
}

/// A thing that can be found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// Its database; nothing for what belongs to the whole lake.
    pub database: Option<String>,
    /// Its id: the names of its namespaces and its own, joined with `$`.
    pub name: String,
    /// What it is a part of: the table or the model of a tag.
    pub of: Option<String>,
    /// Its columns.
    pub columns: Vec<ThingColumn>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Who it belongs to.
    pub owner: String,
    /// What is said of it.
    pub description: String,
    /// What else is noted about it.
    pub properties: Vec<(String, String)>,
}

impl Thing {
    /// A thing of which nothing is known but its name.
    pub fn named(kind: Kind, database: Option<&str>, name: &str) -> Thing {
        Thing {
            kind,
            database: database.map(str::to_owned),
            name: name.to_owned(),
            of: None,
            columns: Vec::new(),
            tags: Vec::new(),
            owner: String::new(),
            description: String::new(),
            properties: Vec::new(),
        }
    }
}

/// The fields that are searched, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Name,
    Column,
    Tag,
    Owner,
    Description,
    ColumnDescription,
    Property,
}

impl Part {
    pub(crate) const ALL: [Part; 7] = [
        Part::Name,
        Part::Column,
        Part::Tag,
        Part::Owner,
        Part::Description,
        Part::ColumnDescription,
        Part::Property,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Name => "name",
            Part::Column => "column",
            Part::Tag => "tag",
            Part::Owner => "owner",
            Part::Description => "description",
            Part::ColumnDescription => "column_description",
            Part::Property => "property",
        }
    }

    /// What a word that is the same counts here.
    pub(crate) fn weight(self) -> f32 {
        match self {
            Part::Name => 8.0,
            Part::Column => 4.0,
            Part::Tag => 3.0,
            Part::Owner => 2.5,
            Part::Description => 2.0,
            Part::ColumnDescription => 1.5,
            Part::Property => 1.0,
        }
    }

    /// The texts of a thing here.
    pub(crate) fn texts(self, thing: &Thing) -> Vec<String> {
        let one = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
        match self {
            Part::Name => vec![thing.name.clone()],
            Part::Column => thing.columns.iter().map(|column| column.name.clone()).collect(),
            Part::Tag => thing.tags.clone(),
            Part::Owner => one(&thing.owner),
            Part::Description => one(&thing.description),
            Part::ColumnDescription => thing
                .columns
                .iter()
                .map(|column| {
                    format!("{}: {} {}", column.name, column.data_type, column.description)
                })
                .collect(),
            Part::Property => {
                thing.properties.iter().map(|(key, value)| format!("{key}: {value}")).collect()
            }
        }
    }
}
