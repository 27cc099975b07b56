//! Calls of models and functions: `embed('all-MiniLM-L6-v2', caption)`, `words(text)`.
//!
//! ```text
//!   SELECT id, words(text) FROM docs WHERE id < 9
//!     names.rs      which function `words` is, in which version
//!     udf.rs        its types, so that the statement can be planned
//!     constants.rs  a call without columns is made once and becomes its value
//!     lift.rs       other calls leave their expressions:  Projection[id, #0]
//!     node.rs                                                Evaluate[#0 = words(text)]
//!                                                              Scan docs, id < 9
//!     exec.rs       rows in groups to whatever runs them, several under way, results in order
//! ```
//!
//! Why not the engine's own asynchronous functions: they take one batch at a time, know projections and
//! filters only, and no call inside of another.
//!
//! Who runs a call is none of this crate's business: it is given as [`Callees`].
//!
//! What always holds: no call is made while a statement is planned or explained; a row that is sorted, cut or
//! filtered away without the call costs no call.

mod constants;
mod exec;
mod lift;
mod names;
mod node;
mod udf;

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow_schema::{DataType, Field};
use arrow_select::filter::filter_record_batch;
use arrow_select::take::take;
use async_trait::async_trait;
use lakebed_core::{DatabaseName, Error, NamespacePath, Result, TableId};

pub(crate) use constants::resolved;
pub(crate) use exec::CallPlanner;
pub(crate) use lift::LiftCalls;
pub(crate) use names::{CallNames, candidates};
pub(crate) use udf::has_calls;

/// Rows that are handed over as one.
pub(crate) const TASK_ROWS: usize = 256;
/// Bytes of the arguments of rows that are handed over as one, unless one row alone has more.
const TASK_BYTES: usize = 16 << 20;

/// What runs calls: attached workers, elsewhere.
#[async_trait]
pub trait Callees: fmt::Debug + Send + Sync {
    /// The models that can be called.
    ///
    /// # Errors
    /// Those of looking.
    fn models(&self) -> Result<Vec<CalledModel>>;

    /// A function, its newest version unless one is named; nothing where there is no such function.
    ///
    /// # Errors
    /// `NotFound` for a version that is gone, `NotImplemented` for a function that cannot be called.
    async fn function(&self, id: &TableId, number: Option<u64>) -> Result<Option<CalledFunction>>;

    /// The names of a namespace's functions.
    ///
    /// # Errors
    /// Those of looking.
    async fn function_names(
        &self,
        database: &DatabaseName,
        namespace: &NamespacePath,
    ) -> Result<Vec<String>>;

    /// Begins to run calls; `constants` is the row of constants of a function that takes some.
    ///
    /// # Errors
    /// `Unavailable` naming what is needed where nothing can run it.
    async fn begin(
        &self,
        callee: &Callee,
        constants: Option<RecordBatch>,
    ) -> Result<Arc<dyn RunningCall>>;

    /// The vector of a text of a search.
    ///
    /// # Errors
    /// `Unavailable` when nothing can run the model.
    async fn embed_text(&self, model: &str, digest: Option<&str>, text: String)
    -> Result<Vec<f32>>;
}

/// A call that is being run for the rows of a statement. Dropping it calls it off.
#[async_trait]
pub trait RunningCall: Send + Sync {
    /// The results for rows of arguments, one for each, in their order.
    ///
    /// # Errors
    /// `InvalidArgument` with the error of a row that has one.
    async fn evaluate(&self, arguments: &RecordBatch) -> Result<ArrayRef>;
}

/// A model that can be called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CalledModel {
    /// Its name.
    pub name: String,
    /// Numbers of its vectors.
    pub dimensions: u32,
    /// Whether it reads texts; pictures otherwise.
    pub reads_text: bool,
}

/// A version of a function that can be called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CalledFunction {
    /// Its database, namespace and name.
    pub id: TableId,
    /// Tells it from a later one of the same name.
    pub uid: String,
    /// Its version.
    pub number: u64,
    /// What it takes for each row, in order.
    pub parameters: Vec<Parameter>,
    /// What its instances are made with, in order.
    pub constants: Vec<Parameter>,
    /// The type of its result.
    pub returns: DataType,
}

/// Something that a function takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Whether it may be null.
    pub nullable: bool,
}

/// What a call calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Callee {
    /// A model, for the vector of what it reads.
    Model(CalledModel),
    /// A function.
    Function(Arc<CalledFunction>),
}

