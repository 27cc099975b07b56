//! Filling columns that a function computes: one job for all columns of a binding.

use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role, Subject, TableId};
use lakebed_jobs::{
    FunctionKey, FunctionWork, InputColumn, OutputColumn, RefreshRule, ResultSource,
};
use lakebed_storage::At;

use super::binding::{Binding, WHOLE, binding_of, is_of_sql};
use super::definition::{Given, Registration};
use crate::Service;
use crate::audit::AuditLine;

/// What a worker calls the only value of a function.
pub(super) const VALUE: &str = "value";

impl Service {
    /// Begins to fill the rows of a column that have no value, or one that is stale; returns the id of the
    /// job, which may be one that runs already. All columns of the same function call are filled together.
    ///
    /// # Errors
    /// `NotFound` naming table or column, `InvalidArgument` where nothing computes the column or its function
    /// or a secret of it was dropped, `NotImplemented` on a branch.
    pub async fn refresh_column(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        column: &str,
        rule: RefreshRule,
    ) -> Result<String> {
        self.permit(ctx, Role::Write, "refresh_column", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.begin_refresh(ctx, table, branch, column, rule).await;
        let mut line = AuditLine::new(ctx, "refresh_column").outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(column.to_owned());
        self.audit.record(line);
        outcome
    }

    pub(super) async fn begin_refresh(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        column: &str,
        rule: RefreshRule,
    ) -> Result<String> {
        let handle = self.fresh_table(ctx, table, branch).await?;
        let schema = handle.snapshot(branch, &At::Latest).await?.schema();
        let field = schema.field_with_name(column).map_err(|_| {
            Error::not_found(format!("column `{column}` does not exist")).about(Subject::Column)
        })?;
        if is_of_sql(field) {
            if rule != RefreshRule::default() {
                let message = "a column of SQL is refreshed as a whole, without other fields";
                return Err(Error::invalid(message));
            }
            return self.refresh_sql_column(ctx, table, branch, column).await;
        }
        if branch.is_some() {
            let message = "refreshing columns of functions on a branch: this is not built";
            return Err(Error::new(ErrorKind::NotImplemented, message));
        }
        let binding = binding_of(&schema, field)?;
        let function = self.function_of(ctx, &binding.function).await?;
        let registered = function.registration()?;
        // Said now rather than by every task.
        self.check_secrets(&function.id.database, &registered.secret_bindings).await?;
        let key = FunctionKey {
            database: function.id.database.to_string(),
            id: function.id.text(),
            version: function.number,
            digest: function.version.digest.clone(),
        };
        let work = FunctionWork {
            function: key,
            inputs: inputs_of(&binding),
            outputs: outputs_of(&binding, &registered)?,
            initialization: binding.initialization.clone(),
            interpreter: registered.interpreter(),
        };
        Ok(self.column_jobs.refresh(ctx, &handle, table.text(), work, rule).await?.job_id)
    }
}

fn inputs_of(binding: &Binding) -> Vec<InputColumn> {
    let input = |input: &super::binding::BoundInput| InputColumn {
        column: input.field_path.clone(),
        parameter: input.parameter.clone(),
    };
    binding.inputs.iter().map(input).collect()
}

fn outputs_of(binding: &Binding, registered: &Registration) -> Result<Vec<OutputColumn>> {
    let given = registered.given()?;
    let mut outputs = Vec::new();
    for output in &binding.outputs {
        let result = match (&given, output.result_field.as_str()) {
            (Given::Scalar(_), _) => ResultSource::Field(VALUE.to_owned()),
            (Given::Struct(fields), WHOLE) => {
                ResultSource::Struct(fields.iter().map(|field| field.name().clone()).collect())
            }
            (Given::Struct(_), field) => ResultSource::Field(field.to_owned()),
        };
        outputs.push(OutputColumn { column: output.output_name.clone(), result });
    }
    if let Some(assignment) = &binding.assignment {
        let column = assignment.output_name.clone();
        outputs.push(OutputColumn { column, result: ResultSource::Assigned });
    }
    Ok(outputs)
}
