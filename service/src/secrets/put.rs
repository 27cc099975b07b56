//! Making secrets and altering them.

use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role, TableId};
use lakebed_storage::SecretPlace;

use super::SecretSummary;
use super::key::SecretsKey;
use crate::Service;
use crate::audit::AuditLine;

/// Bytes of a value: it is a variable of a process, which takes little more, and the catalogue holds it.
const VALUE_BYTES_MAX: usize = 32 << 10;

impl Service {
    /// Makes a secret.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `InvalidArgument` for a value that no variable can have,
    /// `Corrupt` where other secrets of the lake were sealed under another key.
    pub async fn create_secret(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        value: &str,
    ) -> Result<SecretSummary> {
        self.permit(ctx, Role::Admin, "create_secret", Some(&id.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = async {
            check_value(value)?;
            let key = self.sealing_key().await?;
            let seal = |place: SecretPlace<'_>| key.seal(place, value);
            self.lake.create_secret(id, self.clock.now_ms(), &seal).await
        };
        let outcome = outcome.await.map(|secret| SecretSummary::new(id, &secret));
        self.note_secret(ctx, "create_secret", id, &outcome);
        outcome
    }

    /// Gives a secret another value. Functions have it from the next task on.
    ///
    /// # Errors
    /// `NotFound` when there is no such secret; else as [`Service::create_secret`].
    pub async fn alter_secret(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        value: &str,
    ) -> Result<SecretSummary> {
        self.permit(ctx, Role::Admin, "alter_secret", Some(&id.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = async {
            check_value(value)?;
            // No key is made for a name that is none.
            self.lake.secret(id).await?;
            let key = self.sealing_key().await?;
            let seal = |place: SecretPlace<'_>| key.seal(place, value);
            self.lake.alter_secret(id, self.clock.now_ms(), &seal).await
        };
        let outcome = outcome.await.map(|secret| SecretSummary::new(id, &secret));
        self.note_secret(ctx, "alter_secret", id, &outcome);
        outcome
    }

    /// The key to seal with. One server that seals under a key of its own would take its functions from all
    /// others, so every secret of the lake has to be sealed under it.
    async fn sealing_key(&self) -> Result<SecretsKey> {
        let known = self.secrets_key.read().await?;
        let key_id = known.as_ref().map(SecretsKey::id);
        if let Some((other, secret)) = self.lake.secret_of_other_key(key_id).await? {
            let (place, needed) = (self.secrets_key.shown(), &secret.sealed.key_id);
            let here = match key_id {
                Some(key_id) => format!("{place} has key {key_id}"),
                None => format!("there is no key in {place}"),
            };
            let (name, database) = (other.text(), &other.database);
            let message = format!(
                "secret `{name}` of database `{database}` was written under key {needed}, and {here}: \
                 give this server that key, or drop the secrets that need it"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        match known {
            Some(key) => Ok(key),
            None => self.secrets_key.read_or_make().await,
        }
    }

    /// The line of a change; never its value.
    pub(super) fn note_secret<T>(
        &self,
        ctx: &RequestContext,
        verb: &'static str,
        id: &TableId,
        outcome: &Result<T>,
    ) {
        let mut line = AuditLine::new(ctx, verb).outcome(outcome);
        line.subject = Some(id.to_string());
        self.audit.record(line);
    }
}

fn check_value(value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::invalid("the value of a secret is empty"));
    }
    if value.contains('\0') {
        return Err(Error::invalid("the value of a secret holds a NUL, which no variable can"));
    }
    if value.len() > VALUE_BYTES_MAX {
        let bytes = value.len();
        let message =
            format!("the value of a secret has {bytes} bytes; the limit is {VALUE_BYTES_MAX}");
        return Err(Error::invalid(message));
    }
    Ok(())
}
