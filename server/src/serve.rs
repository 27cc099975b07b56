//! `lakebed serve`: puts the parts together, and takes them apart in order.
//!
//! Start: signals, log, metrics, certificate, lake (its lock is taken here), service, admin key,
//! ports, doors, maintenance, ready file. Stop, within one deadline: `/readyz` says no and the ports
//! close, the service admits nothing more and waits for what runs while the doors let their
//! connections finish, the audit log is written out, the process leaves with 0. Nothing acknowledged
//! depends on a clean stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lakebed_core::SystemClock;
use lakebed_rest::RestOptions;
use lakebed_service::{Service, ServiceOptions};
use lakebed_storage::{Lake, LakeOptions};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accept::{ConnectionRules, connections};
use crate::config::Config;
use crate::exit::Exit;
use crate::listen::{Listeners, listen};
use crate::ready_file::{Addresses, ReadyFile};
use crate::signals::Signals;
use crate::telemetry::Telemetry;
use crate::tls::Tls;
use crate::{admin_key, grpc, http_server, logs, peers, secrets_key, tls, trust};

/// The version of the binary.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What writing out gets beyond the deadline, when running requests used all of it.
const FLUSH_GRACE: Duration = Duration::from_secs(5);

/// What is left to tasks that do not watch for the end, once everything else has stopped.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// Runs a server until a signal stops it.
///
/// # Errors
/// Wrong usage for settings that make no sense; failure when a part does not start or a door
/// breaks.
pub(crate) fn run(config: Config) -> Result<(), Exit> {
    logs::start(&config)?;
    let telemetry = Telemetry::install()?;
    let runtime = crate::cli::runtime()?;
    let result = runtime.block_on(serve(&config, telemetry));
    // A blocking call that hangs, on a dead network file system say, must not keep the process.
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result
}

/// Opens the lake and the service over it.
///
/// # Errors
/// What storage says: a lake that another server has open, a newer format, a root that cannot be
/// reached.
pub(crate) async fn open_service(config: &Config) -> Result<Arc<Service>, Exit> {
    let options = lake_options(config);
    let clock = Arc::clone(&options.clock);
    let lake = open_own(options).await?;
    let secrets_key_file = secrets_key::file(config, lake.lake_id())?;
    let options = ServiceOptions {
        lake,
        limits: config.limits.clone(),
        clock,
        allow_anonymous: config.allow_anonymous,
        peer_tls: config
            .tls
            .as_ref()
            .map(|_| trust::peer_tls(config.peer_ca_cert.as_deref()))
            .transpose()?,
        resident: config.resident.clone(),
        secrets_key_file,
    };
    Ok(Service::open(options).await?)
}

/// Opens a lake to serve it. A backup that is served is a backup no more.
async fn open_own(options: LakeOptions) -> Result<Arc<Lake>, Exit> {
    let lake = Lake::open(options).await?;
    lake.leave_backup().await?;
    Ok(lake)
}

/// How the settings open a lake.
pub(crate) fn lake_options(config: &Config) -> LakeOptions {
    LakeOptions {
        index_cache_bytes: config.index_cache_bytes,
        metadata_cache_bytes: config.metadata_cache_bytes,
        read_cache: config.read_cache.clone(),
        limits: config.limits.clone(),
        clock: Arc::new(SystemClock),
        ..LakeOptions::at(config.data.clone())
    }
}

async fn serve(config: &Config, telemetry: Telemetry) -> Result<(), Exit> {
    let mut signals = Signals::catch()?;
    let tls = match &config.tls {
        Some(files) => Some(Tls::open(files.clone()).await?),
        None => None,
    };
    // What may not be is refused before a lake is made.
    admin_key::check(config)?;
    let listeners = listen(config).await?;
    let service = open_service(config).await?;
    let started = start(config, &service, &telemetry, listeners, tls).await;
    let server = match started {
        Ok(server) => server,
        Err(exit) => {
            // What was recorded while starting, the key above all, still belongs into the audit
            // log.
            service.shutdown(Instant::now() + config.shutdown_timeout).await;
            return Err(exit);
        }
    };
    let failure = server.wait(&mut signals).await;
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::warn!(signal = name, "a second signal: leaving at once");
        std::process::exit(1);
    });
    server.stop(&service, Instant::now() + config.shutdown_timeout).await;
    match failure {
        None => Ok(()),
        Some(exit) => Err(exit),
    }
}

