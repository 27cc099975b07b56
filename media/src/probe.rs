//! One file's header, whatever medium it is.

use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::bytes::Broken;
use crate::kind::{self, HEAD_BYTES};
use crate::{Budget, audio, avi, image, mkv, mp4};

/// Bytes that one file's header may take, over all reads: pictures and sounds whose header is larger
/// are read as if they ended there.
const HEADER_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a text that is kept of a file, such as a codec's name.
const TEXT_BYTES_MAX: usize = 64;

/// What the header of a medium says. Fields that do not apply, or were not readable, are absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MediaHeader {
    /// The media type.
    pub media_type: &'static str,
    /// Pixels in a row as stored, before `orientation`.
    pub width: Option<i32>,
    /// Rows of pixels as stored, before `orientation`.
    pub height: Option<i32>,
    /// How to turn the picture, 1 to 8 as EXIF counts; rotated video as its twin of EXIF.
    pub orientation: Option<i32>,
    /// Milliseconds of sound or video.
    pub duration_ms: Option<i64>,
    /// The codec of the video, or of the sound where there is no video.
    pub codec: Option<String>,
    /// Frames of the video.
    pub frames: Option<i64>,
    /// When it was taken, in nanoseconds since 1970 UTC.
    pub taken_at_ns: Option<i64>,
    /// Degrees north.
    pub latitude: Option<f64>,
    /// Degrees east.
    pub longitude: Option<f64>,
    /// Why the header could not be read, or not wholly.
    pub error: Option<String>,
}

/// Reads the header of a file. Never fails: what is broken is in [`MediaHeader::error`].
pub fn probe<R: Read + Seek>(mut reader: R, name: &str) -> MediaHeader {
    let mut header = MediaHeader { media_type: kind::UNKNOWN, ..MediaHeader::default() };
    // Parsers of other people stand behind this, and a row is worth more than the run of one.
    let outcome = catch_unwind(AssertUnwindSafe(|| fill(&mut reader, name, &mut header)));
    let error = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(broken.to_string()),
        Err(_) => Some("the header made its reader fail".to_owned()),
    };
    header.error = header.error.or(error);
    header.codec = header.codec.take().map(|codec| shortened(&codec));
    header
}

fn fill<R: Read + Seek>(
    reader: &mut R,
    name: &str,
    header: &mut MediaHeader,
) -> Result<(), Broken> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    reader.seek(SeekFrom::Start(0))?;
    reader.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    reader.seek(SeekFrom::Start(0))?;
    header.media_type = kind::media_type(&head, name);
    if kind::by_bytes(&head).is_none() && !is_without_magic(header.media_type) {
        if !matches!(header.media_type.split('/').next(), Some("image" | "video" | "audio")) {
            return Ok(());
        }
        return Err(Broken::format(match head.is_empty() {
            true => "the file is empty".to_owned(),
            false => format!("the bytes are no {}, which the name says", header.media_type),
        }));
    }
    let mut bounded = BufReader::new(Budget::new(&mut *reader, HEADER_BYTES_MAX));
    match header.media_type {
        "image/svg+xml" | "video/mp2t" | "video/mpeg" | "audio/midi" | "audio/x-midi" => Ok(()),
        "video/mp4" | "video/quicktime" | "video/x-m4v" | "video/3gpp" | "audio/m4a"
        | "audio/mp4" | "audio/x-m4a" => mp4::read(reader, header),
        "video/x-matroska" | "video/webm" => mkv::read(bounded, header),
        "video/x-msvideo" => avi::read(&mut bounded, header),
        kind if kind.starts_with("image/") => image::read(&mut bounded, header),
        kind if kind.starts_with("audio/") => audio::read(bounded, header),
        _ => Ok(()),
    }
}

/// Formats that do not begin with fixed bytes: nothing is wrong with a file that is not told by them.
fn is_without_magic(media_type: &str) -> bool {
    matches!(media_type, "image/svg+xml" | "video/mpeg" | "audio/mpeg" | "audio/aac" | "video/mp2t")
}

/// A short text without control characters.
pub(crate) fn shortened(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end]
        .chars()
        .filter(|character| !character.is_control())
        .collect::<String>()
        .trim()
        .into()
}
