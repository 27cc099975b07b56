//! `lakebed completion SHELL`.

use clap::Args;
use clap_complete::Shell;

use crate::cli::command_line;
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(verb: &Completion) -> Result<(), Exit> {
    let mut script = Vec::new();
    clap_complete::generate(verb.shell, &mut command_line(), "lakebed", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}
