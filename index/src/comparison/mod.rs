//! Two columns of vectors of one table, compared by what they find.
//!
//! ```text
//!   queries: rows by chance, or vectors of texts ─┬─► from: exact, by its index ─┐
//!                                                 └─► to:   exact, by its index ─┴─► figures
//! ```
//!
//! What a column finds exactly, with no index, is what its model thinks; two columns overlap as far as these
//! agree. What its index finds of that is its recall, which says what the model's users get. A row that is the
//! query itself is left out of what is found: it would be everywhere.
//!
//! - `figures.rs`: the numbers, pure.
//! - `run.rs`: which rows are asked for, and the searches.

mod figures;
mod run;

use lakebed_core::{DistanceType, Error, Result};
use lakebed_storage::Snapshot;

pub use figures::{Figures, QueryOverlap};

/// Queries of one comparison: each is an exact search over all rows of both columns.
pub const QUERIES_MAX: usize = 1_000;
/// Rows that each query may find.
pub const K_MAX: usize = 100;
/// Queries whose overlap is the worst, that are shown.
const WORST_SHOWN: usize = 10;

/// What two columns are asked for.
#[derive(Debug, Clone)]
pub enum Queries {
    /// So many rows of the table, by chance but always the same for a seed; each asks for what is near it.
    Rows {
        /// How many rows.
        count: usize,
        /// Which of them.
        seed: u64,
    },
    /// Vectors of the same things in both columns.
    Vectors {
        /// Those for the first column.
        from: Vec<Vec<f32>>,
        /// Those for the second.
        to: Vec<Vec<f32>>,
    },
}

/// A comparison.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The column that is used now.
    pub from: String,
    /// The column that may take its place.
    pub to: String,
    /// What is asked for.
    pub queries: Queries,
    /// Rows that each query finds.
    pub k: usize,
    /// Only rows for which this SQL expression is true.
    pub filter: Option<String>,
    /// How distances are measured; as the index of each column does without one.
    pub distance: Option<DistanceType>,
}

/// What is found out about one of the columns.
#[derive(Debug, Clone)]
pub struct ColumnReport {
    /// The column.
    pub column: String,
    /// Numbers of each vector.
    pub dimensions: usize,
    /// How distances are measured.
    pub distance: DistanceType,
    /// Its index, by name.
    pub index: Option<String>,
    /// The type of that.
    pub index_type: Option<String>,
    /// Rows that the index covers.
    pub indexed_rows: u64,
    /// Rows that it does not cover.
    pub unindexed_rows: u64,
    /// The share of the exact answer that a search as users make it finds: the mean, and a tenth of the
    /// queries have less than the second. Nothing without an index.
    pub recall: Option<(f64, f64)>,
    /// The median time of such a search in milliseconds.
    pub latency_ms: f64,
}

/// What a comparison found out.
#[derive(Debug, Clone)]
pub struct ComparisonReport {
    /// The version that was compared.
    pub version: u64,
    /// Its rows for which the filter is true.
    pub rows: u64,
    /// Those of them that have no vector in one of the columns at least.
    pub rows_with_null: u64,
    /// The column that is used now.
    pub from: ColumnReport,
    /// The other.
    pub to: ColumnReport,
    /// How far both agree.
    pub figures: Figures,
    /// The queries that agree the least, worst first.
    pub worst: Vec<WorstQuery>,
}

/// A query on which the columns differ.
#[derive(Debug, Clone)]
pub struct WorstQuery {
    /// Its place among the queries.
    pub at: usize,
    /// The row that it was made of.
    pub row_id: Option<u64>,
    /// The share of rows that both found.
    pub overlap: f64,
    /// What the first column found, nearest first.
    pub from: Vec<u64>,
    /// What the second did.
    pub to: Vec<u64>,
}

impl Comparison {
    /// Runs it over a version. Dropping the future ends it.
    ///
    /// # Errors
    /// `NotFound` for a column, `InvalidArgument` for columns that cannot be compared, a filter that does not
    /// parse or numbers past their limits.
    pub async fn run(&self, snapshot: &Snapshot) -> Result<ComparisonReport> {
        self.check(snapshot)?;
        run::run(self, snapshot).await
    }

    fn check(&self, snapshot: &Snapshot) -> Result<()> {
        if self.from == self.to {
            let message = format!("column `{}` cannot be compared with itself", self.from);
            return Err(Error::invalid(message));
        }
        let queries = match &self.queries {
            Queries::Rows { count, .. } => *count,
            Queries::Vectors { from, .. } => from.len(),
        };
        if !(1..=QUERIES_MAX).contains(&queries) {
            return Err(Error::invalid(format!(
                "`queries` are {queries}; they have to be from 1 to {QUERIES_MAX}"
            )));
        }
        if !(1..=K_MAX).contains(&self.k) {
            return Err(Error::invalid(format!(
                "`k` is {}; it has to be from 1 to {K_MAX}",
                self.k
            )));
        }
        for column in [&self.from, &self.to] {
            run::width(snapshot, column)?;
        }
        Ok(())
    }
}
