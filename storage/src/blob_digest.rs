//! The digest that a large blob is called by.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::blob::hex;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlobDigest([u8; 32]);

impl BlobDigest {
    pub(crate) fn new(digest: [u8; 32]) -> Self {
        BlobDigest(digest)
    }

    /// Reads 64 hexadecimal digits in lower case, as files are called.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut digest = [0_u8; 32];
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(BlobDigest(digest))
    }

    /// As files are called.
    pub(crate) fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// `sha256:` and the digest of bytes in hexadecimal digits, as models and functions are named.
pub fn sha256_text(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_files_are_called_is_a_digest() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(BlobDigest::parse(&text).unwrap().hex(), text);
        for wrong in
            [text.to_uppercase(), text[1..].to_owned(), format!("{text}#1"), "é".repeat(32)]
        {
            assert_eq!(BlobDigest::parse(&wrong), None, "{wrong}");
        }
    }
}