/// A door's name and the task that serves it.
type OpenDoor = (&'static str, JoinHandle<Result<(), String>>);

/// A server whose doors are open.
struct Running {
    stop: CancellationToken,
    doors: Vec<OpenDoor>,
    background: Vec<JoinHandle<()>>,
    broken: CancellationToken,
    ready: Option<ReadyFile>,
}

async fn start(
    config: &Config,
    service: &Arc<Service>,
    telemetry: &Telemetry,
    listeners: Listeners,
    tls: Option<Tls>,
) -> Result<Running, Exit> {
    if let Some(path) = &config.ready_file {
        ReadyFile::remove_stale(path)?;
    }
    admin_key::ensure(service, config).await?;
    let addresses = Addresses::of(&listeners);
    let [http, flight] = peers::base_urls(config, &listeners)?;
    service.join_servers(http, flight).await?;
    let stop = CancellationToken::new();
    let broken = CancellationToken::new();
    let doors = open_doors(config, service, telemetry, listeners, tls.as_ref(), &stop, &broken)?;
    let has_tls = tls.is_some();
    let mut background = vec![
        tokio::spawn(Arc::clone(service).run_maintenance(stop.clone())),
        tokio::spawn(Arc::clone(service).run_refreshes(stop.clone())),
        tokio::spawn(telemetry.clone().run_upkeep(stop.clone())),
    ];
    match config.catalogue_search {
        true => background.push(tokio::spawn(Arc::clone(service).run_catalogue(stop.clone()))),
        false => service.switch_catalogue_off(),
    }
    background.extend(tls.map(|tls| tokio::spawn(tls.run_renewal(stop.clone()))));
    let ready = config
        .ready_file
        .as_deref()
        .map(|path: &Path| ReadyFile::write(path, &addresses))
        .transpose()?;
    tracing::info!(
        version = VERSION,
        http = addresses.http,
        flight = addresses.flight,
        tls = has_tls,
        data = config.data,
        lake_id = service.lake_id(),
        "lakebed serves"
    );
    if config.allow_anonymous {
        tracing::info!("requests without a key are let in and may do everything");
    }
    Ok(Running { stop, doors, background, broken, ready })
}

fn open_doors(
    config: &Config,
    service: &Arc<Service>,
    telemetry: &Telemetry,
    listeners: Listeners,
    tls: Option<&Tls>,
    stop: &CancellationToken,
    broken: &CancellationToken,
) -> Result<Vec<OpenDoor>, Exit> {
    let rules = ConnectionRules {
        connections_max: config.connections_max,
        first_byte_wait: config.header_wait,
        write_stall: Duration::from_millis(config.limits.read_stall_ms_max),
    };
    let Listeners { http, http_addr: _, flight, flight_addr } = listeners;
    let http_tls = tls.map(|tls| tls.acceptor(tls::HTTP_PROTOCOLS)).transpose()?;
    let flight_tls = tls.map(|tls| tls.acceptor(tls::FLIGHT_PROTOCOLS)).transpose()?;
    let http = connections(http, rules, http_tls);
    let flight = connections(flight, rules, flight_tls);
    let options = RestOptions {
        version: VERSION,
        flight_addr,
        allow_anonymous: config.allow_anonymous,
        hide_locations: config.hide_locations,
        render_metrics: telemetry.renderer(),
        stopping: stop.clone(),
    };
    let router = lakebed_rest::router(Arc::clone(service), options);
    let http = http_server::serve(http, router, config.header_wait, stop.clone());
    let flight = grpc::serve(flight, Arc::clone(service), stop.clone());
    // A door that ends before it was told to is a failure of the server, not a quiet half of one.
    let (http_broken, flight_broken) = (broken.clone(), broken.clone());
    let http = tokio::spawn(async move {
        let _guard = http_broken.drop_guard();
        http.await;
        Ok(())
    });
    let flight = tokio::spawn(async move {
        let _guard = flight_broken.drop_guard();
        flight.await.map_err(|error| error.to_string())
    });
    Ok(vec![("http", http), ("flight", flight)])
}

impl Running {
    /// Waits until a signal comes or a door breaks; returns what broke.
    async fn wait(&self, signals: &mut Signals) -> Option<Exit> {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "stopping");
                None
            }
            () = self.broken.cancelled() => {
                let ended: Vec<&str> = self
                    .doors
                    .iter()
                    .filter(|(_, door)| door.is_finished())
                    .map(|(name, _)| *name)
                    .collect();
                Some(Exit::failed(format!("a door ended by itself: {}", ended.join(", "))))
            }
        }
    }

    async fn stop(self, service: &Service, deadline: Instant) {
        let Running { stop, doors, background, broken: _, ready } = self;
        drop(ready);
        stop.cancel();
        let doors_end = async {
            for (name, mut door) in doors {
                match tokio::time::timeout_at(deadline, &mut door).await {
                    Ok(Ok(Ok(()))) => {}
                    Ok(Ok(Err(error))) => tracing::error!(door = name, error, "a door broke"),
                    Ok(Err(error)) => tracing::error!(door = name, %error, "a door panicked"),
                    Err(_) => {
                        tracing::info!(door = name, "connections were cut off at the deadline");
                        door.abort();
                    }
                }
            }
        };
        let stopped = async { tokio::join!(doors_end, service.shutdown(deadline)) };
        // A store that hangs must not hold the process: nothing acknowledged waits for it.
        if tokio::time::timeout_at(deadline + FLUSH_GRACE, stopped).await.is_err() {
            tracing::error!("the store did not answer in time while stopping");
        }
        for task in background {
            // A task that does not end in time is ended with the runtime.
            let _ = tokio::time::timeout_at(deadline, task).await;
        }
        tracing::info!("stopped");
    }
}
