//! A call as the engine's planner sees it: a name and types. It is taken out of every expression before
//! anything runs.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_cast::can_cast_types;
use arrow_schema::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result as PlanResult, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use lakebed_core::{Error, Result, nearest_names};
use lakebed_storage::carry;

use super::{CalledFunction, CalledModel, Callee, Parameter};

/// The function that runs models.
pub(super) const EMBED: &str = "embed";

/// A function of a statement that is run elsewhere.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CallFunction {
    name: String,
    target: Target,
    signature: Signature,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Target {
    /// The models that there are.
    Embed(Vec<CalledModel>),
    Function(Arc<CalledFunction>),
}

/// A call with everything resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Resolved {
    pub(super) callee: Callee,
    /// The constants of a function, in their order.
    pub(super) constants: Vec<ScalarValue>,
    /// What each row gives, of types that can be handed over.
    pub(super) args: Vec<Expr>,
}

impl CallFunction {
    /// `embed` over the models that there are.
    pub(super) fn embed(models: Vec<CalledModel>) -> Arc<ScalarUDF> {
        Self::made(EMBED.to_owned(), Target::Embed(models))
    }

    /// A function, under the name that the statement has for it.
    pub(super) fn registered(name: String, function: Arc<CalledFunction>) -> Arc<ScalarUDF> {
        Self::made(name, Target::Function(function))
    }

    fn made(name: String, target: Target) -> Arc<ScalarUDF> {
        // The types are looked at here, where errors can name a parameter.
        let signature = Signature::user_defined(Volatility::Stable);
        Arc::new(ScalarUDF::new_from_impl(CallFunction { name, target, signature }))
    }

    /// What is called with arguments of these types, constants among them where they are literals.
    fn callee(&self, types: &[DataType], literals: &[Option<&ScalarValue>]) -> Result<Callee> {
        match &self.target {
            Target::Embed(models) => embedding(models, types, literals),
            Target::Function(function) => {
                check_function(&self.name, function, types, literals)?;
                Ok(Callee::Function(Arc::clone(function)))
            }
        }
    }

    /// The call with these arguments.
    ///
    /// # Errors
    /// `InvalidArgument` naming a parameter that is given something else than it takes.
    pub(super) fn resolve(&self, args: &[Expr], types: &[DataType]) -> Result<Resolved> {
        let literals: Vec<Option<&ScalarValue>> = args.iter().map(literal).collect();
        let callee = self.callee(types, &literals)?;
        let (from, count) = match &callee {
            Callee::Model(_) => (1, 1),
            Callee::Function(function) => (0, function.parameters.len()),
        };
        let given = args.iter().zip(types).skip(from).take(count);
        let args = given.zip(callee.parameters()).map(|((arg, from), parameter)| {
            match is_handed_over(from, &parameter.data_type) {
                true => arg.clone(),
                false => datafusion::logical_expr::cast(arg.clone(), parameter.data_type),
            }
        });
        let args = args.collect();
        let constants = match &callee {
            Callee::Model(_) => Vec::new(),
            Callee::Function(function) => {
                let given = literals.get(count..).unwrap_or_default();
                constants_of(&self.name, function, given)?
            }
        };
        Ok(Resolved { callee, constants, args })
    }
}

impl ScalarUDFImpl for CallFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> PlanResult<Vec<DataType>> {
        Ok(types.to_vec())
    }

    fn return_type(&self, _: &[DataType]) -> PlanResult<DataType> {
        Err(DataFusionError::Internal("the type of a call depends on its arguments".to_owned()))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> PlanResult<FieldRef> {
        let types: Vec<DataType> =
            args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let callee = self.callee(&types, args.scalar_arguments).map_err(|error| carry(&error))?;
        let field = Field::new(&self.name, callee.returns(), true);
        Ok(Arc::new(match callee {
            // So a column that is made of it can be searched by text.
            Callee::Model(model) => field.with_metadata(HashMap::from([
                ("lakebed:model".to_owned(), model.name),
                ("lakebed:dimensions".to_owned(), model.dimensions.to_string()),
            ])),
            Callee::Function(_) => field,
        }))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let message =
            format!("a call of `{}` cannot stand here; select it in a subquery", self.name);
        Err(DataFusionError::NotImplemented(message))
    }
}

