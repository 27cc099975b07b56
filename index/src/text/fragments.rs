//! The parts of a text that are worth showing: those where most of a query's words stand together.

use std::collections::HashSet;
use std::ops::Range;

use lakebed_core::{Error, Result};
use lakebed_proto::text_help::Highlight;

use super::matching::Mark;

/// Characters of a fragment unless a search says how many.
const CHARS: usize = 150;
/// The range of what it may say.
const CHARS_MIN: usize = 20;
const CHARS_MAX: usize = 10_000;
const FRAGMENTS_MAX: usize = 20;
/// Bytes of what stands around a match.
const AROUND_BYTES_MAX: usize = 100;

/// How fragments are cut and marked.
#[derive(Debug, Clone)]
pub(super) struct Style {
    chars: usize,
    fragments: usize,
    pre: String,
    post: String,
    escape_html: bool,
}

/// A mark, with the characters before its begin and its end.
struct Placed<'a> {
    mark: &'a Mark,
    begin: usize,
    end: usize,
}

impl Style {
    /// # Errors
    /// `InvalidArgument` naming the field that is out of its range.
    pub(super) fn of(asked: &Highlight) -> Result<Style> {
        let within = |name: &str, value: Option<u32>, default: usize, min: usize, max: usize| {
            let value = value.map_or(default, |value| value as usize);
            match (min..=max).contains(&value) {
                true => Ok(value),
                false => Err(Error::invalid(format!(
                    "highlight: `{name}` is {value}; it has to be from {min} to {max}"
                ))),
            }
        };
        let around = |name: &str, value: &Option<String>, default: &str| match value {
            None => Ok(default.to_owned()),
            Some(text) if text.len() <= AROUND_BYTES_MAX => Ok(text.clone()),
            Some(_) => Err(Error::invalid(format!(
                "highlight: `{name}` has more than {AROUND_BYTES_MAX} bytes"
            ))),
        };
        Ok(Style {
            chars: within("fragment_chars", asked.fragment_chars, CHARS, CHARS_MIN, CHARS_MAX)?,
            fragments: within("fragments", asked.fragments, 1, 1, FRAGMENTS_MAX)?,
            pre: around("pre", &asked.pre, "<b>")?,
            post: around("post", &asked.post, "</b>")?,
            escape_html: asked.escape_html,
        })
    }

    /// The best fragments of a text in the order of the text, with its marks, which are in order. None where
    /// nothing is marked.
    pub(super) fn fragments(&self, text: &str, marks: &[Mark]) -> Vec<String> {
        if marks.is_empty() {
            return Vec::new();
        }
        let mut found: Vec<Range<usize>> = Vec::new();
        let placed = placed(text, marks);
        while found.len() < self.fragments {
            let Some(best) = self.best(&placed, &found) else { break };
            found.push(best);
        }
        found.sort_by_key(|range| range.start);
        let mut shown = Vec::with_capacity(found.len());
        let mut behind = 0;
        for (number, range) in found.iter().enumerate() {
            let before = found.get(number + 1).map_or(text.len(), |next| next.start);
            let wide = self.widened(text, range, behind..before, marks);
            behind = wide.end;
            shown.push(self.shown(text, wide, marks));
        }
        shown
    }

