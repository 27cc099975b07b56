//! API keys: made, listed and revoked by an admin.
//!
//! A key's text is `lb_<id>_<secret>`: the id is public and finds the record, the secret is 256
//! random bits. The lake keeps `_lakebed/keys/<id>.json` with the SHA-256 of the whole text and
//! never the text itself; that many random bits need no slow hash. Revoked and expired records
//! stay, so that audit lines keep their names.
//!
//! The key with the id `admin` is the operator's: the first start makes it, `LAKEBED_ADMIN_KEY` and
//! `lakebed keys reset` replace it. It alone may be any text the operator chose, and is what a text
//! that names no other record is compared with.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role};
use lakebed_storage::SystemStore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

#[cfg(test)]
mod life_cycle;

/// The id of the operator's key.
pub const ADMIN_KEY_ID: &str = "admin";

const FOLDER: &str = "keys/";
const FORMAT: u32 = 1;
const KEYS_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 128;
const ID_RANDOM_BYTES: usize = 8;
const SECRET_RANDOM_BYTES: usize = 32;
const SECRET_TEXT_BYTES_MIN: usize = 8;
/// Longer texts are refused before they are hashed.
pub(crate) const SECRET_TEXT_BYTES_MAX: usize = 512;
const READS_AT_ONCE: usize = 16;

/// A key that was just made: the only time its text is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The public part.
    pub id: String,
    /// The text that clients present.
    pub secret: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A secret that is logged by accident is a secret no longer.
        f.debug_struct("NewKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl NewKey {
    /// A text for the operator's key with fresh random bits.
    ///
    /// # Errors
    /// `Unavailable` where the system gives no random bytes.
    pub fn generate_admin() -> Result<NewKey> {
        NewKey::generate(ADMIN_KEY_ID.to_owned())
    }

    fn generate(id: String) -> Result<NewKey> {
        let secret = format!("lb_{id}_{}", hex(&random::<SECRET_RANDOM_BYTES>()?));
        Ok(NewKey { id, secret })
    }
}

/// A key in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySummary {
    /// The public part.
    pub id: String,
    /// What its maker called it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// From when on it is refused, where that was set.
    pub expires_at_ms: Option<i64>,
    /// When it was revoked.
    pub revoked_at_ms: Option<i64>,
}

/// A key as the lake keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRecord {
    format: u32,
    pub(crate) id: String,
    name: String,
    role: String,
    sha256: String,
    created_at_ms: i64,
    pub(crate) expires_at_ms: Option<i64>,
    pub(crate) revoked_at_ms: Option<i64>,
}

impl KeyRecord {
    fn new(id: &str, name: &str, role: Role, secret: &str, now_ms: i64) -> Self {
        KeyRecord {
            format: FORMAT,
            id: id.to_owned(),
            name: name.to_owned(),
            role: role.name().to_owned(),
            sha256: hex(&digest(secret)),
            created_at_ms: now_ms,
            expires_at_ms: None,
            revoked_at_ms: None,
        }
    }

    fn parse(id: &str, bytes: &[u8]) -> Result<KeyRecord> {
        let record: KeyRecord = serde_json::from_slice(bytes).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("the record of API key `{id}` cannot be read"))
                .with_source(error)
        })?;
        if record.format != FORMAT {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the record of API key `{id}` has format {}; this server reads format {FORMAT}",
                    record.format
                ),
            ));
        }
        record.role()?;
        Ok(record)
    }

    /// The role.
    pub(crate) fn role(&self) -> Result<Role> {
        Role::parse(&self.role).ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!("API key `{}` has the role `{}`, which is not known", self.id, self.role),
            )
        })
    }

    /// The digest of the key's text, or nothing where the record holds no digest.
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        unhex(&self.sha256)
    }

    fn summary(&self) -> Result<KeySummary> {
        Ok(KeySummary {
            id: self.id.clone(),
            name: self.name.clone(),
            role: self.role()?,
            created_at_ms: self.created_at_ms,
            expires_at_ms: self.expires_at_ms,
            revoked_at_ms: self.revoked_at_ms,
        })
    }
}

/// Reads the record of `id`.
pub(crate) async fn load(system: &SystemStore, id: &str) -> Result<Option<KeyRecord>> {
    match system.get(&path(id)).await? {
        Some(bytes) => KeyRecord::parse(id, &bytes).map(Some),
        None => Ok(None),
    }
}

