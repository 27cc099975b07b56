//! A reader that ends after so many bytes, wherever they were read.
//!
//! Parsers of other people read what a file claims. Behind this they cannot read, and so cannot hold,
//! more than a stated number of bytes: the file seems to end there.

use std::io::{self, Read, Seek, SeekFrom};

/// Reads at most a number of bytes in all, over every seek; then it reads as if the file ended.
#[derive(Debug)]
pub struct Budget<R> {
    inner: R,
    left: u64,
}

impl<R> Budget<R> {
    /// A reader of at most `bytes` bytes of `inner`.
    pub fn new(inner: R, bytes: u64) -> Self {
        Budget { inner, left: bytes }
    }
}

impl<R: Read> Read for Budget<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..room])?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl<R: Seek> Seek for Budget<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_like_a_file() {
        let mut reader = Budget::new(io::Cursor::new(vec![1; 100]), 10);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 10);
        reader.seek(SeekFrom::Start(0)).unwrap();
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0);
    }
}
