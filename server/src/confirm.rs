//! Asks a person before something that is hard to take back. A script that runs a verb meant it.

use std::io::{BufRead as _, IsTerminal as _};

use crate::exit::Exit;

/// Goes on when `yes` was given, when there is no terminal to ask at, or when the answer is yes.
///
/// # Errors
/// Failure where the answer is no.
pub(crate) fn confirm(yes: bool, question: &str) -> Result<(), Exit> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Exit::failed(format!("read the answer: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Exit::failed("nothing was done")),
    }
}
