//! Compare two columns of vectors: what each finds, and how well its index finds that.
use lakebed_core::{DistanceType, Error, RequestContext, Result, Role, TableId};
use lakebed_index::comparison::{
    ColumnReport, Comparison, ComparisonReport, QUERIES_MAX, Queries, WorstQuery,
};
use lakebed_jobs::QueryInput;
use lakebed_proto::command::ReadCommand;
use lakebed_storage::Snapshot;
use serde_json::{Value, json};

use crate::Service;
use crate::authenticate::require;
use crate::read::READ_BYTES;
use crate::search::model_of;

/// Bytes of the texts of one comparison.
const TEXTS_BYTES_MAX: usize = 1 << 20;

/// What two columns are asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum CompareQueries {
    /// So many rows of the table, by chance.
    Rows(usize),
    /// Texts, which the models of both columns turn into vectors.
    Texts(Vec<String>),
}

/// A comparison of two columns of vectors, each by its name or an alias.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareEmbeddings {
    /// The column that is used now.
    pub from: String,
    /// The column that may take its place.
    pub to: String,
    /// What both are asked for.
    pub queries: CompareQueries,
    /// Which rows are asked for; the same for the same number.
    pub seed: u64,
    /// Rows that each query finds.
    pub k: usize,
    /// Only rows for which this SQL expression is true.
    pub filter: Option<String>,
    /// How distances are measured; as the index of each column does without one.
    pub distance: Option<DistanceType>,
}

impl Service {
    /// Compares two columns; returns the report as JSON, and the version that was looked at. Changes nothing,
    /// and ends when it is dropped.
    ///
    /// # Errors
    /// `NotFound` naming table, version or column; `InvalidArgument` for columns that cannot be compared or
    /// numbers past their limits.
    pub async fn compare_embeddings(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        at: &ReadCommand,
        asked: CompareEmbeddings,
    ) -> Result<(Value, u64)> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        self.check_read(&ReadCommand { filter: asked.filter.clone(), ..ReadCommand::default() })?;
        let _running = self.admission.admit_request().await?;
        // A pass over the rows, and the vectors that are searched for.
        let _memory = self.admission.read_bytes(2 * READ_BYTES).await?;
        let snapshot = self.snapshot_of(ctx, table, at).await?;
        let from = lakebed_index::vector_column(&snapshot, Some(&asked.from), None)?;
        let to = lakebed_index::vector_column(&snapshot, Some(&asked.to), None)?;
        let queries = match &asked.queries {
            CompareQueries::Rows(count) => Queries::Rows { count: *count, seed: asked.seed },
            CompareQueries::Texts(texts) => {
                check_texts(texts)?;
                Queries::Vectors {
                    from: self.vectors_of(&snapshot, &from, texts).await?,
                    to: self.vectors_of(&snapshot, &to, texts).await?,
                }
            }
        };
        let CompareEmbeddings { k, filter, distance, .. } = asked.clone();
        let comparison = Comparison { from, to, queries, k, filter, distance };
        let report = comparison.run(&snapshot).await?;
        let version = report.version;
        Ok((report_json(&asked, &report, &snapshot), version))
    }

    /// The vectors of texts by the model that made a column.
    async fn vectors_of(
        &self,
        snapshot: &Snapshot,
        column: &str,
        texts: &[String],
    ) -> Result<Vec<Vec<f32>>> {
        let (model, digest) = model_of(snapshot, column)?;
        let mut vectors = Vec::with_capacity(texts.len());
        for text in texts {
            let input = QueryInput::Text(text.clone());
            vectors.push(self.embed(&model, digest.as_deref(), input).await?);
        }
        Ok(vectors)
    }
}

fn check_texts(texts: &[String]) -> Result<()> {
    if texts.is_empty() || texts.len() > QUERIES_MAX {
        return Err(Error::invalid(format!(
            "`queries` are {} texts; they have to be from 1 to {QUERIES_MAX}",
            texts.len()
        )));
    }
    match texts.iter().map(String::len).sum::<usize>() > TEXTS_BYTES_MAX {
        true => Err(Error::invalid(format!("`queries` have more than {TEXTS_BYTES_MAX} bytes"))),
        false => Ok(()),
    }
}

fn report_json(asked: &CompareEmbeddings, report: &ComparisonReport, snapshot: &Snapshot) -> Value {
    let side = |column: &ColumnReport, named: &str| {
        json!({
            "column": column.column,
            "alias": (named != column.column).then_some(named),
            "model": model_of(snapshot, &column.column).ok().map(|(model, _)| model),
            "dimensions": column.dimensions,
            "distance_type": column.distance.name(),
            "index": column.index,
            "index_type": column.index_type,
            "indexed_rows": column.indexed_rows,
            "unindexed_rows": column.unindexed_rows,
            "recall": column.recall.map(|(mean, _)| mean),
            "recall_p10": column.recall.map(|(_, p10)| p10),
            "latency_ms_median": column.latency_ms,
        })
    };
    let texts = match &asked.queries {
        CompareQueries::Texts(texts) => texts.as_slice(),
        CompareQueries::Rows(_) => &[],
    };
    let worst = report.worst.iter().map(|worst: &WorstQuery| {
        let mut json = json!({ "overlap": worst.overlap, "from": worst.from, "to": worst.to });
        if let Some(row_id) = worst.row_id {
            json["row_id"] = row_id.into();
        }
        if let Some(text) = texts.get(worst.at) {
            json["text"] = text.clone().into();
        }
        json
    });
    let figures = &report.figures;
    json!({
        "version": report.version,
        "k": asked.k,
        "queries": figures.queries,
        "rows": report.rows,
        "rows_with_null": report.rows_with_null,
        "from": side(&report.from, &asked.from),
        "to": side(&report.to, &asked.to),
        "overlap": {
            "mean": figures.overlap,
            "p10": figures.overlap_p10,
            "histogram": figures.histogram,
        },
        "rank_correlation": figures.rank_correlation,
        "worst": worst.collect::<Vec<Value>>(),
    })
}