/// The call that an expression is.
pub(super) fn call_in(expr: &Expr) -> Option<(&CallFunction, &[Expr])> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    Some((func.inner().downcast_ref::<CallFunction>()?, args))
}

/// Whether an expression has a call in it, subqueries not looked at.
pub(super) fn calls_something(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(call_in(expr).is_some())).unwrap_or(true)
}

/// Whether a plan has calls.
pub(crate) fn has_calls(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walk = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= calls_something(expr);
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    });
    found || walk.is_err()
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        Expr::Alias(alias) => literal(&alias.expr),
        _ => None,
    }
}

fn embedding(
    models: &[CalledModel],
    types: &[DataType],
    literals: &[Option<&ScalarValue>],
) -> Result<Callee> {
    let [_, read] = types else {
        return Err(Error::invalid("embed takes the name of a model and what it shall read"));
    };
    let name = match literals.first() {
        Some(Some(
            ScalarValue::Utf8(Some(name))
            | ScalarValue::LargeUtf8(Some(name))
            | ScalarValue::Utf8View(Some(name)),
        )) => name,
        _ => {
            return Err(Error::invalid(
                "the first argument of embed has to be the name of a model, a text in single quotes",
            ));
        }
    };
    let model = models.iter().find(|model| model.name == *name).cloned().ok_or_else(|| {
        let names = || models.iter().map(|model| model.name.as_str());
        let near = nearest_names(name, names());
        let known: Vec<&str> = names().collect();
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        Error::not_found(format!(
            "model `{shown}` is not known{near}; built in and offered by workers: {}",
            known.join(", ")
        ))
    })?;
    let is_read = match unpacked(read) {
        DataType::Null => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => model.reads_text,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => !model.reads_text,
        _ => false,
    };
    if is_read {
        return Ok(Callee::Model(model));
    }
    let wanted = match model.reads_text {
        true => "text",
        false => "bytes of pictures, such as blob_bytes(column)",
    };
    Err(Error::invalid(format!("model {name} reads {wanted}, and is given {read}")))
}

fn check_function(
    name: &str,
    function: &CalledFunction,
    types: &[DataType],
    literals: &[Option<&ScalarValue>],
) -> Result<()> {
    let CalledFunction { parameters, constants, .. } = function;
    let (least, most) = (parameters.len(), parameters.len() + constants.len());
    if !(least..=most).contains(&types.len()) {
        let list: Vec<&str> =
            parameters.iter().chain(constants).map(|parameter| parameter.name.as_str()).collect();
        return Err(Error::invalid(format!(
            "function `{name}` takes {}, and is given {} arguments",
            if list.is_empty() { "nothing".to_owned() } else { list.join(", ") },
            types.len()
        )));
    }
    let given = types.iter().zip(literals.iter().copied().chain(std::iter::repeat(None)));
    for ((from, literal), parameter) in given.zip(parameters) {
        if !is_taken(from, literal, &parameter.data_type) {
            return Err(Error::invalid(format!(
                "parameter `{}` of function `{name}` takes {}, and is given {from}",
                parameter.name, parameter.data_type
            )));
        }
    }
    constants_of(name, function, literals.get(least..).unwrap_or_default()).map(|_| ())
}

/// The constants of a call, those that are left out null.
fn constants_of(
    name: &str,
    function: &CalledFunction,
    given: &[Option<&ScalarValue>],
) -> Result<Vec<ScalarValue>> {
    let of = |(at, wanted): (usize, &Parameter)| {
        let Parameter { name: constant, data_type, nullable } = wanted;
        let value = match given.get(at) {
            None => ScalarValue::Null,
            Some(Some(value)) => ScalarValue::clone(value),
            Some(None) => {
                return Err(Error::invalid(format!(
                    "`{constant}` of function `{name}` is no column but a constant: a plain value"
                )));
            }
        };
        if value.is_null() && !nullable {
            return Err(Error::invalid(format!(
                "function `{name}` needs its constant `{constant}` after its parameters"
            )));
        }
        let is_taken = is_taken(&value.data_type(), Some(&value), data_type);
        let value = value.cast_to(data_type).ok().filter(|_| is_taken);
        value.ok_or_else(|| {
            Error::invalid(format!("constant `{constant}` of function `{name}` takes {data_type}"))
        })
    };
    function.constants.iter().enumerate().map(of).collect()
}

