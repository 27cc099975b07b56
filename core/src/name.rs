//! Names of databases, namespaces, tables, branches, tags and cursors.
//!
//! A name that was parsed is safe as one segment of a path below the lake's root: it has no slash, no
//! dot-dot, no NUL or control character. The rules are those of the LanceDB SDKs (ASCII letters and
//! digits, `-`, `_`, `.`; tables at most 128 bytes, namespace and database segments at most 64), plus
//! what the lake's own layout needs: a segment that ends in `.lance` would look like a table's folder,
//! and names that begin with `_lakebed` or `_blobs` are the system's.

use std::fmt;

use crate::{Error, Result};

const TABLE_BYTES_MAX: usize = 128;
const SEGMENT_BYTES_MAX: usize = 64;
const DEPTH_MAX: usize = 16;
const TAG_BYTES_MAX: usize = 256;
const CURSOR_BYTES_MAX: usize = 128;
const BRANCH_BYTES_MAX: usize = 128;

/// Separates the parts of a table's id in text: `ns$sub$table`.
pub const ID_DELIMITER: char = '$';

pub(crate) fn check_segment(what: &str, name: &str, bytes_max: usize) -> Result<()> {
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.is_empty() {
        return Err(Error::invalid(format!("{what} name is empty")));
    }
    if name.len() > bytes_max {
        return Err(Error::invalid(format!(
            "{what} name `{shown}` has {} bytes; the limit is {bytes_max}",
            name.len()
        )));
    }
    if name == "." || name == ".." {
        return Err(Error::invalid(format!("{what} name `{shown}` is not allowed")));
    }
    if let Some(bad) =
        name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
    {
        return Err(Error::invalid(format!(
            "{what} name `{shown}` contains `{}`; letters, digits, `-`, `_` and `.` are allowed",
            bad.escape_debug()
        )));
    }
    Ok(())
}

fn check_not_reserved(what: &str, name: &str) -> Result<()> {
    // Some file systems do not tell `_Lakebed` from `_lakebed`.
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("_lakebed") || lower.starts_with("_blobs") {
        return Err(Error::invalid(format!(
            "{what} name `{name}` is reserved: it begins with `_lakebed` or `_blobs`"
        )));
    }
    Ok(())
}

fn check_not_a_table_folder(what: &str, name: &str) -> Result<()> {
    if name.to_ascii_lowercase().ends_with(".lance") {
        return Err(Error::invalid(format!(
            "{what} name `{name}` ends in `.lance`, which names the folder of a table"
        )));
    }
    Ok(())
}

/// A database: one or more segments joined with `/`, such as `default` or `team/cars`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatabaseName(String);

