//! The resident index in a process of its own, without a table: what the benchmark beside other libraries
//! drives. One JSON command a line on standard input, one JSON answer a line on standard output.
//!
//! - `{"cmd":"build","vectors":PATH,"dim":784,"distance":"l2","threads":2,"m":16,"ef_construction":200}`: raw
//!   little-endian f32, row-major; a row's number is its id. Answers `rows`, `seconds`, `bytes`.
//! - `{"cmd":"search","queries":PATH,"k":10,"ef":64,"threads":1,"ids":PATH,"mask":PATH|null}`: writes the ids
//!   found as little-endian u64, `k` a query, `u64::MAX` where there are fewer. `mask` is a serialised
//!   `RoaringTreemap`. Answers `queries`, `seconds`, `path`, `p50_us`, `p99_us`.
//! - `{"cmd":"quit"}`.

use std::io::{BufRead, Write};
use std::time::Instant;

use lakebed_core::{DistanceType, Error, Result};
use lakebed_index::resident::bench::{Bench, Found};
use roaring::RoaringTreemap;
use serde_json::{Value, json};

/// As in the server: what building took goes back to the system some seconds later.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As in the server.
#[unsafe(export_name = "_rjem_malloc_conf")]
#[used]
static ALLOCATOR_SETTINGS: &[u8; 93] = b"percpu_arena:percpu,oversize_threshold:1073741824,\
    dirty_decay_ms:3000,background_thread:true\0";

fn main() {
    let mut bench = None;
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let answer = serde_json::from_str(&line)
            .map_err(|error| Error::invalid(format!("a command: {error}")))
            .and_then(|command| answer(&mut bench, &command));
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(error) => json!({ "error": error.message() }),
        };
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

fn answer(bench: &mut Option<Bench>, command: &Value) -> Result<Option<Value>> {
    let text = |name: &str| command.get(name).and_then(Value::as_str);
    let number = |name: &str, default: usize| {
        command.get(name).and_then(Value::as_u64).map_or(default, |number| number as usize)
    };
    match text("cmd") {
        Some("build") => {
            let distance = match text("distance") {
                Some("cosine") => DistanceType::Cosine,
                Some("dot") => DistanceType::Dot,
                _ => DistanceType::L2,
            };
            let dim = number("dim", 0);
            let vectors = floats(text("vectors"))?;
            let began = Instant::now();
            let of = (number("m", 16), number("ef_construction", 200), number("threads", 2));
            let built = Bench::build(distance, dim, vectors, of)?;
            let seconds = began.elapsed().as_secs_f64();
            let (rows, bytes) = (built.rows(), built.bytes());
            *bench = Some(built);
            Ok(Some(json!({ "rows": rows, "seconds": seconds, "bytes": bytes })))
        }
        Some("search") => {
            let bench = bench.as_ref().ok_or_else(|| Error::invalid("nothing is built"))?;
            let queries = floats(text("queries"))?;
            let (k, ef) = (number("k", 10), number("ef", 64));
            let mask = text("mask").map(mask).transpose()?;
            let found = bench.search(&queries, k, ef, number("threads", 1), mask.as_ref())?;
            if let Some(path) = text("ids") {
                let bytes: Vec<u8> = found.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                std::fs::write(path, bytes).map_err(|error| io(path, &error))?;
            }
            let Found { seconds, way, p50_us, p99_us, queries, .. } = found;
            Ok(Some(json!({
                "queries": queries, "seconds": seconds, "path": way, "p50_us": p50_us, "p99_us": p99_us,
            })))
        }
        Some("quit") => Ok(None),
        other => Err(Error::invalid(format!("no command {other:?}"))),
    }
}

fn io(path: &str, error: &std::io::Error) -> Error {
    Error::invalid(format!("{path}: {error}"))
}

fn floats(path: Option<&str>) -> Result<Vec<f32>> {
    let path = path.ok_or_else(|| Error::invalid("a path is missing"))?;
    let bytes = std::fs::read(path).map_err(|error| io(path, &error))?;
    let number = |four: &[u8]| four.first_chunk().map_or(0.0, |four| f32::from_le_bytes(*four));
    Ok(bytes.chunks_exact(4).map(number).collect())
}

fn mask(path: &str) -> Result<RoaringTreemap> {
    let bytes = std::fs::read(path).map_err(|error| io(path, &error))?;
    RoaringTreemap::deserialize_from(bytes.as_slice()).map_err(|error| io(path, &error))
}
