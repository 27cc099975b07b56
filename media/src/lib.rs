//! Reads the headers of images, audio, video and robot recordings into plain values.
//!
//! Why it exists: `lakebed import` makes a row of every file, and what the row says of the medium has
//! to come from bytes that anybody may have written. So everything here is a pure function over a
//! reader, and these things always hold:
//!
//! - Nothing is decoded: a picture of 623 megapixels costs what its first kilobytes cost.
//! - No size that a file declares is allocated or looped over before it is checked against the file
//!   and against a limit. Readers of other people are given a [`Budget`], which ends like a file.
//! - A broken file is a text beside what could still be read, never a panic and never a stop.
//!
//! ```text
//!   bytes ─► kind (media type) ─► image | audio | mp4 | mkv | avi      ─► MediaHeader
//!                             └─► recording: bag | mcap | db3          ─► RecordingHeader, topics
//! ```

mod audio;
mod avi;
mod bag;
mod budget;
mod bytes;
mod db3;
mod exif;
mod image;
mod kind;
mod mcap;
mod mkv;
mod mp4;
mod probe;
mod recording;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
mod walker;

pub use bag::read_bag;
pub use budget::Budget;
pub use db3::read_db3;
pub use kind::{HEAD_BYTES, media_type};
pub use mcap::read_mcap;
pub use probe::{MediaHeader, probe};
pub use recording::{RecordingFormat, RecordingHeader, Topic, recording_format};
