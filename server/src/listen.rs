//! Which addresses the server listens on, and whether it may.
//!
//! The LanceDB SDKs take the Flight port to be the HTTP port + 1, so that is the default; with HTTP
//! port 0 a free pair of neighbours is looked for. What always holds: a server that lets everybody
//! in listens on loopback only, and one without TLS leaves loopback only when it is told to.

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpListener;

use crate::config::Config;
use crate::exit::Exit;

/// Tries to find two free neighbours among the ports that the system offers.
const PAIR_ATTEMPTS: usize = 128;

/// The two open ports.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// HTTP.
    pub(crate) http: TcpListener,
    /// Where HTTP listens.
    pub(crate) http_addr: SocketAddr,
    /// Flight.
    pub(crate) flight: TcpListener,
    /// Where Flight listens.
    pub(crate) flight_addr: SocketAddr,
}

/// Opens both ports as the settings say.
///
/// # Errors
/// Wrong usage for an address that is none or may not be listened on; failure for a port in use.
pub(crate) async fn listen(config: &Config) -> Result<Listeners, Exit> {
    let http = resolve(&config.http_addr).await?;
    let flight = match &config.flight_addr {
        Some(text) => Some(resolve(text).await?),
        None => None,
    };
    for addr in [Some(http), flight].into_iter().flatten() {
        check_allowed(addr, config)?;
    }
    let (http, flight) = match flight {
        Some(flight) => (bind(http).await?, bind(flight).await?),
        None if http.port() == 0 => bind_pair(http.ip()).await?,
        None => {
            let port = http.port().checked_add(1).ok_or_else(|| {
                Exit::usage("the HTTP port is 65535, so there is none above it for Flight")
            })?;
            (bind(http).await?, bind(SocketAddr::new(http.ip(), port)).await?)
        }
    };
    let addr = |listener: &TcpListener| {
        listener.local_addr().map_err(|error| Exit::failed(format!("ask for a port: {error}")))
    };
    Ok(Listeners { http_addr: addr(&http)?, flight_addr: addr(&flight)?, http, flight })
}

async fn resolve(text: &str) -> Result<SocketAddr, Exit> {
    let mut found = tokio::net::lookup_host(text)
        .await
        .map_err(|error| Exit::usage(format!("`{text}` is no address host:port: {error}")))?;
    found.next().ok_or_else(|| Exit::usage(format!("`{text}` resolves to no address")))
}

fn check_allowed(addr: SocketAddr, config: &Config) -> Result<(), Exit> {
    if is_loopback(addr.ip()) {
        return Ok(());
    }
    if config.allow_anonymous {
        return Err(Exit::usage(format!(
            "{addr} is not loopback; --allow-anonymous would let the network do everything"
        )));
    }
    if config.tls.is_none() && !config.insecure {
        return Err(Exit::usage(format!(
            "{addr} is not loopback and there is no TLS; keys and data would cross the network \
             readably. Give --tls-cert and --tls-key, or say --insecure"
        )));
    }
    Ok(())
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, Exit> {
    TcpListener::bind(addr)
        .await
        .map_err(|error| Exit::failed(format!("listen on {addr}: {error}")))
}

async fn bind_pair(ip: IpAddr) -> Result<(TcpListener, TcpListener), Exit> {
    // Pairs that do not fit stay open until the end, so that the system offers other ports.
    let mut tried = Vec::new();
    for _ in 0..PAIR_ATTEMPTS {
        let http = bind(SocketAddr::new(ip, 0)).await?;
        let port = http
            .local_addr()
            .map_err(|error| Exit::failed(format!("ask for a port: {error}")))?
            .port();
        if let Some(next) = port.checked_add(1)
            && let Ok(flight) = TcpListener::bind(SocketAddr::new(ip, next)).await
        {
            return Ok((http, flight));
        }
        tried.push(http);
    }
    Err(Exit::failed(format!("no two free neighbouring ports in {PAIR_ATTEMPTS} attempts on {ip}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Layer};
    use crate::tls::TlsFiles;

    fn config(http: &str, flight: Option<&str>, anonymous: bool, insecure: bool) -> Config {
        let layer = Layer {
            http_addr: Some(http.to_owned()),
            flight_addr: flight.map(str::to_owned),
            allow_anonymous: Some(anonymous),
            insecure: Some(insecure),
            ..Layer::default()
        };
        Config::load(Flags { layer, config: None }, &Vec::new()).unwrap()
    }

    #[tokio::test]
    async fn port_0_takes_two_neighbours() {
        let open = listen(&config("127.0.0.1:0", None, true, false)).await.unwrap();
        assert_eq!(open.flight_addr.port(), open.http_addr.port() + 1);
        assert_eq!(open.http_addr.ip(), open.flight_addr.ip());
    }

    #[tokio::test]
    async fn a_flight_address_of_its_own_is_taken() {
        let open = listen(&config("127.0.0.1:0", Some("localhost:0"), false, false)).await.unwrap();
        assert!(open.flight_addr.ip().is_loopback());
    }

    #[tokio::test]
    async fn the_network_is_not_entered_by_accident() {
        for (http, flight, anonymous, insecure) in [
            ("0.0.0.0:0", None, false, false),
            ("127.0.0.1:0", Some("0.0.0.0:0"), false, false),
            ("[::]:0", None, false, false),
            ("0.0.0.0:0", None, true, true),
            ("127.0.0.1:0", Some("0.0.0.0:0"), true, true),
        ] {
            assert!(listen(&config(http, flight, anonymous, insecure)).await.is_err(), "{http}");
        }
        listen(&config("0.0.0.0:0", None, false, true)).await.unwrap();
        let files = TlsFiles { cert: "cert".into(), key: "key".into() };
        let tls = Config { tls: Some(files), ..config("0.0.0.0:0", None, false, false) };
        listen(&tls).await.unwrap();
        let anonymous = Config { allow_anonymous: true, ..tls };
        assert!(listen(&anonymous).await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused() {
        for bad in ["", "127.0.0.1", "127.0.0.1:70000", "127.0.0.1:65535"] {
            assert!(listen(&config(bad, None, false, false)).await.is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_a_failure() {
        let open = listen(&config("127.0.0.1:0", None, false, false)).await.unwrap();
        let taken = open.http_addr.to_string();
        assert!(listen(&config(&taken, None, false, false)).await.is_err());
    }
}
