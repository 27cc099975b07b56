//! The names of aliases: words that stand for a column of vectors.

use std::fmt;

use crate::Result;
use crate::name::check_segment;

const BYTES_MAX: usize = 128;

/// The name of an alias of a column of vectors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VectorAlias(String);

impl VectorAlias {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// `InvalidArgument` for other characters than ASCII letters and digits, `-`, `_` and `.`, and for more
    /// than 128 of them.
    pub fn parse(name: &str) -> Result<Self> {
        check_segment("alias", name, BYTES_MAX)?;
        Ok(VectorAlias(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VectorAlias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_a_plain_word() {
        assert_eq!(VectorAlias::parse("default").unwrap().as_str(), "default");
        for bad in ["", "a b", "a/b", "..", "a`b", &"x".repeat(129)] {
            assert!(VectorAlias::parse(bad).is_err(), "{bad}");
        }
    }
}
