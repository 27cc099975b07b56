//! Reads of exact places in a file, with errors that say where it ended.

use std::io::{self, Read, Seek, SeekFrom};

/// Why a file could not be read as what it says it is: lowercase, for the column `error`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The file ends before something that it announced.
    #[error("the file ends at byte {end}, inside {what}")]
    Cut {
        /// What was cut.
        what: &'static str,
        /// Where the file ends.
        end: u64,
    },
    /// The bytes do not follow the format.
    #[error("{0}")]
    Format(String),
    /// A claim is larger than what is read.
    #[error("{what} claims {claimed}; at most {limit} are read")]
    Limit {
        /// What claims it.
        what: &'static str,
        /// What it claims.
        claimed: u64,
        /// The limit.
        limit: u64,
    },
    /// The file could not be read.
    #[error("read of the file: {0}")]
    Io(#[from] io::Error),
}

impl Broken {
    pub(crate) fn format(text: impl Into<String>) -> Self {
        Broken::Format(text.into())
    }
}

/// The size of a file.
pub(crate) fn size_of(reader: &mut impl Seek) -> io::Result<u64> {
    reader.seek(SeekFrom::End(0))
}

/// Fills `buffer` from `at`.
pub(crate) fn read_at<R: Read + Seek>(
    reader: &mut R,
    at: u64,
    buffer: &mut [u8],
    what: &'static str,
) -> Result<(), Broken> {
    reader.seek(SeekFrom::Start(at))?;
    match reader.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Broken::Cut { what, end: size_of(reader)? })
        }
        other => Ok(other?),
    }
}

/// `size` bytes from `at`, which were checked to be there and to be at most `limit`.
pub(crate) fn take_at<R: Read + Seek>(
    reader: &mut R,
    at: u64,
    size: u64,
    limit: u64,
    what: &'static str,
) -> Result<Vec<u8>, Broken> {
    if size > limit {
        return Err(Broken::Limit { what, claimed: size, limit });
    }
    // Grows with what is there, not with what is claimed.
    let mut bytes = Vec::new();
    reader.seek(SeekFrom::Start(at))?;
    reader.by_ref().take(size).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(Broken::Cut { what, end: size_of(reader)? }),
    }
}

/// Takes numbers from the front of a slice.
pub(crate) struct Slice<'a>(pub(crate) &'a [u8]);

impl<'a> Slice<'a> {
    pub(crate) fn bytes(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u16_le(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32_le(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64_le(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u16_be(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32_be(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64_be(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Bytes behind a length of four bytes, little-endian.
    pub(crate) fn prefixed(&mut self) -> Option<&'a [u8]> {
        let size = self.u32_le()?;
        self.bytes(usize::try_from(size).ok()?)
    }
}
