//! Lance's errors, sorted once by what the caller should do.
//!
//! One exhaustive match, so that a new variant of lance is a compile error here and not a surprise at
//! run time. The two questions that cut across variants, "is it back-pressure" and "is the commit's
//! fate unknown", are asked first, because lance may wrap the answer in any variant.

use lakebed_core::{Error, ErrorKind};

/// The system's words for a full disk.
const NO_SPACE: &str = "No space left on device";

/// Converts an error of lance.
pub(crate) fn from_lance(error: lance::Error) -> Error {
    if error.is_commit_status_unknown() {
        return Error::new(ErrorKind::CommitUnknown, "the outcome of the commit is not known")
            .with_source(error);
    }
    if error.is_backpressure() {
        return Error::new(ErrorKind::Busy, "storage asks to slow down")
            .with_retry_after_ms(1_000)
            .with_source(error);
    }
    if let Some(own) = own_error(&error) {
        return own;
    }
    if is_disk_full(&error) {
        return Error::new(
            ErrorKind::Unavailable,
            format!("the disk is full ({NO_SPACE}); nothing was written"),
        )
        .with_retry_after_ms(5_000)
        .with_source(error);
    }
    let kind = match kind_of(&error) {
        ErrorKind::Internal => wrapped_kind(&error).unwrap_or(ErrorKind::Internal),
        kind => kind,
    };
    let message = match kind {
        ErrorKind::InvalidArgument | ErrorKind::NotFound => plain(&error),
        ErrorKind::Conflict => "another writer committed first".to_owned(),
        ErrorKind::Unavailable => format!("storage failed: {}", plain(&error)),
        ErrorKind::Corrupt => format!("storage holds a damaged file: {}", plain(&error)),
        _ => plain(&error),
    };
    Error::new(kind, message).with_source(error)
}

fn kind_of(error: &lance::Error) -> ErrorKind {
    use lance::Error as L;
    match error {
        L::InvalidInput { .. }
        | L::SchemaMismatch { .. }
        | L::NotSupported { .. }
        | L::Unprocessable { .. }
        | L::Schema { .. }
        | L::InvalidTableLocation { .. }
        | L::InvalidRef { .. }
        | L::FieldNotFound { .. }
        | L::PrerequisiteFailed { .. } => ErrorKind::InvalidArgument,
        L::Arrow { .. } | L::Execution { .. } => {
            if error.is_not_found() {
                ErrorKind::Unavailable
            } else {
                ErrorKind::InvalidArgument
            }
        }
        L::DatasetNotFound { .. }
        | L::NotFound { .. }
        | L::RefNotFound { .. }
        | L::VersionNotFound { .. }
        | L::IndexNotFound { .. } => ErrorKind::NotFound,
        L::DatasetAlreadyExists { .. } | L::RefConflict { .. } => ErrorKind::AlreadyExists,
        L::CommitConflict { .. }
        | L::IncompatibleTransaction { .. }
        | L::RetryableCommitConflict { .. }
        | L::TooMuchWriteContention { .. }
        | L::VersionConflict { .. } => ErrorKind::Conflict,
        L::Timeout { .. } => ErrorKind::DeadlineExceeded,
        L::IO { .. } | L::Stop | L::DiskCapExceeded { .. } | L::Fenced { .. } => {
            ErrorKind::Unavailable
        }
        L::Backpressure { .. } => ErrorKind::Busy,
        L::CorruptFile { .. } => ErrorKind::Corrupt,
        L::Wrapped { .. } | L::External { .. } => ErrorKind::Internal,
        L::Cloned { .. }
        | L::Internal { .. }
        | L::Index { .. }
        | L::Cleanup { .. }
        | L::Namespace { .. } => ErrorKind::Internal,
        L::Shared { source } => kind_of(source),
    }
}

/// An error of ours that travelled through one of lance's streams comes back as it was.
fn own_error(error: &lance::Error) -> Option<Error> {
    // A transparent variant says the source of what it holds, not what it holds itself.
    if let Some(held) = error.external_source()
        && let Some(own) = find_own(held.as_ref())
    {
        return Some(own);
    }
    find_own(error)
}

