//! MP4 and QuickTime: duration, size, codec, frames, time and place from the headers of boxes.
//!
//! Only headers and fixed fields are read, wherever `moov` lies: a table of four billion samples costs
//! the twelve bytes in which it says so.
//!
//! ```text
//!   moov ─ mvhd                    time of the shot, duration
//!        ├ trak ─ tkhd             rotation
//!        │      └ mdia ─ mdhd, hdlr, minf ─ stbl ─ stsd (codec, size), stsz | stz2 (samples)
//!        ├ mvex ─ mehd             duration of a file in fragments
//!        └ udta ─ ©xyz             place
//!   moof ─ traf ─ tfhd, trun       samples of a fragment
//! ```

use std::io::{Read, Seek};

use crate::bytes::{Broken, Slice, read_at, size_of, take_at};
use crate::probe::MediaHeader;

/// Boxes whose headers are read in one file; a fragment has about six.
const BOXES_MAX: u32 = 500_000;
/// Tracks of one file; each fragment looks for its own among them.
const TRACKS_MAX: usize = 1_024;
/// How deep boxes may lie in one another.
const DEPTH_MAX: usize = 8;
/// Bytes of one box that are read; the rest of a table is not looked at.
const FIELDS_BYTES_MAX: u64 = 512;
/// Seconds from 1904, from which these files count, to 1970.
const EPOCH_S: i64 = 2_082_844_800;

/// What was found of one track.
#[derive(Debug, Default)]
struct Track {
    id: u32,
    handler: [u8; 4],
    timescale: u32,
    duration: u64,
    codec: Option<String>,
    size: Option<(u16, u16)>,
    samples: u64,
    orientation: Option<i32>,
}

#[derive(Debug, Default)]
struct Movie {
    timescale: u32,
    duration: u64,
    fragments_duration: u64,
    created: Option<u64>,
    place: Option<(f64, f64)>,
    tracks: Vec<Track>,
    /// Samples in fragments, by the id of their track.
    fragment_track: u32,
    boxes: u32,
    has_movie: bool,
}

/// Reads what the headers say.
pub(crate) fn read<R: Read + Seek>(reader: &mut R, header: &mut MediaHeader) -> Result<(), Broken> {
    let mut movie = Movie::default();
    let end = size_of(reader)?;
    let outcome = movie.walk(reader, 0, end, 0);
    movie.fill(header);
    outcome?;
    match movie.has_movie {
        true => Ok(()),
        false => Err(Broken::format("the file has no `moov` box")),
    }
}

impl Movie {
    fn walk<R: Read + Seek>(
        &mut self,
        reader: &mut R,
        mut at: u64,
        end: u64,
        depth: usize,
    ) -> Result<(), Broken> {
        while end.saturating_sub(at) >= 8 {
            self.boxes += 1;
            if self.boxes > BOXES_MAX {
                let (claimed, limit) = (self.boxes.into(), BOXES_MAX.into());
                return Err(Broken::Limit { what: "the number of boxes", claimed, limit });
            }
            let mut head = [0; 16];
            read_at(reader, at, &mut head[..8], "a box")?;
            let mut fields = Slice(&head);
            let small = fields.u32_be().unwrap_or(0);
            let name = [head[4], head[5], head[6], head[7]];
            let (body, size) = match small {
                0 => (at + 8, end - at),
                1 => {
                    read_at(reader, at, &mut head, "a box")?;
                    (at + 16, Slice(&head[8..]).u64_be().unwrap_or(0))
                }
                size => (at + 8, size.into()),
            };
            let next = at.saturating_add(size);
            if next < body {
                // Four zero bytes may end a box of user data.
                if depth > 0 && small == 0 {
                    return Ok(());
                }
                return Err(Broken::format(format!("the box at byte {at} is {size} bytes long")));
            }
            // What lies beyond the end is read as far as it is there.
            let cut = next > end;
            self.enter(reader, name, body, next.min(end), depth)?;
            if cut {
                let what = if &name == b"mdat" { "the media data" } else { "a box" };
                return Err(Broken::Cut { what, end });
            }
            at = next;
        }
        Ok(())
    }

