//! Names of registered models, and how a version of one is named: `NAME`, `NAME@3`, `NAME@production`.

use std::fmt;

use crate::name::check_segment;
use crate::{Error, Result};

const NAME_BYTES_MAX: usize = 128;
const TAG_BYTES_MAX: usize = 128;
/// Stands between a name and what names a version.
const SEPARATOR: char = '@';

/// The name of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(String);

impl ModelName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// `InvalidArgument` for other characters than ASCII letters and digits, `-`, `_` and `.`, for more than
    /// 128 of them, and for a dot at the beginning.
    pub fn parse(name: &str) -> Result<Self> {
        check_segment("model", name, NAME_BYTES_MAX)?;
        if name.starts_with('.') {
            return Err(Error::invalid(format!("model name `{name}` begins with a dot")));
        }
        Ok(ModelName(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a version of a model, beside its number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelTag(String);

impl ModelTag {
    /// Checks and takes a tag.
    ///
    /// # Errors
    /// `InvalidArgument` for a tag of other characters than a name has, and of digits alone: that would be the
    /// number of a version.
    pub fn parse(tag: &str) -> Result<Self> {
        check_segment("tag", tag, TAG_BYTES_MAX)?;
        if tag.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::invalid(format!("tag name `{tag}` is a number, as versions have")));
        }
        Ok(ModelTag(tag.to_owned()))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which version of a model is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelAt {
    /// The one with the highest number.
    Newest,
    /// The one of that number.
    Version(u64),
    /// The one that a tag names.
    Tag(ModelTag),
}

/// A model and a version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRef {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub at: ModelAt,
}

impl ModelRef {
    /// Reads `NAME`, `NAME@VERSION` or `NAME@TAG`.
    ///
    /// # Errors
    /// `InvalidArgument` for a name or a tag that breaks the rules.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((name, at)) = text.split_once(SEPARATOR) else {
            return Ok(ModelRef { name: ModelName::parse(text)?, at: ModelAt::Newest });
        };
        let at = match at.parse() {
            Ok(number) => ModelAt::Version(number),
            Err(_) => ModelAt::Tag(ModelTag::parse(at)?),
        };
        Ok(ModelRef { name: ModelName::parse(name)?, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_number_or_tag_or_not_at_all() {
        let at = |text: &str| ModelRef::parse(text).unwrap().at;
        assert_eq!(at("bge-small_v1.5"), ModelAt::Newest);
        assert_eq!(at("m@3"), ModelAt::Version(3));
        assert_eq!(at("m@production"), ModelAt::Tag(ModelTag::parse("production").unwrap()));
        for bad in ["", "a/b", "..", ".hidden", "m@", "m@a b", "a@b@c", "m@99999999999999999999"] {
            assert!(ModelRef::parse(bad).is_err(), "{bad}");
        }
        assert!(ModelTag::parse("7").is_err());
    }
}
