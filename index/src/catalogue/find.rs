//! A search over the catalogue.

use std::sync::Arc;

use lakebed_core::{Error, Result};
use tantivy::collector::{Count, TopDocs};
use tantivy::query::{
    BooleanQuery, ConstScoreQuery, FuzzyTermQuery, Occur, Query, TermQuery, TermSetQuery,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{TantivyDocument, Term};

use super::store::{CatalogueIndex, LAKE, failed};
use super::words::{is_long, matches, words};
use super::{Kind, Part, Thing};

/// Bytes of a text that is searched for.
const TEXT_BYTES_MAX: usize = 1_000;
/// Words of it.
const WORDS_MAX: usize = 16;
/// Hits of one answer.
const LIMIT_MAX: usize = 1_000;
/// Characters of a fragment.
const FRAGMENT_CHARS: usize = 160;
/// What the whole name of a thing counts.
const WHOLE: f32 = 40.0;
/// What the beginning of a word counts of the word itself, and what one with a mistake does.
const BEGINNING: f32 = 0.5;
const MISTAKEN: f32 = 0.2;

/// What is searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Find {
    /// Words, each of which has to be somewhere in a thing; as far as they are typed.
    pub text: String,
    /// The database whose things are found, beside those of the whole lake.
    pub database: String,
    /// Only these kinds; all when empty.
    pub kinds: Vec<Kind>,
    /// Hits at most.
    pub limit: usize,
}

/// A thing that was found.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The thing.
    pub thing: Arc<Thing>,
    /// How well it matches; more is better.
    pub score: f32,
    /// Where words of the text are, best first: `name`, `column`, `tag` and so on.
    pub matched_in: Vec<&'static str>,
    /// The text that matches, of the best place that is not the name.
    pub fragment: Option<String>,
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The best, best first.
    pub hits: Vec<Hit>,
    /// How many there are in all.
    pub count: usize,
}

impl CatalogueIndex {
    /// The things that match best. Of equals the one with the shorter name comes first.
    ///
    /// # Errors
    /// `InvalidArgument` for a text without words or past its limits.
    pub fn find(&self, find: &Find) -> Result<Found> {
        if find.text.len() > TEXT_BYTES_MAX {
            return Err(Error::invalid(format!("`text` has more than {TEXT_BYTES_MAX} bytes")));
        }
        let typed = words(&find.text);
        if typed.is_empty() {
            return Err(Error::invalid("`text` has no word to search for"));
        }
        if typed.len() > WORDS_MAX {
            return Err(Error::invalid(format!("`text` has more than {WORDS_MAX} words")));
        }
        if !(1..=LIMIT_MAX).contains(&find.limit) {
            let limit = find.limit;
            return Err(Error::invalid(format!("`limit` is {limit}, not from 1 to {LIMIT_MAX}")));
        }
        let searcher = self.reader.searcher();
        // Among equals names decide, which the index does not sort by.
        let best = TopDocs::with_limit(LIMIT_MAX).order_by_score();
        let query = self.query(find, &typed);
        let (best, count) = searcher.search(&query, &(best, Count)).map_err(failed)?;
        let mut hits = Vec::with_capacity(best.len());
        for (score, address) in best {
            let document: TantivyDocument = searcher.doc(address).map_err(failed)?;
            hits.extend(self.thing(&document).map(|thing| (score, thing)));
        }
        hits.sort_by(|(a, one), (b, other)| {
            let key = |thing: &Thing| (thing.name.chars().count(), thing.name.clone(), thing.kind);
            b.total_cmp(a).then_with(|| key(one).cmp(&key(other)))
        });
        hits.truncate(find.limit);
        let hits = hits.into_iter().map(|(score, thing)| hit(thing, score, &typed)).collect();
        Ok(Found { hits, count })
    }