    fn enter<R: Read + Seek>(
        &mut self,
        reader: &mut R,
        name: [u8; 4],
        body: u64,
        end: u64,
        depth: usize,
    ) -> Result<(), Broken> {
        match &name {
            b"moov" | b"trak" | b"mdia" | b"minf" | b"stbl" | b"mvex" | b"moof" | b"traf"
            | b"udta" => {
                if &name == b"moov" {
                    self.has_movie = true;
                }
                if &name == b"trak" {
                    if self.tracks.len() == TRACKS_MAX {
                        let (claimed, limit) = (TRACKS_MAX as u64 + 1, TRACKS_MAX as u64);
                        return Err(Broken::Limit { what: "the number of tracks", claimed, limit });
                    }
                    self.tracks.push(Track::default());
                }
                if depth == DEPTH_MAX {
                    return Err(Broken::format("boxes lie too deep in one another"));
                }
                self.walk(reader, body, end, depth + 1)
            }
            b"mvhd" | b"tkhd" | b"mdhd" | b"hdlr" | b"stsd" | b"stsz" | b"stz2" | b"mehd"
            | b"tfhd" | b"trun" | b"\xa9xyz" => {
                let size = (end - body).min(FIELDS_BYTES_MAX);
                let fields = take_at(reader, body, size, FIELDS_BYTES_MAX, "a box")?;
                // Fields that are not there stay unknown.
                let _ = self.fields(name, &fields);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fields(&mut self, name: [u8; 4], bytes: &[u8]) -> Option<()> {
        if &name == b"\xa9xyz" {
            self.place = place(bytes);
            return Some(());
        }
        let mut at = Slice(bytes);
        let flags = at.u32_be()?;
        let is_long = flags >> 24 == 1;
        let time = |at: &mut Slice<'_>| match is_long {
            true => at.u64_be(),
            false => at.u32_be().map(u64::from),
        };
        match &name {
            b"mvhd" => {
                self.created = time(&mut at);
                time(&mut at)?;
                self.timescale = at.u32_be()?;
                self.duration = known(time(&mut at)?);
            }
            b"mehd" => self.fragments_duration = time(&mut at)?,
            b"tfhd" => self.fragment_track = at.u32_be()?,
            b"trun" => {
                let samples = at.u32_be()?;
                let id = self.fragment_track;
                let track = self.tracks.iter_mut().find(|track| track.id == id)?;
                track.samples = track.samples.saturating_add(samples.into());
            }
            _ => return self.tracks.last_mut()?.fields(name, at, is_long),
        }
        Some(())
    }

    fn fill(&self, header: &mut MediaHeader) {
        let of = |handler: &[u8; 4]| self.tracks.iter().find(|track| &track.handler == handler);
        let (video, sound) = (of(b"vide"), of(b"soun"));
        let whole = ms(self.duration.max(self.fragments_duration), self.timescale);
        let longest = self.tracks.iter().filter_map(|track| ms(track.duration, track.timescale));
        header.duration_ms = whole.filter(|ms| *ms > 0).or(longest.max());
        header.codec = video.or(sound).and_then(|track| track.codec.clone());
        if let Some(video) = video {
            header.frames = i64::try_from(video.samples).ok();
            if let Some((width, height)) = video.size {
                (header.width, header.height) = (Some(width.into()), Some(height.into()));
            }
            header.orientation = video.orientation;
        } else if sound.is_some() && header.media_type == "video/mp4" {
            header.media_type = "audio/mp4";
        }
        // Zero is what writers put there who do not know.
        header.taken_at_ns = self
            .created
            .filter(|seconds| *seconds > 0)
            .and_then(|seconds| i64::try_from(seconds).ok()?.checked_sub(EPOCH_S))
            .filter(|seconds| *seconds >= 0)
            .and_then(|seconds| seconds.checked_mul(1_000_000_000));
        if let Some((latitude, longitude)) = self.place {
            (header.latitude, header.longitude) = (Some(latitude), Some(longitude));
        }
    }
}

impl Track {
    fn fields(&mut self, name: [u8; 4], mut at: Slice<'_>, is_long: bool) -> Option<()> {
        match &name {
            b"tkhd" => {
                at.bytes(if is_long { 16 } else { 8 })?;
                self.id = at.u32_be()?;
                at.bytes(if is_long { 12 } else { 8 })?;
                at.bytes(16)?;
                let mut matrix = [0; 9];
                for cell in &mut matrix {
                    *cell = at.u32_be()?.cast_signed();
                }
                self.orientation = orientation(&matrix);
            }
            b"mdhd" => {
                at.bytes(if is_long { 16 } else { 8 })?;
                self.timescale = at.u32_be()?;
                self.duration = match is_long {
                    true => known(at.u64_be()?),
                    false => known(at.u32_be()?.into()),
                };
            }
            b"hdlr" => {
                at.bytes(4)?;
                let handler: [u8; 4] = at.bytes(4)?.try_into().ok()?;
                // QuickTime has a second one in `minf`, for where the data lie.
                if matches!(&handler, b"vide" | b"soun") {
                    self.handler = handler;
                }
            }
            b"stsd" => {
                at.bytes(8)?;
                self.codec = codec(at.bytes(4)?);
                // Reserved, index, and fields that differ between pictures and sound.
                at.bytes(8 + 16)?;
                self.size = Some((at.u16_be()?, at.u16_be()?));
            }
            b"stsz" | b"stz2" => {
                at.bytes(4)?;
                self.samples = self.samples.saturating_add(at.u32_be()?.into());
            }
            _ => {}
        }
        Some(())
    }
}

/// A duration of all ones means that it is not known.
fn known(duration: u64) -> u64 {
    match duration {
        0xffff_ffff | u64::MAX => 0,
        duration => duration,
    }
}

fn ms(duration: u64, timescale: u32) -> Option<i64> {
    let ms = u128::from(duration) * 1_000 / u128::from(std::num::NonZeroU32::new(timescale)?.get());
    i64::try_from(ms).ok()
}

/// The name of a codec as people know it.
fn codec(name: &[u8]) -> Option<String> {
    let known = match name {
        b"avc1" | b"avc3" => "h264",
        b"hev1" | b"hvc1" => "hevc",
        b"av01" => "av1",
        b"vp08" => "vp8",
        b"vp09" => "vp9",
        b"mp4v" => "mpeg4",
        b"mp4a" => "aac",
        b"alac" => "alac",
        b"Opus" => "opus",
        b"fLaC" => "flac",
        b"jpeg" | b"mjpa" | b"mjpb" => "mjpeg",
        b"apcn" | b"apch" | b"apcs" | b"apco" | b"ap4h" => "prores",
        other => {
            let text = String::from_utf8_lossy(other).trim().to_ascii_lowercase();
            return (!text.is_empty()).then_some(text);
        }
    };
    Some(known.to_owned())
}

/// The rotation of a track as EXIF numbers it; none for one that is not a multiple of a right angle.
fn orientation(matrix: &[i32; 9]) -> Option<i32> {
    match [matrix[0].signum(), matrix[1].signum(), matrix[3].signum(), matrix[4].signum()] {
        [1, 0, 0, 1] => Some(1),
        [0, 1, -1, 0] => Some(6),
        [-1, 0, 0, -1] => Some(3),
        [0, -1, 1, 0] => Some(8),
        _ => None,
    }
}

/// A place as ISO 6709 writes it, `+52.52+013.40/`, behind a size and a language.
fn place(bytes: &[u8]) -> Option<(f64, f64)> {
    let mut at = Slice(bytes);
    let size = usize::from(at.u16_be()?);
    at.u16_be()?;
    let text = std::str::from_utf8(at.bytes(size.min(at.0.len()))?).ok()?;
    let is_sign = |character: char| character == '+' || character == '-';
    let second = text.char_indices().skip(1).find(|(_, character)| is_sign(*character))?.0;
    let (latitude, rest) = text.split_at(second);
    let is_end = |(at, character): &(usize, char)| {
        *at > 0 && !character.is_ascii_digit() && *character != '.'
    };
    let end = rest.char_indices().find(is_end).map_or(rest.len(), |(at, _)| at);
    let (latitude, longitude) = (latitude.parse::<f64>().ok()?, rest[..end].parse::<f64>().ok()?);
    (latitude.abs() <= 90.0 && longitude.abs() <= 180.0).then_some((latitude, longitude))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_parsed() {
        let cell = |text: &str| {
            let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
            bytes.extend_from_slice(&[0x15, 0xc7]);
            bytes.extend_from_slice(text.as_bytes());
            place(&bytes)
        };
        assert_eq!(cell("+52.5200+013.4050/"), Some((52.52, 13.405)));
        assert_eq!(cell("-33.8+151.2+12.0/"), Some((-33.8, 151.2)));
        assert_eq!(cell("+99+1/"), None);
        assert_eq!(cell(""), None);
        assert_eq!(cell("é+é"), None);
    }
}
