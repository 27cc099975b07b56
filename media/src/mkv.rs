//! Matroska and WebM: duration, size and codec from `Info` and `Tracks`.

use std::io::{Read, Seek};

use matroska_demuxer::{DemuxError, MatroskaFile, TrackType};

use crate::bytes::Broken;
use crate::probe::MediaHeader;

/// Seconds from 1970 to 2001, from which Matroska counts.
const EPOCH_S: i64 = 978_307_200;

/// Reads duration, size and codec. Frames are not counted: that would read the whole file.
pub(crate) fn read<R: Read + Seek>(reader: R, header: &mut MediaHeader) -> Result<(), Broken> {
    let file = MatroskaFile::open(reader).map_err(|error| match error {
        DemuxError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Broken::format("the file ends inside the video's header")
        }
        error => Broken::format(format!("the video's header is damaged: {error}")),
    })?;
    let scale = file.info().timestamp_scale().get() as f64;
    header.duration_ms = file
        .info()
        .duration()
        .map(|duration| duration * scale / 1e6)
        .filter(|ms| ms.is_finite() && (0.0..1e15).contains(ms))
        .map(|ms| ms.round() as i64);
    header.taken_at_ns =
        file.info().date_utc().and_then(|ns| ns.checked_add(EPOCH_S * 1_000_000_000));
    let track = |kind| file.tracks().iter().find(move |track| track.track_type() == kind);
    let video = track(TrackType::Video);
    let codec = video.or_else(|| track(TrackType::Audio)).map(|track| track.codec_id());
    header.codec = codec.map(|codec| {
        let codec = codec.trim_start_matches("V_").trim_start_matches("A_");
        match codec {
            "MPEG4/ISO/AVC" => "h264".to_owned(),
            "MPEGH/ISO/HEVC" => "hevc".to_owned(),
            other => other.to_ascii_lowercase(),
        }
    });
    if let Some(video) = video.and_then(|track| track.video()) {
        header.width = i32::try_from(video.pixel_width().get()).ok();
        header.height = i32::try_from(video.pixel_height().get()).ok();
    } else if video.is_none() && header.media_type == "video/webm" {
        header.media_type = "audio/webm";
    }
    Ok(())
}
