//! Asks before something that cannot be taken back.

use std::io::{BufRead as _, IsTerminal as _};

use crate::exit::Exit;

/// Goes on when `yes` was given or a person at the terminal says so.
///
/// # Errors
/// Wrong usage where there is nobody to ask, failure where the answer is no.
pub(crate) fn confirm(yes: bool, question: &str) -> Result<(), Exit> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Exit::usage(format!("{question} say --yes; there is no terminal to ask at")));
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
