//! Headers of pictures, sound and video, by every reader that a name or a magic leads to.
//!
//! The first byte of an input chooses the name. Finds panics of our own parsers (those of others are
//! contained), hangs, and allocations that a file asks for.
#![no_main]

use std::io::Cursor;

use lakebed_media::probe;
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 10] =
    ["x.mp4", "x.avi", "x.mkv", "x.png", "x.jpg", "x.tif", "x.heic", "x.mp3", "x.ogg", "x"];

fuzz_target!(init: {
    // libFuzzer's hook aborts on every panic; those of other people's readers are contained.
    std::panic::set_hook(Box::new(|_| {}));
}, |input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    let header = probe(Cursor::new(bytes), NAMES[usize::from(*choice) % NAMES.len()]);
    // What contains a panic says so; our own parsers have none to contain.
    let is_ours = matches!(header.media_type, "video/mp4" | "video/x-msvideo");
    let failed = header.error.is_some_and(|error| error.contains("made its reader fail"));
    assert!(!(is_ours && failed), "a panic in our own parser");
});
