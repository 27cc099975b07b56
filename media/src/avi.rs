//! AVI: the main header and the first video stream's name of its codec.
//!
//! ```text
//!   RIFF size AVI  ─ LIST size hdrl ─ avih (microseconds a frame, frames, width, height)
//!                                   └ LIST size strl ─ strh (vids, codec) …
//! ```

use std::io::{BufRead, Read as _};

use crate::bytes::{Broken, Slice};
use crate::probe::MediaHeader;

/// Bytes of the beginning that are looked at; headers of real files take some kilobytes.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// Reads size, duration, frames and codec.
pub(crate) fn read(reader: &mut impl BufRead, header: &mut MediaHeader) -> Result<(), Broken> {
    let mut head = Vec::new();
    reader.take(HEAD_BYTES_MAX).read_to_end(&mut head)?;
    parse(&head, header).ok_or_else(|| Broken::format("the file ends inside the video's header"))
}

fn parse(head: &[u8], header: &mut MediaHeader) -> Option<()> {
    // RIFF, size, "AVI ", LIST, size, "hdrl".
    let mut at = Slice(head.get(24..)?);
    while let Some(name) = at.bytes(4) {
        let size = usize::try_from(at.u32_le()?).ok()?;
        if name == b"LIST" {
            // Its chunks stand behind its kind, and are read as if they stood here.
            if at.bytes(4)? == b"movi" {
                break;
            }
            continue;
        }
        let mut chunk = Slice(at.0.get(..size).unwrap_or(at.0));
        match name {
            b"avih" => {
                let frame_us = u64::from(chunk.u32_le()?);
                chunk.bytes(12)?;
                let frames = u64::from(chunk.u32_le()?);
                chunk.bytes(12)?;
                header.width = i32::try_from(chunk.u32_le()?).ok();
                header.height = i32::try_from(chunk.u32_le()?).ok();
                header.frames = i64::try_from(frames).ok();
                header.duration_ms = i64::try_from(frame_us * frames / 1_000).ok();
            }
            b"strh" if header.codec.is_none() && chunk.bytes(4)? == b"vids" => {
                let codec = String::from_utf8_lossy(chunk.bytes(4)?).to_ascii_lowercase();
                header.codec = Some(codec.trim_matches([' ', '\0']).to_owned());
            }
            _ => {}
        }
        // Chunks are padded to even sizes.
        at.bytes(size.checked_add(size % 2)?.min(at.0.len()))?;
    }
    header.width.map(|_| ())
}
