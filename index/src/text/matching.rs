//! Which words of a text a query matches, by the rules of lance's text index.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use lakebed_core::Result;
use lakebed_storage::{Analyser, TextMatch, TextPart, Word};

/// Words that may stand between those of a phrase, at most; lance counts so far too.
const SLOP_MAX: usize = 1_000;

/// A place in a text that a query matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Bytes of the text.
    pub(super) range: Range<usize>,
    /// Which of the query's words it is.
    pub(super) word: usize,
}

/// What a query looks for in one column.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Terms as the index has them, each with its number.
    terms: HashMap<String, usize>,
    fuzzy: Vec<Fuzzy>,
    phrases: Vec<Phrase>,
    words: usize,
}

#[derive(Debug, Clone)]
struct Fuzzy {
    term: String,
    distance: usize,
    prefix: usize,
    word: usize,
}

#[derive(Debug, Clone)]
struct Phrase {
    /// Positions in the phrase, rising, and terms.
    terms: Vec<(usize, String)>,
    slop: usize,
    first_word: usize,
}

impl Wanted {
    /// What some parts of a query look for, as `analyser` reads texts.
    ///
    /// # Errors
    /// `InvalidArgument` for what the tokenizer refuses.
    pub(super) fn of(parts: &[&TextPart], analyser: &mut Analyser) -> Result<Wanted> {
        let mut wanted = Wanted::default();
        for part in parts {
            let words = analyser.words(&part.text)?;
            match part.matching {
                TextMatch::Words => {
                    for word in words {
                        let next = wanted.words;
                        wanted.terms.entry(word.term).or_insert(next);
                        wanted.words += 1;
                    }
                }
                TextMatch::Fuzzy { distance, prefix } => {
                    for Word { term, .. } in words {
                        let distance = distance.map_or_else(|| edits(&term), |d| d as usize);
                        let word = wanted.words;
                        wanted.fuzzy.push(Fuzzy { term, distance, prefix, word });
                        wanted.words += 1;
                    }
                }
                TextMatch::Phrase { slop } => {
                    let first_word = wanted.words;
                    wanted.words += words.len();
                    let terms = words.into_iter().map(|word| (word.position, word.term)).collect();
                    wanted.phrases.push(Phrase { terms, slop: slop.min(SLOP_MAX), first_word });
                }
            }
        }
        Ok(wanted)
    }

    /// Where a text with these words is matched, in order and without overlaps.
    pub(super) fn marks(&self, words: &[Word]) -> Vec<Mark> {
        let mut marks: Vec<Mark> = Vec::new();
        for word in words {
            let fuzzy = || self.fuzzy.iter().find(|fuzzy| fuzzy.is_near(&word.term));
            let found = self.terms.get(&word.term).copied();
            if let Some(number) = found.or_else(|| fuzzy().map(|fuzzy| fuzzy.word)) {
                marks.push(Mark { range: word.from..word.to, word: number });
            }
        }
        for phrase in &self.phrases {
            phrase.mark(words, &mut marks);
        }
        joined(marks)
    }
}

/// How many edits lance allows a word where a query does not say.
pub(super) fn edits(term: &str) -> usize {
    match term.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    }
}

impl Fuzzy {
    fn is_near(&self, term: &str) -> bool {
        if self.term.chars().take(self.prefix).ne(term.chars().take(self.prefix)) {
            return false;
        }
        let rest = |text: &str| -> String { text.chars().skip(self.prefix).collect() };
        strsim::levenshtein(&rest(&self.term), &rest(term)) <= self.distance
    }
}

