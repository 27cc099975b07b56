//! The marker with which a client says that all it had to send was sent.
//!
//! A client that fails inside `with writer:` still ends its stream cleanly, so a clean end alone says
//! little. With `"commit": "explicit"` the last message must carry the marker; without it a marker is
//! optional, and checked all the same.

use lakebed_core::{Error, Result};
use lakebed_proto::command::{CommitMarker, CommitRule};

/// Checks the app_metadata of the messages of one write, and its end.
#[derive(Debug)]
pub(crate) struct MarkerCheck {
    rule: CommitRule,
    rows: u64,
    is_marked: bool,
}

impl MarkerCheck {
    pub(crate) fn new(rule: CommitRule) -> Self {
        MarkerCheck { rule, rows: 0, is_marked: false }
    }

    /// Takes the next message, which brought `rows` rows.
    ///
    /// # Errors
    /// `InvalidArgument` for a message after the marker, a marker that says no or another number of
    /// rows, and, where a marker is needed, for metadata that is none.
    pub(crate) fn message(&mut self, app_metadata: &[u8], rows: u64) -> Result<()> {
        if self.is_marked {
            return Err(Error::invalid("a message follows the commit marker; nothing was written"));
        }
        self.rows = self.rows.saturating_add(rows);
        if app_metadata.is_empty() {
            return Ok(());
        }
        let marker: CommitMarker = match serde_json::from_slice(app_metadata) {
            Ok(marker) => marker,
            // Clients attach metadata of their own, and only an explicit commit gives it a meaning.
            Err(_) if self.rule == CommitRule::OnEnd => return Ok(()),
            Err(error) => {
                return Err(Error::invalid(format!(
                    "app_metadata is not a commit marker like {{\"commit\":true,\"rows\":0}}: {error}"
                )));
            }
        };
        if !marker.commit {
            return Err(Error::invalid("the commit marker says false; nothing was written"));
        }
        if marker.rows != self.rows {
            return Err(Error::invalid(format!(
                "the commit marker says {} rows and {} came; nothing was written",
                marker.rows, self.rows
            )));
        }
        self.is_marked = true;
        Ok(())
    }

    /// Takes the end of the stream.
    ///
    /// # Errors
    /// `InvalidArgument` where a marker is needed and did not come.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rule == CommitRule::Explicit && !self.is_marked {
            return Err(Error::invalid(
                "the stream ended without the commit marker that commit `explicit` asks for; \
                 nothing was written",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rule: CommitRule, messages: &[(&str, u64)]) -> Result<()> {
        let mut check = MarkerCheck::new(rule);
        for (metadata, rows) in messages {
            check.message(metadata.as_bytes(), *rows)?;
        }
        check.end()
    }

    #[test]
    fn an_explicit_commit_needs_its_marker_last_and_right() {
        use CommitRule::Explicit;
        run(Explicit, &[("", 2), ("", 3), (r#"{"commit":true,"rows":5}"#, 0)]).unwrap();
        run(Explicit, &[("", 2), (r#"{"commit":true,"rows":5}"#, 3)]).unwrap();
        run(Explicit, &[(r#"{"commit":true,"rows":0}"#, 0)]).unwrap();
        for (bad, word) in [
            (&[("", 2)][..], "without"),
            (&[], "without"),
            (&[("", 2), (r#"{"commit":true,"rows":3}"#, 0)], "3 rows and 2 came"),
            (&[("", 2), (r#"{"commit":false,"rows":2}"#, 0)], "false"),
            (&[("", 2), (r#"{"commit":true,"rows":2}"#, 0), ("", 0)], "follows"),
            (&[("", 2), (r#"{"commit":true}"#, 0)], "not a commit marker"),
            (&[("", 2), (r#"{"commit":true,"rows":2,"x":1}"#, 0)], "not a commit marker"),
            (&[("", 2), (r#"{"commit":true,"rows":-2}"#, 0)], "not a commit marker"),
            (&[("hello", 2)], "not a commit marker"),
        ] {
            let error = run(Explicit, bad).unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
    }

    #[test]
    fn without_the_rule_a_marker_is_optional_but_checked() {
        use CommitRule::OnEnd;
        run(OnEnd, &[("", 2)]).unwrap();
        run(OnEnd, &[]).unwrap();
        run(OnEnd, &[("batch 7 of mine", 2), (r#"{"my":"own"}"#, 1)]).unwrap();
        run(OnEnd, &[("", 2), (r#"{"commit":true,"rows":2}"#, 0)]).unwrap();
        assert!(run(OnEnd, &[("", 2), (r#"{"commit":true,"rows":1}"#, 0)]).is_err());
        assert!(run(OnEnd, &[("", 2), (r#"{"commit":false,"rows":2}"#, 0)]).is_err());
        assert!(run(OnEnd, &[(r#"{"commit":true,"rows":0}"#, 0), ("", 2)]).is_err());
    }
}
