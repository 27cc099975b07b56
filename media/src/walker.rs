//! Walks through the records of a file from its beginning, without loading those that it passes over.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use crate::bytes::{Broken, size_of};

/// Enough for a run of small records; larger ones are passed over by seeking.
const BUFFER_BYTES: usize = 64 << 10;
/// A chunk that says nothing of its size is not decoded beyond this and beyond [`DECODED_FACTOR`].
const DECODED_BYTES_MIN: u64 = 64 << 20;
/// How many times the size of its file may be decoded; more is a decompression bomb.
const DECODED_FACTOR: u64 = 256;
/// Bytes of the name of a compression: it is kept for each chunk.
pub(crate) const COMPRESSION_BYTES_MAX: usize = 64;
/// The largest window of zstd, as a power of two: it is memory that the file asks for.
const ZSTD_WINDOW_LOG_MAX: u32 = 26;

/// A place in a file that moves forward.
pub(crate) struct Walker<R> {
    reader: BufReader<R>,
    at: u64,
    end: u64,
    /// Bytes of chunks that were decoded.
    decoded: u64,
}

impl<R: Read + Seek> Walker<R> {
    pub(crate) fn new(mut reader: R) -> io::Result<Self> {
        let end = size_of(&mut reader)?;
        reader.seek(SeekFrom::Start(0))?;
        Ok(Walker {
            reader: BufReader::with_capacity(BUFFER_BYTES, reader),
            at: 0,
            end,
            decoded: 0,
        })
    }

    /// Behind the magic of a file, which says what kind it is of.
    pub(crate) fn begin(reader: R, magic: &[u8], kind: &str) -> Result<Self, Broken> {
        let mut walker = Walker::new(reader)?;
        if walker.left() == 0 {
            return Err(Broken::format("the file is empty"));
        }
        let found = walker.take(magic.len() as u64, magic.len() as u64, "the magic")?;
        match found == magic {
            true => Ok(walker),
            false => Err(Broken::format(format!("the file is no {kind}"))),
        }
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn left(&self) -> u64 {
        self.end - self.at
    }

    pub(crate) fn go_to(&mut self, at: u64) -> io::Result<()> {
        self.at = self.reader.seek(SeekFrom::Start(at.min(self.end)))?;
        Ok(())
    }

    fn cut(&mut self, what: &'static str) -> Broken {
        Broken::Cut { what, end: self.end }
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8], what: &'static str) -> Result<(), Broken> {
        if (buffer.len() as u64) > self.left() {
            return Err(self.cut(what));
        }
        self.reader.read_exact(buffer)?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    pub(crate) fn u32_le(&mut self, what: &'static str) -> Result<u32, Broken> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes, what)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The next `size` bytes, at most `limit`.
    pub(crate) fn take(
        &mut self,
        size: u64,
        limit: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, Broken> {
        if size > self.left() {
            return Err(self.cut(what));
        }
        if size > limit {
            return Err(Broken::Limit { what, claimed: size, limit });
        }
        let mut bytes = vec![0; size as usize];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    pub(crate) fn skip(&mut self, size: u64, what: &'static str) -> Result<(), Broken> {
        if size > self.left() {
            return Err(self.cut(what));
        }
        match i64::try_from(size) {
            Ok(step) => self.reader.seek_relative(step)?,
            Err(_) => return Err(self.cut(what)),
        }
        self.at += size;
        Ok(())
    }

    /// The bytes of a chunk of `size` bytes at `at`, decoded while they are read. What all chunks of a
    /// file may have together is limited.
    pub(crate) fn decoded(
        &mut self,
        at: u64,
        size: u64,
        compression: &[u8],
    ) -> Result<Decoded<'_>, Broken> {
        self.go_to(at)?;
        let stored = self.reader.by_ref().take(size);
        let inner: Box<dyn Read + '_> = match compression {
            b"" | b"none" => Box::new(stored),
            b"bz2" => Box::new(bzip2::read::BzDecoder::new(stored)),
            b"lz4" => Box::new(lz4_flex::frame::FrameDecoder::new(stored)),
            b"zstd" => {
                let mut decoder = zstd::stream::read::Decoder::new(stored)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
            other => {
                let name = crate::probe::shortened(&String::from_utf8_lossy(other));
                return Err(Broken::format(format!("a chunk is compressed by `{name}`")));
            }
        };
        let limit = self.end.saturating_mul(DECODED_FACTOR).max(DECODED_BYTES_MIN);
        Ok(Decoded { inner: BufReader::new(inner), read: &mut self.decoded, limit })
    }
}

/// The decoded bytes of one chunk.
pub(crate) struct Decoded<'a> {
    inner: BufReader<Box<dyn Read + 'a>>,
    /// Bytes of all chunks so far.
    read: &'a mut u64,
    limit: u64,
}

impl Decoded<'_> {
    /// Refuses to decode more than all chunks may have.
    fn check(&self, size: u64) -> Result<(), Broken> {
        let (claimed, limit) = (self.read.saturating_add(size), self.limit);
        match claimed <= limit {
            true => Ok(()),
            false => Err(Broken::Limit { what: "a chunk, decoded,", claimed, limit }),
        }
    }

    /// Fills the buffer; false at the end of the chunk.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, Broken> {
        self.check(buffer.len() as u64)?;
        match self.inner.read_exact(buffer) {
            Ok(()) => {
                *self.read += buffer.len() as u64;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(Broken::format(format!("a chunk is damaged: {error}"))),
        }
    }

    /// The next `size` bytes, at most `limit`; none at the end of the chunk.
    pub(crate) fn take(
        &mut self,
        size: u64,
        limit: u64,
        what: &'static str,
    ) -> Result<Option<Vec<u8>>, Broken> {
        if size > limit {
            return Err(Broken::Limit { what, claimed: size, limit });
        }
        self.check(size)?;
        let mut bytes = Vec::new();
        let read = self.inner.by_ref().take(size).read_to_end(&mut bytes);
        read.map_err(|error| Broken::format(format!("a chunk is damaged: {error}")))?;
        *self.read += bytes.len() as u64;
        Ok((bytes.len() as u64 == size).then_some(bytes))
    }

    /// Passes over bytes; false at the end of the chunk.
    pub(crate) fn skip(&mut self, size: u64) -> Result<bool, Broken> {
        self.check(size)?;
        let passed = io::copy(&mut self.inner.by_ref().take(size), &mut io::sink());
        let passed =
            passed.map_err(|error| Broken::format(format!("a chunk is damaged: {error}")))?;
        *self.read += passed;
        Ok(passed == size)
    }
}
