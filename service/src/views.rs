//! Views: made, described, listed and dropped.
use arrow_schema::SchemaRef;
use lakebed_core::{DatabaseName, ErrorKind, NamespacePath, RequestContext, Result, Role, TableId};
use lakebed_proto::schema_json::{Dialect, schema_to_json};
use lakebed_sql::Scope;
use lakebed_storage::View;
use serde_json::Value;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

/// A view in detail.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewDetails {
    /// Its id.
    pub id: TableId,
    /// Its text.
    pub query: String,
    /// The database of tables that the text names without one.
    pub database: String,
    /// The namespace of tables that the text names without one.
    pub namespace: NamespacePath,
    /// The columns that it had when it was made, in the dialect of the Namespace specification.
    pub schema: Value,
}

impl ViewDetails {
    fn new(id: &TableId, view: View) -> Result<ViewDetails> {
        let database = DatabaseName::parse(&view.database)?;
        let namespace = Scope::new(&database, Some(&view.namespace))?.namespace()?;
        let View { query, database, schema, .. } = view;
        Ok(ViewDetails { id: id.clone(), query, database, namespace, schema })
    }
}

impl Service {
    /// Makes a view, whose text is a query. Tables that it names without a namespace or a database are
    /// looked for in those of `scope`.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; what is wrong with the query.
    pub(crate) async fn create_view_in(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        scope: &Scope,
        query: &str,
        replace: bool,
    ) -> Result<ViewDetails> {
        self.permit(ctx, Role::Write, "create_view", Some(&id.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = async {
            let schema = self.sql.check_view(scope, id, query).await?;
            let view = View {
                query: query.to_owned(),
                database: scope.database().to_owned(),
                namespace: scope.schema().to_owned(),
                schema: schema_to_json(&schema, Dialect::Spec)?,
            };
            self.lake.create_view(id, view.clone(), replace).await?;
            ViewDetails::new(id, view)
        };
        let outcome = outcome.await;
        let mut line = AuditLine::new(ctx, "create_view").outcome(&outcome);
        line.table = Some(id.to_string());
        self.audit.record(line);
        outcome
    }

    /// Makes a view. Tables that its text names without a namespace are looked for in its own.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; what is wrong with the query.
    pub async fn create_view(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        query: &str,
    ) -> Result<ViewDetails> {
        let namespace = lakebed_sql::schema_name(&id.namespace);
        let scope = Scope::new(&id.database, Some(&namespace))?;
        self.create_view_in(ctx, id, &scope, query, false).await
    }

    /// One view.
    ///
    /// # Errors
    /// `NotFound` naming the nearest views.
    pub async fn describe_view(&self, ctx: &RequestContext, id: &TableId) -> Result<ViewDetails> {
        require(ctx, Role::Read)?;
        ViewDetails::new(id, self.lake.view(id).await?)
    }

    /// The columns of a view as they are now; nothing where it cannot be read, because what it reads is
    /// gone.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn view_columns(
        &self,
        ctx: &RequestContext,
        id: &TableId,
    ) -> Result<Option<SchemaRef>> {
        require(ctx, Role::Read)?;
        match self.sql.view_schema(id).await {
            Ok(schema) => Ok(Some(schema)),
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The views of a namespace, sorted by id.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn list_views(
        &self,
        ctx: &RequestContext,
        namespace: &NamespacePath,
    ) -> Result<Vec<TableId>> {
        require(ctx, Role::Read)?;
        let views = self.lake.list_views(&ctx.database, Some(namespace)).await?;
        Ok(views.into_iter().map(|(id, _)| id).collect())
    }

    /// Drops a view; the tables that it reads stay.
    ///
    /// # Errors
    /// `NotFound` naming the nearest views.
    pub async fn drop_view(&self, ctx: &RequestContext, id: &TableId) -> Result<()> {
        self.permit(ctx, Role::Write, "drop_view", Some(&id.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.drop_view(id).await;
        let mut line = AuditLine::new(ctx, "drop_view").outcome(&outcome);
        line.table = Some(id.to_string());
        self.audit.record(line);
        outcome
    }
}
