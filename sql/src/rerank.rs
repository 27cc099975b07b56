//! The function that puts the best rows of a search in order, run as a call in SQL is: by attached workers.

use std::fmt;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float32Type;
use arrow_array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow_cast::{can_cast_types, cast};
use arrow_schema::{Field, Schema};
use async_trait::async_trait;
use futures::future::try_join_all;
use lakebed_core::{DatabaseName, Error, ErrorKind, Result, Subject, TableId, nearest_names};
use lakebed_index::Scorer;
use lakebed_proto::text_help::Rerank;
use tokio::sync::OnceCell;

use crate::calls::{CalledFunction, Callee, Callees, Parameter, RunningCall, TASK_ROWS, evaluate};

/// The parameter that gets what is searched for.
const QUERY: &str = "query";
/// Bytes of inputs that are handed over as one, unless one row alone has more.
const TASK_BYTES: usize = 16 << 20;

/// A function that scores rows.
struct Function {
    callees: Arc<dyn Callees>,
    callee: Callee,
    /// What it takes, each with the column that it comes from; the query has none.
    takes: Vec<(Parameter, Option<usize>)>,
    columns: Vec<String>,
    query: Option<String>,
    running: OnceCell<Arc<dyn RunningCall>>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("callee", &self.callee).finish_non_exhaustive()
    }
}

/// The function that a search in `database` names, with what it takes. Nothing is called yet.
///
/// # Errors
/// `NotFound` naming the function and those that come near; `InvalidArgument` for one that takes something else
/// or gives no number.
pub async fn scorer(
    callees: &Arc<dyn Callees>,
    database: &DatabaseName,
    rerank: &Rerank,
) -> Result<Arc<dyn Scorer>> {
    let found = found(callees, database, rerank).await;
    found.map_err(|error| error.context("rerank"))
}

async fn found(
    callees: &Arc<dyn Callees>,
    database: &DatabaseName,
    rerank: &Rerank,
) -> Result<Arc<dyn Scorer>> {
    if rerank.function.is_empty() {
        return Err(Error::invalid("`function` is missing"));
    }
    let id = TableId::parse(database, &rerank.function)?;
    let Some(function) = callees.function(&id, None).await? else {
        let names = callees.function_names(database, &id.namespace).await.unwrap_or_default();
        let near = nearest_names(&id.name.to_string(), names.iter().map(String::as_str));
        let message = format!("function `{}` does not exist{near}", id.text());
        return Err(Error::new(ErrorKind::NotFound, message).about(Subject::Function));
    };
    let (takes, columns) = taken(&function, rerank)?;
    Ok(Arc::new(Function {
        callees: Arc::clone(callees),
        callee: Callee::Function(Arc::new(function)),
        takes,
        columns,
        query: rerank.query.clone(),
        running: OnceCell::new(),
    }))
}

type Taken = (Vec<(Parameter, Option<usize>)>, Vec<String>);

/// What a function takes, each with the place of its column, and the columns.
fn taken(function: &CalledFunction, rerank: &Rerank) -> Result<Taken> {
    let name = function.id.text();
    if !function.constants.is_empty() {
        return Err(Error::invalid(format!(
            "function `{name}` takes constants, which a search cannot give it"
        )));
    }
    let returns = &function.returns;
    if !returns.is_numeric() {
        return Err(Error::invalid(format!("function `{name}` gives {returns}, and no number")));
    }
    let is_query = |parameter: &Parameter| parameter.name == QUERY;
    let of_rows: Vec<&Parameter> =
        function.parameters.iter().filter(|parameter| !is_query(parameter)).collect();
    if function.parameters.iter().any(is_query) && rerank.query.is_none() {
        return Err(Error::invalid(format!(
            "function `{name}` takes `query`: give `query`, where the search has no words or text"
        )));
    }
    if of_rows.is_empty() {
        return Err(Error::invalid(format!("function `{name}` takes nothing of a row")));
    }
    let columns = match rerank.inputs.is_empty() {
        true => of_rows.iter().map(|parameter| parameter.name.clone()).collect(),
        false => rerank.inputs.clone(),
    };
    if columns.len() != of_rows.len() {
        let takes: Vec<&str> = of_rows.iter().map(|parameter| parameter.name.as_str()).collect();
        return Err(Error::invalid(format!(
            "`inputs` has {} columns, and function `{name}` takes {}: `{}`",
            columns.len(),
            takes.len(),
            takes.join("`, `")
        )));
    }
    let mut next = 0;
    let takes = function.parameters.iter().map(|parameter| {
        let place = (!is_query(parameter)).then_some(next);
        next += usize::from(place.is_some());
        (parameter.clone(), place)
    });
    Ok((takes.collect(), columns))
}

