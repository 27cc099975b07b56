//! DoExchange: known to the protocol, not built.

use lakebed_core::{Error, ErrorKind};

/// The answer to every DoExchange.
pub(crate) fn do_exchange() -> Error {
    Error::new(ErrorKind::NotImplemented, "DoExchange is not built yet")
}