/// A type without the dictionary around it.
fn unpacked(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

/// Whether an argument may be given to a parameter: nothing of it is lost.
fn is_taken(from: &DataType, literal: Option<&ScalarValue>, to: &DataType) -> bool {
    let from = unpacked(from);
    if *from == DataType::Null || is_alike(from, to) || widens(from, to) {
        return true;
    }
    // A number that is written down has no type of its own.
    let Some(literal) = literal.filter(|_| from.is_numeric() && to.is_numeric()) else {
        return false;
    };
    match to.is_floating() {
        true => true,
        false => {
            let there = literal.cast_to(to).ok().filter(|value| !value.is_null());
            let back = there.and_then(|value| value.cast_to(from).ok());
            back.as_ref() == Some(literal)
        }
    }
}

/// Whether every number of one type is one of the other, but for what `DOUBLE` rounds of whole numbers.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    let bits = |data_type: &T| data_type.primitive_width().map_or(0, |bytes| bytes * 8);
    match (from, to) {
        (T::Float16, T::Float32 | T::Float64) | (T::Float32 | T::Decimal128(..), T::Float64) => {
            true
        }
        (from, T::Float64) => from.is_integer(),
        (from, T::Float32) => from.is_integer() && bits(from) <= 16,
        (from, to) if from.is_integer() && to.is_integer() => {
            match (from.is_signed_integer(), to.is_signed_integer()) {
                (true, false) => false,
                (false, true) => bits(from) < bits(to),
                _ => bits(from) <= bits(to),
            }
        }
        _ => false,
    }
}

/// Whether two types differ at most in the width of offsets and in the names and nullability of what is
/// inside of them.
fn is_alike(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    match (from, to) {
        (T::Utf8 | T::LargeUtf8 | T::Utf8View, T::Utf8 | T::LargeUtf8)
        | (T::Binary | T::LargeBinary | T::BinaryView, T::Binary | T::LargeBinary) => true,
        (T::List(a) | T::LargeList(a), T::List(b) | T::LargeList(b)) => {
            is_alike(a.data_type(), b.data_type())
        }
        (T::FixedSizeList(a, n), T::FixedSizeList(b, m)) => {
            n == m && is_alike(a.data_type(), b.data_type())
        }
        (T::List(a) | T::LargeList(a), T::FixedSizeList(b, _)) => {
            // ARRAY[…] has no length of its own; rows of another length fail.
            let (a, b) = (a.data_type(), b.data_type());
            is_alike(a, b) || (a.is_numeric() && b.is_floating() && can_cast_types(a, b))
        }
        (T::Struct(a), T::Struct(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(a, b)| a.name() == b.name() && is_alike(a.data_type(), b.data_type()))
        }
        (from, to) => from == to,
    }
}

/// Whether values are handed over as they are, rather than cast to the parameter's type.
fn is_handed_over(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    match (from, to) {
        (T::Utf8View | T::BinaryView | T::Dictionary(..), _) => false,
        (T::List(_) | T::LargeList(_), T::FixedSizeList(..)) => false,
        (from, to) => is_alike(from, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_where_nothing_is_lost() {
        use DataType as T;
        let seven = ScalarValue::Int64(Some(7));
        let large = ScalarValue::Int64(Some(1 << 40));
        for (from, literal, to, is_fine) in [
            (T::Int64, None, T::Int64, true),
            (T::Int64, None, T::Int32, false),
            (T::Int64, Some(&seven), T::Int32, true),
            (T::Int64, Some(&large), T::Int32, false),
            (T::Int32, None, T::Int64, true),
            (T::UInt32, None, T::Int32, false),
            (T::UInt32, None, T::Int64, true),
            (T::Int32, None, T::UInt64, false),
            (T::Int64, None, T::Float64, true),
            (T::Float64, None, T::Float32, false),
            (T::Float64, Some(&ScalarValue::Float64(Some(0.1))), T::Float32, true),
            (T::Float64, Some(&ScalarValue::Float64(Some(0.5))), T::Int32, false),
            (T::Utf8, None, T::Int64, false),
            (T::LargeUtf8, None, T::Utf8, true),
            (T::Utf8View, None, T::Utf8, true),
            (T::Null, None, T::Int8, true),
            (T::Dictionary(Box::new(T::Int32), Box::new(T::Utf8)), None, T::Utf8, true),
        ] {
            assert_eq!(is_taken(&from, literal, &to), is_fine, "{from} {literal:?} {to}");
        }
    }
}