    fn query(&self, find: &Find, typed: &[String]) -> BooleanQuery {
        let fields = &self.fields;
        let databases = [find.database.as_str(), LAKE];
        let databases = databases.map(|name| Term::from_field_text(fields.database, name));
        let mut clauses: Vec<(Occur, Box<dyn Query>)> =
            vec![(Occur::Must, constant(Box::new(TermSetQuery::new(databases)), 0.0))];
        if !find.kinds.is_empty() {
            let kinds = find.kinds.iter();
            let kinds = kinds.map(|kind| Term::from_field_text(fields.kind, kind.name()));
            let kinds: Vec<Term> = kinds.collect();
            clauses.push((Occur::Must, constant(Box::new(TermSetQuery::new(kinds)), 0.0)));
        }
        for word in typed {
            let mut places = Vec::new();
            for (field, part) in fields.parts.iter().zip(Part::ALL) {
                places.extend(self.word(*field, word, part.weight()));
            }
            clauses.push((Occur::Must, Box::new(BooleanQuery::new(places))));
        }
        let whole = Term::from_field_text(fields.whole, &find.text.trim().to_lowercase());
        let whole = TermQuery::new(whole, IndexRecordOption::Basic);
        clauses.push((Occur::Should, constant(Box::new(whole), WHOLE)));
        BooleanQuery::new(clauses)
    }

    /// A word in a field: itself, as the beginning of one, or with a mistake.
    fn word(&self, field: Field, word: &str, weight: f32) -> Vec<(Occur, Box<dyn Query>)> {
        let term = Term::from_field_text(field, word);
        let exact = TermQuery::new(term.clone(), IndexRecordOption::Basic);
        let beginning = FuzzyTermQuery::new_prefix(term.clone(), 0, true);
        let mut clauses = vec![
            (Occur::Should, constant(Box::new(exact), weight * (1.0 - BEGINNING))),
            (Occur::Should, constant(Box::new(beginning), weight * BEGINNING)),
        ];
        if is_long(word) {
            let mistaken = FuzzyTermQuery::new(term, 1, true);
            clauses.push((Occur::Should, constant(Box::new(mistaken), weight * MISTAKEN)));
        }
        clauses
    }
}

fn constant(query: Box<dyn Query>, score: f32) -> Box<dyn Query> {
    Box::new(ConstScoreQuery::new(query, score))
}

fn hit(thing: Arc<Thing>, score: f32, typed: &[String]) -> Hit {
    let mut matched_in = Vec::new();
    let mut fragment = None;
    for part in Part::ALL {
        let texts = part.texts(&thing);
        let matching = texts.iter().find_map(|text| Some((text, first_match(text, typed)?)));
        if let Some((text, at)) = matching {
            matched_in.push(part.name());
            if part != Part::Name && fragment.is_none() {
                fragment = Some(around(text, at));
            }
        }
    }
    Hit { thing, score, matched_in, fragment }
}

/// Where the first word of a text begins that matches one that is typed, in characters.
fn first_match(text: &str, typed: &[String]) -> Option<usize> {
    let is_match = |word: &str| {
        super::words::words_and_wholes(word)
            .iter()
            .any(|word| typed.iter().any(|typed| matches(typed, word)))
    };
    let mut at = 0;
    for word in text.split_inclusive(char::is_whitespace) {
        if is_match(word) {
            return Some(at);
        }
        at += word.chars().count();
    }
    None
}

