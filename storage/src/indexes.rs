//! The indexes of a table: which there are, building one, dropping one.
//!
//! An index is built beside everything else that happens to the table, on one version of it, and then
//! committed; rows that came meanwhile are not covered and are compared one by one until it is built
//! again. The B-tree on an upsert's key is built in `scalar_index.rs`, under the mutation lock.

use async_recursion::async_recursion as boxed;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use lakebed_core::{DistanceType, Error, ErrorKind, Result, Subject, nearest_names};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use lance::index::DatasetIndexExt;
use lance::index::scalar::load_segment_params;
use lance::index::vector::{StageParams, VectorIndexParams};
use lance_index::scalar::{BuiltinIndexType, InvertedIndexParams, ScalarIndexParams};
use lance_index::vector::bq::RQBuildParams;
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::pq::PQBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;
use lance_index::{IndexParams, IndexType};
use lance_table::format::IndexMetadata;

use crate::lance_error::from_lance;
use crate::search::metric;
use crate::snapshot::Snapshot;
use crate::table::Table;

/// Times that an index is built again because what it was built on was rewritten meanwhile.
const BUILDS_MAX: u32 = 3;
/// Memory that building a text index may take, in MiB.
const TEXT_BUILD_MIB: u64 = 256;
/// Names beginning so are lance's own.
const SYSTEM_PREFIX: &str = "__lance";

/// What kind of vector index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorIndexKind {
    /// Partitions, exact inside.
    IvfFlat,
    /// Partitions with scalar quantisation.
    IvfSq,
    /// Partitions with product quantisation.
    IvfPq,
    /// Partitions with RaBitQ codes.
    IvfRq,
    /// Partitions with a graph each, exact.
    IvfHnswFlat,
    /// Partitions with a graph each over scalar quantisation.
    IvfHnswSq,
    /// Partitions with a graph each over product quantisation.
    IvfHnswPq,
}

/// How a vector index is built; what is absent is lance's choice.
#[derive(Debug, Clone)]
pub struct VectorIndexSpec {
    /// What kind.
    pub kind: VectorIndexKind,
    /// How distances are measured.
    pub distance: DistanceType,
    /// How many partitions.
    pub num_partitions: Option<usize>,
    /// Rows that a partition should have, where their number is not given.
    pub target_partition_size: Option<usize>,
    /// Vectors per partition that training looks at.
    pub sample_rate: Option<usize>,
    /// Rounds of training at most.
    pub max_iterations: Option<usize>,
    /// Parts that a vector is cut into by product quantisation.
    pub num_sub_vectors: Option<usize>,
    /// Bits of a code.
    pub num_bits: Option<usize>,
    /// Neighbours of a node of a graph.
    pub m: Option<usize>,
    /// Candidates while a graph is built.
    pub ef_construction: Option<usize>,
}

/// What kind of scalar index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarIndexKind {
    /// Sorted values.
    BTree,
    /// A set of rows for each value.
    Bitmap,
    /// A set of rows for each item of lists.
    LabelList,
    /// Trigrams of texts.
    NGram,
    /// The smallest and largest value of runs of rows.
    ZoneMap,
    /// A Bloom filter for runs of rows.
    BloomFilter,
    /// Exact substrings.
    Fm,
}

/// How an index is built.
#[derive(Debug, Clone)]
pub enum IndexSpec {
    /// Over vectors.
    Vector(VectorIndexSpec),
    /// Over values; the fields are lance's parameters of that kind, where it has some.
    Scalar(ScalarIndexKind, serde_json::Map<String, serde_json::Value>),
    /// Over words; the fields are lance's parameters of its tokenizer.
    Text(serde_json::Map<String, serde_json::Value>),
}

/// One index of a version.
#[derive(Debug, Clone)]
pub struct IndexSummary {
    /// Its name.
    pub name: String,
    /// The columns it is on, by their whole paths.
    pub columns: Vec<String>,
    /// Its type as lance writes it, such as `IVF_PQ` or `BTree`.
    pub index_type: String,
    /// The protobuf type of its description.
    pub type_url: String,
    /// The ids of its segments.
    pub segments: Vec<uuid::Uuid>,
    /// When its oldest segment was built.
    pub created_at: Option<DateTime<Utc>>,
    /// Rows of the version that it covers.
    pub indexed_rows: u64,
    /// Rows of the version that it does not cover.
    pub unindexed_rows: u64,
    /// Bytes of its files, where they are known.
    pub size_bytes: Option<u64>,
    /// How it was built, as JSON.
    pub details: String,
    /// How a vector index measures distances, in lower case.
    pub distance: Option<String>,
    /// The format of its files.
    pub index_version: i32,
}

