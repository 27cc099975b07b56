//! Moving tags of models, and dropping versions.

use lakebed_core::{Error, ErrorKind, ModelName, ModelTag, RequestContext, Result, Role, TableId};
use lakebed_storage::At;

use crate::Service;
use crate::audit::AuditLine;

impl Service {
    /// Has a tag name a version, whatever it named before.
    ///
    /// # Errors
    /// `NotFound` when there is no such model or version.
    pub async fn tag_model(
        &self,
        ctx: &RequestContext,
        name: &str,
        tag: &str,
        number: u64,
    ) -> Result<()> {
        self.change_model(ctx, "tag_model", format!("{name}@{number} {tag}"), async || {
            let (name, tag) = (ModelName::parse(name)?, ModelTag::parse(tag)?);
            self.lake.tag_model(name.as_str(), tag.as_str(), number).await.map(|_| ())
        })
        .await
    }

    /// Takes a tag away; its version stays.
    ///
    /// # Errors
    /// `NotFound` when there is no such model or tag.
    pub async fn untag_model(&self, ctx: &RequestContext, name: &str, tag: &str) -> Result<()> {
        self.change_model(ctx, "untag_model", format!("{name} {tag}"), async || {
            let (name, tag) = (ModelName::parse(name)?, ModelTag::parse(tag)?);
            self.lake.untag_model(name.as_str(), tag.as_str()).await.map(|_| ())
        })
        .await
    }

    /// Drops a version of a model, or all of it. A version that made the vectors of a column is kept unless
    /// `force`: without it the column cannot be filled on, nor searched by text or picture.
    ///
    /// # Errors
    /// `InvalidArgument` naming such a column, `NotFound` when there is no such model or version.
    pub async fn drop_model(
        &self,
        ctx: &RequestContext,
        name: &str,
        number: Option<u64>,
        force: bool,
    ) -> Result<()> {
        let subject = match number {
            Some(number) => format!("{name}@{number}"),
            None => name.to_owned(),
        };
        self.change_model(ctx, "drop_model", subject, async || {
            let name = ModelName::parse(name)?;
            let model = self.lake.model(name.as_str()).await?;
            let digests: Vec<&str> = match number {
                Some(number) => vec![model.version(number)?.digest.as_str()],
                None => model.versions.values().map(|version| version.digest.as_str()).collect(),
            };
            if !force && let Some((table, column)) = self.column_of(&digests).await? {
                return Err(Error::invalid(format!(
                    "model `{name}` made column `{column}` of `{table}`; with `force` it is dropped all \
                     the same"
                )));
            }
            self.lake.drop_model(name.as_str(), number).await
        })
        .await
    }

    async fn change_model(
        &self,
        ctx: &RequestContext,
        verb: &'static str,
        subject: String,
        change: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<()> {
        self.permit(ctx, Role::Admin, verb, None)?;
        let _guard = self.gate.enter()?;
        let outcome = change().await;
        let mut line = AuditLine::new(ctx, verb).outcome(&outcome);
        line.subject = Some(subject.chars().take(256).collect());
        self.audit.record(line);
        outcome
    }

    /// A column, of any table as it is now, whose vectors one of some models made.
    async fn column_of(&self, digests: &[&str]) -> Result<Option<(TableId, String)>> {
        for database in self.lake.list_databases().await? {
            for (id, _) in self.lake.list_tables(&database, None).await? {
                let schema = match self.lake.table(&id).await {
                    Ok(table) => table.snapshot(None, &At::Latest).await?.schema(),
                    // Dropped meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                let made = schema.fields().iter().find(|field| {
                    let digest = field.metadata().get("lakebed:model_digest");
                    digest.is_some_and(|digest| digests.contains(&digest.as_str()))
                });
                if let Some(field) = made {
                    return Ok(Some((id, field.name().clone())));
                }
            }
        }
        Ok(None)
    }
}