fn find_own(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    find(error, &|error| error.downcast_ref::<StreamError>().map(StreamError::to_error))
}

/// The kind of an error of lance that other errors are wrapped around, such as a store that did not
/// answer while a plan ran.
fn wrapped_kind(error: &lance::Error) -> Option<ErrorKind> {
    let look = |error: &(dyn std::error::Error + 'static)| {
        let kind = error.downcast_ref::<lance::Error>().map(kind_of)?;
        Some(kind).filter(|kind| *kind != ErrorKind::Internal)
    };
    error
        .external_source()
        .and_then(|held| find(held.as_ref(), &look))
        .or_else(|| find(error, &look))
}

/// The first thing that `look` finds in an error or below it.
fn find<T>(
    error: &(dyn std::error::Error + 'static),
    look: &dyn Fn(&(dyn std::error::Error + 'static)) -> Option<T>,
) -> Option<T> {
    use arrow_schema::ArrowError;
    use datafusion::error::DataFusionError;

    if let Some(found) = look(error) {
        return Some(found);
    }
    // Boxed errors hide behind wrappers that do not show them as their source.
    let held: Option<&(dyn std::error::Error + 'static)> = match error.downcast_ref() {
        Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
        Some(DataFusionError::ArrowError(inner, _)) => Some(inner.as_ref()),
        Some(DataFusionError::Context(_, inner)) => Some(inner.as_ref()),
        Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
        _ => match error.downcast_ref() {
            Some(ArrowError::ExternalError(inner)) => Some(inner.as_ref()),
            _ => match error.downcast_ref::<lance::Error>() {
                Some(inner) => inner.external_source().map(|inner| inner.as_ref() as _),
                None => None,
            },
        },
    };
    held.and_then(|held| find(held, look))
        .or_else(|| error.source().and_then(|source| find(source, look)))
}

fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let look = |error: &(dyn std::error::Error + 'static)| {
        let io = error.downcast_ref::<std::io::Error>()?;
        (io.kind() == std::io::ErrorKind::StorageFull).then_some(())
    };
    // object_store and lance's writers keep only the text of some IO errors.
    find(error, &look).is_some() || error.to_string().contains(NO_SPACE)
}

/// Lance's message without the source location it appends and without its variant's prefix.
fn plain(error: &lance::Error) -> String {
    let text = error.to_string();
    let text = match text.rfind(", ") {
        Some(at) if text[at..].contains(".rs:") => &text[..at],
        _ => &text,
    };
    let text = ["Invalid user input: ", "Not found: ", "Ref not found error: "]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    without_folders(text)
}

/// The text with the folders that lead to a table, or to any other absolute path, left out: where a lake
/// lies is the operator's business. The error itself, which goes to the log, keeps them.
pub fn without_folders(text: &str) -> String {
    let is_border = |c: char| c.is_whitespace() || "'\"`(){}[],;".contains(c);
    text.split_inclusive(is_border)
        .map(|word| {
            let path = word.trim_end_matches(is_border).trim_end_matches(['.', ':']);
            &word[path.len() - shown_of(path).len()..]
        })
        .collect()
}

/// The part of a path from its table on; of another absolute path its last segment.
fn shown_of(path: &str) -> &str {
    if let Some(at) = path.find(".lance/").or_else(|| path.strip_suffix(".lance").map(str::len)) {
        let begin = path[..at].rfind('/').map_or(0, |slash| slash + 1);
        return &path[begin..];
    }
    let is_absolute = path.contains("://") || (path.starts_with('/') && path[1..].contains('/'));
    if is_absolute { &path[path.rfind('/').map_or(0, |slash| slash + 1)..] } else { path }
}

/// The error of ours that DataFusion carries, or that of lance converted; nothing for one of its own.
pub(crate) fn from_datafusion(error: &datafusion::error::DataFusionError) -> Option<Error> {
    if let Some(own) = find_own(error) {
        return Some(own);
    }
    find(error, &|error| error.downcast_ref::<lance::Error>().map(told))
}

/// What is known of an error that cannot be taken.
fn told(error: &lance::Error) -> Error {
    let kind = match kind_of(error) {
        ErrorKind::Internal => wrapped_kind(error).unwrap_or(ErrorKind::Internal),
        kind => kind,
    };
    Error::new(kind, plain(error))
}

/// Carries an error of ours through a stream that lance or DataFusion consumes.
#[derive(Debug, Clone)]
pub(crate) struct StreamError {
    kind: ErrorKind,
    message: String,
    /// For the log.
    causes: String,
    retry_after_ms: Option<u64>,
}

impl StreamError {
    pub(crate) fn new(error: &Error) -> Self {
        let report = error.report();
        let causes = report.strip_prefix(error.message()).unwrap_or(&report);
        let causes = causes.trim_start_matches(": ").to_owned();
        StreamError {
            kind: error.kind(),
            message: error.message().to_owned(),
            causes,
            retry_after_ms: error.retry_after_ms(),
        }
    }

    /// The error again, as often as wanted.
    pub(crate) fn to_error(&self) -> Error {
        let mut error = Error::new(self.kind, self.message.clone());
        if !self.causes.is_empty() {
            error = error.with_source(self.causes.clone());
        }
        match self.retry_after_ms {
            Some(ms) => error.with_retry_after_ms(ms),
            None => error,
        }
    }
}

impl std::fmt::Display for StreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StreamError {}

/// Converts an error of the object store behind the lake's own small objects.
pub(crate) fn from_object_store(error: object_store::Error, what: &str) -> Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        // Puts that want nothing to be there look at this themselves. Of anything else a bucket says so
        // (409) where another call is under way on the same object: it is to be sent again.
        object_store::Error::AlreadyExists { .. } => ErrorKind::Unavailable,
        object_store::Error::Precondition { .. } => ErrorKind::Conflict,
        _ => ErrorKind::Unavailable,
    };
    let why = match is_disk_full(&error) {
        true => format!(": the disk is full ({NO_SPACE})"),
        false => String::new(),
    };
    Error::new(kind, format!("{what} failed in storage{why}")).with_source(error)
}

