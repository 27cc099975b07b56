//! Arrow IPC messages from outside: guard, layout check and arrow's reader behind them.
//!
//! Finds panics that escape, aborts and, with `-malloc_limit_mb`, allocations that pass the limits.
#![no_main]

use bytes::Bytes;
use lakebed_core::Limits;
use lakebed_fuzz::messages;
use lakebed_proto::ipc_decode::IpcDecoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: {
    // libFuzzer's hook aborts on every panic; arrow's own are contained, and only what escapes counts.
    std::panic::set_hook(Box::new(|_| {}));
}, |input: &[u8]| {
    let limits = Limits { batch_bytes_max: 1 << 20, batch_rows_max: 1 << 16, ..Limits::default() };
    let mut decoder = IpcDecoder::new(&limits);
    for (header, body) in messages(input) {
        if decoder.decode(header, Bytes::copy_from_slice(body)).is_err() {
            break;
        }
    }
});
