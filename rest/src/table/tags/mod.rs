//! Verbs on tags, one file each.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod update;
pub(crate) mod version;

use lakebed_core::{Error, Result, TagName};
use serde::Deserialize;

use crate::target::Target;

/// The body that names a tag and the version it shall name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TagAndVersion {
    id: Option<Vec<String>>,
    tag: String,
    version: Option<u64>,
    branch: Option<String>,
}

impl TagAndVersion {
    fn check<'a>(&'a self, target: &'a Target) -> Result<(TagName, Option<&'a str>, u64)> {
        target.params(&["branch"])?;
        target.check_id(self.id.as_deref())?;
        let tag = TagName::parse(&self.tag)?;
        let version = self
            .version
            .ok_or_else(|| Error::invalid("field `version` is missing: what the tag names"))?;
        Ok((tag, target.branch(self.branch.as_deref())?, version))
    }
}

/// The body that names a tag.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OneTag {
    id: Option<Vec<String>>,
    tag: String,
}

impl OneTag {
    fn check(&self, target: &Target) -> Result<TagName> {
        target.params(&[])?;
        target.check_id(self.id.as_deref())?;
        TagName::parse(&self.tag)
    }
}
