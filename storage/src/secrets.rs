//! Secrets: in the catalogue beside the tables, sealed.
//!
//! Storage keeps a value as it was sealed above and has no key for it. An altered secret keeps its uid and gets
//! the next version; a seal belongs to both, so no value can be put in the place of another one. Old states of
//! a catalogue go with the next changes (see `catalog.rs`), and with them what was altered or dropped.

use async_recursion::async_recursion as boxed;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lakebed_core::{
    DatabaseName, Error, ErrorKind, NamespacePath, Result, Subject, TableId, nearest_names,
};
use serde::{Deserialize, Serialize};

use crate::catalog::{State, is_in};
use crate::lake::Lake;

/// Secrets of a database: each change writes its catalogue as a whole, with all of them.
const SECRETS_MAX: usize = 1_000;

/// A secret, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Differs between a secret and a later one of the same name.
    pub uid: String,
    /// How often its value was set.
    pub version: u64,
    /// Its value.
    pub sealed: Sealed,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// When its value was set last, in milliseconds since the Unix epoch.
    pub updated_at_ms: i64,
}

/// A value that only the holder of a key reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Which key.
    pub key_id: String,
    /// What differs between two seals under the key, in base64.
    pub nonce: String,
    /// The encrypted value and its tag, in base64.
    pub bytes: String,
}

/// What a seal belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretPlace<'a> {
    /// The secret's name.
    pub id: &'a TableId,
    /// Its uid.
    pub uid: &'a str,
    /// The version of its value.
    pub version: u64,
}