impl Callee {
    /// What each row gives it.
    pub fn parameters(&self) -> Vec<Parameter> {
        match self {
            Callee::Model(model) => {
                let data_type = if model.reads_text { DataType::Utf8 } else { DataType::Binary };
                vec![Parameter { name: "input".to_owned(), data_type, nullable: false }]
            }
            Callee::Function(function) => function.parameters.clone(),
        }
    }

    /// The type of its results.
    pub fn returns(&self) -> DataType {
        match self {
            Callee::Model(model) => {
                let item = Arc::new(Field::new("item", DataType::Float32, true));
                let numbers = i32::try_from(model.dimensions).unwrap_or(i32::MAX);
                DataType::FixedSizeList(item, numbers)
            }
            Callee::Function(function) => function.returns.clone(),
        }
    }
}

/// Runs a call for some rows. A row with null where the callee takes none is not handed over: its result is
/// null, as SQL has it.
pub(crate) async fn evaluate(
    running: &dyn RunningCall,
    callee: &Callee,
    arguments: &RecordBatch,
) -> Result<ArrayRef> {
    let rows = arguments.num_rows();
    let parameters = callee.parameters();
    let is_whole = |row: usize| {
        let mut given = parameters.iter().zip(arguments.columns());
        given.all(|(parameter, column)| parameter.nullable || column.is_valid(row))
    };
    let whole: Vec<bool> = (0..rows).map(is_whole).collect();
    let count = whole.iter().filter(|is_whole| **is_whole).count();
    let returns = callee.returns();
    if count == 0 {
        return Ok(new_null_array(&returns, rows));
    }
    let failed = |error| Error::internal("rows of a call").with_source(error);
    let results = match count == rows {
        true => running.evaluate(arguments).await?,
        false => {
            let mask = BooleanArray::from(whole.clone());
            let some = filter_record_batch(arguments, &mask).map_err(failed)?;
            let results = running.evaluate(&some).await?;
            let mut next = 0_u32;
            let places = whole.iter().map(|is_whole| {
                is_whole.then(|| {
                    next += 1;
                    next - 1
                })
            });
            let places = UInt32Array::from_iter(places);
            take(&results, &places, None).map_err(failed)?
        }
    };
    if results.len() != rows || results.data_type() != &returns {
        return Err(Error::internal("a call gave other results than were asked for"));
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arrow_array::cast::AsArray as _;
    use arrow_array::types::Int64Type;
    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::Schema;

    use super::*;

    /// Gives the lengths of texts, and remembers how many rows it was handed.
    #[derive(Default)]
    struct Lengths {
        rows: Mutex<Vec<usize>>,
    }

    #[async_trait]
    impl RunningCall for Lengths {
        async fn evaluate(&self, arguments: &RecordBatch) -> Result<ArrayRef> {
            self.rows.lock().unwrap().push(arguments.num_rows());
            let texts = arguments.column(0).as_string::<i32>().iter();
            let lengths = texts.map(|text| Some(text.map_or(-1, |text| text.len() as i64)));
            Ok(Arc::new(Int64Array::from_iter(lengths)))
        }
    }

    fn callee(nullable: bool) -> Callee {
        let parameter = Parameter { name: "text".to_owned(), data_type: DataType::Utf8, nullable };
        Callee::Function(Arc::new(CalledFunction {
            id: TableId::from_segments(&DatabaseName::default_database(), &["lengths"]).unwrap(),
            uid: "u".to_owned(),
            number: 1,
            parameters: vec![parameter],
            constants: Vec::new(),
            returns: DataType::Int64,
        }))
    }

    async fn lengths(nullable: bool, texts: &[Option<&str>]) -> (Vec<Option<i64>>, Vec<usize>) {
        let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, true)]));
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let batch = RecordBatch::try_new(schema, vec![column]).unwrap();
        let running = Lengths::default();
        let results = evaluate(&running, &callee(nullable), &batch).await.unwrap();
        let results = results.as_primitive::<Int64Type>().iter().collect();
        (results, running.rows.into_inner().unwrap())
    }

    #[tokio::test]
    async fn null_is_handed_over_only_where_it_is_taken() {
        let texts = [None, Some("abc"), None, Some("d"), Some("")];
        let (results, rows) = lengths(false, &texts).await;
        assert_eq!((results, rows), (vec![None, Some(3), None, Some(1), Some(0)], vec![3]));
        let (results, rows) = lengths(true, &texts).await;
        assert_eq!((results, rows), (vec![Some(-1), Some(3), Some(-1), Some(1), Some(0)], vec![5]));
        // Nothing is asked where nothing is left.
        assert_eq!(lengths(false, &[None, None]).await, (vec![None, None], vec![]));
        assert_eq!(lengths(false, &[]).await, (vec![], vec![]));
    }
}
