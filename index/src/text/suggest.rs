//! The words that were meant: for a word that no row has the nearest that rows have.
//!
//! Where the words come from: the text index itself, with the number of rows that have each. An index that has
//! stems (`comput`) has no words that anybody would write; there they come from a sample of the column, and the
//! index only says which are known. So they do for a column without an index.

use std::collections::HashMap;

use arrow_array::ArrayRef;
use futures::TryStreamExt as _;
use lakebed_core::{Error, Result};
use lakebed_proto::text_help::{NearWord, SuggestedWord};
use lakebed_storage::{Analyser, Projection, ScanSpec, Snapshot};

use super::highlight::texts_of;

/// Rows of a sample, in so many runs that are spread over the table.
const SAMPLE_ROWS: u64 = 65_536;
const SAMPLE_RUNS: u64 = 16;
/// Bytes of a sample's texts.
const SAMPLE_BYTES: usize = 32 << 20;
/// Different words of a sample.
const SAMPLE_WORDS: usize = 1 << 20;
/// Bytes of the text that is asked about.
const TEXT_BYTES_MAX: usize = 4_096;
/// Suggestions for one word, unless it is said how many, and at most.
const SUGGESTIONS: usize = 5;
const SUGGESTIONS_MAX: usize = 100;
/// How many times as many rows a word must have to outweigh one edit.
const EDIT_WEIGHT: f64 = 50.0;
/// A known word is rare beside one that is one edit away and has so many times as many rows.
const RARE: u64 = 100;

/// The words of a column.
#[derive(Debug)]
pub struct Dictionary {
    /// With the number of rows that have each.
    words: HashMap<String, u64>,
    /// What the index has where its words are stems.
    stems: Option<HashMap<String, u64>>,
    /// Reads texts as the index does.
    analyser: Analyser,
    /// Leaves words as they are written, in lower case.
    plain: Analyser,
    /// Whether `words` are as the index has them.
    is_of_index: bool,
}

impl Dictionary {
    /// Reads the words of a column.
    ///
    /// # Errors
    /// `NotFound` for a column, `InvalidArgument` for one that holds no texts.
    pub async fn read(snapshot: &Snapshot, column: &str) -> Result<Dictionary> {
        let analyser = snapshot.analyser(column).await?;
        let plain = analyser.plain()?;
        let has_index = !snapshot.text_index_state(column).await?.is_empty();
        let indexed = match has_index {
            true => snapshot.indexed_words(column).await?,
            false => HashMap::new(),
        };
        let is_of_index = has_index && !analyser.stems();
        let (words, stems) = match is_of_index {
            true => (indexed, None),
            false => {
                let words = sampled(snapshot, column, &plain).await?;
                (words, has_index.then_some(indexed))
            }
        };
        Ok(Dictionary { words, stems, analyser, plain, is_of_index })
    }

