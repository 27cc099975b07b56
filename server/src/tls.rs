//! TLS for both ports: the certificate and its key, and their renewal while the server runs.
//!
//! ```text
//!   start ─► Tls::open ─► acceptor (one for each port) ─► accept.rs shakes hands
//!              │ reads both files                └─ asks Current for the pair, each time anew
//!              └─► run_renewal: SIGHUP, or a file that changed ─► reads both ─► Current
//! ```
//!
//! What always holds: a pair that does not fit is never used; a server does not start with one, and a
//! running server keeps the pair that it has and says so in its log. Connections that are open go on
//! with the certificate that they began with.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// What each port offers to speak inside TLS.
pub(crate) const HTTP_PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];
/// gRPC is HTTP/2 alone.
pub(crate) const FLIGHT_PROTOCOLS: &[&[u8]] = &[b"h2"];

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Chains take some kilobytes; a path that leads elsewhere must not fill the memory.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// Where certificate and key lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub(crate) cert: PathBuf,
    /// The key of the first certificate.
    pub(crate) key: PathBuf,
}

/// The pair that is in use, and what renews it.
pub(crate) struct Tls {
    files: TlsFiles,
    current: Arc<Current>,
    seen: Stamp,
    hangup: Signal,
}

impl Tls {
    /// Reads both files. From here on SIGHUP no longer ends the process.
    ///
    /// # Errors
    /// Wrong usage for files that cannot be read, are no PEM or do not fit together.
    pub(crate) async fn open(files: TlsFiles) -> Result<Tls, Exit> {
        let hangup = signal(SignalKind::hangup())
            .map_err(|error| Exit::failed(format!("catch signals: {error}")))?;
        let (seen, pair) = read_in_background(files.clone()).await;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair.map_err(Exit::usage)?)));
        Ok(Tls { files, current, seen, hangup })
    }

    /// What shakes hands on a port that speaks `protocols`.
    ///
    /// # Errors
    /// Failure when the provider does not speak the usual versions of TLS.
    pub(crate) fn acceptor(&self, protocols: &[&[u8]]) -> Result<TlsAcceptor, Exit> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Exit::failed(format!("set up TLS: {error}")))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Renews the pair on SIGHUP and when a file changed, until `stop` is cancelled.
    pub(crate) async fn run_renewal(mut self, stop: CancellationToken) {
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = self.hangup.recv() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            self.renew(asked).await;
        }
    }

    async fn renew(&mut self, asked: bool) {
        let files = self.files.clone();
        let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
        if !asked && stamp_in_background(files.clone()).await == self.seen {
            return;
        }
        // The stamp is older than what was read, so a change in between is seen the next time.
        let (seen, pair) = read_in_background(files).await;
        self.seen = seen;
        match pair {
            Ok(pair) => {
                self.current.0.store(Arc::new(pair));
                tracing::info!(cert, key, "the TLS certificate was read anew");
            }
            Err(error) => {
                tracing::warn!(
                    cert,
                    key,
                    error,
                    "the TLS certificate was not renewed; the one before stays"
                );
            }
        }
    }
}

/// Answers every handshake with the pair that is in use.
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key has no place in a debug line.
        f.write_str("Current")
    }
}

/// What tells a changed file: a file that is replaced has another inode, one that is written another
/// time. `None` stands for a file that is missing.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.cert, &files.key].map(|path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    })
}

async fn stamp_in_background(files: TlsFiles) -> Stamp {
    tokio::task::spawn_blocking(move || stamp(&files)).await.unwrap_or_default()
}

/// Reads the pair on a thread that may block, and the stamp before it.
async fn read_in_background(files: TlsFiles) -> (Stamp, Result<CertifiedKey, String>) {
    let read = tokio::task::spawn_blocking(move || (stamp(&files), read_pair(&files))).await;
    read.unwrap_or_else(|error| (Stamp::default(), Err(format!("read the TLS files: {error}"))))
}

fn read_pair(files: &TlsFiles) -> Result<CertifiedKey, String> {
    let chain = read_certificates(&files.cert)?;
    let key = read_key(&files.key)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| {
        let (cert, key) = (files.cert.display(), files.key.display());
        match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("the TLS key `{key}` is not the key of the certificate `{cert}`")
            }
            error => format!("the TLS certificate `{cert}` with the key `{key}`: {error}"),
        }
    })
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// A text that names the file, when it cannot be read or holds none.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: &dyn fmt::Display| format!("TLS certificate `{}`: {why}", path.display());
    let pem = read_bounded(path).map_err(|error| wrong(&error))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&format_args!("not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(wrong(&"the file holds no certificate in PEM"));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let wrong = |why: &dyn fmt::Display| format!("TLS key `{}`: {why}", path.display());
    let pem = read_bounded(path).map_err(|error| wrong(&error))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        PemError::NoItemsFound => {
            wrong(&"the file holds no key in PEM (PKCS#8, SEC1 or PKCS#1, without a password)")
        }
        error => wrong(&format_args!("not PEM: {error}")),
    })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    match read as u64 > PEM_BYTES_MAX {
        true => Err(format!("larger than {PEM_BYTES_MAX} bytes")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_hold_nothing_useful_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pem");
        let missing = read_certificates(&path).unwrap_err();
        assert!(missing.contains("x.pem") && missing.contains("No such file"), "{missing}");
        for text in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
        {
            std::fs::write(&path, text).unwrap();
            let error = read_certificates(&path).unwrap_err();
            assert!(error.contains("no certificate"), "{error}");
        }
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n!!\n").unwrap();
        assert!(read_certificates(&path).unwrap_err().contains("not PEM"));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        let error = read_key(&path).unwrap_err();
        assert!(error.contains("no key"), "{error}");
        std::fs::write(&path, vec![b'\n'; PEM_BYTES_MAX as usize + 1]).unwrap();
        assert!(read_key(&path).unwrap_err().contains("larger"));
    }

    #[test]
    fn a_file_that_is_replaced_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles { cert: folder.path().join("cert"), key: folder.path().join("key") };
        let nothing = stamp(&files);
        assert_eq!(nothing, [None, None]);
        std::fs::write(&files.cert, "a").unwrap();
        let one = stamp(&files);
        assert_ne!(one, nothing);
        assert_eq!(one, stamp(&files));
        let other = folder.path().join("other");
        std::fs::write(&other, "b").unwrap();
        std::fs::rename(&other, &files.cert).unwrap();
        assert_ne!(stamp(&files), one);
    }
}
