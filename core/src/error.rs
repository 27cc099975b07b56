//! One error type, sorted by what the caller should do next.
//!
//! Crates below the doors keep their own precise errors where they need them and convert into this
//! one once, at their border. The doors turn [`ErrorKind`] into gRPC and HTTP codes with the single
//! table in `lakebed-proto`. Messages are lowercase, say what and which, and never carry the contents
//! of rows.

use std::fmt;

/// Result with Lakebed's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller of a failed request should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Fix the request; sending it again as it is fails again.
    InvalidArgument,
    /// Present a key.
    Unauthenticated,
    /// The key does not allow this.
    Denied,
    /// What was named does not exist.
    NotFound,
    /// What was to be made exists.
    AlreadyExists,
    /// Lost a race: re-read, then try again.
    Conflict,
    /// A limit on concurrent work was hit: try again after the stated delay.
    Busy,
    /// A part that is needed cannot be reached or is shutting down: try again.
    Unavailable,
    /// The request ran past its deadline.
    DeadlineExceeded,
    /// The client went away before the work was done; nothing was committed.
    Cancelled,
    /// It is not known whether the commit happened: look before trying again.
    CommitUnknown,
    /// Known to the protocol, not built here.
    NotImplemented,
    /// The storage holds something that it must not: stop and call someone.
    Corrupt,
    /// Our bug.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tables and tests that must cover all of them.
    pub const ALL: [ErrorKind; 14] = [
        ErrorKind::InvalidArgument,
        ErrorKind::Unauthenticated,
        ErrorKind::Denied,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::Conflict,
        ErrorKind::Busy,
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Cancelled,
        ErrorKind::CommitUnknown,
        ErrorKind::NotImplemented,
        ErrorKind::Corrupt,
        ErrorKind::Internal,
    ];

    /// The stable snake_case name that clients match on.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::InvalidArgument => "invalid_argument",
            ErrorKind::Unauthenticated => "unauthenticated",
            ErrorKind::Denied => "denied",
            ErrorKind::NotFound => "not_found",
            ErrorKind::AlreadyExists => "already_exists",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Busy => "busy",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::DeadlineExceeded => "deadline_exceeded",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::CommitUnknown => "commit_unknown",
            ErrorKind::NotImplemented => "not_implemented",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Internal => "internal",
        }
    }
}

/// What an error is about, for protocols that number "not found" and "exists" by their object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A namespace or a database.
    Namespace,
    /// A table.
    Table,
    /// An index of a table.
    Index,
    /// A tag of a table.
    Tag,
    /// A version of a table.
    Version,
    /// A column of a table.
    Column,
    /// A branch of a table.
    Branch,
    /// A cursor of a table.
    Cursor,
    /// A row set of a table.
    RowSet,
    /// A function that a user registered.
    Function,
    /// A secret.
    Secret,
    /// A model that a user registered.
    Model,
}

/// An error with its kind, a message for people and the cause for logs.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    subject: Option<Subject>,
    retry_after_ms: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with `message`: lowercase, what and which, no row contents.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            subject: None,
            retry_after_ms: None,
            source: None,
        }))
    }

    /// Says what the error is about.
    pub fn about(mut self, subject: Subject) -> Self {
        self.0.subject = Some(subject);
        self
    }

    /// Attaches the cause. It is shown to people once, by [`Error::report`], never by `Display`.
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// States after how many milliseconds trying again makes sense.
    pub fn with_retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.0.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// Puts what was being done before the message: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without its cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the error is about, where whoever made it said so.
    pub fn subject(&self) -> Option<Subject> {
        self.0.subject
    }

    /// Milliseconds after which trying again makes sense, where that is known.
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.0.retry_after_ms
    }

    /// The message followed by each cause once, for logs.
    pub fn report(&self) -> String {
        let mut text = self.0.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
    }

    /// `InvalidArgument` with `message`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// `NotFound` with `message`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::NotFound, message)
    }

    /// `Internal` with `message`.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.name(), self.report())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_reported_once_and_never_displayed() {
        let cause = std::io::Error::other("disk is on fire");
        let error = Error::new(ErrorKind::Unavailable, "write manifest").with_source(cause);
        assert_eq!(error.to_string(), "write manifest");
        assert_eq!(error.report(), "write manifest: disk is on fire");
    }

    #[test]
    fn an_error_is_one_pointer() {
        // Results travel through deeply nested futures; a fat error would swell each of them.
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn kind_names_are_distinct() {
        let names: std::collections::HashSet<_> =
            ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }
}
