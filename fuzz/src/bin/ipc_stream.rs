//! Arrow IPC streams from outside, cut anywhere: the framer, and the decoder behind it.
//!
//! The first byte of an input says how its other bytes are cut. Finds panics that escape, aborts and,
//! with `-malloc_limit_mb`, allocations that pass the limits; and that the cuts change nothing.
#![no_main]

use bytes::Bytes;
use lakebed_core::Limits;
use lakebed_proto::ipc_decode::IpcDecoder;
use lakebed_proto::ipc_stream::{Frame, IpcFramer};
use libfuzzer_sys::fuzz_target;

/// Messages and bytes of their bodies until the end or the first error, and whether it ended.
fn frames(input: &[u8], chunk_bytes: usize, limits: &Limits) -> (usize, usize, bool) {
    let mut framer = IpcFramer::new(limits);
    let mut decoder = IpcDecoder::new(limits);
    let (mut messages, mut bytes) = (0, 0);
    for chunk in input.chunks(chunk_bytes) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        loop {
            match framer.take(&mut chunk) {
                Ok(Some(Frame::Message { header, body })) => {
                    messages += 1;
                    bytes += body.len();
                    if decoder.decode(&header, body).is_err() {
                        return (messages, bytes, false);
                    }
                }
                Ok(Some(Frame::Body(_) | Frame::End)) => {}
                Ok(None) => break,
                Err(_) => return (messages, bytes, false),
            }
        }
    }
    (messages, bytes, framer.is_ended())
}

fuzz_target!(init: {
    // libFuzzer's hook aborts on every panic; arrow's own are contained, and only what escapes counts.
    std::panic::set_hook(Box::new(|_| {}));
}, |input: &[u8]| {
    let Some((cut, stream)) = input.split_first() else { return };
    let limits = Limits { batch_bytes_max: 1 << 20, batch_rows_max: 1 << 16, ..Limits::default() };
    let cut = frames(stream, usize::from(*cut) + 1, &limits);
    let whole = frames(stream, stream.len().max(1), &limits);
    if cut != whole {
        eprintln!("cut: {cut:?}, whole: {whole:?}");
        std::process::abort();
    }
});
