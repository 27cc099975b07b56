//! Changes run once.
//!
//! The ticket of a change may be sent twice, by a client that tries again or by mistake. Each is noted
//! when it begins, until it would have expired anyway. A ticket of an earlier process is refused, because
//! that one's notes are gone: whether it ran is for the client to look up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lakebed_core::{Error, ErrorKind, Result};

/// The changes that this process began.
#[derive(Debug)]
pub(crate) struct Once {
    process: String,
    begun: Mutex<HashMap<String, i64>>,
}

impl Default for Once {
    fn default() -> Self {
        let process = uuid::Uuid::now_v7().simple().to_string();
        Once { process, begun: Mutex::default() }
    }
}

impl Once {
    /// Names this process.
    pub(crate) fn process(&self) -> &str {
        &self.process
    }

    /// Takes the only run of a change.
    ///
    /// # Errors
    /// `AlreadyExists` when it was taken, `CommitUnknown` when another process planned it.
    pub(crate) fn take(
        &self,
        id: &str,
        process: Option<&str>,
        expires_at_ms: i64,
        now_ms: i64,
    ) -> Result<()> {
        if process != Some(&self.process) {
            return Err(Error::new(
                ErrorKind::CommitUnknown,
                "the ticket of this change is of another server process; look whether it ran, then \
                 send the statement again",
            ));
        }
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|_, expires_at_ms| *expires_at_ms > now_ms);
        match begun.insert(id.to_owned(), expires_at_ms) {
            None => Ok(()),
            Some(_) => Err(Error::new(
                ErrorKind::AlreadyExists,
                "the ticket of this change was used before; a change runs once",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_runs_once() {
        let once = Once::default();
        let own = Some(once.process().to_owned());
        once.take("a", own.as_deref(), 10, 0).unwrap();
        let again = once.take("a", own.as_deref(), 10, 5).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        once.take("b", own.as_deref(), 10, 5).unwrap();
        let other = once.take("c", Some("other"), 10, 5).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::CommitUnknown);
        once.take("d", own.as_deref(), 30, 20).unwrap();
        assert_eq!(once.begun.lock().unwrap().len(), 1);
    }
}
