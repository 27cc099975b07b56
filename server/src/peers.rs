//! How the other servers of a lake reach this one.

use std::net::SocketAddr;

use crate::config::Config;
use crate::exit::Exit;
use crate::listen::Listeners;

/// The base URLs of the HTTP and the Flight port as other servers use them. An address that says "any"
/// is none that they could reach: the machine's name stands for it, unless a host is set.
///
/// # Errors
/// Failure when the machine has no name.
pub(crate) fn base_urls(config: &Config, listeners: &Listeners) -> Result<[String; 2], Exit> {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let url = |addr: SocketAddr| -> Result<String, Exit> {
        let host = match &config.advertise_host {
            Some(host) => host.clone(),
            None if addr.ip().is_unspecified() => machine_name()?,
            None => addr.ip().to_string(),
        };
        // An IPv6 address needs its brackets.
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Ok(format!("{scheme}://{host}:{}", addr.port()))
    };
    Ok([url(listeners.http_addr)?, url(listeners.flight_addr)?])
}

fn machine_name() -> Result<String, Exit> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => Err(Exit::usage(
            "this machine has no name that other servers could reach it by; set advertise_host",
        )),
        name => Ok(name.to_owned()),
    }
}
