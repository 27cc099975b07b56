//! Cases of indexes and of the jobs that build them.

use std::time::Duration;

use futures::TryStreamExt;
use lancedb::index::Index;
use lancedb::index::scalar::{
    BTreeIndexBuilder, BitmapIndexBuilder, BloomFilterIndexBuilder, FmIndexBuilder,
    FtsIndexBuilder, NGramIndexBuilder, ZoneMapIndexBuilder,
};
use lancedb::index::vector::{
    IvfFlatIndexBuilder, IvfHnswFlatIndexBuilder, IvfHnswPqIndexBuilder, IvfHnswSqIndexBuilder,
    IvfPqIndexBuilder, IvfRqIndexBuilder, IvfSqIndexBuilder,
};
use lancedb::job::JobEventsRequest;
use lancedb::query::QueryBase;
use lancedb::{Connection, DistanceType, Result, Table};
use serde_json::{Map, Value, json};

use crate::data::{people, scene_vector, scenes};
use crate::seen::{failure, ids, json_of, outcome};

const WAIT: Duration = Duration::from_secs(60);
const NO_JOB: &str = "01a20527-0000-7000-8000-000000000000";

async fn stats(table: &Table, name: &str) -> Result<Value> {
    Ok(table.index_stats(name).await?.map_or(Value::Null, |stats| {
        json!([
            stats.index_type.to_string(),
            stats.num_indexed_rows,
            stats.num_unindexed_rows,
            stats.distance_type.map(|one| one.to_string()),
            stats.num_indices
        ])
    }))
}

pub async fn indexes(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, scenes(0, 600)).execute().await?;
    let pq = IvfPqIndexBuilder::default()
        .distance_type(DistanceType::Cosine)
        .num_partitions(2)
        .num_sub_vectors(4);
    table.create_index(&["vector"], Index::IvfPq(pq)).wait_timeout(WAIT).execute().await?;
    table.create_index(&["id"], Index::Auto).execute().await?;
    let bitmap = table.create_index(&["label"], Index::Bitmap(BitmapIndexBuilder::default()));
    bitmap.name("my_labels".to_string()).execute().await?;
    let fts = FtsIndexBuilder::default().with_position(true);
    table.create_index(&["caption"], Index::FTS(fts)).execute().await?;
    let names = ["caption_idx", "id_idx", "my_labels", "vector_idx"];
    table.wait_for_index(&names, WAIT).await?;
    let listed = table.list_indices().await?;
    let mut all_stats = Map::new();
    for one in names {
        all_stats.insert(one.to_string(), stats(&table, one).await?);
    }
    table.add(scenes(600, 1)).execute().await?;
    let near = |id: i64| table.vector_search(scene_vector(id));
    let exact = near(42)?.distance_type(DistanceType::Cosine).bypass_vector_index().limit(10);
    let refined = near(42)?.nprobes(2)?.refine_factor(50).limit(10);
    let effort = near(42)?.search_effort(1.0)?.refine_factor(50).limit(10);
    let again = table.create_index(&["id"], Index::Auto).replace(false).execute().await;
    let seen = json!({
        "listed": listed
            .iter()
            .map(|one| json!([one.name, one.index_type.to_string(), one.columns]))
            .collect::<Value>(),
        "counted": listed
            .iter()
            .map(|one| json!([one.num_indexed_rows, one.num_unindexed_rows]))
            .collect::<Value>(),
        "about": listed.iter().all(|one| {
            one.created_at.is_some() && one.index_uuid.is_some() && one.size_bytes > Some(0)
                && one.num_segments == Some(1) && one.index_details.is_some()
        }),
        "stats": all_stats,
        "nothing": stats(&table, "nothing").await?,
        "fresh": ids(&near(600)?.limit(1)).await?,
        "indexed": ids(&near(600)?.fast_search().limit(1)).await?,
        "unindexed": stats(&table, "vector_idx").await?[2],
        "exact": ids(&exact).await?,
        "refined": ids(&refined).await?,
        "effort": ids(&effort).await?,
        "filtered": table.count_rows(Some("label = 3 AND id < 100".to_string())).await?,
        "late": failure(table.wait_for_index(&["nothing"], Duration::from_secs(1)).await),
        "again": failure(again),
    });
    table.prewarm_index("id_idx").await?;
    table.prewarm_data(Some(vec!["id".to_string()])).await?;
    table.prewarm_data(None).await?;
    table.drop_index("my_labels").await?;
    let left = table.list_indices().await?;
    let mut seen = seen;
    seen["left"] = left.iter().map(|one| one.name.clone()).collect();
    seen["twice"] = failure(table.drop_index("my_labels").await);
    seen["cold"] = failure(table.prewarm_index("my_labels").await);
    Ok(seen)
}