impl IndexSummary {
    /// Whether it is over the words of texts.
    pub fn is_over_words(&self) -> bool {
        self.type_url.ends_with("InvertedIndexDetails")
    }
}

impl Snapshot {
    /// The indexes of the version, sorted by name; lance's own are left out.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` when they cannot be read.
    #[boxed]
    pub async fn indexes(&self) -> Result<Vec<IndexSummary>> {
        let described = self.dataset.describe_indices(None).await.map_err(from_lance)?;
        let rows = self.count_rows().await?;
        let mut found: Vec<IndexSummary> = described
            .iter()
            .filter(|index| !index.name().starts_with(SYSTEM_PREFIX))
            .map(|index| {
                let schema = self.dataset.schema();
                let paths = index.field_ids().iter();
                let details = index.details().unwrap_or_else(|_| "{}".to_owned());
                IndexSummary {
                    name: index.name().to_owned(),
                    columns: paths.filter_map(|id| schema.field_path(*id as i32).ok()).collect(),
                    index_type: index.index_type().to_owned(),
                    type_url: index.type_url().to_owned(),
                    segments: index.metadata().iter().map(|segment| segment.uuid).collect(),
                    created_at: index.metadata().iter().filter_map(|s| s.created_at).min(),
                    indexed_rows: index.rows_indexed(),
                    unindexed_rows: rows.saturating_sub(index.rows_indexed()),
                    size_bytes: index.total_size_bytes(),
                    distance: distance_of(&details),
                    details,
                    index_version: index.metadata().first().map_or(0, |s| s.index_version),
                }
            })
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// All parameters of an index over words, as they were given: what stands in the manifest lacks the stop
    /// words that a client chose.
    ///
    /// # Errors
    /// `NotFound` for an unknown index; `Corrupt` or `Unavailable` when its files cannot be read.
    #[boxed]
    pub async fn text_index_params(
        &self,
        name: &str,
    ) -> Result<serde_json::Map<String, serde_json::Value>> {
        known_index(&self.dataset, name).await?;
        let segments = self.dataset.load_indices_by_name(name).await.map_err(from_lance)?;
        let Some(segment) = segments.first() else {
            return Err(Error::not_found(format!("index `{name}` does not exist")));
        };
        let params = load_segment_params(&self.dataset, segment).await.map_err(from_lance)?;
        match serde_json::to_value(&params) {
            Ok(serde_json::Value::Object(fields)) => Ok(fields),
            _ => Err(Error::internal("the parameters of an index are no object")),
        }
    }

    /// Loads an index into the cache.
    ///
    /// # Errors
    /// `NotFound` for an unknown index.
    #[boxed]
    pub async fn prewarm_index(&self, name: &str) -> Result<()> {
        known_index(&self.dataset, name).await?;
        Box::pin(self.dataset.prewarm_index(name)).await.map_err(from_lance)
    }
}

fn distance_of(details: &str) -> Option<String> {
    let details: serde_json::Value = serde_json::from_str(details).ok()?;
    details.get("metric_type")?.as_str().map(str::to_lowercase)
}

impl Table {
    /// Checks what building an index would refuse, without building it.
    ///
    /// # Errors
    /// `NotFound` for an unknown column, `InvalidArgument` for parameters or a type that do not fit,
    /// `AlreadyExists` for a name that is taken and not to be replaced.
    #[boxed]
    pub async fn check_index(
        &self,
        branch: Option<&str>,
        column: &str,
        name: &str,
        replace: bool,
        spec: &IndexSpec,
    ) -> Result<()> {
        let latest = self.branch(branch).await?.latest().await?;
        let Some(field) = latest.schema().field(column) else {
            let names = latest.schema().fields.iter().map(|field| field.name.as_str());
            let near = nearest_names(column, names);
            return Err(Error::not_found(format!("column `{column}` does not exist{near}"))
                .about(Subject::Column));
        };
        check_type(column, &field.data_type(), spec)?;
        params(spec, &field.data_type())?;
        let indices = latest.load_indices().await.map_err(from_lance)?;
        if let Some(other) = indices.iter().find(|index| index.name == name) {
            if !replace {
                return Err(taken(name));
            }
            if other.fields.first() != Some(&field.id) {
                return Err(Error::invalid(format!("index `{name}` is on another column")));
            }
        }
        Ok(())
    }

