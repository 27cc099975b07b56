//! Names of row sets, and how a version of one is named: `NAME`, `NAME@3`.

use std::fmt;

use crate::name::check_segment;
use crate::{Error, Result};

const NAME_BYTES_MAX: usize = 128;
/// Stands between a name and the number of a version.
const SEPARATOR: char = '@';

/// The name of a row set of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowSetName(String);

impl RowSetName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// `InvalidArgument` for other characters than ASCII letters and digits, `-`, `_` and `.`, for more than
    /// 128 of them, and for a dot at the beginning.
    pub fn parse(name: &str) -> Result<Self> {
        check_segment("row set", name, NAME_BYTES_MAX)?;
        if name.starts_with('.') {
            return Err(Error::invalid(format!("row set name `{name}` begins with a dot")));
        }
        Ok(RowSetName(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RowSetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A row set and a version of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowSetRef {
    /// The row set.
    pub name: RowSetName,
    /// The version; the one with the highest number when absent.
    pub version: Option<u64>,
}

impl RowSetRef {
    /// Reads `NAME` or `NAME@VERSION`.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that breaks the rules, or a version that is no number from 1.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((name, version)) = text.split_once(SEPARATOR) else {
            return Ok(RowSetRef { name: RowSetName::parse(text)?, version: None });
        };
        let name = RowSetName::parse(name)?;
        let number = version.parse().ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| {
            let shown: String = version.chars().take(80).flat_map(char::escape_debug).collect();
            Error::invalid(format!("version `{shown}` of row set `{name}` is no number from 1"))
        })?;
        Ok(RowSetRef { name, version: Some(number) })
    }
}

impl fmt::Display for RowSetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            None => f.write_str(self.name.as_str()),
            Some(version) => write!(f, "{}{SEPARATOR}{version}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_number_or_not_at_all() {
        for (text, version) in [("train", None), ("near-dup_v1.5@3", Some(3))] {
            let parsed = RowSetRef::parse(text).unwrap();
            assert_eq!(parsed.version, version);
            assert_eq!(parsed.to_string(), text);
        }
        for bad in ["", "a/b", "..", ".hidden", "m@", "m@0", "m@-1", "m@gold", "a@1@2", "m@ 1"] {
            assert!(RowSetRef::parse(bad).is_err(), "{bad}");
        }
    }
}