/// A text around one of its characters.
fn around(text: &str, at: usize) -> String {
    let chars = text.chars().count();
    if chars <= FRAGMENT_CHARS {
        return text.to_owned();
    }
    let from = at.saturating_sub(FRAGMENT_CHARS / 4);
    let mut cut: String = text.chars().skip(from).take(FRAGMENT_CHARS).collect();
    if from > 0 {
        cut.insert(0, '…');
    }
    if from + FRAGMENT_CHARS < chars {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::super::ThingColumn;
    use super::*;

    fn table(database: &str, name: &str) -> Thing {
        Thing::named(Kind::Table, Some(database), name)
    }

    fn index() -> CatalogueIndex {
        let index = CatalogueIndex::new(1_000).unwrap();
        let column = |name: &str, description: &str| ThingColumn {
            name: name.to_owned(),
            data_type: "Float32".to_owned(),
            description: description.to_owned(),
        };
        let drives = Thing {
            columns: vec![column("cameraFront", "the picture to the front"), column("speed", "")],
            tags: vec!["gold".to_owned()],
            owner: "anna".to_owned(),
            description: "Drives through Munich with lidar and radar".to_owned(),
            properties: vec![("license".to_owned(), "internal".to_owned())],
            ..table("a", "team$drives")
        };
        index.replace("a/1", vec![drives]).unwrap();
        index.replace("a/2", vec![table("a", "camera_calibration")]).unwrap();
        index.replace("b/1", vec![table("b", "camera_secret")]).unwrap();
        let model = Thing::named(Kind::Model, None, "camera-net");
        index.replace("models/1", vec![model]).unwrap();
        index.commit().unwrap();
        index
    }

    fn names(index: &CatalogueIndex, text: &str, kinds: &[Kind]) -> Vec<String> {
        let find = Find {
            text: text.to_owned(),
            database: "a".to_owned(),
            kinds: kinds.to_vec(),
            limit: 10,
        };
        let found = index.find(&find).unwrap();
        assert_eq!(found.count, found.hits.len());
        found.hits.iter().map(|hit| hit.thing.name.clone()).collect()
    }

    #[test]
    fn names_stand_above_columns_and_other_databases_are_not_there() {
        let index = index();
        assert_eq!(
            names(&index, "camera", &[]),
            ["camera-net", "camera_calibration", "team$drives"]
        );
        assert_eq!(names(&index, "camera", &[Kind::Table]), ["camera_calibration", "team$drives"]);
        assert_eq!(names(&index, "secret", &[]), Vec::<String>::new());
    }

    #[test]
    fn words_are_found_while_they_are_typed_and_with_a_mistake() {
        let index = index();
        for text in ["ca", "came", "camera fr", "camerafront", "cmaera front", "front speed"] {
            assert!(names(&index, text, &[]).contains(&"team$drives".to_owned()), "{text}");
        }
        for text in ["anna", "gol", "munich", "lidra", "internal", "team", "drives"] {
            assert_eq!(names(&index, text, &[]), ["team$drives"], "{text}");
        }
        assert!(names(&index, "camera zebra", &[]).is_empty());
    }

    #[test]
    fn a_hit_says_where_it_matches() {
        let index = index();
        let find = Find {
            text: "radar".to_owned(),
            database: "a".to_owned(),
            kinds: Vec::new(),
            limit: 10,
        };
        let found = index.find(&find).unwrap();
        assert_eq!(found.hits[0].matched_in, ["description"]);
        assert!(found.hits[0].fragment.as_deref().unwrap().contains("radar"));
        for bad in ["", "  --", &"x".repeat(1_001)] {
            assert!(index.find(&Find { text: bad.to_owned(), ..find.clone() }).is_err());
        }
        assert!(index.find(&Find { limit: 0, ..find }).is_err());
    }

    #[test]
    fn a_group_is_replaced_as_one_and_scores_know_of_nothing_else() {
        let index = index();
        let score = |index: &CatalogueIndex| {
            let find = Find {
                text: "calibration".to_owned(),
                database: "a".to_owned(),
                kinds: Vec::new(),
                limit: 1,
            };
            index.find(&find).unwrap().hits[0].score
        };
        let before = score(&index);
        let others = (0..50).map(|n| table("b", &format!("calibration_{n}"))).collect();
        index.replace("b/2", others).unwrap();
        index.commit().unwrap();
        assert_eq!(score(&index), before);
        index.replace("a/2", Vec::new()).unwrap();
        index.replace("a/3", vec![table("a", "renamed")]).unwrap();
        index.commit().unwrap();
        assert!(names(&index, "calibration", &[]).is_empty());
        assert_eq!(names(&index, "renamed", &[]), ["renamed"]);
    }
}
