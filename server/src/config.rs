//! Every setting of the server, read once.
//!
//! Three layers of one shape: flags stand above environment variables, those above the file, those
//! above the defaults. A key of the file or a `LAKEBED_` variable that is not known is an error
//! that names it. Nothing else in the program reads the environment. `docs/configuration.md` is
//! generated from the same table.

mod layer;
mod limits;
#[cfg(test)]
mod reference;

use std::path::PathBuf;
use std::time::Duration;

use lakebed_core::{Error, Limits, Result, nearest_names};
use lakebed_service::ResidentSettings;
use lakebed_storage::ReadCacheOptions;

pub(crate) use layer::{Layer, LogFormat};

use crate::tls::TlsFiles;

/// Variables are known by this prefix.
const PREFIX: &str = "LAKEBED_";
const LIMITS_PREFIX: &str = "LIMITS_";
/// Where the configuration file lies.
const CONFIG_VARIABLE: &str = "LAKEBED_CONFIG";
/// The operator's key; only ever a variable, so that it stands in no file and no list of processes.
const ADMIN_KEY_VARIABLE: &str = "LAKEBED_ADMIN_KEY";
/// What the client verbs read; in the environment of a server they do no harm.
const CLIENT_VARIABLES: [&str; 4] =
    ["LAKEBED_URL", "LAKEBED_API_KEY", "LAKEBED_DATABASE", "LAKEBED_CA_CERT"];
const RUST_LOG: &str = "RUST_LOG";
const DEFAULT_LOG_FILTER: &str = "info,lance=warn,lance_core=warn,lance_io=warn,datafusion=warn,\
     tantivy=error";

/// The settings of one server, checked.
#[derive(Clone, PartialEq)]
pub(crate) struct Config {
    /// The lake's root.
    pub(crate) data: String,
    /// Where HTTP listens.
    pub(crate) http_addr: String,
    /// Where Flight listens; the HTTP address and the port above it when absent.
    pub(crate) flight_addr: Option<String>,
    /// Written once both ports accept.
    pub(crate) ready_file: Option<PathBuf>,
    /// Where the admin key is kept for the operator.
    pub(crate) api_key_file: Option<PathBuf>,
    /// Where the key of secrets is kept.
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// The admin key that the operator chose.
    pub(crate) admin_key: Option<String>,
    /// Whether requests without a key are let in.
    pub(crate) allow_anonymous: bool,
    /// Certificate and key, if both ports speak TLS.
    pub(crate) tls: Option<TlsFiles>,
    /// Whether the server may listen beyond loopback without TLS.
    pub(crate) insecure: bool,
    /// How other servers of the lake reach this one.
    pub(crate) advertise_host: Option<String>,
    /// What their certificates are checked against.
    pub(crate) peer_ca_cert: Option<PathBuf>,
    /// Whether clients are not told where tables lie.
    pub(crate) hide_locations: bool,
    /// How log lines are written.
    pub(crate) log_format: LogFormat,
    /// Which log lines are written.
    pub(crate) log_filter: String,
    /// How long shutdown waits for what runs.
    pub(crate) shutdown_timeout: Duration,
    /// Connections on each port.
    pub(crate) connections_max: usize,
    /// How long a connection may take to say what it wants.
    pub(crate) header_wait: Duration,
    /// Memory for pages of indexes.
    pub(crate) index_cache_bytes: usize,
    /// Memory for manifests and the metadata of files.
    pub(crate) metadata_cache_bytes: usize,
    /// Where reads of a lake in a bucket are kept.
    pub(crate) read_cache: Option<ReadCacheOptions>,
    /// How much may be searched in memory.
    pub(crate) resident: ResidentSettings,
    /// Whether names, columns, tags and descriptions can be searched.
    pub(crate) catalogue_search: bool,
    /// The home directory, below which the admin key and the key of secrets lie by default.
    pub(crate) home: Option<PathBuf>,
    /// The limits of the service.
    pub(crate) limits: Limits,
}

/// Flags, before they become the topmost layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// What was given of the settings.
    pub(crate) layer: Layer,
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
}

