//! The index in memory, and the things that are in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lakebed_core::{Error, Result};
use tantivy::schema::{
    Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions, Value as _,
};
use tantivy::tokenizer::{PreTokenizedString, Token};
use tantivy::{Index, IndexReader, IndexWriter, ReloadPolicy, TantivyDocument, Term};

use super::words::words_and_wholes;
use super::{Part, Thing};

/// Bytes that wait in memory to be indexed: the least that is taken.
const WRITER_BYTES: usize = 15 << 20;
/// Bytes of all texts of one thing.
const THING_BYTES_MAX: usize = 64 << 10;
/// What belongs to the whole lake stands under this, which is no name of a database.
pub(super) const LAKE: &str = "*";

/// The fields of the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    pub(super) group: Field,
    pub(super) database: Field,
    pub(super) kind: Field,
    pub(super) whole: Field,
    pub(super) number: Field,
    pub(super) parts: [Field; 7],
}

#[derive(Debug, Default)]
struct Things {
    next: u64,
    by_number: HashMap<u64, Arc<Thing>>,
    /// The numbers of each group.
    groups: HashMap<String, Vec<u64>>,
}

/// Things that can be found, in memory.
pub struct CatalogueIndex {
    pub(super) fields: Fields,
    pub(super) reader: IndexReader,
    writer: Mutex<IndexWriter>,
    things: RwLock<Things>,
    things_max: usize,
}

impl std::fmt::Debug for CatalogueIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CatalogueIndex")
            .field("things_max", &self.things_max)
            .finish_non_exhaustive()
    }
}

pub(super) fn failed(error: tantivy::TantivyError) -> Error {
    Error::internal("the index of the catalogue").with_source(error)
}

impl CatalogueIndex {
    /// An empty index of at most so many things.
    ///
    /// # Errors
    /// `Internal` when its threads cannot be started.
    pub fn new(things_max: usize) -> Result<CatalogueIndex> {
        let mut schema = Schema::builder();
        let indexing = TextFieldIndexing::default().set_index_option(IndexRecordOption::Basic);
        let words = TextOptions::default().set_indexing_options(indexing.set_fieldnorms(false));
        let parts = Part::ALL.map(|part| schema.add_text_field(part.name(), words.clone()));
        let fields = Fields {
            group: schema.add_text_field("group", STRING),
            database: schema.add_text_field("database", STRING),
            kind: schema.add_text_field("kind", STRING),
            whole: schema.add_text_field("whole", STRING),
            number: schema.add_u64_field("number", STORED),
            parts,
        };
        let index = Index::create_in_ram(schema.build());
        let writer = index.writer_with_num_threads(1, WRITER_BYTES).map_err(failed)?;
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual);
        let reader: IndexReader = reader.try_into().map_err(failed)?;
        Ok(CatalogueIndex {
            fields,
            reader,
            writer: Mutex::new(writer),
            things: RwLock::default(),
            things_max,
        })
    }

    /// Puts things in the place of those that were in a group, all of them at once; found from the next
    /// [`CatalogueIndex::commit`] on. Whether there was room for all.
    ///
    /// # Errors
    /// `Internal` when the index broke.
    pub fn replace(&self, group: &str, things: Vec<Thing>) -> Result<bool> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.delete_term(Term::from_field_text(self.fields.group, group));
        let mut kept = self.things.write().unwrap_or_else(PoisonError::into_inner);
        for number in kept.groups.remove(group).unwrap_or_default() {
            kept.by_number.remove(&number);
        }
        let mut numbers = Vec::with_capacity(things.len());
        let mut has_room = true;
        for thing in things {
            if kept.by_number.len() >= self.things_max {
                has_room = false;
                break;
            }
            let number = kept.next;
            kept.next += 1;
            let thing = cut(thing);
            writer.add_document(self.document(group, number, &thing)).map_err(failed)?;
            kept.by_number.insert(number, Arc::new(thing));
            numbers.push(number);
        }
        if !numbers.is_empty() {
            kept.groups.insert(group.to_owned(), numbers);
        }
        Ok(has_room)
    }

    /// Has what was replaced be found.
    ///
    /// # Errors
    /// `Internal` when the index broke.
    pub fn commit(&self) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.commit().map_err(failed)?;
        drop(writer);
        self.reader.reload().map_err(failed)
    }

    /// The thing of a document; nothing for one that was replaced since.
    pub(super) fn thing(&self, document: &TantivyDocument) -> Option<Arc<Thing>> {
        let number = document.get_first(self.fields.number)?.as_u64()?;
        let things = self.things.read().unwrap_or_else(PoisonError::into_inner);
        things.by_number.get(&number).cloned()
    }

    fn document(&self, group: &str, number: u64, thing: &Thing) -> TantivyDocument {
        let fields = &self.fields;
        let mut document = TantivyDocument::default();
        document.add_text(fields.group, group);
        document.add_text(fields.database, thing.database.as_deref().unwrap_or(LAKE));
        document.add_text(fields.kind, thing.kind.name());
        document.add_u64(fields.number, number);
        let whole = thing.name.to_lowercase();
        if let Some(last) = whole.rsplit('$').next() {
            document.add_text(fields.whole, last);
        }
        document.add_text(fields.whole, &whole);
        for (field, part) in fields.parts.iter().zip(Part::ALL) {
            for text in part.texts(thing) {
                let words = words_and_wholes(&text).into_iter().enumerate();
                let tokens =
                    words.map(|(position, text)| Token { position, text, ..Token::default() });
                let tokens = tokens.collect();
                document.add_pre_tokenized_text(*field, PreTokenizedString { text, tokens });
            }
        }
        document
    }
}

/// A thing with as much text as is kept of one.
fn cut(mut thing: Thing) -> Thing {
    let mut left = THING_BYTES_MAX;
    let mut take = |text: &mut String| {
        if text.len() > left {
            *text = text.chars().take(left / 4).collect();
        }
        left = left.saturating_sub(text.len());
    };
    take(&mut thing.owner);
    take(&mut thing.description);
    thing.tags.iter_mut().for_each(&mut take);
    for column in &mut thing.columns {
        take(&mut column.name);
        take(&mut column.data_type);
    }
    thing.columns.iter_mut().for_each(|column| take(&mut column.description));
    for (key, value) in &mut thing.properties {
        take(key);
        take(value);
    }
    thing.columns.retain(|column| !column.name.is_empty());
    thing.properties.retain(|(key, _)| !key.is_empty());
    thing
}