impl DatabaseName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// `InvalidArgument` for a segment that breaks the rules or is reserved.
    pub fn parse(name: &str) -> Result<Self> {
        if name.split('/').count() > DEPTH_MAX {
            return Err(Error::invalid(format!(
                "database name has more than {DEPTH_MAX} segments"
            )));
        }
        for segment in name.split('/') {
            check_segment("database", segment, SEGMENT_BYTES_MAX)?;
            check_not_a_table_folder("database", segment)?;
            check_not_reserved("database", segment)?;
        }
        Ok(DatabaseName(name.to_owned()))
    }

    /// The database that lies at a path inside of another: the SDKs' `db://team/cars` is database
    /// `team/cars`. Slashes at the ends of the path say nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for a segment that breaks the rules or is reserved.
    pub fn parse_within(name: &str, prefix: Option<&str>) -> Result<Self> {
        match prefix.map(|prefix| prefix.trim_matches('/')).filter(|prefix| !prefix.is_empty()) {
            Some(prefix) => DatabaseName::parse(&format!("{name}/{prefix}")),
            None => DatabaseName::parse(name),
        }
    }

    /// The database of requests that name none.
    pub fn default_database() -> Self {
        DatabaseName("default".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The namespaces above a table, outermost first; empty is the root namespace of a database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NamespacePath(Vec<String>);

impl NamespacePath {
    /// The root namespace.
    pub fn root() -> Self {
        NamespacePath(Vec::new())
    }

    /// Checks and takes the segments.
    ///
    /// # Errors
    /// `InvalidArgument` for a segment that breaks the rules or is reserved, more than 16 segments, or
    /// a first segment that begins with `public` in a path of several (SQL shows the root as `public`).
    pub fn parse<S: AsRef<str>>(segments: &[S]) -> Result<Self> {
        if segments.len() > DEPTH_MAX {
            return Err(Error::invalid(format!(
                "a namespace has {} levels; the limit is {DEPTH_MAX}",
                segments.len()
            )));
        }
        for segment in segments {
            check_segment("namespace", segment.as_ref(), SEGMENT_BYTES_MAX)?;
            check_not_a_table_folder("namespace", segment.as_ref())?;
            check_not_reserved("namespace", segment.as_ref())?;
        }
        if segments.len() > 1 && segments[0].as_ref().starts_with("public") {
            return Err(Error::invalid(
                "a namespace that begins with `public` must have one level",
            ));
        }
        Ok(NamespacePath(segments.iter().map(|s| s.as_ref().to_owned()).collect()))
    }

    /// The segments, outermost first.
    pub fn segments(&self) -> &[String] {
        &self.0
    }

    /// Whether this is the root namespace.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for NamespacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("$"))
    }
}

/// The name of one table inside its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName(String);

impl TableName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that breaks the rules or is reserved.
    pub fn parse(name: &str) -> Result<Self> {
        check_segment("table", name, TABLE_BYTES_MAX)?;
        check_not_reserved("table", name)?;
        Ok(TableName(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table with everything above it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId {
    /// The database that holds it.
    pub database: DatabaseName,
    /// The namespaces between database and table.
    pub namespace: NamespacePath,
    /// Its own name.
    pub name: TableName,
}

impl TableId {
    /// Reads `ns$sub$table` below `database`.
    ///
    /// # Errors
    /// `InvalidArgument` naming the segment that breaks the rules.
    pub fn parse(database: &DatabaseName, text: &str) -> Result<Self> {
        let segments: Vec<&str> = text.split(ID_DELIMITER).collect();
        TableId::from_segments(database, &segments)
    }

    /// Reads a path `[namespace…, table]` below `database`.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty path or a segment that breaks the rules.
    pub fn from_segments<S: AsRef<str>>(database: &DatabaseName, segments: &[S]) -> Result<Self> {
        let Some((name, namespace)) = segments.split_last() else {
            return Err(Error::invalid("a table's path is empty"));
        };
        Ok(TableId {
            database: database.clone(),
            namespace: NamespacePath::parse(namespace)?,
            name: TableName::parse(name.as_ref())?,
        })
    }

    /// Namespaces and name joined with `$`, as clients write it.
    pub fn text(&self) -> String {
        if self.namespace.is_root() {
            self.name.to_string()
        } else {
            format!("{}${}", self.namespace, self.name)
        }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.database, self.text())
    }
}

/// The name of a tag or a branch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagName(String);

impl TagName {
    /// Checks and takes a name that a user chose.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that breaks lance's rules (letters, digits, `.`, `-`, `_`; not
    /// ending in `.lock`, no `..`, not beginning or ending with a dot) or begins with `_lakebed.`.
    pub fn parse(name: &str) -> Result<Self> {
        check_segment("tag", name, TAG_BYTES_MAX)?;
        if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
            return Err(Error::invalid(format!(
                "tag name `{name}` begins or ends with a dot or contains two in a row"
            )));
        }
        if name.ends_with(".lock") {
            return Err(Error::invalid(format!("tag name `{name}` ends in `.lock`")));
        }
        if name.starts_with("_lakebed.") {
            return Err(Error::invalid(format!("tag name `{name}` is reserved")));
        }
        Ok(TagName(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a branch other than main.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchName(String);

impl BranchName {
    /// Checks and takes a name that a user chose: one part or several, separated by `/`.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that breaks lance's rules (letters, digits, `.`, `-`, `_` in each part,
    /// no `..`, not ending in `.lock`, not `main`), and for a part that would be taken for a folder of a
    /// table: one that begins with `_` or is `data`.
    pub fn parse(name: &str) -> Result<Self> {
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        if name.len() > BRANCH_BYTES_MAX {
            return Err(Error::invalid(format!(
                "branch name `{shown}` has {} bytes; the limit is {BRANCH_BYTES_MAX}",
                name.len()
            )));
        }
        for part in name.split('/') {
            check_segment("branch", part, BRANCH_BYTES_MAX)?;
            let is_folder = part.starts_with('_') || part == "data";
            if is_folder || part.starts_with('.') || part.ends_with('.') || part.contains("..") {
                return Err(Error::invalid(format!(
                    "branch name `{shown}`: the part `{part}` begins with `_` or a dot, ends with a dot, \
                     has two dots in a row or is `data`"
                )));
            }
        }
        if name.ends_with(".lock") || name == "main" {
            return Err(Error::invalid(format!(
                "branch name `{shown}` ends in `.lock` or is `main`"
            )));
        }
        Ok(BranchName(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a cursor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CursorName(String);

impl CursorName {
    /// Checks and takes a name that a user chose.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is too long or has other characters than letters, digits, `.`,
    /// `-` and `_`, or begins with a dot.
    pub fn parse(name: &str) -> Result<Self> {
        check_segment("cursor", name, CURSOR_BYTES_MAX)?;
        if name.starts_with('.') {
            return Err(Error::invalid(format!("cursor name `{name}` begins with a dot")));
        }
        Ok(CursorName(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CursorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        let db = DatabaseName::default_database();
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "a\0b",
            "a\nb",
            "a b",
            "ä",
            "a\\b",
            "_lakebed.x",
            "_lakebed",
            "_LakeBed-2",
            "_blobs",
            "_lakebed$t",
            "ns$_blobs.x$t",
            "%2e%2e",
            "a$..",
            "..$a",
            "$a",
            "a$",
            "a\u{202e}b",
        ] {
            assert!(TableId::parse(&db, bad).is_err(), "{bad:?} was taken");
        }
        assert!(TableName::parse(&"x".repeat(129)).is_err());
        assert!(TableName::parse(&"x".repeat(128)).is_ok());
        for bad in ["", "/", "a//b", "../a", "a/..", "x.lance", "a/b.LANCE"] {
            assert!(DatabaseName::parse(bad).is_err(), "{bad:?} was taken");
        }
        for bad in ["_lakebed", "_blobs", "_Blobs", "team/_lakebed", "team/_blobs/x"] {
            assert!(DatabaseName::parse(bad).is_err(), "{bad:?} was taken");
        }
        assert!(TableId::parse(&db, "_lake$my_lakebed").is_ok());
        assert!(DatabaseName::parse("team/cars").is_ok());
    }

    #[test]
    fn an_id_survives_its_text() {
        let db = DatabaseName::default_database();
        for text in ["t", "ns$t", "a$b.c$t-1_x"] {
            assert_eq!(TableId::parse(&db, text).unwrap().text(), text);
        }
    }

    #[test]
    fn branches_follow_lance_and_leave_the_folders_of_tables_alone() {
        for bad in [
            "", "/a", "a/", "a//b", "a/..", "main", "a.lock", "a b", ".a", "_a/b", "a/_x", "a/data",
        ] {
            assert!(BranchName::parse(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["exp", "team/exp-1.2_x", "data2", "main/a"] {
            assert!(BranchName::parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn tags_follow_lance() {
        for bad in ["", ".a", "a.", "a..b", "a.lock", "_lakebed.pin", "a/b"] {
            assert!(TagName::parse(bad).is_err(), "{bad:?} was taken");
        }
        assert!(TagName::parse("gold-2026.1").is_ok());
    }
}