#[async_trait]
impl Scorer for Function {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    async fn scores(&self, rows: &RecordBatch) -> Result<Vec<Option<f32>>> {
        let arguments = self.arguments(rows)?;
        let running =
            self.running.get_or_try_init(|| self.callees.begin(&self.callee, None)).await?;
        let tasks = parts(&arguments);
        let tasks = tasks.iter().map(|task| evaluate(running.as_ref(), &self.callee, task));
        let mut scores = Vec::with_capacity(rows.num_rows());
        for results in try_join_all(tasks).await? {
            let results = cast(&results, &arrow_schema::DataType::Float32)
                .map_err(|error| Error::internal("scores as numbers").with_source(error))?;
            let results = results.as_primitive::<Float32Type>();
            // What is no number says nothing of a row.
            scores.extend(results.iter().map(|score| score.filter(|score| !score.is_nan())));
        }
        Ok(scores)
    }
}

impl Function {
    /// What the function is given for some rows.
    fn arguments(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut fields = Vec::with_capacity(self.takes.len());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.takes.len());
        for (parameter, place) in &self.takes {
            let given: ArrayRef = match place {
                Some(place) => {
                    let column = rows.columns().get(*place);
                    Arc::clone(column.ok_or_else(|| Error::internal("rows without an input"))?)
                }
                None => {
                    let query = self.query.as_deref().unwrap_or_default();
                    Arc::new(StringArray::from(vec![query; rows.num_rows()]))
                }
            };
            let (from, to) = (given.data_type(), &parameter.data_type);
            let given = match from == to {
                true => given,
                false if can_cast_types(from, to) => cast(&given, to).map_err(|error| {
                    Error::invalid(format!("rerank: parameter `{}`: {error}", parameter.name))
                })?,
                false => {
                    return Err(Error::invalid(format!(
                        "rerank: parameter `{}` is {to}, and is given {from}",
                        parameter.name
                    )));
                }
            };
            fields.push(Field::new(&parameter.name, given.data_type().clone(), true));
            columns.push(given);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| Error::internal("arguments of a call").with_source(error))
    }
}

/// Rows in parts that can be handed over as one.
fn parts(rows: &RecordBatch) -> Vec<RecordBatch> {
    let bytes_of = |rows: &RecordBatch| -> usize {
        let columns = rows.columns().iter();
        columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum()
    };
    let mut parts = Vec::new();
    let mut open = vec![rows.clone()];
    while let Some(rows) = open.pop() {
        let count = rows.num_rows();
        if count > TASK_ROWS || (count > 1 && bytes_of(&rows) > TASK_BYTES) {
            let half = count / 2;
            // The first half is looked at first.
            open.push(rows.slice(half, count - half));
            open.push(rows.slice(0, half));
        } else if count > 0 {
            parts.push(rows);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use arrow_array::Int64Array;
    use arrow_schema::DataType;

    use super::*;

    fn function(parameters: &[(&str, DataType)], returns: DataType) -> CalledFunction {
        let parameters = parameters.iter().map(|(name, data_type)| Parameter {
            name: (*name).to_owned(),
            data_type: data_type.clone(),
            nullable: true,
        });
        CalledFunction {
            id: TableId::from_segments(&DatabaseName::default_database(), &["score"]).unwrap(),
            uid: "u".to_owned(),
            number: 1,
            parameters: parameters.collect(),
            constants: Vec::new(),
            returns,
        }
    }

    fn rerank(inputs: &[&str], query: Option<&str>) -> Rerank {
        Rerank {
            function: "score".to_owned(),
            inputs: inputs.iter().map(|input| (*input).to_owned()).collect(),
            query: query.map(str::to_owned),
            candidates: None,
        }
    }

    #[test]
    fn the_query_is_no_column() {
        let text = || DataType::Utf8;
        let both = function(&[("query", text()), ("caption", text())], DataType::Float64);
        let (takes, columns) = taken(&both, &rerank(&[], Some("x"))).unwrap();
        assert_eq!(columns, ["caption"]);
        assert_eq!(takes.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [None, Some(0)]);
        let (_, columns) = taken(&both, &rerank(&["title"], Some("x"))).unwrap();
        assert_eq!(columns, ["title"]);
        let refusal = |function: &CalledFunction, rerank: &Rerank| {
            taken(function, rerank).unwrap_err().message().to_owned()
        };
        assert!(refusal(&both, &rerank(&[], None)).contains("takes `query`"));
        assert!(refusal(&both, &rerank(&["a", "b"], Some("x"))).contains("`inputs` has 2"));
        let names = function(&[("caption", text())], DataType::Utf8);
        assert!(refusal(&names, &rerank(&[], None)).contains("no number"));
    }

    #[test]
    fn many_rows_are_handed_over_in_parts() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..700));
        let rows = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let parts = parts(&rows);
        assert!(parts.iter().all(|part| part.num_rows() <= TASK_ROWS));
        let schema = rows.schema();
        assert_eq!(arrow_select::concat::concat_batches(&schema, &parts).unwrap(), rows);
    }
}
