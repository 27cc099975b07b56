//! "Did you mean": the existing names nearest to one that was not found.

const CANDIDATES_MAX: usize = 1_000;
const SHOWN_MAX: usize = 3;

/// Up to three of `candidates` that resemble `wanted`, nearest first, as text for an error message:
/// `; nearest: a, b`, or nothing where none is near. Give only names that the caller may see. At most
/// 1,000 candidates are looked at, so that a large catalogue cannot make an error slow.
pub fn nearest_names<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let mut scored: Vec<(usize, &str)> = candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .map(|name| {
            (strsim::damerau_levenshtein(&wanted.to_lowercase(), &name.to_lowercase()), name)
        })
        .filter(|(distance, name)| *distance <= wanted.len().max(name.len()) / 2)
        .collect();
    scored.sort();
    if scored.is_empty() {
        return String::new();
    }
    let shown: Vec<&str> = scored.iter().take(SHOWN_MAX).map(|(_, name)| *name).collect();
    format!("; nearest: {}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        assert_eq!(nearest_names("pictrues", ["pictures", "audio"]), "; nearest: pictures");
        assert_eq!(nearest_names("x", ["pictures"]), "");
    }
}
