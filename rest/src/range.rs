//! Ranges and conditions of HTTP, decided without IO (RFC 9110, sections 13 and 14).

use std::ops::Range;

/// What part of a representation a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it, with 200: no range, several ranges, or a unit or form that is not understood.
    Whole,
    /// This range, with 206.
    Range(Range<u64>),
    /// Nothing: the range begins behind the end, 416.
    Unsatisfiable,
}

/// The part that a `Range` header asks for out of `size` bytes.
pub(crate) fn part_of(header: Option<&str>, size: u64) -> Part {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    // Several ranges would need a multipart answer; the whole is always a valid one.
    let Some((first, last)) = spec.trim().split_once('-').filter(|_| !spec.contains(',')) else {
        return Part::Whole;
    };
    match (number(first), number(last)) {
        (Number::Absent, Number::Value(suffix)) => match size {
            0 => Part::Unsatisfiable,
            _ if suffix == 0 => Part::Unsatisfiable,
            _ => Part::Range(size.saturating_sub(suffix)..size),
        },
        (Number::Value(first), _) if first >= size => match number(last) {
            Number::Value(last) if last < first => Part::Whole,
            Number::Malformed => Part::Whole,
            _ => Part::Unsatisfiable,
        },
        (Number::Value(first), Number::Absent) => Part::Range(first..size),
        (Number::Value(first), Number::Value(last)) if first <= last => {
            Part::Range(first..last.saturating_add(1).min(size))
        }
        _ => Part::Whole,
    }
}

enum Number {
    Absent,
    Value(u64),
    Malformed,
}

fn number(text: &str) -> Number {
    let text = text.trim();
    if text.is_empty() {
        return Number::Absent;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Number::Malformed;
    }
    // More digits than a u64 holds are a valid number beyond every size.
    Number::Value(text.parse().unwrap_or(u64::MAX))
}

/// Whether an `If-None-Match` header names `etag` (given without quotes): the client has it
/// already.
pub(crate) fn none_match_names(header: &str, etag: &str) -> bool {
    header.split(',').map(str::trim).any(|candidate| {
        let candidate = candidate.strip_prefix("W/").unwrap_or(candidate);
        candidate == "*" || unquoted(candidate) == Some(etag)
    })
}

/// Whether an `If-Range` header lets the range stand. Only a strong tag that is the same does; a
/// date does not, because a blob has no date of its own.
pub(crate) fn range_holds(if_range: Option<&str>, etag: &str) -> bool {
    if_range.is_none_or(|header| unquoted(header.trim()) == Some(etag))
}

fn unquoted(tag: &str) -> Option<&str> {
    tag.strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_size() {
        for (header, size, part) in [
            ("bytes=0-0", 10, Part::Range(0..1)),
            ("bytes=2-", 10, Part::Range(2..10)),
            ("bytes=2-5", 10, Part::Range(2..6)),
            ("bytes=2-99", 10, Part::Range(2..10)),
            ("bytes=9-9", 10, Part::Range(9..10)),
            ("bytes=-3", 10, Part::Range(7..10)),
            ("bytes=-99", 10, Part::Range(0..10)),
            ("bytes= 2 - 5 ", 10, Part::Range(2..6)),
            ("bytes=0-18446744073709551615", 10, Part::Range(0..10)),
            ("bytes=0-99999999999999999999999", 10, Part::Range(0..10)),
        ] {
            assert_eq!(part_of(Some(header), size), part, "{header}");
        }
    }

    #[test]
    fn a_range_behind_the_end_is_unsatisfiable() {
        for (header, size) in [
            ("bytes=10-", 10),
            ("bytes=10-11", 10),
            ("bytes=99999999999999999999999-", 10),
            ("bytes=-0", 10),
            ("bytes=0-0", 0),
            ("bytes=0-", 0),
            ("bytes=-5", 0),
        ] {
            assert_eq!(part_of(Some(header), size), Part::Unsatisfiable, "{header} of {size}");
        }
    }

    #[test]
    fn what_is_not_understood_gets_the_whole() {
        for header in [
            "bytes=5-2",
            "bytes=11-10",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1-b",
            "bytes=11-x",
            "bytes=0-1,4-5",
            "items=0-1",
            "bytes 0-1",
            "",
            "bytes=+1-2",
            "bytes=1",
            "bytes=--1",
        ] {
            assert_eq!(part_of(Some(header), 10), Part::Whole, "{header:?}");
        }
        assert_eq!(part_of(None, 10), Part::Whole);
    }

    #[test]
    fn conditions_compare_tags() {
        assert!(none_match_names("\"a\"", "a"));
        assert!(none_match_names("\"b\", W/\"a\"", "a"));
        assert!(none_match_names("*", "a"));
        assert!(!none_match_names("a", "a"));
        assert!(range_holds(None, "a") && range_holds(Some("\"a\""), "a"));
        assert!(!range_holds(Some("W/\"a\""), "a"));
        assert!(!range_holds(Some("Wed, 21 Oct 2026 07:28:00 GMT"), "a"));
    }
}