    /// The words of a text that are not known or rare, and the text with the likeliest instead of those that
    /// are not known, where there is one.
    ///
    /// # Errors
    /// `InvalidArgument` for a text or a limit that passes its bound.
    pub fn suggest(
        &self,
        text: &str,
        limit: Option<u32>,
    ) -> Result<(Vec<SuggestedWord>, Option<String>)> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::invalid(format!(
                "`text` has {} bytes; at most {TEXT_BYTES_MAX} are looked at",
                text.len()
            )));
        }
        let limit = limit.map_or(SUGGESTIONS, |limit| limit as usize);
        if limit == 0 || limit > SUGGESTIONS_MAX {
            return Err(Error::invalid(format!(
                "`limit` is {limit}; it has to be from 1 to {SUGGESTIONS_MAX}"
            )));
        }
        let (mut analyser, mut plain) = (self.analyser.clone(), self.plain.clone());
        let mut found = Vec::new();
        let mut corrected = String::new();
        let (mut done, mut is_corrected) = (0, false);
        for word in plain.words(text)? {
            let written = text.get(word.from..word.to).unwrap_or_default();
            if !is_word(&word.term) {
                continue;
            }
            let terms = analyser.words(written)?;
            let Some(term) = terms.into_iter().next() else { continue };
            let rows = self.rows(&word.term, &term.term);
            let looked_for = if self.is_of_index { &term.term } else { &word.term };
            let mut suggestions = self.near(looked_for, limit);
            if rows > 0 {
                suggestions
                    .retain(|near| near.distance == 1 && near.rows >= rows.saturating_mul(RARE));
                if suggestions.is_empty() {
                    continue;
                }
            } else if let Some(best) = suggestions.first() {
                corrected.push_str(text.get(done..word.from).unwrap_or_default());
                corrected.push_str(&as_written(&best.word, written));
                (done, is_corrected) = (word.to, true);
            }
            found.push(SuggestedWord {
                word: written.to_owned(),
                offset: word.from as u64,
                is_known: rows > 0,
                suggestions,
            });
        }
        corrected.push_str(text.get(done..).unwrap_or_default());
        Ok((found, is_corrected.then_some(corrected)))
    }

    /// Rows that have a word.
    fn rows(&self, word: &str, term: &str) -> u64 {
        let in_words = if self.is_of_index { term } else { word };
        let rows = self.words.get(in_words).copied().unwrap_or(0);
        match &self.stems {
            // All forms of a word count as it.
            Some(stems) => rows.max(stems.get(term).copied().unwrap_or(0)),
            None => rows,
        }
    }

    /// The words that come near one, the likeliest first.
    fn near(&self, wanted: &str, limit: usize) -> Vec<NearWord> {
        let letters = wanted.chars().count();
        let edits = if letters == 3 { 1 } else { 2 };
        let mut near: Vec<NearWord> = Vec::new();
        for (word, rows) in &self.words {
            if word == wanted || !is_word(word) || word.chars().count().abs_diff(letters) > edits {
                continue;
            }
            let distance = strsim::osa_distance(wanted, word);
            if distance <= edits {
                near.push(NearWord { word: word.clone(), distance: distance as u32, rows: *rows });
            }
        }
        let worth = |near: &NearWord| near.rows as f64 / EDIT_WEIGHT.powi(near.distance as i32);
        near.sort_by(|a, b| worth(b).total_cmp(&worth(a)).then_with(|| a.word.cmp(&b.word)));
        near.truncate(limit);
        near
    }
}

/// Whether it is worth a suggestion: letters, and more than two of them.
fn is_word(word: &str) -> bool {
    word.chars().count() > 2 && word.chars().any(char::is_alphabetic)
}

/// A word with a capital where the one that it takes the place of has one.
fn as_written(word: &str, written: &str) -> String {
    match written.chars().next().is_some_and(char::is_uppercase) {
        false => word.to_owned(),
        true => {
            let mut letters = word.chars();
            let first = letters.next().map(char::to_uppercase);
            first.into_iter().flatten().chain(letters).collect()
        }
    }
}

/// The words of a sample of a column, with the rows of the sample that have each.
async fn sampled(
    snapshot: &Snapshot,
    column: &str,
    plain: &Analyser,
) -> Result<HashMap<String, u64>> {
    let all = snapshot.count_rows().await?;
    let runs = if all <= SAMPLE_ROWS { 1 } else { SAMPLE_RUNS };
    let mut counts = HashMap::new();
    let mut bytes = 0;
    for run in 0..runs {
        let spec = ScanSpec {
            projection: Projection::Names(vec![column.to_owned()]),
            limit: Some(SAMPLE_ROWS / runs),
            offset: Some(all / runs * run).filter(|offset| *offset > 0),
            ..ScanSpec::default()
        };
        let (_, mut rows) = snapshot.scan(&spec).await?;
        let mut of_run = 0;
        while let Some(batch) = rows.try_next().await? {
            let values = batch.columns().first().cloned();
            let values = values.ok_or_else(|| Error::internal("a sample without its column"))?;
            let mut plain = plain.clone();
            let room = (SAMPLE_BYTES / runs as usize).saturating_sub(of_run);
            let counted = tokio::task::spawn_blocking(move || {
                let read = count_words(&values, &mut plain, room, &mut counts)?;
                Ok::<_, Error>((counts, read))
            });
            let counted = counted.await;
            let read;
            (counts, read) =
                counted.map_err(|error| Error::internal("read words").with_source(error))??;
            of_run += read;
            if of_run >= SAMPLE_BYTES / runs as usize {
                break;
            }
        }
        bytes += of_run;
    }
    tracing::debug!(column, bytes, words = counts.len(), "read a sample of words");
    Ok(counts)
}