/// The public part of a text of the form `lb_<id>_<secret>`.
pub(crate) fn id_of(secret: &str) -> Option<&str> {
    let (id, rest) = secret.strip_prefix("lb_")?.split_once('_')?;
    (is_id(id) && !rest.is_empty()).then_some(id)
}

/// The digest that records keep.
pub(crate) fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

impl Service {
    /// Makes a key. Its text is in the answer and nowhere else.
    ///
    /// # Errors
    /// `Denied` unless an admin asks; `InvalidArgument` for a bad name or an expiry that has
    /// passed.
    pub async fn create_key(
        &self,
        ctx: &RequestContext,
        name: &str,
        role: Role,
        expires_at_ms: Option<i64>,
    ) -> Result<NewKey> {
        let _guard = self.gate.enter()?;
        self.permit(ctx, Role::Admin, "create_key", None)?;
        let made = self.store_new_key(name, role, expires_at_ms).await;
        let mut line = AuditLine::new(ctx, "create_key").outcome(&made);
        line.subject = made.as_ref().ok().map(|key| key.id.clone());
        self.audit.record(line);
        made
    }

    async fn store_new_key(
        &self,
        name: &str,
        role: Role,
        expires_at_ms: Option<i64>,
    ) -> Result<NewKey> {
        check_name(name)?;
        let now_ms = self.clock.now_ms();
        if expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= now_ms) {
            return Err(Error::invalid("the expiry of the API key has passed already"));
        }
        let system = self.lake.system();
        if system.list(FOLDER).await?.len() >= KEYS_MAX {
            return Err(Error::invalid(format!("the lake has {KEYS_MAX} API keys, its limit")));
        }
        let key = NewKey::generate(hex(&random::<ID_RANDOM_BYTES>()?))?;
        let mut record = KeyRecord::new(&key.id, name, role, &key.secret, now_ms);
        record.expires_at_ms = expires_at_ms;
        if !system.create(&path(&key.id), encode(&record)?).await? {
            return Err(Error::internal("a random id of an API key was in use already"));
        }
        // The id may have been asked for, in vain, a moment ago.
        self.keys.forget(&key.id);
        Ok(key)
    }

    /// The keys of the lake, oldest first, without their texts.
    ///
    /// # Errors
    /// `Denied` unless an admin asks.
    pub async fn list_keys(&self, ctx: &RequestContext) -> Result<Vec<KeySummary>> {
        let _guard = self.gate.enter()?;
        require(ctx, Role::Admin)?;
        let system = self.lake.system();
        let ids: Vec<String> =
            system.list(FOLDER).await?.iter().filter_map(|object| id_in(&object.path)).collect();
        let found: Vec<Option<KeyRecord>> = futures::stream::iter(ids)
            .map(|id| async move { load(system, &id).await })
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let mut keys: Vec<KeySummary> =
            found.iter().flatten().map(KeyRecord::summary).collect::<Result<_>>()?;
        keys.sort_by(|a, b| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
        Ok(keys)
    }

    /// Revokes a key, at once in this process. Revoking twice keeps the first time.
    ///
    /// # Errors
    /// `Denied` unless an admin asks; `NotFound` where there is no such key.
    pub async fn revoke_key(&self, ctx: &RequestContext, id: &str) -> Result<()> {
        let _guard = self.gate.enter()?;
        self.permit(ctx, Role::Admin, "revoke_key", None)?;
        let result = self.store_revocation(id).await;
        let mut line = AuditLine::new(ctx, "revoke_key").outcome(&result);
        line.subject = is_id(id).then(|| id.to_owned());
        self.audit.record(line);
        result
    }

    async fn store_revocation(&self, id: &str) -> Result<()> {
        let system = self.lake.system();
        let found = if is_id(id) { load(system, id).await? } else { None };
        let Some(mut record) = found else {
            return Err(Error::not_found(format!("API key `{}` does not exist", shown(id))));
        };
        if record.revoked_at_ms.is_none() {
            record.revoked_at_ms = Some(self.clock.now_ms());
            system.put(&path(id), encode(&record)?).await?;
        }
        self.keys.forget(id);
        Ok(())
    }

    /// Whether the operator's key was ever set in this lake.
    pub async fn has_admin_key(&self) -> Result<bool> {
        Ok(load(self.lake.system(), ADMIN_KEY_ID).await?.is_some())
    }

    /// Makes `secret` the operator's key; the one before it is refused from now on. Setting the
    /// same one again writes nothing. For the operator of the process, not for requests.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that is too short or cannot travel in a header.
    pub async fn set_admin_key(&self, secret: &str) -> Result<()> {
        check_secret(secret)?;
        let system = self.lake.system();
        let record =
            KeyRecord::new(ADMIN_KEY_ID, ADMIN_KEY_ID, Role::Admin, secret, self.clock.now_ms());
        if let Some(known) = load(system, ADMIN_KEY_ID).await?
            && known.revoked_at_ms.is_none()
            && known.sha256 == record.sha256
        {
            return Ok(());
        }
        system.put(&path(ADMIN_KEY_ID), encode(&record)?).await?;
        self.keys.forget(ADMIN_KEY_ID);
        Ok(())
    }
}

