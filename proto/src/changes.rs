//! `{"changes": {…}}`: what changed in a table between two versions. The same fields are the body of the
//! HTTP route.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::command::BlobMode;

/// What changed between two versions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChangesCommand {
    /// Namespaces and table joined with `$`.
    pub table: String,
    /// Changes behind this version; 0 for all rows as inserted. Either it or `cursor` is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Point>,
    /// Up to this version; the latest when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Point>,
    /// The branch; main when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Changes behind the version and on the branch of this cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Columns to show and to look for changes in, in the order of the answer; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Only these kinds of changes; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<Kind>>,
    /// What a blob column shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blobs: Option<BlobMode>,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It is new.
    Insert,
    /// Some of its values are others.
    Update,
    /// It is gone.
    Delete,
}

/// A version by number, by tag, or by a time in RFC 3339 with a zone. A tag has no colon and a time has
/// some, so the two cannot be mistaken for each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// By number.
    Version(u64),
    /// By tag.
    Tag(String),
    /// The newest version that was committed at or before this time.
    Time(DateTime<Utc>),
}

impl Point {
    /// The point that a text names: a time, or else a tag.
    pub fn of_text(text: &str) -> Point {
        match DateTime::parse_from_rfc3339(text) {
            Ok(time) => Point::Time(time.to_utc()),
            Err(_) => Point::Tag(text.to_owned()),
        }
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Point::Version(version) => serializer.serialize_u64(*version),
            Point::Tag(tag) => serializer.serialize_str(tag),
            Point::Time(time) => serializer.serialize_str(&time.to_rfc3339()),
        }
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand because an untagged enum loses the path of an error.
        struct PointVisitor;
        impl Visitor<'_> for PointVisitor {
            type Value = Point;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of a version, a tag or a time like 2026-01-01T00:00:00Z")
            }

            fn visit_u64<E: de::Error>(self, version: u64) -> Result<Point, E> {
                Ok(Point::Version(version))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Point, E> {
                match Point::of_text(text) {
                    Point::Tag(text) if text.is_empty() || text.contains(':') => {
                        Err(E::invalid_value(de::Unexpected::Str(&text), &self))
                    }
                    point => Ok(point),
                }
            }
        }
        deserializer.deserialize_any(PointVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<ChangesCommand, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn a_point_is_a_number_a_tag_or_a_time() {
        let command = parsed(r#"{"table":"t","from":7,"to":"2026-01-01T01:00:00+01:00"}"#).unwrap();
        assert_eq!(command.from, Some(Point::Version(7)));
        let Some(Point::Time(time)) = command.to else { panic!("{command:?}") };
        assert_eq!(time.to_rfc3339(), "2026-01-01T00:00:00+00:00");
        let command = parsed(r#"{"table":"t","from":"gold-1.0","kinds":["insert","delete"]}"#);
        let command = command.unwrap();
        assert_eq!(command.from, Some(Point::Tag("gold-1.0".to_owned())));
        let again = serde_json::to_string(&command).unwrap();
        assert_eq!(parsed(&again).unwrap(), command);
        for bad in [
            r#"{"from":-1}"#,
            r#"{"from":1.5}"#,
            r#"{"from":""}"#,
            r#"{"from":"2026-01-01T00:00:00"}"#,
            r#"{"from":[1]}"#,
            r#"{"kinds":["upsert"]}"#,
            r#"{"form":1}"#,
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
