//! How a run of the program ends when it does not succeed.

use std::process::ExitCode;

use lakebed_core::{Error, ErrorKind};

/// A run that did not succeed: what to say, and with which code to leave.
#[derive(Debug)]
pub(crate) struct Exit {
    code: u8,
    message: String,
}

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

impl Exit {
    /// What was asked could not be done.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Exit { code: FAILED, message: message.into() }
    }

    /// What was asked made no sense: flags or configuration.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Exit { code: WRONG_USAGE, message: message.into() }
    }

    /// What would be said.
    pub(crate) fn into_message(self) -> String {
        self.message
    }

    /// Says it on standard error.
    pub(crate) fn report(self) -> ExitCode {
        eprintln!("error: {}", self.message);
        ExitCode::from(self.code)
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidArgument => Exit::usage(error.report()),
            _ => Exit::failed(error.report()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_is_told_from_failure() {
        assert_eq!(Exit::from(Error::invalid("x")).code, WRONG_USAGE);
        assert_eq!(Exit::from(Error::not_found("x")).code, FAILED);
    }
}
