//! Calls without columns, such as `embed('all-MiniLM-L6-v2', 'a red car')`: made once before the statement
//! runs, and literals from then on, which the engine and its indexes know how to handle.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result as PlanResult, ScalarValue};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use lakebed_core::{Error, Result};

use super::exec::constant_row;
use super::lift::is_innermost;
use super::udf::{Resolved, call_in, has_calls};
use super::{Callees, TASK_ROWS, evaluate};
use crate::error::from_datafusion;

/// The plan with the values of its constant calls.
///
/// # Errors
/// Those of making the calls.
pub(crate) async fn resolved(
    mut plan: LogicalPlan,
    state: &SessionState,
    callees: &Arc<dyn Callees>,
) -> Result<LogicalPlan> {
    // What is explained is not run.
    if matches!(plan, LogicalPlan::Explain(_)) || !has_calls(&plan) {
        return Ok(plan);
    }
    loop {
        let found = constant_calls(&plan).map_err(from_datafusion)?;
        if found.is_empty() {
            return Ok(plan);
        }
        let mut groups: Vec<(Resolved, Vec<Expr>, Vec<Vec<ScalarValue>>)> = Vec::new();
        for expr in found {
            let (call, row) = understood(&expr, state).map_err(from_datafusion)?;
            let same = |(other, ..): &&mut (Resolved, _, _)| {
                (&other.callee, &other.constants) == (&call.callee, &call.constants)
            };
            match groups.iter_mut().find(same) {
                Some((_, exprs, rows)) => {
                    exprs.push(expr);
                    rows.push(row);
                }
                None => groups.push((call, vec![expr], vec![row])),
            }
        }
        let mut values: HashMap<Expr, ScalarValue> = HashMap::new();
        for (call, exprs, rows) in groups {
            let results = made(&call, &rows, callees).await?;
            values.extend(exprs.into_iter().zip(results));
        }
        plan = replaced(plan, &values).map_err(from_datafusion)?;
    }
}

/// The calls whose arguments are known before anything is read, innermost first.
fn constant_calls(plan: &LogicalPlan) -> PlanResult<Vec<Expr>> {
    let mut found: Vec<Expr> = Vec::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if is_innermost(expr) && is_constant(expr) && !found.contains(expr) {
                    found.push(expr.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

fn is_constant(expr: &Expr) -> bool {
    let varies = expr.exists(|expr| {
        Ok(matches!(
            expr,
            Expr::Column(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
                | Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
                | Expr::Unnest(_)
        ))
    });
    !varies.unwrap_or(true) && !expr.is_volatile()
}

/// A constant call, and the values of its arguments.
fn understood(expr: &Expr, state: &SessionState) -> PlanResult<(Resolved, Vec<ScalarValue>)> {
    let nothing = DFSchema::empty();
    let Some((function, args)) = call_in(expr) else {
        return datafusion::common::internal_err!("a call is none");
    };
    let types = args.iter().map(|arg| arg.get_type(&nothing)).collect::<PlanResult<Vec<_>>>()?;
    let call = function.resolve(args, &types).map_err(|error| lakebed_storage::carry(&error))?;
    let row = RecordBatch::try_new_with_options(
        Arc::new(Schema::empty()),
        Vec::new(),
        &RecordBatchOptions::new().with_row_count(Some(1)),
    )?;
    let values = call.args.iter().map(|arg| {
        let value = state.create_physical_expr(arg.clone(), &nothing)?.evaluate(&row)?;
        ScalarValue::try_from_array(&value.to_array(1)?, 0)
    });
    let values = values.collect::<PlanResult<Vec<_>>>()?;
    Ok((call, values))
}

/// The results of calls of one callee.
async fn made(
    call: &Resolved,
    rows: &[Vec<ScalarValue>],
    callees: &Arc<dyn Callees>,
) -> Result<Vec<ScalarValue>> {
    let constants = constant_row(&call.callee, &call.constants)?;
    let running = callees.begin(&call.callee, constants).await?;
    let mut results = Vec::with_capacity(rows.len());
    for some in rows.chunks(TASK_ROWS) {
        let arguments = arguments_of(call, some).map_err(from_datafusion)?;
        let values = evaluate(running.as_ref(), &call.callee, &arguments).await?;
        for row in 0..values.len() {
            results.push(ScalarValue::try_from_array(&values, row).map_err(from_datafusion)?);
        }
    }
    match results.len() == rows.len() {
        true => Ok(results),
        false => Err(Error::internal("a call gave other results than were asked for")),
    }
}

fn arguments_of(call: &Resolved, rows: &[Vec<ScalarValue>]) -> PlanResult<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (at, parameter) in call.callee.parameters().into_iter().enumerate() {
        // Literals of one kind may have different types, such as a null.
        let values = rows.iter().filter_map(|row| row.get(at));
        let values = values.map(|value| value.cast_to(&parameter.data_type));
        let values = values.collect::<PlanResult<Vec<ScalarValue>>>()?;
        columns.push(ScalarValue::iter_to_array(values)?);
        fields.push(Field::new(parameter.name, parameter.data_type, true));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let schema = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

fn replaced(plan: LogicalPlan, values: &HashMap<Expr, ScalarValue>) -> PlanResult<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_down(|expr| match values.get(&expr) {
                Some(value) => Ok(Transformed::yes(Expr::Literal(value.clone(), None))),
                None => Ok(Transformed::no(expr)),
            })?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })?;
        node.map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(plan.data)
}
