//! What a server says of itself in `_lakebed/servers/<id>.json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::dooms::{Answer, Dooms};

/// A server and where the others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddresses {
    /// Names one process from its start to its end.
    pub id: String,
    /// The base URL of its HTTP port, such as `http://10.0.0.7:10024`.
    pub http: String,
    /// The base URL of its Flight port.
    pub flight: String,
}

/// A server's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerRecord {
    #[serde(flatten)]
    pub(super) at: ServerAddresses,
    /// Rises while the server is there.
    pub(super) beat: u64,
    /// SHA-256 of what the server shows to the others, in hexadecimal.
    pub(super) secret_sha256: String,
    /// What the server is about to delete.
    #[serde(default)]
    pub(super) dooms: Dooms,
    /// What it says to the dooms of the others, by their ids.
    #[serde(default)]
    pub(super) answers: BTreeMap<String, Answer>,
}

impl ServerRecord {
    pub(super) fn encode(&self) -> Result<Bytes> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|error| Error::internal("encode a server's record").with_source(error))
    }

    pub(super) fn decode(path: &str, bytes: &[u8]) -> Result<ServerRecord> {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("`{path}` is damaged")).with_source(error)
        })
    }
}

pub(super) fn record_path(id: &str) -> String {
    format!("servers/{id}.json")
}