fn path(id: &str) -> String {
    format!("{FOLDER}{id}.json")
}

fn id_in(path: &str) -> Option<String> {
    let id = path.strip_prefix(FOLDER)?.strip_suffix(".json")?;
    is_id(id).then(|| id.to_owned())
}

fn encode(record: &KeyRecord) -> Result<Bytes> {
    serde_json::to_vec(record)
        .map(Bytes::from)
        .map_err(|error| Error::internal("write the record of an API key").with_source(error))
}

/// Ids are names of objects, so nothing but these characters may stand in one.
fn is_id(id: &str) -> bool {
    (1..=32).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "the name of an API key has 1 to {NAME_BYTES_MAX} bytes and no control characters"
        )));
    }
    Ok(())
}

/// Refuses what cannot be an admin key.
///
/// # Errors
/// `InvalidArgument` saying what one is like.
pub fn check_secret(secret: &str) -> Result<()> {
    if !(SECRET_TEXT_BYTES_MIN..=SECRET_TEXT_BYTES_MAX).contains(&secret.len())
        || !secret.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(Error::invalid(format!(
            "an admin key has {SECRET_TEXT_BYTES_MIN} to {SECRET_TEXT_BYTES_MAX} visible ASCII \
             characters and no spaces"
        )));
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorKind::Unavailable, format!("the system gives no random bytes: {error}"))
    })?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_carries_its_id_and_never_shows_its_text() {
        let key = NewKey::generate("0a1b".to_owned()).unwrap();
        assert_eq!(id_of(&key.secret), Some("0a1b"));
        assert_eq!(key.secret.len(), "lb_0a1b_".len() + 64);
        assert!(!format!("{key:?}").contains(&key.secret));
        assert_ne!(key, NewKey::generate("0a1b".to_owned()).unwrap());
    }

    #[test]
    fn texts_without_an_id_have_none() {
        for text in ["", "lb_", "lb__x", "lb_a_", "lb_A_x", "lb_../x_y", "xx_a_b", "lb_a/b_c"] {
            assert_eq!(id_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_record_survives_its_bytes_and_keeps_no_secret() {
        let record = KeyRecord::new("a1", "ci", Role::Write, "lb_a1_s3cret", 7);
        let bytes = encode(&record).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("s3cret"));
        assert_eq!(KeyRecord::parse("a1", &bytes).unwrap(), record);
        assert_eq!(record.digest(), Some(digest("lb_a1_s3cret")));
    }

    #[test]
    fn a_record_of_another_format_or_role_is_refused() {
        let mut record = KeyRecord::new("a1", "ci", Role::Write, "s", 7);
        record.format = 2;
        let error = KeyRecord::parse("a1", &encode(&record).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains("format 2"), "{error}");
        record.format = FORMAT;
        record.role = "owner".to_owned();
        assert!(KeyRecord::parse("a1", &encode(&record).unwrap()).is_err());
        assert!(KeyRecord::parse("a1", b"{}").is_err());
    }

    #[test]
    fn hex_survives_and_refuses_what_is_not_hex() {
        let bytes = digest("x");
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex(&"zz".repeat(32)), None);
        assert_eq!(unhex("00"), None);
        assert_eq!(unhex(&"ä".repeat(32)), None);
    }

    #[test]
    fn admin_keys_can_travel_in_a_header() {
        assert!(check_secret("correct-horse").is_ok());
        for bad in ["short", "has space in it", "tab\tin-here", "ümlaut-key"] {
            assert!(check_secret(bad).is_err(), "{bad}");
        }
    }
}
