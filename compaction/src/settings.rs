//! What the owner of a table wants otherwise than the defaults: metadata of its schema.

use std::sync::Arc;

use lakebed_core::{Error, Result};
use lakebed_storage::Table;

use crate::policy::Targets;

/// How the settings of a table begin that are meant for maintenance.
pub(crate) const SETTING_PREFIX: &str = "lakebed.";

/// How a table wants to be maintained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableSettings {
    /// What its fragments should be like.
    pub targets: Targets,
    /// Whether maintenance rewrites its fragments by itself.
    pub is_compacted: bool,
    /// Whether maintenance builds its indexes anew by itself.
    pub is_indexed: bool,
}

impl Default for TableSettings {
    fn default() -> Self {
        TableSettings { targets: Targets::default(), is_compacted: true, is_indexed: true }
    }
}

impl TableSettings {
    /// The settings of a table: `lakebed.compaction` and `lakebed.index_catch_up`, which are `on` or `off`,
    /// `lakebed.compaction_rows`, `lakebed.compaction_bytes`, `lakebed.compaction_fragments_min` and
    /// `lakebed.compaction_deleted_percent`.
    ///
    /// # Errors
    /// `InvalidArgument` naming a setting whose value is none; `Unavailable` when the store does not answer.
    pub async fn of(table: &Arc<Table>) -> Result<TableSettings> {
        let mut settings = TableSettings::default();
        for (name, value) in table.settings(SETTING_PREFIX).await? {
            settings.set(&name, value.trim())?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let targets = &mut self.targets;
        match name {
            "compaction" => self.is_compacted = switch(name, value)?,
            "index_catch_up" => self.is_indexed = switch(name, value)?,
            "compaction_rows" => targets.rows = number(name, value, 1, u64::MAX)?,
            "compaction_bytes" => targets.bytes = number(name, value, 1, u64::MAX)?,
            "compaction_fragments_min" => {
                targets.fragments_min =
                    usize::try_from(number(name, value, 2, u64::MAX)?).unwrap_or(usize::MAX);
            }
            "compaction_deleted_percent" => {
                targets.deleted_share_max = number(name, value, 0, 100)? as f64 / 100.0;
            }
            _ => {}
        }
        Ok(())
    }
}

fn switch(name: &str, value: &str) -> Result<bool> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::invalid(format!(
            "setting `{SETTING_PREFIX}{name}` is `{value}`, neither `on` nor `off`"
        ))),
    }
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64> {
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| {
        let most = if most == u64::MAX { String::new() } else { format!(" to {most}") };
        Error::invalid(format!(
            "setting `{SETTING_PREFIX}{name}` is `{value}`, no whole number from {least}{most}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_refused_by_name() {
        let mut settings = TableSettings::default();
        for (name, value) in [
            ("compaction", "off"),
            ("index_catch_up", "off"),
            ("compaction_rows", "1000"),
            ("compaction_bytes", "1048576"),
            ("compaction_fragments_min", "3"),
            ("compaction_deleted_percent", "50"),
            ("retention_ms", "somebody else's"),
        ] {
            settings.set(name, value).unwrap();
        }
        let targets =
            Targets { rows: 1_000, bytes: 1 << 20, fragments_min: 3, deleted_share_max: 0.5 };
        assert_eq!(settings, TableSettings { targets, is_compacted: false, is_indexed: false });
        for (name, value) in [
            ("compaction", "false"),
            ("index_catch_up", ""),
            ("compaction_rows", "0"),
            ("compaction_bytes", "1 MB"),
            ("compaction_fragments_min", "1"),
            ("compaction_deleted_percent", "101"),
        ] {
            let error = settings.set(name, value).unwrap_err();
            assert!(error.to_string().contains(&format!("`lakebed.{name}`")), "{error}");
        }
    }
}
