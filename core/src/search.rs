//! The words of a search that storage and the wire share.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Stage;

/// How far two vectors are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DistanceType {
    /// Squared Euclidean distance.
    L2,
    /// 1 − cosine of the angle.
    Cosine,
    /// 1 − dot product.
    Dot,
    /// Bits that differ.
    Hamming,
}

impl DistanceType {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            DistanceType::L2 => "l2",
            DistanceType::Cosine => "cosine",
            DistanceType::Dot => "dot",
            DistanceType::Hamming => "hamming",
        }
    }
}

/// How exactly the codes of a quantised index are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApproxMode {
    /// Fastest.
    Fast,
    /// In between.
    Normal,
    /// Most exact.
    Accurate,
}

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderBy {
    /// The column.
    pub column_name: String,
    /// Whether small values come first.
    #[serde(default = "yes")]
    pub ascending: bool,
    /// Whether nulls come before all values.
    #[serde(default)]
    pub nulls_first: bool,
}

fn yes() -> bool {
    true
}

/// The vectors of a search: `[0.1, 0.2]` is one, `[[0.1, 0.2], [0.3, 0.4]]` are two.
#[derive(Debug, Clone, PartialEq)]
pub enum QueryVectors {
    /// None: no search by vector.
    Empty,
    /// One.
    One(Vec<f32>),
    /// Several.
    Many(Vec<Vec<f32>>),
}

impl QueryVectors {
    /// Whether there is something to search by.
    pub fn is_empty(&self) -> bool {
        *self == QueryVectors::Empty
    }
}

impl Serialize for QueryVectors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            QueryVectors::Empty => serializer.serialize_seq(Some(0))?.end(),
            QueryVectors::One(vector) => vector.serialize(serializer),
            QueryVectors::Many(vectors) => vectors.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for QueryVectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VectorsVisitor;
        impl<'de> Visitor<'de> for VectorsVisitor {
            type Value = QueryVectors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers or a list of such lists")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                match seq.next_element::<Element>()? {
                    None => Ok(QueryVectors::Empty),
                    Some(Element::Number(first)) => {
                        let mut vector = vec![first];
                        while let Some(Number(number)) = seq.next_element()? {
                            vector.push(number);
                        }
                        Ok(QueryVectors::One(vector))
                    }
                    Some(Element::Vector(first)) => {
                        let mut vectors = vec![first];
                        while let Some(vector) = seq.next_element::<Vec<Number>>()? {
                            vectors.push(vector.into_iter().map(|Number(number)| number).collect());
                        }
                        Ok(QueryVectors::Many(vectors))
                    }
                }
            }
        }
        deserializer.deserialize_seq(VectorsVisitor)
    }
}

/// A number that a 32-bit float can stand for.
struct Number(f32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)? as f32;
        match number.is_finite() {
            true => Ok(Number(number)),
            false => Err(de::Error::custom("a number of the vector is out of range")),
        }
    }
}

/// The first element tells one vector from several.
enum Element {
    Number(f32),
    Vector(Vec<f32>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;
        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a list of numbers")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Element, E> {
                Ok(Element::Number(number as f32))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Element, E> {
                Ok(Element::Number(number as f32))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Element, E> {
                match (number as f32).is_finite() {
                    true => Ok(Element::Number(number as f32)),
                    false => Err(E::custom("a number of the vector is out of range")),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
                let mut vector = Vec::new();
                while let Some(Number(number)) = seq.next_element()? {
                    vector.push(number);
                }
                Ok(Element::Vector(vector))
            }
        }
        deserializer.deserialize_any(ElementVisitor)
    }
}

/// What a search says of itself: which version and index answered, and what they left to be compared
/// row by row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SearchReport {
    /// The version that was searched.
    pub version: u64,
    /// The index that was used, by name, or the names of all that were, joined by `, `; none when every
    /// row was compared.
    pub index: Option<String>,
    /// Its type, such as `IVF_PQ`.
    pub index_type: Option<String>,
    /// The column of vectors that was searched, also where an alias was named or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_column: Option<String>,
    /// Rows of the version that the index covers; of several, the one that covers the fewest.
    pub indexed_rows: u64,
    /// Rows outside the index that were compared one by one: all rows without an index, none with
    /// `fast_search`. Nothing where rows are only read, and not ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_scanned: Option<u64>,
    /// What was done before rows were asked for, in order, and how long it took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}
