//! The values of the secrets of a function, for the worker that runs it.

use std::collections::BTreeMap;

use lakebed_core::{DatabaseName, Error, ErrorKind, Result, TableId};
use lakebed_storage::{Secret, SecretPlace};
use zeroize::Zeroizing;

use crate::Service;
use crate::functions::SecretBinding;

impl Service {
    /// Checks that every secret of a function is there.
    ///
    /// # Errors
    /// `InvalidArgument` naming a secret that is not, and its variable.
    pub(crate) async fn check_secrets(
        &self,
        database: &DatabaseName,
        bindings: &[SecretBinding],
    ) -> Result<()> {
        for binding in bindings {
            self.bound_secret(database, binding).await?;
        }
        Ok(())
    }

    /// The values of the secrets of a function, by the variables that get them.
    ///
    /// # Errors
    /// `InvalidArgument` naming a secret that is not there, and its variable; `Corrupt` where one was written
    /// under another key than the one of this server.
    pub(crate) async fn secrets_of(
        &self,
        database: &DatabaseName,
        bindings: &[SecretBinding],
    ) -> Result<BTreeMap<String, Zeroizing<String>>> {
        let mut values = BTreeMap::new();
        if bindings.is_empty() {
            return Ok(values);
        }
        let key = self.secrets_key.read().await?;
        for binding in bindings {
            let (id, secret) = self.bound_secret(database, binding).await?;
            let key_id = &secret.sealed.key_id;
            let Some(key) = key.as_ref().filter(|key| key.id() == key_id) else {
                return Err(self.other_key(&id, key_id, key.as_ref().map(|key| key.id())));
            };
            let place = SecretPlace { id: &id, uid: &secret.uid, version: secret.version };
            values.insert(binding.variable.clone(), key.open(place, &secret.sealed)?);
        }
        Ok(values)
    }

    async fn bound_secret(
        &self,
        database: &DatabaseName,
        binding: &SecretBinding,
    ) -> Result<(TableId, Secret)> {
        let id = binding.secret(database)?;
        match self.lake.secret(&id).await {
            Ok(secret) => Ok((id, secret)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let variable = &binding.variable;
                // Not "not found", which clients read as a table or a function that is not there.
                Err(Error::invalid(format!("{}; `{variable}` is bound to it", error.message())))
            }
            Err(error) => Err(error),
        }
    }

    fn other_key(&self, id: &TableId, needed: &str, here: Option<&str>) -> Error {
        let (name, place) = (id.text(), self.secrets_key.shown());
        let here = match here {
            Some(here) => format!("has key {here}"),
            None => "has none".to_owned(),
        };
        let message = format!(
            "secret `{name}` was written under key {needed}, and this server {here} ({place})"
        );
        Error::new(ErrorKind::Corrupt, message)
    }
}
