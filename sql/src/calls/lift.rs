//! Takes calls out of the expressions of a plan: each becomes a column of an [`Evaluate`] below.
//!
//! ```text
//!   Sort[d(#0)]                                 Projection[id, #1 AS v]
//!     Projection[id, embed(text) AS v]   ──►      Evaluate[#1 = embed(text)]
//!       Filter[id < 9 AND words(text) > 3]          Sort …, Filter[#0 > 3]
//!         Scan                                        Evaluate[#0 = words(text)]
//!                                                       Filter[id < 9] Scan
//! ```
//!
//! Conditions without calls are looked at first; rows are sorted, and so cut by a limit, before what they
//! show is computed, where the order does not depend on it. The same call of a statement's step is made once,
//! and what a filter or an order computed is there for the SELECT above it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_schema::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result as PlanResult};
use datafusion::config::ConfigOptions;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, Filter, Join, LogicalPlan, Projection, Sort,
};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{AnalyzerRule, Optimizer, OptimizerContext};
use lakebed_storage::carry;

use super::node::{Call, Evaluate};
use super::udf::{call_in, calls_something, has_calls};

/// What a column of results is called; no column of a table has such a name.
const COLUMN: &str = "\u{1}call ";
/// The same of what passes a sort on its way to a call.
const LATE: &str = "\u{1}late ";

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LiftCalls {
    next: AtomicUsize,
}

impl AnalyzerRule for LiftCalls {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> PlanResult<LogicalPlan> {
        if !has_calls(&plan) {
            return Ok(plan);
        }
        // What nobody looks at is not computed: once it is lifted, nobody could tell.
        let pruned = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
        let plan = pruned.optimize(plan, &OptimizerContext::new(), |_, _| {})?;
        self.whole(plan)
    }

    fn name(&self) -> &str {
        "lift_calls"
    }
}

/// A plan, and the calls whose results are among its last columns.
struct Lifted {
    plan: LogicalPlan,
    calls: Vec<(Expr, Column)>,
}

impl From<LogicalPlan> for Lifted {
    fn from(plan: LogicalPlan) -> Lifted {
        Lifted { plan, calls: Vec::new() }
    }
}

impl LiftCalls {
    /// The plan without calls in its expressions, and with its own columns only.
    fn whole(&self, plan: LogicalPlan) -> PlanResult<LogicalPlan> {
        let schema = Arc::clone(plan.schema());
        restored(self.lifted(plan)?.plan, &schema)
    }

    fn lifted(&self, plan: LogicalPlan) -> PlanResult<Lifted> {
        let plan =
            plan.map_subqueries(|subquery| self.inside(subquery).map(Transformed::yes))?.data;
        match plan {
            LogicalPlan::Projection(Projection { expr, input, .. }) => {
                let input = self.lifted(Arc::unwrap_or_clone(input))?;
                let (expr, input) = self.take_out(expr, input, true)?;
                let plan = Projection::try_new(expr, Arc::new(input.plan))?;
                Ok(LogicalPlan::Projection(plan).into())
            }
            LogicalPlan::Filter(Filter { predicate, input, .. }) => {
                let mut input = self.lifted(Arc::unwrap_or_clone(input))?;
                let (called, plain): (Vec<Expr>, Vec<Expr>) =
                    split_conjunction_owned(predicate).into_iter().partition(calls_something);
                let filtered = |predicate: Option<Expr>, plan| match predicate {
                    Some(predicate) => {
                        Filter::try_new(predicate, Arc::new(plan)).map(LogicalPlan::Filter)
                    }
                    None => Ok(plan),
                };
                input.plan = filtered(conjunction(plain), input.plan)?;
                let (called, mut input) = self.take_out(called, input, false)?;
                input.plan = filtered(conjunction(called), input.plan)?;
                Ok(input)
            }
            LogicalPlan::Sort(sort) => match late(&sort, &self.next)? {
                Some(plan) => self.lifted(plan),
                None => {
                    let Sort { expr, input, fetch } = sort;
                    let input = self.lifted(Arc::unwrap_or_clone(input))?;
                    let by = expr.iter().map(|by| by.expr.clone()).collect();
                    let (by, input) = self.take_out(by, input, false)?;
                    let expr = expr.into_iter().zip(by).map(|(sort, by)| sort.with_expr(by));
                    let (expr, below) = (expr.collect(), Arc::new(input.plan));
                    let plan = LogicalPlan::Sort(Sort { expr, input: below, fetch });
                    Ok(Lifted { plan, calls: input.calls })
                }
            },
            LogicalPlan::Limit(mut limit) => {
                let input = self.lifted(Arc::unwrap_or_clone(limit.input))?;
                limit.input = Arc::new(input.plan);
                Ok(Lifted { plan: LogicalPlan::Limit(limit), calls: input.calls })
            }
            LogicalPlan::Join(join) => self.join(join).map(Lifted::from),
            other => self.inside(other).map(Lifted::from),
        }
    }

