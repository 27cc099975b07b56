//! The `lakebed` binary: one server, and the command line that talks to it.
//!
//! ```text
//!   main ─► cli (flags) ─┬─► serve ─► config, tls, listen, accept, http, grpc, admin_key, ready_file
//!                        └─► command/<verb> ─► client, flight_client (to a running server)
//!                                          └─► the lake itself, for offline verbs
//! ```
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

mod accept;
mod admin_key;
mod cli;
mod client;
mod command;
mod config;
mod confirm;
mod connection;
mod exit;
mod flight_client;
mod grpc;
mod http_server;
mod listen;
mod logs;
mod output;
mod peers;
mod ready_file;
mod rows_output;
mod secrets_key;
mod serve;
mod signals;
mod telemetry;
mod tls;
mod trust;

use std::process::ExitCode;

/// Decoded batches are large, freed on other threads than they were made on, and the system's
/// allocator keeps what was freed: a scan of 3 GB took 783 MiB with it and 230 MiB with this one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Buffers of megabytes come and go with every batch. New memory costs more than what is done with it,
/// so freed memory is kept for some seconds, also in large pieces (which by default go back at once), in
/// one arena a core rather than four, and a thread gives it back when nothing else runs.
/// `_RJEM_MALLOC_CONF` in the environment goes before it.
#[unsafe(export_name = "_rjem_malloc_conf")]
#[used]
static ALLOCATOR_SETTINGS: &[u8; 93] = b"percpu_arena:percpu,oversize_threshold:1073741824,\
    dirty_decay_ms:3000,background_thread:true\0";

/// Parts of a data file that one write may have under way, of 5 MiB each. Lance takes it from the
/// environment alone; its own default of ten is for stores that are far away.
const PARTS_UNDER_WAY: (&str, &str) = ("LANCE_UPLOAD_CONCURRENCY", "4");

/// Threads of lance that decode and encode. It takes them from the environment alone, and by itself has a
/// single one on three cores and less: one task that waits there stops them all.
const CPU_THREADS: (&str, &str) = ("LANCE_CPU_THREADS", "2");

fn main() -> ExitCode {
    let few_cores = std::thread::available_parallelism().is_ok_and(|cores| cores.get() <= 3);
    let wanted = [PARTS_UNDER_WAY, (lakebed_storage::OVERLAY_VARIABLE, "1")];
    for (name, value) in wanted.into_iter().chain(few_cores.then_some(CPU_THREADS)) {
        if std::env::var_os(name).is_none() {
            // SAFETY: no other thread of this program runs yet; the allocator's own do not look there.
            unsafe { std::env::set_var(name, value) };
        }
    }
    if !lakebed_storage::reads_overlays() {
        eprintln!("error: lance does not open tables with overlays");
        return ExitCode::FAILURE;
    }
    // Two providers are linked (object stores bring both), and rustls panics at its first use
    // unless one was chosen before.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider was installed before main");
        return ExitCode::FAILURE;
    }
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}