    /// Builds an index over a column of a branch and commits it; returns the version. An index of that
    /// name is replaced, where that is wanted.
    ///
    /// # Errors
    /// As [`Table::check_index`], also for an index that was committed while this one was built; `Conflict` when the rows were rewritten again and again meanwhile.
    #[boxed]
    pub async fn build_index(
        &self,
        branch: Option<&str>,
        column: &str,
        name: &str,
        replace: bool,
        spec: &IndexSpec,
    ) -> Result<u64> {
        let branch = self.branch(branch).await?;
        let _pin = branch.hold().await?;
        let mut builds = 1;
        let mut _unmoved = None;
        loop {
            let built_on = branch.latest().await?;
            let index = build(&built_on, column, name, spec).await?;
            let _mutation = branch.mutation.lock().await;
            let latest = branch.latest().await?;
            let removed_indices = segments_of(&latest, name).await?;
            if !replace && !removed_indices.is_empty() {
                return Err(taken(name));
            }
            let operation = Operation::CreateIndex { new_indices: vec![index], removed_indices };
            let transaction = Transaction::new(built_on.version().version, operation, None);
            match branch.commit(transaction, Vec::new(), None).await {
                Ok(committed) => return Ok(committed.version().version),
                Err(error) if error.kind() == ErrorKind::Conflict && builds < BUILDS_MAX => {
                    builds += 1;
                    // From here on no rewrite is committed, or a table that is always compacted never gets it.
                    _unmoved.get_or_insert_with(|| branch.rewrites.hinder());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Drops an index of a branch; returns the version without it.
    ///
    /// # Errors
    /// `NotFound` for an unknown index.
    #[boxed]
    pub async fn drop_index(&self, branch: Option<&str>, name: &str) -> Result<u64> {
        let branch = self.branch(branch).await?;
        let _mutation = branch.mutation.lock().await;
        let latest = branch.latest().await?;
        let removed_indices = known_index(&latest, name).await?;
        let operation = Operation::CreateIndex { new_indices: Vec::new(), removed_indices };
        let transaction = Transaction::new(latest.version().version, operation, None);
        let committed = branch.commit(transaction, Vec::new(), None).await?;
        Ok(committed.version().version)
    }
}

fn taken(name: &str) -> Error {
    let message = format!("index `{name}` already exists");
    Error::new(ErrorKind::AlreadyExists, message).about(Subject::Index)
}

async fn build(
    dataset: &Dataset,
    column: &str,
    name: &str,
    spec: &IndexSpec,
) -> Result<IndexMetadata> {
    let data_type = dataset.schema().field(column).map(|field| field.data_type());
    let data_type = data_type.ok_or_else(|| {
        Error::not_found(format!("column `{column}` does not exist")).about(Subject::Column)
    })?;
    let Params { index_type, params } = params(spec, &data_type)?;
    let mut building = dataset.clone();
    let columns = [column];
    let mut builder = building
        .create_index_builder(&columns, index_type, params.as_ref())
        .name(name.to_owned())
        .replace(true);
    Box::pin(builder.execute_uncommitted()).await.map_err(|error| {
        // So lance calls what it cannot build as it is asked for.
        let is_refused = matches!(error, lance::Error::Index { .. });
        let error = from_lance(error);
        match is_refused && error.kind() == ErrorKind::Internal {
            true => Error::invalid(error.message()),
            false => error,
        }
    })
}

async fn segments_of(dataset: &Dataset, name: &str) -> Result<Vec<IndexMetadata>> {
    dataset.load_indices_by_name(name).await.map_err(from_lance)
}

async fn known_index(dataset: &Dataset, name: &str) -> Result<Vec<IndexMetadata>> {
    let segments = segments_of(dataset, name).await?;
    if !segments.is_empty() && !name.starts_with(SYSTEM_PREFIX) {
        return Ok(segments);
    }
    let indices = dataset.load_indices().await.map_err(from_lance)?;
    let near = nearest_names(name, indices.iter().map(|index| index.name.as_str()));
    Err(Error::not_found(format!("index `{name}` does not exist{near}")).about(Subject::Index))
}

/// Refuses what lance would only find out while it builds.
fn check_type(column: &str, data_type: &arrow_schema::DataType, spec: &IndexSpec) -> Result<()> {
    use arrow_schema::DataType as T;
    let is_vector = crate::search::is_vector(data_type);
    let is_text = |data_type: &T| matches!(data_type, T::Utf8 | T::LargeUtf8);
    let fits = match spec {
        IndexSpec::Vector(_) => is_vector,
        IndexSpec::Text(_) => match data_type {
            T::List(item) | T::LargeList(item) => is_text(item.data_type()),
            other => is_text(other) || matches!(other, T::LargeBinary),
        },
        IndexSpec::Scalar(ScalarIndexKind::LabelList, _) => {
            let is_plain = |item: &arrow_schema::FieldRef| !item.data_type().is_nested();
            !is_vector && matches!(data_type, T::List(item) | T::LargeList(item) if is_plain(item))
        }
        IndexSpec::Scalar(ScalarIndexKind::NGram, _) => is_text(data_type),
        IndexSpec::Scalar(ScalarIndexKind::Fm, _) => {
            is_text(data_type) || matches!(data_type, T::Binary | T::LargeBinary)
        }
        IndexSpec::Scalar(..) => !data_type.is_nested(),
    };
    match fits {
        true => Ok(()),
        false => {
            let what = match spec {
                IndexSpec::Vector(spec) => format!("{:?}", spec.kind),
                IndexSpec::Scalar(kind, _) => format!("{kind:?}"),
                IndexSpec::Text(_) => "FTS".to_owned(),
            };
            let message = "index cannot be created on column";
            Err(Error::invalid(format!("{what} {message} `{column}` of type {data_type}")))
        }
    }
}

struct Params {
    index_type: IndexType,
    params: Box<dyn IndexParams>,
}

/// Lance's parameters of an index.
fn params(spec: &IndexSpec, data_type: &arrow_schema::DataType) -> Result<Params> {
    match spec {
        IndexSpec::Vector(spec) => vector_params(spec, data_type),
        IndexSpec::Scalar(kind, fields) => {
            let (index_type, builtin) = match kind {
                ScalarIndexKind::BTree => (IndexType::BTree, BuiltinIndexType::BTree),
                ScalarIndexKind::Bitmap => (IndexType::Bitmap, BuiltinIndexType::Bitmap),
                ScalarIndexKind::LabelList => (IndexType::LabelList, BuiltinIndexType::LabelList),
                ScalarIndexKind::NGram => (IndexType::NGram, BuiltinIndexType::NGram),
                ScalarIndexKind::ZoneMap => (IndexType::ZoneMap, BuiltinIndexType::ZoneMap),
                ScalarIndexKind::BloomFilter => {
                    (IndexType::BloomFilter, BuiltinIndexType::BloomFilter)
                }
                ScalarIndexKind::Fm => (IndexType::Fm, BuiltinIndexType::Fm),
            };
            let params = ScalarIndexParams::for_builtin(builtin);
            let params = match fields.is_empty() {
                true => params,
                false => params.with_params(fields),
            };
            Ok(Params { index_type, params: Box::new(params) })
        }
        IndexSpec::Text(fields) => {
            let given = serde_json::Value::Object(fields.clone());
            let params: InvertedIndexParams = serde_json::from_value(given)
                .map_err(|error| Error::invalid(format!("the text index: {error}")))?;
            let params = params.memory_limit_mb(TEXT_BUILD_MIB).num_workers(1);
            Ok(Params { index_type: IndexType::Inverted, params: Box::new(params) })
        }
    }
}

fn vector_params(spec: &VectorIndexSpec, data_type: &arrow_schema::DataType) -> Result<Params> {
    use VectorIndexKind as K;
    let width = width_of(data_type);
    check_distance(spec, data_type)?;
    let mut ivf = IvfBuildParams {
        num_partitions: spec.num_partitions,
        target_partition_size: spec.target_partition_size,
        ..Default::default()
    };
    ivf.sample_rate = spec.sample_rate.unwrap_or(ivf.sample_rate);
    ivf.max_iters = spec.max_iterations.unwrap_or(ivf.max_iters);
    let mut stages = vec![StageParams::Ivf(ivf)];
    if matches!(spec.kind, K::IvfHnswFlat | K::IvfHnswSq | K::IvfHnswPq) {
        let mut hnsw = HnswBuildParams::default();
        hnsw.m = spec.m.unwrap_or(hnsw.m);
        hnsw.ef_construction = spec.ef_construction.unwrap_or(hnsw.ef_construction);
        stages.push(StageParams::Hnsw(hnsw));
    }
    match spec.kind {
        K::IvfPq | K::IvfHnswPq => {
            let defaults = PQBuildParams::default();
            let pq = PQBuildParams {
                num_sub_vectors: spec
                    .num_sub_vectors
                    .unwrap_or_else(|| sub_vectors(width, spec.num_bits)),
                num_bits: spec.num_bits.unwrap_or(defaults.num_bits),
                sample_rate: spec.sample_rate.unwrap_or(defaults.sample_rate),
                max_iters: spec.max_iterations.unwrap_or(defaults.max_iters),
                ..defaults
            };
            if pq.num_sub_vectors == 0 || !width.is_multiple_of(pq.num_sub_vectors) {
                return Err(Error::invalid(format!(
                    "`num_sub_vectors` is {}, which does not divide vectors of {width}",
                    pq.num_sub_vectors
                )));
            }
            if !matches!(pq.num_bits, 4 | 8) {
                return Err(Error::invalid(format!("`num_bits` is {}, not 4 or 8", pq.num_bits)));
            }
            stages.push(StageParams::PQ(pq));
        }
        K::IvfSq | K::IvfHnswSq => {
            if spec.num_bits.is_some_and(|bits| bits != 8) {
                return Err(Error::invalid("`num_bits` of scalar quantisation is 8"));
            }
            let mut sq = SQBuildParams::default();
            sq.sample_rate = spec.sample_rate.unwrap_or(sq.sample_rate);
            stages.push(StageParams::SQ(sq));
        }
        K::IvfRq => {
            let mut rq = RQBuildParams::default();
            if let Some(bits) = spec.num_bits {
                rq.num_bits =
                    u8::try_from(bits).ok().filter(|bits| (1..=9).contains(bits)).ok_or_else(
                        || Error::invalid(format!("`num_bits` is {bits}; RaBitQ takes 1 to 9")),
                    )?;
            }
            stages.push(StageParams::RQ(rq));
        }
        K::IvfFlat | K::IvfHnswFlat => {}
    }
    let params = VectorIndexParams {
        stages,
        metric_type: metric(spec.distance),
        version: lance::index::vector::IndexFileVersion::V3,
        skip_transpose: false,
        runtime_hints: HashMap::new(),
    };
    Ok(Params { index_type: params.index_type(), params: Box::new(params) })
}

/// The length of the vectors of a column.
pub(crate) fn width_of(data_type: &arrow_schema::DataType) -> usize {
    match data_type {
        arrow_schema::DataType::FixedSizeList(_, width) => usize::try_from(*width).unwrap_or(0),
        arrow_schema::DataType::List(item) => width_of(item.data_type()),
        _ => 0,
    }
}

/// As the SDKs choose: sixteen numbers to a part where that divides, else eight, else one part; with
/// codes of four bits an even number of parts.
fn sub_vectors(width: usize, num_bits: Option<usize>) -> usize {
    let parts = match width {
        _ if width.is_multiple_of(16) => width / 16,
        _ if width.is_multiple_of(8) => width / 8,
        _ => 1,
    };
    match num_bits == Some(4) && !parts.is_multiple_of(2) {
        true => parts + 1,
        false => parts,
    }
}

fn check_distance(spec: &VectorIndexSpec, data_type: &arrow_schema::DataType) -> Result<()> {
    use arrow_schema::DataType as T;
    let is_multivector = matches!(data_type, T::List(_));
    let is_bits = matches!(data_type, T::FixedSizeList(item, _) if *item.data_type() == T::UInt8);
    let hamming = spec.distance == DistanceType::Hamming;
    if is_multivector && spec.distance != DistanceType::Cosine {
        return Err(Error::invalid("an index over lists of vectors measures by `cosine` only"));
    }
    if hamming != is_bits {
        return Err(Error::invalid(format!(
            "distance `{}` does not fit vectors of type {data_type}: `hamming` is for 8-bit \
             unsigned numbers and the only one for them",
            spec.distance.name()
        )));
    }
    if hamming && spec.kind != VectorIndexKind::IvfFlat && spec.kind != VectorIndexKind::IvfHnswFlat
    {
        return Err(Error::invalid("distance `hamming` needs `IVF_FLAT` or `IVF_HNSW_FLAT`"));
    }
    Ok(())
}