impl Phrase {
    fn mark(&self, words: &[Word], marks: &mut Vec<Mark>) {
        let Some(((first, first_term), others)) = self.terms.split_first() else { return };
        let mut at: HashMap<usize, Vec<&Word>> = HashMap::new();
        for word in words {
            at.entry(word.position).or_default().push(word);
        }
        let before = marks.len();
        for begin in words.iter().filter(|word| word.term == *first_term) {
            let mut found = vec![begin];
            // Where the last word was, beside where it stands in the phrase.
            let mut last = begin.position;
            for (position, term) in others {
                let next = (0..=self.slop).find_map(|more| {
                    let place = last + more + (position - first);
                    let word = at.get(&place)?.iter().find(|word| word.term == *term)?;
                    Some((last + more, *word))
                });
                let Some((place, word)) = next else { break };
                last = place;
                found.push(word);
            }
            if found.len() == self.terms.len() {
                marks.extend(self.numbered(&found));
            }
        }
        if marks.len() > before {
            return;
        }
        // Positions may be counted otherwise where words are left out: the row was found, so its words are shown.
        let has: HashSet<&str> = words.iter().map(|word| word.term.as_str()).collect();
        if self.terms.iter().all(|(_, term)| has.contains(term.as_str())) {
            let number = |word: &Word| self.terms.iter().position(|(_, term)| *term == word.term);
            marks.extend(words.iter().filter_map(|word| {
                let word_number = self.first_word + number(word)?;
                Some(Mark { range: word.from..word.to, word: word_number })
            }));
        }
    }

    fn numbered<'a>(&'a self, found: &'a [&Word]) -> impl Iterator<Item = Mark> + 'a {
        found.iter().enumerate().map(|(number, word)| Mark {
            range: word.from..word.to,
            word: self.first_word + number,
        })
    }
}

/// Marks in order; those that overlap as one, as n-grams do.
fn joined(mut marks: Vec<Mark>) -> Vec<Mark> {
    marks.sort_by_key(|mark| (mark.range.start, mark.range.end));
    let mut joined: Vec<Mark> = Vec::with_capacity(marks.len());
    for mark in marks {
        match joined.last_mut() {
            Some(last) if mark.range.start < last.range.end => {
                last.range.end = last.range.end.max(mark.range.end);
            }
            _ => joined.push(mark),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn marked(params: serde_json::Value, parts: &[TextPart], text: &str) -> Vec<String> {
        let mut analyser = Analyser::from_json(params).unwrap();
        let parts: Vec<&TextPart> = parts.iter().collect();
        let wanted = Wanted::of(&parts, &mut analyser).unwrap();
        let marks = wanted.marks(&analyser.words(text).unwrap());
        marks.into_iter().map(|mark| text[mark.range].to_owned()).collect()
    }

    fn part(text: &str, matching: TextMatch) -> TextPart {
        TextPart { column: None, text: text.to_owned(), matching }
    }

    #[test]
    fn words_are_marked_as_the_index_reads_them() {
        let words = [part("running café", TextMatch::Words)];
        let text = "He runs to the Cafe; the run was long";
        assert_eq!(marked(json!({}), &words, text), ["runs", "Cafe", "run"]);
        let plain = json!({"stem": false, "ascii_folding": false, "remove_stop_words": false});
        assert!(marked(plain, &words, text).is_empty());
    }

    #[test]
    fn near_words_are_marked() {
        let fuzzy = |distance, prefix| [part("bridge", TextMatch::Fuzzy { distance, prefix })];
        let plain = || json!({"stem": false});
        let text = "brigde fridge bridges bride badge";
        assert_eq!(marked(plain(), &fuzzy(Some(1), 0), text), ["fridge", "bridges", "bride"]);
        assert_eq!(marked(plain(), &fuzzy(Some(1), 2), "bride oridge"), ["bride"]);
        let found = marked(plain(), &fuzzy(None, 0), text);
        assert_eq!(found, ["brigde", "fridge", "bridges", "bride", "badge"]);
    }

    #[test]
    fn a_phrase_is_marked_where_it_stands() {
        let phrase = |slop| [part("old town", TextMatch::Phrase { slop })];
        let text = "the old, old town; a town of old houses; an old small town";
        assert_eq!(marked(json!({}), &phrase(0), text), ["old", "town"]);
        assert_eq!(marked(json!({}), &phrase(1), text), ["old", "old", "town", "old", "town"]);
        assert_eq!(marked(json!({}), &phrase(0), "old houses in a town"), ["old", "town"]);
        assert!(marked(json!({}), &phrase(0), "old houses").is_empty());
    }

    #[test]
    fn grams_that_overlap_are_one_mark() {
        let grams = json!({"base_tokenizer": "ngram", "min_ngram_length": 3, "max_ngram_length": 3,
            "stem": false, "remove_stop_words": false});
        assert_eq!(marked(grams, &[part("bridge", TextMatch::Words)], "Cambridges"), ["bridge"]);
    }
}