pub async fn kinds(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, scenes(0, 600)).execute().await?;
    let dot = DistanceType::Dot;
    let cosine = DistanceType::Cosine;
    let hnsw_sq = IvfHnswSqIndexBuilder::default().num_partitions(1).distance_type(cosine);
    let hnsw_sq = hnsw_sq.num_edges(10).ef_construction(100);
    let fts = FtsIndexBuilder::default().stem(false).base_tokenizer("whitespace".to_string());
    let kinds = [
        (
            "ivfFlat",
            "vector",
            Index::IvfFlat(IvfFlatIndexBuilder::default().num_partitions(2).distance_type(dot)),
        ),
        ("ivfSq", "vector", Index::IvfSq(IvfSqIndexBuilder::default().num_partitions(2))),
        (
            "ivfPq",
            "vector",
            Index::IvfPq(
                IvfPqIndexBuilder::default()
                    .target_partition_size(300)
                    .num_sub_vectors(4)
                    .num_bits(8),
            ),
        ),
        (
            "ivfRq",
            "vector",
            Index::IvfRq(IvfRqIndexBuilder::default().num_partitions(2).num_bits(1)),
        ),
        ("hnswSq", "vector", Index::IvfHnswSq(hnsw_sq)),
        (
            "hnswFlat",
            "vector",
            Index::IvfHnswFlat(IvfHnswFlatIndexBuilder::default().num_partitions(1)),
        ),
        ("auto", "vector", Index::Auto),
        ("btree", "label", Index::BTree(BTreeIndexBuilder::default())),
        ("bitmap", "label", Index::Bitmap(BitmapIndexBuilder::default())),
        ("zoneMap", "label", Index::ZoneMap(ZoneMapIndexBuilder::default())),
        ("bloomFilter", "label", Index::BloomFilter(BloomFilterIndexBuilder::default())),
        ("fm", "caption", Index::Fm(FmIndexBuilder::default())),
        ("ngram", "caption", Index::NGram(NGramIndexBuilder::default())),
        ("fts", "caption", Index::FTS(fts)),
    ];
    let mut seen = Map::new();
    for (kind, column, index) in kinds {
        let job = table.create_index(&[column], index).execute_async().await?;
        job.wait().await?;
        let about = stats(&table, &format!("{column}_idx")).await?;
        let mut one = vec![json!(job.status().await?), about[0].clone(), about[3].clone()];
        if column == "vector" {
            one.push(
                ids(&table.vector_search(scene_vector(7))?.nprobes(2)?.refine_factor(50).limit(1))
                    .await?,
            );
        }
        seen.insert(kind.to_string(), Value::Array(one));
    }
    let hnsw_pq =
        table.create_index(&["vector"], Index::IvfHnswPq(IvfHnswPqIndexBuilder::default()));
    seen.insert("hnswPq".to_string(), failure(hnsw_pq.execute().await));
    Ok(Value::Object(seen))
}

/// Every parameter that the client sends for indexes, away from its default.
pub async fn parameters(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, scenes(0, 600)).execute().await?;
    let flat = IvfFlatIndexBuilder::default().num_partitions(2).sample_rate(100).max_iterations(5);
    let bloom = BloomFilterIndexBuilder::default().number_of_items(1_000)?.probability(0.01)?;
    let code = FtsIndexBuilder::code();
    let ngrams = FtsIndexBuilder::default()
        .base_tokenizer("ngram".to_string())
        .ngram_min_length(2)
        .ngram_max_length(3)
        .ngram_prefix_only(true)
        .stem(false)
        .remove_stop_words(false);
    let blocks = FtsIndexBuilder::default()
        .language("German")?
        .max_token_length(Some(10))
        .lower_case(false)
        .ascii_folding(false)
        .remove_stop_words(true)
        .custom_stop_words(Some(vec!["und".to_string()]))
        .block_size(256)?;
    let mut seen = Map::new();
    for (kind, column, index) in [
        ("flat", "vector", Index::IvfFlat(flat)),
        ("bloom", "label", Index::BloomFilter(bloom)),
        ("code", "caption", Index::FTS(code)),
        ("ngrams", "caption", Index::FTS(ngrams)),
        ("blocks", "caption", Index::FTS(blocks)),
    ] {
        let made = match table.create_index(&[column], index).execute_async().await {
            Ok(job) => failure(job.wait().await),
            Err(error) => failure::<()>(Err(error)),
        };
        seen.insert(kind.to_string(), made);
    }
    let untrained = table.create_index(&["id"], Index::BTree(BTreeIndexBuilder::default()));
    let untrained = untrained.train(false).name("untrained".to_string()).execute().await;
    seen.insert("untrained".to_string(), failure(untrained));
    Ok(Value::Object(seen))
}

pub async fn jobs(db: &Connection, name: &str) -> Result<Value> {
    let table = db.create_table(name, people(0, 20)).execute().await?;
    let job = table.create_index(&["id"], Index::Auto).execute_async().await?;
    let before = job.state();
    job.wait().await?;
    job.refresh().await?;
    let id = job.id().unwrap_or_default().to_string();
    let opened = db.open_job(&id).await?;
    let listed: Vec<_> = db.list_jobs(Default::default()).try_collect().await?;
    let listed = listed
        .iter()
        .filter(|one| one.table == name)
        .map(|one| json!([one.job_id == id, one.job_type, one.state, one.created_at_millis > 0]))
        .collect::<Value>();
    let events = opened.events(JobEventsRequest::default()).await;
    let some = opened.events(JobEventsRequest::default().limit(1)).await;
    let some = some.map(|some| some.iter().map(|one| one.num_rows()).sum::<usize>());
    let some = outcome(some.map(Value::from));
    let filtered = opened.events(JobEventsRequest::default().filter("state = 'claim'")).await;
    let shown = outcome(events.and_then(|events| json_of(&events)));
    Ok(json!({
        "states": [before, job.status().await?, job.state(), opened.state()],
        "about": [job.job_type(), job.spec(), job.result(), job.failure().is_some()],
        "same": opened.id() == Some(id.as_str()),
        "listed": listed,
        "events": shown,
        "some": some,
        "filtered": failure(filtered),
        "missing": failure(db.open_job(NO_JOB).await),
        "cancelled": db.cancel_job(NO_JOB).await?,
        "ended": [json!(db.cancel_job(&id).await?), json!(db.open_job(&id).await?.state())],
        "paused": failure(db.pause_job(&id).await),
        "resumed": failure(db.resume_job(&id).await),
    }))
}
