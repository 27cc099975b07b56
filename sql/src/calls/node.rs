//! The step of a plan that makes calls: the rows of its input, with a column of results for each call.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow_schema::{Field, FieldRef};
use datafusion::common::{
    DFSchema, DFSchemaRef, Result as PlanResult, ScalarValue, TableReference,
};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use super::Callee;

/// A call whose results are a column.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Call {
    /// The column; no other of the statement has such a name.
    pub(super) column: FieldRef,
    /// What the statement calls it.
    pub(super) name: String,
    pub(super) callee: Callee,
    pub(super) constants: Vec<ScalarValue>,
    pub(super) args: Vec<Expr>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Evaluate {
    input: LogicalPlan,
    pub(super) calls: Vec<Call>,
    schema: DFSchemaRef,
}

impl Evaluate {
    pub(super) fn new(input: LogicalPlan, calls: Vec<Call>) -> PlanResult<Evaluate> {
        let given = input.schema();
        let mut fields: Vec<(Option<TableReference>, Arc<Field>)> =
            given.iter().map(|(table, field)| (table.cloned(), Arc::clone(field))).collect();
        fields.extend(calls.iter().map(|call| (None, Arc::clone(&call.column))));
        let schema = DFSchema::new_with_metadata(fields, given.metadata().clone())?
            .with_functional_dependencies(given.functional_dependencies().clone())?;
        Ok(Evaluate { schema: Arc::new(schema), input, calls })
    }
}

impl PartialOrd for Evaluate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Evaluate {
    fn name(&self) -> &str {
        "Evaluate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.calls.iter().flat_map(|call| call.args.iter().cloned()).collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.calls.iter().map(|call| call.column.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls: Vec<String> = self.calls.iter().map(ToString::to_string).collect();
        write!(f, "Evaluate: {}", calls.join(", "))
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        inputs: Vec<LogicalPlan>,
    ) -> PlanResult<Self> {
        let mut exprs = exprs.into_iter();
        let mut calls = self.calls.clone();
        for call in &mut calls {
            call.args = exprs.by_ref().take(call.args.len()).collect();
        }
        let input = inputs.into_iter().next();
        let input =
            input.ok_or_else(|| DataFusionError::Internal("calls without rows".to_owned()))?;
        Evaluate::new(input, calls)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // What the calls read is added to it.
        let given = self.input.schema().fields().len();
        Some(vec![output_columns.iter().copied().filter(|column| *column < given).collect()])
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut args: Vec<String> = Vec::new();
        if let Callee::Model(model) = &self.callee {
            args.push(format!("'{}'", model.name));
        }
        args.extend(self.args.iter().map(ToString::to_string));
        args.extend(self.constants.iter().map(ToString::to_string));
        write!(f, "{}({})", self.name, args.join(", "))
    }
}