/// Counts the rows that have each word until `room` bytes were read; returns how many were.
fn count_words(
    values: &ArrayRef,
    plain: &mut Analyser,
    room: usize,
    counts: &mut HashMap<String, u64>,
) -> Result<usize> {
    let mut read = 0;
    for row in 0..values.len() {
        let mut of_row = std::collections::HashSet::new();
        for text in texts_of(values, row) {
            read += text.len();
            of_row.extend(plain.words(&text)?.into_iter().map(|word| word.term));
        }
        for word in of_row {
            if let Some(count) = counts.get_mut(&word) {
                *count += 1;
            } else if counts.len() < SAMPLE_WORDS {
                counts.insert(word, 1);
            }
        }
        if read >= room {
            break;
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dictionary(words: &[(&str, u64)], stems: Option<&[(&str, u64)]>) -> Dictionary {
        let map = |words: &[(&str, u64)]| -> HashMap<String, u64> {
            words.iter().map(|(word, rows)| ((*word).to_owned(), *rows)).collect()
        };
        let analyser = Analyser::from_json(json!({"stem": stems.is_some()})).unwrap();
        Dictionary {
            words: map(words),
            stems: stems.map(map),
            plain: analyser.plain().unwrap(),
            analyser,
            is_of_index: stems.is_none(),
        }
    }

    fn words(near: &[NearWord]) -> Vec<(&str, u32)> {
        near.iter().map(|near| (near.word.as_str(), near.distance)).collect()
    }

    #[test]
    fn unknown_words_get_the_nearest_and_most_frequent() {
        let known = dictionary(
            &[("bridge", 90), ("bride", 7), ("fridge", 50), ("ridges", 1), ("car", 300), ("12", 9)],
            None,
        );
        let (found, corrected) = known.suggest("The brigde, a car", None).unwrap();
        assert_eq!(corrected.as_deref(), Some("The bridge, a car"));
        let [word] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((word.word.as_str(), word.offset, word.is_known), ("brigde", 4, false));
        assert_eq!(words(&word.suggestions), [("bridge", 1), ("bride", 1), ("fridge", 2)]);
        let (found, corrected) = known.suggest("Brigde 12 xyzzyx", Some(1)).unwrap();
        assert_eq!(corrected.as_deref(), Some("Bridge 12 xyzzyx"));
        assert_eq!(found[0].suggestions.len(), 1);
        assert!(found[1].suggestions.is_empty());
        assert_eq!(known.suggest("car bridge", None).unwrap(), (Vec::new(), None));
    }

    #[test]
    fn a_rare_word_is_told_and_kept() {
        let known = dictionary(&[("street", 900), ("stret", 2), ("bridge", 5)], None);
        let (found, corrected) = known.suggest("stret bridge", None).unwrap();
        assert_eq!(corrected, None);
        assert!(found[0].is_known);
        assert_eq!(words(&found[0].suggestions), [("street", 1)]);
    }

    #[test]
    fn stems_say_what_is_known_and_are_never_suggested() {
        let known = dictionary(
            &[("computers", 4), ("computing", 9)],
            Some(&[("comput", 13), ("bicycl", 2)]),
        );
        // Not in the sample, yet in the index.
        assert_eq!(known.suggest("bicycles compute", None).unwrap().1, None);
        let (found, corrected) = known.suggest("computrs", None).unwrap();
        assert_eq!(corrected.as_deref(), Some("computers"));
        assert_eq!(words(&found[0].suggestions), [("computers", 1)]);
    }

    #[test]
    fn bounds_are_kept() {
        let known = dictionary(&[("car", 1)], None);
        assert!(known.suggest(&"x".repeat(5_000), None).is_err());
        assert!(known.suggest("cra", Some(0)).is_err());
        assert!(known.suggest("", None).unwrap().0.is_empty());
    }
}
