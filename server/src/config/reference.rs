//! The reference page of all settings, generated so that it cannot lag behind them.

use std::fmt::Write as _;
use std::path::Path;

use lakebed_core::Limits;

use super::layer::SETTINGS;
use super::limits::LIMITS;

/// Set to anything, the test writes the page instead of comparing it.
const UPDATE_VARIABLE: &str = "UPDATE_GOLDEN";

const HEAD: &str = "\
# Configuration

Generated from the settings table in `server/src/config/`; a test compares the two. Regenerate with
`UPDATE_GOLDEN=1 cargo test -p lakebed the_configuration_page_is_current`.

A setting comes from, in this order: a flag, an environment variable, the file that `--config` or
`LAKEBED_CONFIG` names (TOML), the default. A key or a `LAKEBED_` variable that is not known is an
error. Sizes are in bytes and times in milliseconds, as the names say; a flag for a time takes its
unit, as in `30s`.

`LAKEBED_ADMIN_KEY` sets the admin key instead of the key file; `RUST_LOG` chooses the log lines.
Client verbs read `LAKEBED_URL`, `LAKEBED_API_KEY`, `LAKEBED_DATABASE` and `LAKEBED_CA_CERT`. The
routes of the HTTP port, and TLS, are in `http.md`.

Two libraries have settings of their own: `LANCE_UPLOAD_CONCURRENCY` says how many parts of 5 MiB of
a data file one write may have under way (4), and `_RJEM_MALLOC_CONF` goes before the settings of the
allocator in `server/src/main.rs`.

## Server

| key | flag | variable | default | meaning |
| --- | --- | --- | --- | --- |
";

const LIMITS_HEAD: &str = "
## Limits

The keys of the section `[limits]`. An error that a limit causes names it.

| key | variable | default | range | meaning |
| --- | --- | --- | --- | --- |
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for setting in SETTINGS {
        let (key, upper) = (setting.key, setting.key.to_ascii_uppercase());
        let flag = match setting.has_flag {
            true => format!("`--{}`", key.trim_end_matches("_ms").replace('_', "-")),
            false => "none".to_owned(),
        };
        let (default, text) = (setting.default, setting.text);
        let _ = writeln!(page, "| `{key}` | {flag} | `LAKEBED_{upper}` | {default} | {text} |");
    }
    page.push_str(LIMITS_HEAD);
    for limit in LIMITS {
        let (key, upper) = (limit.key, limit.key.to_ascii_uppercase());
        let default = (limit.default)(&Limits::default());
        let (min, max, text) = (limit.min, limit.max, limit.text);
        let _ = writeln!(
            page,
            "| `{key}` | `LAKEBED_LIMITS_{upper}` | {default} | {min} to {max} | {text} |"
        );
    }
    page
}

#[test]
fn the_configuration_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == page(),
        "docs/configuration.md is not current; regenerate it with `{UPDATE_VARIABLE}=1`"
    );
}