    /// A step of any other kind: its inputs have their own columns only, and so has it.
    fn inside(&self, plan: LogicalPlan) -> PlanResult<LogicalPlan> {
        let schema = Arc::clone(plan.schema());
        let plan = plan.map_children(|child| self.whole(child).map(Transformed::yes))?.data;
        let exprs = plan.expressions();
        if !exprs.iter().any(calls_something) {
            return Ok(plan);
        }
        if matches!(plan, LogicalPlan::Distinct(_)) {
            return Err(not_here("DISTINCT ON"));
        }
        let mut inputs: Vec<LogicalPlan> = plan.inputs().into_iter().cloned().collect();
        // Rows that are written down have their calls made before the statement runs.
        if inputs.is_empty() {
            return Ok(plan);
        }
        let (Some(input), true) = (inputs.pop(), inputs.is_empty()) else {
            return Err(not_here("a step with several inputs"));
        };
        let (exprs, input) = self.take_out(exprs, input.into(), true)?;
        let plan = plan.with_new_exprs(exprs, vec![input.plan])?;
        restored(plan, &schema)
    }

    /// A join: calls of its condition belong to one of its sides.
    fn join(&self, join: Join) -> PlanResult<LogicalPlan> {
        let schema = Arc::clone(&join.schema);
        let mut left: Lifted = self.whole(join.left.as_ref().clone())?.into();
        let mut right: Lifted = self.whole(join.right.as_ref().clone())?.into();
        let (mut left_keys, mut right_keys): (Vec<Expr>, Vec<Expr>) =
            join.on.iter().cloned().unzip();
        (left_keys, left) = self.take_out(left_keys, left, false)?;
        (right_keys, right) = self.take_out(right_keys, right, false)?;
        let mut condition: Vec<Expr> = join.filter.clone().into_iter().collect();
        (condition, left) = self.take_own(condition, left)?;
        (condition, right) = self.take_own(condition, right)?;
        if condition.iter().any(calls_something) {
            return Err(not_here("the condition of a join, over both of its sides"));
        }
        let joined = Join::try_new(
            Arc::new(left.plan),
            Arc::new(right.plan),
            left_keys.into_iter().zip(right_keys).collect(),
            conjunction(condition),
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        restored(LogicalPlan::Join(joined), &schema)
    }

    /// Puts columns in the place of all calls in expressions over a plan, which has these columns then.
    fn take_out(
        &self,
        exprs: Vec<Expr>,
        input: Lifted,
        keeps_names: bool,
    ) -> PlanResult<(Vec<Expr>, Lifted)> {
        self.take(exprs, input, keeps_names, |_, _| true)
    }

    /// The same for those calls that read columns of the plan only.
    fn take_own(&self, exprs: Vec<Expr>, input: Lifted) -> PlanResult<(Vec<Expr>, Lifted)> {
        self.take(exprs, input, false, |call, schema| {
            call.column_refs().into_iter().all(|column| schema.has_column(column))
        })
    }

    fn take(
        &self,
        mut exprs: Vec<Expr>,
        mut input: Lifted,
        keeps_names: bool,
        is_wanted: impl Fn(&Expr, &DFSchema) -> bool,
    ) -> PlanResult<(Vec<Expr>, Lifted)> {
        loop {
            let mut found: Vec<Expr> = Vec::new();
            for expr in &exprs {
                expr.apply(|expr| {
                    if is_innermost(expr)
                        && is_wanted(expr, input.plan.schema())
                        && !found.contains(expr)
                    {
                        found.push(expr.clone());
                    }
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
            if found.is_empty() {
                return Ok((exprs, input));
            }
            let known = |calls: &[(Expr, Column)], expr: &Expr| {
                calls.iter().find(|(call, _)| call == expr).map(|(_, column)| column.clone())
            };
            let mut calls = Vec::new();
            for expr in found {
                if known(&input.calls, &expr).is_none() {
                    let call = self.call(&expr, input.plan.schema())?;
                    input.calls.push((expr, Column::from_name(call.column.name())));
                    calls.push(call);
                }
            }
            if !calls.is_empty() {
                let node = Arc::new(Evaluate::new(input.plan, calls)?);
                input.plan = LogicalPlan::Extension(Extension { node });
            }
            let names = NamePreserver::new_for_projection();
            let replaced = exprs.into_iter().map(|expr| {
                let name = keeps_names.then(|| names.save(&expr));
                let expr = expr.transform_down(|expr| match known(&input.calls, &expr) {
                    Some(column) => Ok(Transformed::yes(Expr::Column(column))),
                    None => Ok(Transformed::no(expr)),
                })?;
                let expr = expr.data;
                Ok(match name {
                    Some(name) => name.restore(expr),
                    None => expr,
                })
            });
            exprs = replaced.collect::<PlanResult<_>>()?;
        }
    }

    fn call(&self, expr: &Expr, schema: &DFSchema) -> PlanResult<Call> {
        let Some((function, args)) = call_in(expr) else {
            return Err(DataFusionError::Internal("a call is none".to_owned()));
        };
        let mut is_foreign = false;
        for arg in args {
            arg.apply(|expr| {
                is_foreign |= match expr {
                    Expr::Column(column) => !schema.has_column(column),
                    Expr::OuterReferenceColumn(..) => true,
                    _ => false,
                };
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        if is_foreign {
            return Err(not_here("a subquery that reads columns of the query around it"));
        }
        let types = args.iter().map(|arg| arg.get_type(schema));
        let types = types.collect::<PlanResult<Vec<DataType>>>()?;
        let resolved = function.resolve(args, &types).map_err(|error| carry(&error))?;
        let (_, field) = expr.to_field(schema)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let column = Field::new(format!("{COLUMN}{number}"), field.data_type().clone(), true);
        Ok(Call {
            column: Arc::new(column.with_metadata(field.metadata().clone())),
            name: datafusion::logical_expr::ScalarUDFImpl::name(function).to_owned(),
            callee: resolved.callee,
            constants: resolved.constants,
            args: resolved.args,
        })
    }
}

/// Whether an expression is a call without another one inside.
pub(super) fn is_innermost(expr: &Expr) -> bool {
    call_in(expr).is_some_and(|(_, args)| !args.iter().any(calls_something))
}

/// The plan with the columns of `schema` only.
fn restored(plan: LogicalPlan, schema: &DFSchema) -> PlanResult<LogicalPlan> {
    if plan.schema().fields().len() == schema.fields().len() {
        return Ok(plan);
    }
    let columns = schema.columns().into_iter().map(Expr::Column).collect();
    Projection::try_new(columns, Arc::new(plan)).map(LogicalPlan::Projection)
}

/// A sort of what is selected as a selection of what is sorted, where the order does not depend on calls.
fn late(sort: &Sort, next: &AtomicUsize) -> PlanResult<Option<LogicalPlan>> {
    let LogicalPlan::Projection(Projection { expr, input, schema, .. }) = sort.input.as_ref()
    else {
        return Ok(None);
    };
    let called: HashSet<usize> = expr
        .iter()
        .enumerate()
        .filter(|(_, expr)| calls_something(expr))
        .map(|(at, _)| at)
        .collect();
    let is_called = |column: &&Column| match schema.maybe_index_of_column(column) {
        Some(at) => called.contains(&at),
        None => true,
    };
    let by_call = sort
        .expr
        .iter()
        .any(|by| calls_something(&by.expr) || by.expr.column_refs().iter().any(is_called));
    // What is sorted by without being selected is put into the selection by the engine, and is a name here.
    if called.is_empty() || by_call {
        return Ok(None);
    }
    let mut below: Vec<Expr> = Vec::new();
    let mut above: Vec<Expr> = Vec::new();
    let mut carried: Vec<(Column, Column)> = Vec::new();
    for (at, (name, expr)) in schema.columns().into_iter().zip(expr).enumerate() {
        if !called.contains(&at) {
            below.push(expr.clone());
            above.push(Expr::Column(name));
            continue;
        }
        let late = expr.clone().transform_up(|expr| {
            let Expr::Column(column) = expr else { return Ok(Transformed::no(expr)) };
            let known = carried.iter().find(|(from, _)| *from == column);
            let to = match known {
                Some((_, to)) => to.clone(),
                None => {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let to = Column::from_name(format!("{LATE}{number}"));
                    below.push(Expr::Column(column.clone()).alias(&to.name));
                    carried.push((column, to.clone()));
                    to
                }
            };
            Ok(Transformed::yes(Expr::Column(to)))
        })?;
        above.push(NamePreserver::new_for_projection().save(expr).restore(late.data));
    }
    let below = LogicalPlan::Projection(Projection::try_new(below, Arc::clone(input))?);
    let sorted = Sort { expr: sort.expr.clone(), input: Arc::new(below), fetch: sort.fetch };
    let above = Projection::try_new(above, Arc::new(LogicalPlan::Sort(sorted)))?;
    Ok(Some(LogicalPlan::Projection(above)))
}

fn not_here(place: &str) -> DataFusionError {
    DataFusionError::NotImplemented(format!(
        "a call of a model or function in {place} is not built; select it in a subquery"
    ))
}
