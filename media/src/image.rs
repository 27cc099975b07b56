//! Pictures: their size from the header, and what EXIF says. Nothing is decoded.

use std::io::{BufRead, Seek, SeekFrom};

use imagesize::ImageError;

use crate::bytes::Broken;
use crate::exif;
use crate::probe::MediaHeader;

/// Reads size and EXIF.
pub(crate) fn read<R: BufRead + Seek>(
    reader: &mut R,
    header: &mut MediaHeader,
) -> Result<(), Broken> {
    let size = imagesize::reader_size(&mut *reader);
    reader.seek(SeekFrom::Start(0))?;
    exif::read(reader, header);
    let size = match size {
        Ok(size) => size,
        Err(ImageError::NotSupported) => return Ok(()),
        Err(ImageError::CorruptedImage) => {
            return Err(Broken::format("the picture's header is damaged"));
        }
        Err(ImageError::IoError(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(Broken::format("the file ends inside the picture's header"));
        }
        Err(ImageError::IoError(error)) => return Err(error.into()),
    };
    let [width, height] = [size.width, size.height].map(|pixels| i32::try_from(pixels).ok());
    if width.is_none_or(|width| width == 0) || height.is_none_or(|height| height == 0) {
        return Err(Broken::format(format!(
            "the picture claims {} x {} pixels",
            size.width, size.height
        )));
    }
    (header.width, header.height) = (width, height);
    Ok(())
}
