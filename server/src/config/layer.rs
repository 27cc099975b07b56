//! One layer of settings, and the table of what each of them means.

use std::path::PathBuf;

use lakebed_core::{Error, Result};
use serde::Deserialize;

use super::limits::LimitsLayer;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A setting as the reference page shows it.
#[cfg_attr(not(test), allow(dead_code, reason = "the page is written by a test"))]
pub(crate) struct Setting {
    /// The key of the file; the variable is `LAKEBED_` and the key in capitals.
    pub(crate) key: &'static str,
    /// What is in force when nothing is set.
    pub(crate) default: &'static str,
    /// What it means.
    pub(crate) text: &'static str,
    /// Whether there is a flag of this name.
    pub(crate) has_flag: bool,
}

/// A value that a variable's text can be.
pub(crate) trait FromText: Sized {
    /// Reads the text.
    fn from_text(text: &str) -> Result<Self>;
}

macro_rules! settings {
    ($($key:ident: $kind:ty, $has_flag:literal, $default:literal, $text:literal;)+) => {
        /// What one source says of the settings.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct Layer {
            $(#[doc = $text] pub(crate) $key: Option<$kind>,)+
            /// The limits.
            pub(crate) limits: LimitsLayer,
        }

        impl Layer {
            /// This layer where it says something, `lower` elsewhere.
            pub(crate) fn over(self, lower: Layer) -> Layer {
                Layer {
                    $($key: self.$key.or(lower.$key),)+
                    limits: self.limits.over(lower.limits),
                }
            }

            /// Sets `key` from text; false when there is no such key.
            ///
            /// # Errors
            /// `InvalidArgument` when the text is no such value.
            pub(crate) fn set(&mut self, key: &str, text: &str) -> Result<bool> {
                match key {
                    $(stringify!($key) => self.$key = Some(<$kind>::from_text(text)?),)+
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }

        /// Every setting but the limits.
        pub(crate) const SETTINGS: &[Setting] = &[
            $(Setting {
                key: stringify!($key),
                default: $default,
                text: $text,
                has_flag: $has_flag,
            },)+
        ];
    };
}

settings! {
    data: String, true, "`./lakebed-data`",
        "The lake's root: a directory, or `s3://bucket/prefix`. A directory is locked while a \
         server has it open.";
    http_addr: String, true, "`127.0.0.1:10024`",
        "Where HTTP listens: `host:port`; port 0 takes any free one.";
    flight_addr: String, true, "the HTTP host, the HTTP port + 1",
        "Where Arrow Flight listens: `host:port`. With HTTP port 0 a free pair of neighbours is \
         taken unless this is set, because the LanceDB SDKs derive one from the other.";
    ready_file: PathBuf, true, "none",
        "Written once both ports accept: a JSON object with `http`, `flight`, `pid` and \
         `version`. It appears whole or not at all, and is removed at a clean end.";
    api_key_file: PathBuf, true, "`~/.config/lakebed/<lake id>.key`",
        "Where the first start writes the admin key, readable by its owner alone. A file that \
         exists is used. It may not lie inside the lake.";
    secrets_key_file: PathBuf, true, "`~/.config/lakebed/<lake id>.secrets-key`",
        "The key under which the values of secrets are encrypted: 32 bytes in base64. Made with the \
         first secret, readable by its owner alone. Every server of a lake needs the same. It may not \
         lie inside the lake. Lost, it takes the values with it.";
    allow_anonymous: bool, true, "`false`",
        "Lets requests without a key do everything. Refused unless both addresses are loopback; \
         the Host and Origin headers are checked then.";
    tls_cert: PathBuf, true, "none",
        "TLS on both ports: the certificate chain in PEM, the server's own first. Read anew on \
         SIGHUP, which ends a server without TLS, and within seconds of a change.";
    tls_key: PathBuf, true, "none",
        "The key of the certificate in PEM: PKCS#8, SEC1 or PKCS#1, without a password.";
    insecure: bool, true, "`false`",
        "Allows listening beyond loopback without TLS: keys and data cross the network \
         readably.";
    advertise_host: String, false, "the address of `http_addr`, or this machine's name",
        "How other servers of a lake in a bucket reach this one: a name or an address, without a \
         port.";
    peer_ca_cert: PathBuf, false, "the system's certificates",
        "What the certificates of the other servers of the lake are checked against, in PEM.";
    hide_locations: bool, false, "`false`",
        "Tells no client where a table lies. Otherwise those that read files by themselves are told, \
         where they can reach them: in a bucket, or on the machine of the server.";
    log_format: LogFormat, true, "`text`",
        "How log lines on standard error are written: `text` or `json`. Which ones, `RUST_LOG` \
         says.";
    shutdown_timeout_ms: u64, true, "`30000`",
        "How long shutdown waits for requests that run before it cuts them off. Keep it below the \
         time after which whatever stops the process kills it.";
    connections_max: usize, false, "`1024`",
        "Open connections on each port. Further ones wait to be accepted.";
    header_wait_ms_max: u64, false, "`60000`",
        "How long a connection may take to send the head of a request, and may stay idle \
         between two.";
    index_cache_bytes: usize, false, "`268435456`",
        "Memory for pages of indexes, over all tables.";
    metadata_cache_bytes: usize, false, "`134217728`",
        "Memory for manifests and the metadata of files, over all tables.";
    read_cache_dir: PathBuf, false, "none",
        "A folder on a local disk that keeps what is read from a lake in a bucket. Each server \
         needs its own.";
    read_cache_bytes: u64, false, "`10737418240`",
        "How much of the disk the read cache takes, at least 128 MiB.";
    resident_index_bytes_max: u64, false, "`1073741824`",
        "Memory for resident indexes, over all tables; 0 for none. While one is built it takes about 1.5 KiB \
         a row more.";
    resident_index_dir: PathBuf, false, "`_lakebed/resident` in a local lake, else a folder that goes \
         with the server",
        "Where resident indexes are kept, so that a restart need not build them again. Each server needs \
         its own.";
    resident_index_after_searches: u64, false, "`0`",
        "So many searches of a column within ten minutes give it a resident index; 0 for none but those \
         that somebody asked for.";
    catalogue_search: bool, false, "`true`",
        "Keeps the names, columns, tags, owners and descriptions of the lake in memory to be searched.";
}

fn wrong(text: &str, wanted: &str) -> Error {
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    Error::invalid(format!("`{shown}` is not {wanted}"))
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self> {
        Ok(text.to_owned())
    }
}

impl FromText for PathBuf {
    fn from_text(text: &str) -> Result<Self> {
        Ok(PathBuf::from(text))
    }
}

impl FromText for bool {
    fn from_text(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(wrong(text, "`true` or `false`")),
        }
    }
}

impl FromText for LogFormat {
    fn from_text(text: &str) -> Result<Self> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(wrong(text, "`text` or `json`")),
        }
    }
}

macro_rules! numbers_from_text {
    ($($kind:ty)+) => {$(
        impl FromText for $kind {
            fn from_text(text: &str) -> Result<Self> {
                text.parse().map_err(|_| wrong(text, "a whole number that fits"))
            }
        }
    )+};
}

numbers_from_text!(u64 usize i64);
