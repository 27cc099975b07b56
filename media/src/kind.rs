//! What a file is: from its first bytes, and from its name where they say nothing.

/// How many first bytes of a file [`media_type`] looks at.
pub const HEAD_BYTES: usize = 512;

/// Unknown bytes.
pub(crate) const UNKNOWN: &str = "application/octet-stream";

/// Containers that `infer` does not know, or names otherwise.
const MAGICS: &[(usize, &[u8], &str)] = &[
    (0, b"#ROSBAG V", "application/x-rosbag"),
    (0, b"\x89MCAP0\r\n", "application/x-mcap"),
    (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
    (0, b"LASF", "application/vnd.las"),
    (0, b"# .PCD", "application/x-pcd"),
    (0, b"ply\n", "application/x-ply"),
    (0, b"ply\r\n", "application/x-ply"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"ARROW1\0\0", "application/vnd.apache.arrow.file"),
    (0, b"\x93NUMPY", "application/x-npy"),
    (0, b"P1\n", "image/x-portable-bitmap"),
    (0, b"P2\n", "image/x-portable-graymap"),
    (0, b"P3\n", "image/x-portable-pixmap"),
    (0, b"P4\n", "image/x-portable-bitmap"),
    (0, b"P5\n", "image/x-portable-graymap"),
    (0, b"P6\n", "image/x-portable-pixmap"),
    (0, b"qoif", "image/qoi"),
];

/// By the end of the name, for files whose bytes say nothing of themselves.
const EXTENSIONS: &[(&str, &str)] = &[
    ("3gp", "video/3gpp"),
    ("aac", "audio/aac"),
    ("aif", "audio/aiff"),
    ("aiff", "audio/aiff"),
    ("arrow", "application/vnd.apache.arrow.file"),
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("bag", "application/x-rosbag"),
    ("bmp", "image/bmp"),
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("db3", "application/vnd.sqlite3"),
    ("flac", "audio/x-flac"),
    ("gif", "image/gif"),
    ("heic", "image/heif"),
    ("heif", "image/heif"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("jsonl", "application/jsonl"),
    ("m4a", "audio/m4a"),
    ("m4v", "video/x-m4v"),
    ("mcap", "application/x-mcap"),
    ("md", "text/markdown"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("ndjson", "application/jsonl"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("opus", "audio/opus"),
    ("parquet", "application/vnd.apache.parquet"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("ts", "video/mp2t"),
    ("txt", "text/plain"),
    ("wav", "audio/x-wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("xml", "text/xml"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
];

/// The type that the first bytes tell.
pub(crate) fn by_bytes(head: &[u8]) -> Option<&'static str> {
    let is_magic = |(at, magic, _): &&(usize, &[u8], &str)| {
        head.get(*at..).is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some((_, _, name)) = MAGICS.iter().find(is_magic) {
        return Some(name);
    }
    if head.starts_with(b"OggS") {
        return Some(if contains(head, b"\x80theora") {
            "video/ogg"
        } else if contains(head, b"OpusHead") {
            "audio/opus"
        } else {
            "audio/ogg"
        });
    }
    // A packet of a transport stream begins every 188 bytes.
    let is_packet = |at: usize| head.get(at) == Some(&0x47);
    if is_packet(0) && is_packet(188) && is_packet(376) {
        return Some("video/mp2t");
    }
    infer::get(head).map(|kind| kind.mime_type())
}

/// The type that the name tells.
pub(crate) fn by_name(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    let extension = extension.to_ascii_lowercase();
    EXTENSIONS.iter().find(|(known, _)| *known == extension).map(|(_, kind)| *kind)
}

/// The media type of a file, from its first [`HEAD_BYTES`] bytes and its name.
pub fn media_type(head: &[u8], name: &str) -> &'static str {
    match (by_bytes(head), by_name(name)) {
        // Markup is told by its name: a page of text may begin with anything.
        (Some("text/xml" | "text/html") | None, Some(named)) => named,
        (Some(found), _) => found,
        (None, None) => UNKNOWN,
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_before_names() {
        assert_eq!(media_type(b"\x89PNG\r\n\x1a\n", "x.jpg"), "image/png");
        assert_eq!(media_type(b"#ROSBAG V2.0\n", "x"), "application/x-rosbag");
        assert_eq!(media_type(b"<?xml version='1.0'?><svg/>", "a.SVG"), "image/svg+xml");
        assert_eq!(media_type(b"", "a.png"), "image/png");
        assert_eq!(media_type(b"hello", "notes"), UNKNOWN);
        assert_eq!(media_type(b"hello", ".txt"), "text/plain");
    }

    #[test]
    fn every_extension_stands_once_and_in_order() {
        assert!(EXTENSIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
