//! EXIF: orientation, time and place. What is damaged there is left out: the picture is still one.

use std::io::{BufRead, Seek};

use chrono::{NaiveDate, TimeDelta};
use exif::{Exif, In, Reader, Tag, Value};

use crate::probe::MediaHeader;

/// Fills in what EXIF says.
pub(crate) fn read<R: BufRead + Seek>(reader: &mut R, header: &mut MediaHeader) {
    let parsed = Reader::new()
        .continue_on_error(true)
        .read_from_container(reader)
        .or_else(|error| error.distill_partial_result(|_| {}));
    let Ok(exif) = parsed else { return };
    header.orientation = uint(&exif, Tag::Orientation)
        .and_then(|value| i32::try_from(value).ok())
        .filter(|value| (1..=8).contains(value));
    header.taken_at_ns = taken_at(&exif);
    let latitude = degrees(&exif, Tag::GPSLatitude, Tag::GPSLatitudeRef, b'S', 90.0);
    let longitude = degrees(&exif, Tag::GPSLongitude, Tag::GPSLongitudeRef, b'W', 180.0);
    if let (Some(latitude), Some(longitude)) = (latitude, longitude) {
        (header.latitude, header.longitude) = (Some(latitude), Some(longitude));
    }
}

fn uint(exif: &Exif, tag: Tag) -> Option<u32> {
    exif.get_field(tag, In::PRIMARY)?.value.get_uint(0)
}

fn ascii(exif: &Exif, tag: Tag) -> Option<&[u8]> {
    match &exif.get_field(tag, In::PRIMARY)?.value {
        Value::Ascii(texts) => texts.first().map(Vec::as_slice),
        _ => None,
    }
}

/// The time of the shot. A camera that does not say its zone is taken to mean UTC.
fn taken_at(exif: &Exif) -> Option<i64> {
    let times = [
        (Tag::DateTimeOriginal, Tag::OffsetTimeOriginal, Tag::SubSecTimeOriginal),
        (Tag::DateTimeDigitized, Tag::OffsetTimeDigitized, Tag::SubSecTimeDigitized),
        (Tag::DateTime, Tag::OffsetTime, Tag::SubSecTime),
    ];
    times.into_iter().find_map(|(time, offset, fraction)| {
        let mut parsed = exif::DateTime::from_ascii(ascii(exif, time)?).ok()?;
        if let Some(offset) = ascii(exif, offset) {
            parsed.parse_offset(offset).ok();
        }
        if let Some(fraction) = ascii(exif, fraction) {
            parsed.parse_subsec(fraction).ok();
        }
        let date = NaiveDate::from_ymd_opt(
            i32::from(parsed.year),
            u32::from(parsed.month),
            u32::from(parsed.day),
        )?;
        let local = date.and_hms_nano_opt(
            u32::from(parsed.hour),
            u32::from(parsed.minute),
            u32::from(parsed.second),
            parsed.nanosecond.unwrap_or(0),
        )?;
        let east = TimeDelta::minutes(i64::from(parsed.offset.unwrap_or(0)));
        local.checked_sub_signed(east)?.and_utc().timestamp_nanos_opt()
    })
}

/// Degrees, minutes and seconds as degrees; `negative` is the first letter of the other half.
fn degrees(exif: &Exif, tag: Tag, half: Tag, negative: u8, limit: f64) -> Option<f64> {
    let Value::Rational(parts) = &exif.get_field(tag, In::PRIMARY)?.value else { return None };
    let part = |at: usize| match parts.get(at) {
        None => Some(0.0),
        Some(part) if part.denom == 0 => None,
        Some(part) => Some(part.to_f64()),
    };
    let degrees = part(0)? + part(1)? / 60.0 + part(2)? / 3600.0;
    let sign = match ascii(exif, half)?.first()?.to_ascii_uppercase() == negative {
        true => -1.0,
        false => 1.0,
    };
    (degrees.is_finite() && degrees <= limit).then_some(sign * degrees)
}
