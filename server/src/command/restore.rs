//! `lakebed restore --from BACKUP --data ROOT`: makes a lake of a backup, or puts tables of it back into
//! a lake that no server has open.

use std::path::PathBuf;

use clap::Args;
use lakebed_storage::{BackupProgress, Lake, LakeOptions, RestoreTable, restore, restore_tables};
use serde_json::Value;

use super::backup::{say, shown, table_of};
use crate::cli::{Format, runtime};
use crate::config::{Config, Environment, Flags, Layer};
use crate::exit::Exit;
use crate::serve::lake_options;

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup: a directory or s3://bucket/prefix
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// Where to: an empty place, or with --table the root of a lake that no server has open
    #[arg(long, value_name = "DIR|URL")]
    data: String,
    /// Only this table, as `database/ns$name` or `ns$name`; may be given again
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<String>,
    /// The name that the table gets
    #[arg(long = "as", value_name = "TABLE", requires = "tables")]
    name: Option<String>,
    /// Only say what would be copied
    #[arg(long)]
    dry_run: bool,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Read settings from a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(verb: Restore, environment: &Environment) -> Result<(), Exit> {
    let layer = Layer { data: Some(verb.data.clone()), ..Layer::default() };
    let config = Config::load(Flags { layer, config: verb.config.clone() }, environment)?;
    let to = lake_options(&config);
    let from = LakeOptions { root: verb.from.clone(), ..to.clone() };
    let tables = tables_of(&verb)?;
    let runtime = runtime()?;
    let done = match tables.as_slice() {
        [] => runtime.block_on(whole(&from, &to, verb.dry_run))?,
        tables => runtime.block_on(some(&from, &to, tables, verb.dry_run))?,
    };
    say(&done, verb.format, "restore")
}

fn tables_of(verb: &Restore) -> Result<Vec<RestoreTable>, Exit> {
    if verb.name.is_some() && verb.tables.len() != 1 {
        return Err(Exit::usage("--as names one table: give --table once"));
    }
    let tables = verb.tables.iter().map(|text| {
        let table = table_of(text)?;
        let to = verb.name.as_deref().map_or_else(|| Ok(table.clone()), table_of)?;
        Ok(RestoreTable { table, to })
    });
    tables.collect()
}

async fn whole(from: &LakeOptions, to: &LakeOptions, is_dry_run: bool) -> Result<Value, Exit> {
    let progress = BackupProgress::default();
    let done = shown(restore(from, to, is_dry_run, &progress), &progress).await?;
    Ok(serde_json::to_value(done).unwrap_or_default())
}

async fn some(
    from: &LakeOptions,
    to: &LakeOptions,
    tables: &[RestoreTable],
    is_dry_run: bool,
) -> Result<Value, Exit> {
    if !Lake::is_at(to).await? {
        return Err(Exit::failed(format!("there is no lake at {}", to.root)));
    }
    let lake = Lake::open(to.clone()).await?;
    let progress = BackupProgress::default();
    let work = restore_tables(from, &lake, tables, is_dry_run, &progress);
    let done = shown(work, &progress).await?;
    Ok(serde_json::to_value(done).unwrap_or_default())
}