/// Converts an error of the local file system.
pub(crate) fn from_io(error: std::io::Error, what: &str) -> Error {
    let message = match error.kind() {
        std::io::ErrorKind::StorageFull => format!("{what}: the disk is full ({NO_SPACE})"),
        _ => format!("{what} failed: {error}"),
    };
    Error::new(ErrorKind::Unavailable, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_error_survives_lances_wrapping() {
        let own = Error::new(ErrorKind::Cancelled, "the client went away").with_source("RST");
        let wrapped =
            datafusion::error::DataFusionError::External(Box::new(StreamError::new(&own)));
        let back = from_lance(lance::Error::from(wrapped));
        assert_eq!(back.kind(), ErrorKind::Cancelled);
        assert_eq!(back.message(), "the client went away");
        assert_eq!(back.report(), "the client went away: RST");
    }

    #[test]
    fn messages_say_nothing_of_where_the_lake_lies() {
        let cases = [
            ("URI 'file:///srv/lake/_blobs/sha256/ab/abc' is outside", "URI 'abc' is outside"),
            ("no file /srv/lake/default/t.lance/data/x.lance.", "no file t.lance/data/x.lance."),
            ("srv/lake/default/a/t.lance/_versions/1: gone", "t.lance/_versions/1: gone"),
            (
                "Dataset at path srv/lake/t.lance was not found",
                "Dataset at path t.lance was not found",
            ),
            ("(s3://bucket/lake/t.lance)", "(t.lance)"),
            ("a / b, x/y and /z of 1.5 é/", "a / b, x/y and /z of 1.5 é/"),
        ];
        for (said, shown) in cases {
            let error = from_lance(lance::Error::invalid_input(said));
            assert_eq!(error.message(), shown);
        }
    }

    #[test]
    fn messages_lose_lances_source_location() {
        let error = from_lance(lance::Error::invalid_input("no such thing"));
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.message(), "no such thing");
    }
}
