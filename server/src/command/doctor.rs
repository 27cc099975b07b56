//! `lakebed doctor`: examines a lake that no server holds, and says in words what it found.

use std::path::PathBuf;

use clap::Args;
use lakebed_storage::{ExamineOptions, Finding, Lake, LakeOptions, Severity};
use serde_json::json;

use crate::cli::{Format, runtime};
use crate::config::{Config, Environment, Flags, Layer};
use crate::exit::Exit;
use crate::output::{print, print_json};
use crate::serve::lake_options;

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The lake's root [default: ./lakebed-data]
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    /// Read every blob and every row too, and try the indexes
    #[arg(long)]
    deep: bool,
    /// Delete what killed processes left half written
    #[arg(long)]
    repair: bool,
    /// How to print what was found
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Read settings from a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(verb: Doctor, environment: &Environment) -> Result<(), Exit> {
    let Doctor { data, deep, repair, format, config } = verb;
    let how = ExamineOptions { is_deep: deep, is_repair: repair };
    let layer = Layer { data, ..Layer::default() };
    let config = Config::load(Flags { layer, config }, environment)?;
    let options = lake_options(&config);
    let findings = runtime()?.block_on(examine(&options, how))?;
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    let (problems, notes) = (count(Severity::Problem), count(Severity::Note));
    match format {
        Format::Json => print_json(&json!({
            "lake": options.root,
            "problems": problems,
            "notes": notes,
            "findings": findings,
        }))?,
        Format::Table => {
            for finding in &findings {
                print(&sentence(finding))?;
            }
            print(&verdict(&options.root, findings.len(), problems, notes))?;
        }
    }
    match problems {
        0 => Ok(()),
        _ => Err(Exit::failed(format!("{problems} problems"))),
    }
}

async fn examine(options: &LakeOptions, how: ExamineOptions) -> Result<Vec<Finding>, Exit> {
    if !Lake::is_at(options).await? {
        return Err(Exit::failed(format!("there is no lake at {}", options.root)));
    }
    let lake = Lake::open(options.clone()).await?;
    Ok(lake.examine(how).await?)
}

fn sentence(finding: &Finding) -> String {
    let mark = match finding.severity {
        Severity::Fine => "ok     ",
        Severity::Note => "note   ",
        Severity::Problem => "PROBLEM",
    };
    format!("{mark}  {}: {}", finding.subject, finding.text)
}

fn verdict(root: &str, findings: usize, problems: usize, notes: usize) -> String {
    match (findings, problems, notes) {
        (0, ..) => format!("the lake at {root} is empty"),
        (_, 0, 0) => format!("the lake at {root} is whole"),
        (_, 0, notes) => format!("the lake at {root} is whole; {notes} things to know"),
        (_, problems, _) => format!("the lake at {root} has {problems} problems"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_says_the_worst() {
        assert!(verdict("/l", 0, 0, 0).contains("empty"));
        assert!(verdict("/l", 3, 0, 0).ends_with("is whole"));
        assert!(verdict("/l", 3, 0, 2).contains("2 things"));
        assert!(verdict("/l", 3, 1, 2).contains("1 problems"));
    }
}
