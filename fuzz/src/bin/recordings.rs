//! ROS 1 bags and MCAP: whole files from outside.
//!
//! Finds panics, hangs, and allocations that a file asks for.
#![no_main]

use std::io::Cursor;

use lakebed_media::{read_bag, read_mcap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let header = match input.starts_with(b"#") {
        true => read_bag(Cursor::new(input)),
        false => read_mcap(Cursor::new(input)),
    };
    assert!(header.start_ns <= header.end_ns || header.end_ns.is_none());
});