    /// The bytes from the first to the last mark of the best window beside those that were found.
    fn best(&self, placed: &[Placed<'_>], found: &[Range<usize>]) -> Option<Range<usize>> {
        let is_free = |mark: &Mark| {
            !found.iter().any(|f| mark.range.start < f.end && f.start < mark.range.end)
        };
        let mut best: Option<((usize, usize), Range<usize>)> = None;
        for (number, first) in placed.iter().enumerate().filter(|(_, first)| is_free(first.mark)) {
            let mut words = HashSet::new();
            let mut range = first.mark.range.clone();
            let mut count = 0;
            for next in placed.iter().skip(number) {
                let is_within = count == 0 || next.end.saturating_sub(first.begin) <= self.chars;
                if !is_within || !is_free(next.mark) {
                    break;
                }
                words.insert(next.mark.word);
                range.end = next.mark.range.end;
                count += 1;
            }
            let worth = (words.len(), count);
            if best.as_ref().is_none_or(|(most, _)| worth > *most) {
                best = Some((worth, range));
            }
        }
        best.map(|(_, range)| range)
    }

    /// A window with text around it, up to the length of a fragment, inside of `bounds` and between words.
    fn widened(
        &self,
        text: &str,
        window: &Range<usize>,
        bounds: Range<usize>,
        marks: &[Mark],
    ) -> Range<usize> {
        let part = |range: Range<usize>| text.get(range).unwrap_or_default();
        let room = self.chars.saturating_sub(part(window.clone()).chars().count());
        let before = part(bounds.start.min(window.start)..window.start);
        let behind = part(window.end..bounds.end.max(window.end));
        let (left, right) = (before.chars().count(), behind.chars().count());
        // What one side does not need the other gets.
        let on_left = (room / 2).max(room.saturating_sub(right)).min(left);
        let on_right = room.saturating_sub(on_left).min(right);
        let mut start = window.start;
        if on_left > 0 {
            let cut = before.char_indices().rev().nth(on_left - 1).map_or(0, |(place, _)| place);
            let kept = before.get(cut..).unwrap_or_default();
            // Not in the middle of a word, where there are spaces.
            let skipped = match cut == 0 && bounds.start == 0 {
                true => 0,
                false => kept.find(char::is_whitespace).unwrap_or(0),
            };
            start = window.start - kept.len() + skipped;
        }
        let mut end = window.end;
        if on_right > 0 {
            let cut = behind.char_indices().nth(on_right).map_or(behind.len(), |(place, _)| place);
            let kept = behind.get(..cut).unwrap_or_default();
            let kept = match cut == behind.len() && bounds.end == text.len() {
                true => kept,
                false => kept.rfind(char::is_whitespace).map_or(kept, |at| kept.split_at(at).0),
            };
            end = window.end + kept.len();
        }
        // Nor in the middle of a mark.
        for mark in marks {
            if mark.range.start < start && start < mark.range.end {
                start = mark.range.end;
            }
            if mark.range.start < end && end < mark.range.end {
                end = mark.range.start;
            }
        }
        start..end
    }

    fn shown(&self, text: &str, range: Range<usize>, marks: &[Mark]) -> String {
        let mut shown = String::with_capacity(range.len() + 16);
        let mut done = range.start;
        let inside = marks.iter().map(|mark| &mark.range);
        for mark in inside.filter(|mark| range.start <= mark.start && mark.end <= range.end) {
            self.push(&mut shown, text.get(done..mark.start).unwrap_or_default());
            shown.push_str(&self.pre);
            self.push(&mut shown, text.get(mark.clone()).unwrap_or_default());
            shown.push_str(&self.post);
            done = mark.end;
        }
        self.push(&mut shown, text.get(done..range.end).unwrap_or_default());
        shown.trim().to_owned()
    }

    fn push(&self, shown: &mut String, text: &str) {
        if !self.escape_html {
            shown.push_str(text);
            return;
        }
        for letter in text.chars() {
            match letter {
                '&' => shown.push_str("&amp;"),
                '<' => shown.push_str("&lt;"),
                '>' => shown.push_str("&gt;"),
                '"' => shown.push_str("&quot;"),
                '\'' => shown.push_str("&#39;"),
                other => shown.push(other),
            }
        }
    }
}

fn placed<'a>(text: &str, marks: &'a [Mark]) -> Vec<Placed<'a>> {
    let (mut byte, mut chars) = (0, 0);
    let mut chars_before = |place: usize| {
        chars += text.get(byte..place).unwrap_or_default().chars().count();
        byte = place;
        chars
    };
    let placed = marks.iter().map(|mark| {
        let begin = chars_before(mark.range.start);
        Placed { mark, begin, end: chars_before(mark.range.end) }
    });
    placed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(chars: u32, fragments: u32) -> Highlight {
        Highlight {
            fragment_chars: Some(chars),
            fragments: Some(fragments),
            pre: Some("[".to_owned()),
            post: Some("]".to_owned()),
            ..Highlight::default()
        }
    }

    fn marks(text: &str, words: &[&str]) -> Vec<Mark> {
        let mut marks: Vec<Mark> = Vec::new();
        for (word, wanted) in words.iter().enumerate() {
            let found = text.match_indices(wanted);
            marks.extend(found.map(|(at, it)| Mark { range: at..at + it.len(), word }));
        }
        marks.sort_by_key(|mark| mark.range.start);
        marks
    }

    fn fragments(asked: &Highlight, text: &str, words: &[&str]) -> Vec<String> {
        Style::of(asked).unwrap().fragments(text, &marks(text, words))
    }

    #[test]
    fn a_short_text_is_shown_whole() {
        let text = "a red car and a red bus";
        assert_eq!(
            fragments(&style(40, 3), text, &["red", "bus"]),
            ["a [red] car and a [red] [bus]"]
        );
        assert!(fragments(&style(40, 3), text, &["tram"]).is_empty());
    }

    #[test]
    fn the_fragment_with_most_words_is_shown() {
        let text = "red red red, and then nothing at all for a long while until a red car is here";
        assert_eq!(fragments(&style(20, 1), text, &["red", "car"]), ["a [red] [car] is"]);
        let two = fragments(&style(20, 2), text, &["red", "car"]);
        assert_eq!(two, ["[red] [red] [red], and", "a [red] [car] is"]);
    }

    #[test]
    fn a_fragment_is_no_longer_than_asked_for() {
        let text = "äöü wörter überall ".repeat(40);
        for chars in [20, 33, 150] {
            for fragment in fragments(&style(chars, 5), &text, &["über"]) {
                let plain = fragment.replace(['[', ']'], "");
                assert!(plain.chars().count() <= chars as usize, "{chars}: {fragment}");
                assert!(fragment.contains("[über]"), "{fragment}");
            }
        }
        // A match that is longer is shown whole.
        let long = "x".repeat(50);
        assert_eq!(fragments(&style(20, 1), &long, &[&long]), [format!("[{long}]")]);
    }

    #[test]
    fn text_is_escaped_and_marks_are_not() {
        let asked = Highlight { escape_html: true, ..Highlight::default() };
        let found = fragments(&asked, "<i>red</i> & 'blue'", &["red"]);
        assert_eq!(found, ["&lt;i&gt;<b>red</b>&lt;/i&gt; &amp; &#39;blue&#39;"]);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let refusal = |asked: Highlight| Style::of(&asked).unwrap_err().message().to_owned();
        assert!(refusal(style(1, 1)).contains("fragment_chars"));
        assert!(refusal(style(100, 0)).contains("fragments"));
        let pre = Highlight { pre: Some("x".repeat(101)), ..Highlight::default() };
        assert!(refusal(pre).contains("pre"));
    }
}