/// The variables of a process.
pub(crate) type Environment = Vec<(String, String)>;

/// The variables of this process; one that is not UTF-8 is none of ours.
pub(crate) fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// `InvalidArgument` naming the flag, variable or key that is wrong.
    pub(crate) fn load(flags: Flags, environment: &Environment) -> Result<Config> {
        let variable = |wanted: &str| {
            environment
                .iter()
                .find(|(name, value)| name == wanted && !value.is_empty())
                .map(|(_, value)| value.clone())
        };
        let file = match flags.config.or_else(|| variable(CONFIG_VARIABLE).map(PathBuf::from)) {
            None => Layer::default(),
            Some(path) => {
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    Error::invalid(format!("config file `{}`: {error}", path.display()))
                })?;
                parse_file(&text).map_err(|error| {
                    error.context(format_args!("config file `{}`", path.display()))
                })?
            }
        };
        let layer = flags.layer.over(from_environment(environment)?).over(file);
        let Layer {
            data,
            http_addr,
            flight_addr,
            ready_file,
            api_key_file,
            secrets_key_file,
            allow_anonymous,
            tls_cert,
            tls_key,
            insecure,
            advertise_host,
            peer_ca_cert,
            hide_locations,
            log_format,
            shutdown_timeout_ms,
            connections_max,
            header_wait_ms_max,
            index_cache_bytes,
            metadata_cache_bytes,
            read_cache_dir,
            read_cache_bytes,
            resident_index_bytes_max,
            resident_index_dir,
            resident_index_after_searches,
            catalogue_search,
            limits,
        } = layer;
        Ok(Config {
            data: data.unwrap_or_else(|| "./lakebed-data".to_owned()),
            http_addr: http_addr.unwrap_or_else(|| "127.0.0.1:10024".to_owned()),
            flight_addr,
            ready_file,
            api_key_file,
            secrets_key_file,
            admin_key: variable(ADMIN_KEY_VARIABLE),
            allow_anonymous: allow_anonymous.unwrap_or(false),
            tls: tls_files(tls_cert, tls_key)?,
            insecure: insecure.unwrap_or(false),
            advertise_host,
            peer_ca_cert,
            hide_locations: hide_locations.unwrap_or(false),
            log_format: log_format.unwrap_or(LogFormat::Text),
            log_filter: variable(RUST_LOG).unwrap_or_else(|| DEFAULT_LOG_FILTER.to_owned()),
            shutdown_timeout: Duration::from_millis(shutdown_timeout_ms.unwrap_or(30_000)),
            connections_max: connections_max.unwrap_or(1_024).max(1),
            header_wait: Duration::from_millis(header_wait_ms_max.unwrap_or(60_000).max(1)),
            index_cache_bytes: index_cache_bytes.unwrap_or(256 << 20),
            metadata_cache_bytes: metadata_cache_bytes.unwrap_or(128 << 20),
            read_cache: read_cache_dir.map(|folder| ReadCacheOptions {
                folder,
                bytes: read_cache_bytes.unwrap_or(10 << 30),
            }),
            resident: ResidentSettings {
                memory_bytes_max: resident_index_bytes_max.unwrap_or(1 << 30),
                folder: resident_index_dir,
                hot_searches: resident_index_after_searches.unwrap_or(0),
            },
            catalogue_search: catalogue_search.unwrap_or(true),
            home: variable("HOME").map(PathBuf::from),
            limits: limits.apply()?,
        })
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The admin key must not reach a log through a stray debug line.
        f.debug_struct("Config").field("data", &self.data).finish_non_exhaustive()
    }
}

/// Both files or neither: half a pair would leave the ports readable without a word.
fn tls_files(cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<TlsFiles>> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::invalid("`tls_cert` is set and `tls_key` is not")),
        (None, Some(_)) => Err(Error::invalid("`tls_key` is set and `tls_cert` is not")),
    }
}

fn parse_file(text: &str) -> Result<Layer> {
    toml::from_str(text).map_err(|error| Error::invalid(error.to_string().trim_end().to_owned()))
}

