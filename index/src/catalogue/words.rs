//! How names and texts are cut into words, and when a word that is typed matches one.

/// Characters of a word from which on one of them may be wrong.
pub(crate) const TYPO_CHARS_MIN: usize = 5;
/// Characters of a word that are looked at: longer ones are no words.
const WORD_CHARS_MAX: usize = 64;

/// The words of a text in lower case: cut where something is no letter or digit, and in names such as
/// `cameraFront` and `HTTPServer` where a new word begins.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for run in text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty()) {
        found.extend(parts(run));
    }
    found
}

/// As [`words`], and each name of several words once more as one: `frame_id` is found by `frameid` as well.
pub(crate) fn words_and_wholes(text: &str) -> Vec<String> {
    let mut found = words(text);
    let is_apart = |c: char| !(c.is_alphanumeric() || c == '_' || c == '-');
    for name in text.split(is_apart).filter(|name| !name.is_empty()) {
        let parts = words(name);
        if parts.len() > 1 {
            found.push(parts.concat().chars().take(WORD_CHARS_MAX).collect());
        }
    }
    found
}

/// The words of a run of letters and digits.
fn parts(run: &str) -> Vec<String> {
    let chars: Vec<char> = run.chars().collect();
    let mut parts: Vec<String> = vec![String::new()];
    for (at, c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| chars.get(before));
        let next = chars.get(at + 1);
        let after_lower = before.is_some_and(|before| !before.is_uppercase());
        let before_lower = next.is_some_and(|next| next.is_lowercase());
        let begins = c.is_uppercase()
            && before.is_some()
            && (after_lower || (before_lower && before.is_some_and(|it| it.is_uppercase())));
        if begins {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.extend(c.to_lowercase());
        }
    }
    parts.iter().map(|part| part.chars().take(WORD_CHARS_MAX).collect()).collect()
}

/// Whether a word that is typed matches a word of a text.
pub(crate) fn matches(typed: &str, word: &str) -> bool {
    word.starts_with(typed) || (is_long(typed) && is_one_edit_apart(typed, word))
}

/// Whether one character of a word may be wrong.
pub(crate) fn is_long(typed: &str) -> bool {
    typed.chars().count() >= TYPO_CHARS_MIN
}

/// Whether two words differ by one character that is missing, too many or another, or by two in the wrong order.
fn is_one_edit_apart(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    if long.len() - short.len() > 1 {
        return false;
    }
    let same = short.iter().zip(&long).take_while(|(a, b)| a == b).count();
    let rest = |word: &[char], from: usize| word.get(from..).map(<[char]>::to_vec);
    if short.len() < long.len() {
        return rest(&short, same) == rest(&long, same + 1);
    }
    if rest(&short, same + 1) == rest(&long, same + 1) {
        return true;
    }
    let swapped = short.get(same) == long.get(same + 1) && short.get(same + 1) == long.get(same);
    swapped && rest(&short, same + 2) == rest(&long, same + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_where_a_word_begins() {
        for (text, expected) in [
            ("camera_front-left.v2", vec!["camera", "front", "left", "v2"]),
            ("cameraFrontLeft", vec!["camera", "front", "left"]),
            ("HTTPServer parseURL", vec!["http", "server", "parse", "url"]),
            ("Überlandfahrt Öl", vec!["überlandfahrt", "öl"]),
            ("team$cars", vec!["team", "cars"]),
            ("a1B", vec!["a1", "b"]),
            ("", vec![]),
            ("__ --", vec![]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
        assert_eq!(words_and_wholes("frame_id x"), ["frame", "id", "x", "frameid"]);
    }

    #[test]
    fn a_word_matches_while_it_is_typed_and_with_one_mistake() {
        for (typed, word) in
            [("cam", "camera"), ("camra", "camera"), ("cmaera", "camera"), ("camerra", "camera")]
        {
            assert!(matches(typed, word), "{typed} {word}");
        }
        for (typed, word) in
            [("cmr", "camera"), ("cat", "car"), ("lidar", "radar2"), ("xamerx", "camera")]
        {
            assert!(!matches(typed, word), "{typed} {word}");
        }
    }
}
