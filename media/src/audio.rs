//! Sound: duration and codec from the headers of WAV, FLAC, MP3, Ogg and their like.

use std::io::{BufReader, Read, Seek};

use lofty::config::{ParseOptions, ParsingMode};
use lofty::file::{AudioFile as _, FileType};
use lofty::probe::Probe;

use crate::bytes::Broken;
use crate::probe::MediaHeader;

/// Bytes that are skipped at most in search of the first frame of an MP3.
const JUNK_BYTES_MAX: usize = 64 << 10;

/// Reads duration and codec.
pub(crate) fn read<R: Read + Seek>(
    reader: BufReader<R>,
    header: &mut MediaHeader,
) -> Result<(), Broken> {
    let options = ParseOptions::new()
        .read_tags(false)
        .read_cover_art(false)
        .parsing_mode(ParsingMode::Relaxed)
        .max_junk_bytes(JUNK_BYTES_MAX);
    let probe = Probe::new(reader).options(options).guess_file_type()?;
    let codec = match probe.file_type() {
        // Formats that lofty does not know, such as MIDI, are just files.
        None if header.media_type != "audio/mpeg" => return Ok(()),
        None => return Err(Broken::format("no frame of sound was found")),
        Some(FileType::Aac) => "aac",
        Some(FileType::Aiff | FileType::Wav) => "pcm",
        Some(FileType::Ape) => "ape",
        Some(FileType::Flac) => "flac",
        Some(FileType::Mpeg) => "mp3",
        Some(FileType::Mpc) => "musepack",
        Some(FileType::Opus) => "opus",
        Some(FileType::Vorbis) => "vorbis",
        Some(FileType::Speex) => "speex",
        Some(FileType::WavPack) => "wavpack",
        Some(_) => return Ok(()),
    };
    let tagged = probe
        .read()
        .map_err(|error| Broken::format(format!("the sound's header is damaged: {error}")))?;
    header.codec = Some(codec.to_owned());
    header.duration_ms = i64::try_from(tagged.properties().duration().as_millis()).ok();
    Ok(())
}
