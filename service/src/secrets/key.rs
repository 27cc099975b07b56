//! The key under which secrets are sealed, and the file that it lies in.
//!
//! AES-256 in Galois counter mode with a random nonce for each seal. The place of a value (database, name, uid,
//! version) is authenticated with it, so a value that is put elsewhere in a catalogue opens no more. With random
//! nonces a key is good for some 2^32 seals.
//!
//! The file is made when the first secret is. It is read at each use: a server that was given the wrong one
//! needs no restart. A key whose file is lost cannot be made again; nor can the values.

use std::path::PathBuf;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_storage::{Sealed, SecretPlace, sha256_text};
use zeroize::Zeroizing;

use crate::private_file::PrivateFile;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// Characters of a digest that tell keys apart.
const ID_CHARACTERS: usize = 16;

/// Where the key lies, if there is a place for it.
#[derive(Debug, Clone)]
pub(crate) struct KeyPlace(Option<PrivateFile>);

/// A key.
pub(super) struct SecretsKey {
    key: RandomizedNonceKey,
    id: String,
}

impl KeyPlace {
    pub(crate) fn new(path: Option<PathBuf>) -> KeyPlace {
        KeyPlace(path.map(PrivateFile::new))
    }

    /// Where the key lies, for people.
    pub(super) fn shown(&self) -> String {
        match &self.0 {
            Some(file) => format!("`{}`", file.path().display()),
            None => {
                "no file: no home directory outside of the lake, no `secrets_key_file`".to_owned()
            }
        }
    }

    /// The key, or nothing where it was not made yet.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be read, `Corrupt` when it holds no key.
    pub(super) async fn read(&self) -> Result<Option<SecretsKey>> {
        let Some(file) = self.0.clone() else { return Ok(None) };
        blocking(move || read(&file)).await
    }

    /// The key, which is made where there is none.
    ///
    /// # Errors
    /// As [`KeyPlace::read`]; `Unavailable` when the file cannot be written.
    pub(super) async fn read_or_make(&self) -> Result<SecretsKey> {
        let Some(file) = self.0.clone() else {
            let message = format!("the key of secrets has {}", self.shown());
            return Err(Error::new(ErrorKind::Unavailable, message));
        };
        blocking(move || {
            if let Some(key) = read(&file)? {
                return Ok(key);
            }
            let mut bytes = Zeroizing::new([0; KEY_BYTES]);
            getrandom::fill(bytes.as_mut_slice())
                .map_err(|error| Error::internal("make a key").with_source(error.to_string()))?;
            let text = Zeroizing::new(STANDARD.encode(bytes.as_slice()));
            let is_new = file.create(&text).map_err(|error| failed(&file, error))?;
            if is_new {
                tracing::info!(file = %file.path().display(), "the key of secrets was made");
            }
            // Another server may have been first.
            read(&file)?.ok_or_else(|| failed(&file, "it is gone"))
        })
        .await
    }
}

impl SecretsKey {
    fn new(bytes: &[u8]) -> Result<SecretsKey> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes)
            .map_err(|_| Error::internal("a key of AES-256 was not taken"))?;
        let mut named = Zeroizing::new(b"lakebed secrets key ".to_vec());
        named.extend_from_slice(bytes);
        let digest = sha256_text(&named);
        let id = digest.trim_start_matches("sha256:").chars().take(ID_CHARACTERS).collect();
        Ok(SecretsKey { key, id })
    }

    /// What tells it from other keys, and says nothing of it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Encrypts a value for its place.
    ///
    /// # Errors
    /// `Internal`.
    pub(super) fn seal(&self, place: SecretPlace<'_>, value: &str) -> Result<Sealed> {
        let mut bytes = value.as_bytes().to_vec();
        // Room for the tag: a vector that grows leaves its old bytes behind.
        bytes.reserve_exact(AES_256_GCM.tag_len());
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(bound_to(place)), &mut bytes)
            .map_err(|_| Error::internal("a secret was not encrypted"))?;
        Ok(Sealed {
            key_id: self.id.clone(),
            nonce: STANDARD.encode(nonce.as_ref()),
            bytes: STANDARD.encode(&bytes),
        })
    }

    /// The value that was sealed for a place.
    ///
    /// # Errors
    /// `Corrupt` when it was sealed for another place, or was changed.
    pub(super) fn open(
        &self,
        place: SecretPlace<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<String>> {
        let damaged = || {
            let message = format!("the value of secret `{}` is damaged", place.id.text());
            Error::new(ErrorKind::Corrupt, message)
        };
        let nonce = STANDARD.decode(&sealed.nonce).map_err(|_| damaged())?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| damaged())?;
        let mut bytes = Zeroizing::new(STANDARD.decode(&sealed.bytes).map_err(|_| damaged())?);
        let value = self
            .key
            .open_in_place(Nonce::from(&nonce), Aad::from(bound_to(place)), &mut bytes)
            .map_err(|_| damaged())?;
        std::str::from_utf8(value)
            .map(|text| Zeroizing::new(text.to_owned()))
            .map_err(|_| damaged())
    }
}

