//! What is computed of an upload's bytes while they come, and what its client says of them.
//!
//! SHA-256 names a large blob in the lake. CRC-64/NVME is what object stores check transfers by; a client
//! that sends gigabytes computes it twenty times as fast, and the server tells it the SHA-256.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use crc_fast::CrcAlgorithm::Crc64Nvme;
use lakebed_core::{Error, Result};
use sha2::{Digest as _, Sha256};

use crate::blob::hex;

/// Bytes of a local file that are read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The checksum by which a client says what it sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// SHA-256, 64 hexadecimal digits in lower case.
    Sha256(String),
    /// CRC-64/NVME, 16 hexadecimal digits in lower case.
    Crc64Nvme(String),
}

impl Claimed {
    /// The checksum of a request, which names exactly one.
    ///
    /// # Errors
    /// `InvalidArgument` for none, for both, and for what is not hexadecimal or of another length.
    pub fn of(sha256: Option<&str>, crc64nvme: Option<&str>) -> Result<Claimed> {
        let digits = |name: &str, value: &str, count: usize| {
            let is_hex = value.len() == count && value.bytes().all(|byte| byte.is_ascii_hexdigit());
            match is_hex {
                true => Ok(value.to_ascii_lowercase()),
                false => {
                    Err(Error::invalid(format!("field `{name}` is not {count} hexadecimal digits")))
                }
            }
        };
        match (sha256, crc64nvme) {
            (Some(sha256), None) => Ok(Claimed::Sha256(digits("sha256", sha256, 64)?)),
            (None, Some(crc)) => Ok(Claimed::Crc64Nvme(digits("crc64nvme", crc, 16)?)),
            (None, None) => {
                Err(Error::invalid("field `sha256` is missing, and `crc64nvme` in its place too"))
            }
            (Some(_), Some(_)) => {
                Err(Error::invalid("fields `sha256` and `crc64nvme` are both given; send one"))
            }
        }
    }

    /// The field that it came in.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Claimed::Sha256(_) => "sha256",
            Claimed::Crc64Nvme(_) => "crc64nvme",
        }
    }

    pub(crate) fn value(&self) -> &str {
        match self {
            Claimed::Sha256(value) | Claimed::Crc64Nvme(value) => value,
        }
    }
}

/// The checksums of some bytes in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checksums {
    pub(crate) sha256: String,
    pub(crate) crc64nvme: String,
}

impl Checksums {
    /// The one that a client named.
    pub(crate) fn like(&self, claimed: &Claimed) -> &str {
        match claimed {
            Claimed::Sha256(_) => &self.sha256,
            Claimed::Crc64Nvme(_) => &self.crc64nvme,
        }
    }
}

/// Both checksums, growing with the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Hasher {
    sha256: Sha256,
    crc64nvme: crc_fast::Digest,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Hasher { sha256: Sha256::new(), crc64nvme: crc_fast::Digest::new(Crc64Nvme) }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.crc64nvme.update(bytes);
    }

    pub(crate) fn finish(self) -> Checksums {
        Checksums {
            sha256: hex(&self.sha256.finalize()),
            crc64nvme: format!("{:016x}", self.crc64nvme.finalize()),
        }
    }
}

/// The checksums of a local file.
pub(crate) fn of_file(path: &Path) -> std::io::Result<Checksums> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Uploads whose checksums are kept; those beyond are read again at their end.
const KEPT_MAX: usize = 10_000;

/// By upload: how many bytes, and what was computed of them.
type Kept = HashMap<String, Option<(u64, Hasher)>>;

/// Checksums of uploads whose bytes all came in one request of this process, by id: with one of these the
/// end of an upload need not read it again. An upload that a request left unfinished has none here and
/// never gets one, because the last piece of that request may still be on its way to the disk.
static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

/// Notes that a request begins to write an upload; what is to be fed with it while it does, if this is
/// the first one.
pub(crate) fn begin(id: &str, stored: u64) -> Option<Hasher> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let is_first = stored == 0 && !kept.contains_key(id) && kept.len() < KEPT_MAX;
    if is_first || kept.contains_key(id) {
        kept.insert(id.to_owned(), None);
    }
    is_first.then(Hasher::new)
}

/// Keeps what was computed of an upload that came in one request.
pub(crate) fn keep(id: &str, size: u64, hasher: Hasher) {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), Some((size, hasher)));
}

/// The checksums of an upload of `size` bytes, if they were kept.
pub(crate) fn kept(id: &str, size: u64) -> Option<Checksums> {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let (bytes, hasher) = kept.get(id)?.as_ref()?;
    (*bytes == size).then(|| hasher.clone().finish())
}

/// Forgets what was kept of an upload.
pub(crate) fn forget(id: &str) {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_that_others_compute() {
        let mut hasher = Hasher::new();
        hasher.update(b"1234");
        hasher.update(b"56789");
        let checksums = hasher.finish();
        // The check value of CRC-64/NVME in the catalogue of parametrised CRC algorithms.
        assert_eq!(checksums.crc64nvme, "ae8b14860a799888");
        let known = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        assert_eq!(checksums.sha256, known);
    }

    #[test]
    fn a_claim_is_one_checksum_of_its_length() {
        let crc = "AE8B14860A799888";
        assert_eq!(Claimed::of(None, Some(crc)).unwrap().value(), "ae8b14860a799888");
        for (sha256, crc64nvme, word) in [
            (None, None, "missing"),
            (Some("00"), None, "`sha256` is not 64"),
            (None, Some("00"), "`crc64nvme` is not 16"),
            (Some(crc), Some(crc), "both"),
        ] {
            let error = Claimed::of(sha256, crc64nvme).unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
    }
}