fn from_environment(environment: &Environment) -> Result<Layer> {
    let mut layer = Layer::default();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if value.is_empty()
            || name == CONFIG_VARIABLE
            || name == ADMIN_KEY_VARIABLE
            || CLIENT_VARIABLES.contains(&name.as_str())
            || is_service_link(rest, value)
        {
            continue;
        }
        let key = rest.to_ascii_lowercase();
        let known = match rest.strip_prefix(LIMITS_PREFIX) {
            Some(_) => layer.limits.set(&key[LIMITS_PREFIX.len()..], value),
            None => layer.set(&key, value),
        };
        if !known.map_err(|error| error.context(format_args!("variable `{name}`")))? {
            let names = variables();
            let near = nearest_names(name, names.iter().map(String::as_str));
            return Err(Error::invalid(format!("variable `{name}` is not known{near}")));
        }
    }
    Ok(layer)
}

/// Kubernetes puts the addresses of a service named `lakebed` into variables that begin as ours do.
fn is_service_link(rest: &str, value: &str) -> bool {
    let is_port_of = |part: &str| part.starts_with(|first: char| first.is_ascii_digit());
    rest.contains("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || rest.split("PORT_").skip(1).any(is_port_of)
        || (rest == "PORT" || rest.ends_with("_PORT")) && value.contains("://")
}

/// The names of all variables that a server reads.
fn variables() -> Vec<String> {
    let settings = layer::SETTINGS.iter().map(|setting| setting.key.to_ascii_uppercase());
    let limits = limits::LIMITS
        .iter()
        .map(|limit| format!("{LIMITS_PREFIX}{}", limit.key.to_ascii_uppercase()));
    settings
        .chain(limits)
        .map(|name| format!("{PREFIX}{name}"))
        .chain([CONFIG_VARIABLE.to_owned(), ADMIN_KEY_VARIABLE.to_owned()])
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn refusal(flags: Flags, environment: &Environment) -> String {
        Config::load(flags, environment).unwrap_err().message().to_owned()
    }

    fn file(text: &str) -> (tempfile::NamedTempFile, Flags) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let config = Some(file.path().to_owned());
        (file, Flags { config, ..Flags::default() })
    }

    #[test]
    fn flags_stand_above_variables_above_the_file_above_defaults() {
        let (_file, mut flags) = file(
            "data = 'from-file'\nhttp_addr = '127.0.0.1:1'\nconnections_max = 7\n\
             [limits]\nbatch_rows_max = 11\ncolumns_max = 12\n",
        );
        flags.layer.data = Some("from-flag".to_owned());
        let environment = variables(&[
            ("LAKEBED_DATA", "from-variable"),
            ("LAKEBED_HTTP_ADDR", "127.0.0.1:2"),
            ("LAKEBED_LIMITS_BATCH_ROWS_MAX", "21"),
            ("LAKEBED_ALLOW_ANONYMOUS", "true"),
            ("LAKEBED_LOG_FORMAT", ""),
            ("OTHER_DATA", "x"),
        ]);
        let config = Config::load(flags, &environment).unwrap();
        assert_eq!(config.data, "from-flag");
        assert_eq!(config.http_addr, "127.0.0.1:2");
        assert_eq!(config.connections_max, 7);
        assert_eq!(config.limits.batch_rows_max, 21);
        assert_eq!(config.limits.columns_max, 12);
        assert_eq!(config.limits.row_ids_max, Limits::default().row_ids_max);
        assert!(config.allow_anonymous);
        assert_eq!(config.log_format, LogFormat::Text);
    }

    #[test]
    fn unknown_keys_and_variables_are_named() {
        let none = Environment::new();
        let (_file, flags) = file("dtaa = 'x'\n");
        assert!(refusal(flags, &none).contains("dtaa"));
        let (_file, flags) = file("[limits]\nbatch_rows = 1\n");
        assert!(refusal(flags, &none).contains("batch_rows"));
        let text = refusal(Flags::default(), &variables(&[("LAKEBED_HTTP_ADR", "x")]));
        assert!(text.contains("LAKEBED_HTTP_ADR") && text.contains("LAKEBED_HTTP_ADDR"), "{text}");
        let text = refusal(Flags::default(), &variables(&[("LAKEBED_LIMITS_X", "1")]));
        assert!(text.contains("LAKEBED_LIMITS_X"), "{text}");
        let text = refusal(Flags::default(), &variables(&[("LAKEBED_HTTP_PORT", "80")]));
        assert!(text.contains("LAKEBED_HTTP_PORT"), "{text}");
    }

    #[test]
    fn wrong_values_are_named_with_their_place() {
        for (name, value) in [
            ("LAKEBED_CONNECTIONS_MAX", "many"),
            ("LAKEBED_INSECURE", "perhaps"),
            ("LAKEBED_LOG_FORMAT", "xml"),
            ("LAKEBED_LIMITS_BATCH_ROWS_MAX", "-1"),
        ] {
            let text = refusal(Flags::default(), &variables(&[(name, value)]));
            assert!(text.contains(name) && text.contains(value), "{text}");
        }
        let text = refusal(Flags::default(), &variables(&[("LAKEBED_LIMITS_BATCH_ROWS_MAX", "0")]));
        assert!(text.contains("batch_rows_max"), "{text}");
        let (_file, flags) = file("connections_max = 'x'\n");
        assert!(refusal(flags, &Environment::new()).contains("connections_max"));
        let missing = Flags { config: Some("/nonexistent/x.toml".into()), ..Flags::default() };
        assert!(refusal(missing, &Environment::new()).contains("/nonexistent/x.toml"));
    }

    #[test]
    fn variables_of_clients_and_of_kubernetes_do_no_harm() {
        let environment = variables(&[
            ("LAKEBED_URL", "http://localhost:1"),
            ("LAKEBED_API_KEY", "k"),
            ("LAKEBED_SERVICE_HOST", "10.0.0.1"),
            ("LAKEBED_SERVICE_PORT_HTTP", "10024"),
            ("LAKEBED_PORT", "tcp://10.0.0.1:10024"),
            ("LAKEBED_PORT_10024_TCP_ADDR", "10.0.0.1"),
            ("LAKEBED_ADMIN_KEY", "correct-horse"),
        ]);
        let config = Config::load(Flags::default(), &environment).unwrap();
        assert_eq!(config.admin_key.as_deref(), Some("correct-horse"));
        assert!(!format!("{config:?}").contains("correct-horse"));
    }

    #[test]
    fn half_a_pair_for_tls_is_refused() {
        for (name, other) in [("LAKEBED_TLS_CERT", "tls_key"), ("LAKEBED_TLS_KEY", "tls_cert")] {
            let text = refusal(Flags::default(), &variables(&[(name, "x.pem")]));
            assert!(text.contains(other), "{text}");
        }
    }

    #[test]
    fn a_file_may_hold_every_setting() {
        let (_file, flags) = file(
            "data = 'd'\nhttp_addr = 'a'\nflight_addr = 'b'\nready_file = 'r'\n\
             api_key_file = 'k'\nsecrets_key_file = 's'\nallow_anonymous = true\ntls_cert = 'c'\ntls_key = 't'\n\
             insecure = true\nlog_format = 'json'\n\
             shutdown_timeout_ms = 5\nconnections_max = 6\nheader_wait_ms_max = 7\n\
             index_cache_bytes = 8\nmetadata_cache_bytes = 9\n\
             resident_index_bytes_max = 10\nresident_index_dir = 'i'\n\
             resident_index_after_searches = 11\ncatalogue_search = false\n",
        );
        let config = Config::load(flags, &Environment::new()).unwrap();
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.shutdown_timeout, Duration::from_millis(5));
        assert_eq!(config.header_wait, Duration::from_millis(7));
        assert_eq!((config.index_cache_bytes, config.metadata_cache_bytes), (8, 9));
        assert_eq!((config.resident.memory_bytes_max, config.resident.hot_searches), (10, 11));
        assert_eq!(config.tls, Some(TlsFiles { cert: "c".into(), key: "t".into() }));
    }
}