/// Seals a value, which only the caller knows, for a place.
pub type Seal<'a> = &'a (dyn Fn(SecretPlace<'_>) -> Result<Sealed> + Send + Sync);

impl Lake {
    /// Makes a secret; `seal` seals its value for its place.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `InvalidArgument` for one secret too many.
    pub fn create_secret<'a>(
        &'a self,
        id: &'a TableId,
        now_ms: i64,
        seal: Seal<'a>,
    ) -> BoxFuture<'a, Result<Secret>> {
        let made = async move {
            let uid = uuid::Uuid::now_v7().simple().to_string();
            let sealed = seal(SecretPlace { id, uid: &uid, version: 1 })?;
            let secret =
                Secret { uid, version: 1, sealed, created_at_ms: now_ms, updated_at_ms: now_ms };
            self.catalog
                .change(&id.database, |state| {
                    if state.secrets.contains_key(&id.text()) {
                        let message = format!("secret `{}` already exists", id.text());
                        let error = Error::new(ErrorKind::AlreadyExists, message);
                        return Err(error.about(Subject::Secret));
                    }
                    if state.secrets.len() >= SECRETS_MAX {
                        let message = format!("a database has at most {SECRETS_MAX} secrets");
                        return Err(Error::invalid(message));
                    }
                    state.secrets.insert(id.text(), secret.clone());
                    state.is_gone = false;
                    Ok(())
                })
                .await?;
            Ok(secret)
        };
        made.boxed()
    }

    /// Gives a secret another value, which `seal` seals for its place.
    ///
    /// # Errors
    /// `NotFound` naming the nearest secrets.
    pub fn alter_secret<'a>(
        &'a self,
        id: &'a TableId,
        now_ms: i64,
        seal: Seal<'a>,
    ) -> BoxFuture<'a, Result<Secret>> {
        let made = async move {
            let mut altered = None;
            self.catalog
                .change(&id.database, |state| {
                    let Some(secret) = state.secrets.get_mut(&id.text()) else {
                        return Err(no_secret(id, state));
                    };
                    let version = secret.version + 1;
                    secret.sealed = seal(SecretPlace { id, uid: &secret.uid, version })?;
                    secret.version = version;
                    // Who altered it looks for a time that moved, also where the clock did not.
                    secret.updated_at_ms = now_ms.max(secret.updated_at_ms + 1);
                    altered = Some(secret.clone());
                    Ok(())
                })
                .await?;
            altered.ok_or_else(|| Error::internal("a secret was not altered"))
        };
        made.boxed()
    }

    /// The secret of that name.
    ///
    /// # Errors
    /// `NotFound` naming the nearest secrets.
    #[boxed]
    pub async fn secret(&self, id: &TableId) -> Result<Secret> {
        let (state, _) = self.catalog.state(&id.database).await?;
        state.secrets.get(&id.text()).cloned().ok_or_else(|| no_secret(id, &state))
    }

    /// The secrets of a namespace, sorted by id.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_secrets(
        &self,
        database: &DatabaseName,
        namespace: &NamespacePath,
    ) -> Result<Vec<TableId>> {
        let (state, _) = self.catalog.state(database).await?;
        let mut ids = Vec::new();
        for text in state.secrets.keys() {
            let id = TableId::parse(database, text)?;
            if is_in(&id, namespace) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// A secret of any database that was sealed under another key than this one, if there is one.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn secret_of_other_key(
        &self,
        key_id: Option<&str>,
    ) -> Result<Option<(TableId, Secret)>> {
        for database in self.catalog.databases().await? {
            let (state, _) = self.catalog.state(&database).await?;
            for (text, secret) in &state.secrets {
                if Some(secret.sealed.key_id.as_str()) != key_id {
                    return Ok(Some((TableId::parse(&database, text)?, secret.clone())));
                }
            }
        }
        Ok(None)
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// `NotFound` naming the nearest secrets.
    #[boxed]
    pub async fn drop_secret(&self, id: &TableId) -> Result<()> {
        // Nothing is written for a name that is none.
        self.secret(id).await?;
        self.catalog
            .change(&id.database, |state| match state.secrets.remove(&id.text()) {
                Some(_) => Ok(()),
                None => Err(no_secret(id, state)),
            })
            .await
    }
}

fn no_secret(id: &TableId, state: &State) -> Error {
    let near = nearest_names(&id.text(), state.secrets.keys().map(String::as_str));
    Error::not_found(format!("secret `{}` does not exist{near}", id.text())).about(Subject::Secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_lake::{id, lake};

    fn seal(place: SecretPlace<'_>) -> Result<Sealed> {
        let SecretPlace { id, uid, version } = place;
        let (nonce, bytes) = (version.to_string(), format!("{id} {uid}"));
        Ok(Sealed { key_id: "k".to_owned(), nonce, bytes })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_seal_belongs_to_a_secret_and_its_version() {
        let (lake, _folder) = lake().await;
        let made = lake.create_secret(&id("ns$s"), 7, &seal).await.unwrap();
        assert_eq!(
            made.sealed,
            seal(SecretPlace { id: &id("ns$s"), uid: &made.uid, version: 1 }).unwrap()
        );
        let error = lake.create_secret(&id("ns$s"), 8, &seal).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let altered = lake.alter_secret(&id("ns$s"), 7, &seal).await.unwrap();
        assert_eq!((altered.version, altered.sealed.nonce.as_str()), (2, "2"));
        assert_eq!((altered.created_at_ms, altered.updated_at_ms), (7, 8));
        assert_eq!(altered.uid, made.uid);
        assert_eq!(lake.secret(&id("ns$s")).await.unwrap(), altered);
        let database = id("ns$s").database;
        let in_namespace = NamespacePath::parse(&["ns"]).unwrap();
        assert_eq!(lake.list_secrets(&database, &in_namespace).await.unwrap(), [id("ns$s")]);
        assert!(lake.list_secrets(&database, &NamespacePath::root()).await.unwrap().is_empty());
        assert_eq!(lake.secret_of_other_key(Some("k")).await.unwrap(), None);
        assert!(lake.secret_of_other_key(Some("l")).await.unwrap().is_some());
        lake.drop_secret(&id("ns$s")).await.unwrap();
        for error in [
            lake.drop_secret(&id("ns$s")).await.unwrap_err(),
            lake.alter_secret(&id("ns$s"), 9, &seal).await.unwrap_err(),
        ] {
            assert_eq!(
                (error.kind(), error.subject()),
                (ErrorKind::NotFound, Some(Subject::Secret))
            );
        }
        let again = lake.create_secret(&id("ns$s"), 9, &seal).await.unwrap();
        assert_ne!(again.uid, made.uid);
    }
}
