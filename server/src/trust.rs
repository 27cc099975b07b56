//! Whom the command line believes: the certificates that a server's own is checked against.
//!
//! What always holds: a certificate is always checked, and its name with it. There is no switch that
//! turns this off; a private certificate is given by `--ca-cert`.

use std::path::Path;
use std::sync::Arc;

use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use lakebed_service::PeerTls;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

use crate::exit::Exit;
use crate::tls::{FLIGHT_PROTOCOLS, read_certificates};

/// What connects to a server. The system's certificates are looked for only if TLS is asked for and
/// no others were given.
///
/// # Errors
/// Wrong usage for a file without certificates; failure when the system has none either.
pub(crate) fn connector(
    has_tls: bool,
    ca_cert: Option<&Path>,
) -> Result<HttpsConnector<HttpConnector>, Exit> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config(has_tls, ca_cert)?)
        .https_or_http()
        .enable_http1()
        .build();
    Ok(connector)
}

/// How a connection of the Flight port shakes hands: gRPC is HTTP/2 alone.
///
/// # Errors
/// As [`connector`].
pub(crate) fn flight_config(ca_cert: Option<&Path>) -> Result<ClientConfig, Exit> {
    let mut config = config(true, ca_cert)?;
    config.alpn_protocols = FLIGHT_PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// How the certificates of other servers of the lake are checked.
///
/// # Errors
/// As [`connector`].
pub(crate) fn peer_tls(ca_cert: Option<&Path>) -> Result<PeerTls, Exit> {
    let mut http = config(true, ca_cert)?;
    http.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(PeerTls { http: Arc::new(http), flight: Arc::new(flight_config(ca_cert)?) })
}

fn config(has_tls: bool, ca_cert: Option<&Path>) -> Result<ClientConfig, Exit> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Exit::failed(format!("set up TLS: {error}")))?;
    let builder = match ca_cert {
        _ if !has_tls => builder.with_root_certificates(RootCertStore::empty()),
        Some(path) => builder.with_root_certificates(roots(path)?),
        None => builder.with_native_roots().map_err(|error| {
            Exit::failed(format!("{error}; give the server's certificate by --ca-cert"))
        })?,
    };
    Ok(builder.with_no_client_auth())
}

fn roots(path: &Path) -> Result<RootCertStore, Exit> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path).map_err(Exit::usage)? {
        roots.add(certificate).map_err(|error| {
            Exit::usage(format!("TLS certificate `{}`: {error}", path.display()))
        })?;
    }
    Ok(roots)
}