/// What is authenticated with a value. None of its parts can hold a line break.
fn bound_to(place: SecretPlace<'_>) -> String {
    let SecretPlace { id, uid, version } = place;
    format!("lakebed secret\n{}\n{}\n{uid}\n{version}", id.database, id.text())
}

fn read(file: &PrivateFile) -> Result<Option<SecretsKey>> {
    let Some(text) = file.read().map_err(|error| failed(file, error))?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(text.as_bytes()).map(Zeroizing::new).unwrap_or_default();
    if bytes.len() != KEY_BYTES {
        let path = file.path().display();
        let message = format!("the key of secrets `{path}` is not {KEY_BYTES} bytes in base64");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    if let Ok(Some(mode)) = file.mode_for_others() {
        tracing::warn!(
            file = %file.path().display(),
            mode = format_args!("{mode:o}"),
            "the key of secrets can be read by others"
        );
    }
    SecretsKey::new(&bytes).map(Some)
}

fn failed(file: &PrivateFile, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let error = error.into();
    let message = format!("the key of secrets `{}`: {error}", file.path().display());
    Error::new(ErrorKind::Unavailable, message).with_source(error)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal("read a key").with_source(error))?
}

#[cfg(test)]
mod tests {
    use lakebed_core::{DatabaseName, TableId};

    use super::*;

    fn id(text: &str) -> TableId {
        TableId::parse(&DatabaseName::default_database(), text).unwrap()
    }

    #[test]
    fn a_value_opens_in_its_place_and_under_its_key_only() {
        let key = SecretsKey::new(&[7; KEY_BYTES]).unwrap();
        let name = id("ns$s");
        let place = SecretPlace { id: &name, uid: "u", version: 3 };
        let value = "s3cr3t-wörd";
        let (one, two) = (key.seal(place, value).unwrap(), key.seal(place, value).unwrap());
        assert_ne!(one.nonce, two.nonce);
        assert_ne!(one.bytes, two.bytes);
        assert_eq!(*key.open(place, &one).unwrap(), value);
        let other = id("ns$t");
        for place in [
            SecretPlace { id: &other, ..place },
            SecretPlace { uid: "v", ..place },
            SecretPlace { version: 2, ..place },
        ] {
            assert_eq!(key.open(place, &one).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        let other_key = SecretsKey::new(&[8; KEY_BYTES]).unwrap();
        assert_ne!(other_key.id(), key.id());
        assert!(other_key.open(place, &one).is_err());
        let mixed = Sealed { nonce: two.nonce, ..one };
        let error = key.open(place, &mixed).unwrap_err();
        assert!(!format!("{error:?}").contains(value), "{error:?}");
    }

    #[tokio::test]
    async fn a_key_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/secrets-key");
        let place = KeyPlace::new(Some(path.clone()));
        assert!(place.read().await.unwrap().is_none());
        let made = place.read_or_make().await.unwrap();
        assert_eq!(place.read_or_make().await.unwrap().id(), made.id());
        assert_eq!(place.read().await.unwrap().unwrap().id(), made.id());
        std::fs::write(&path, "short\n").unwrap();
        let Err(error) = place.read_or_make().await else { panic!("a short key was taken") };
        assert!(error.message().contains("deep/secrets-key"), "{error}");
        let Err(error) = KeyPlace::new(None).read_or_make().await else { panic!("no file") };
        assert!(error.message().contains("secrets_key_file"), "{error}");
    }
}
